/*
 * A source played by hand: see hand.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <poll.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "hand.h"
#include "migration/wire/control.h"

#define SESSION UINT64_C(0xfe44)

/* --- What a session tells ------------------------------------------------------------------------- */

HandTold hand_told;

static void tell_phase(const char *side, const char *from, const char *to)
{
    g_mutex_lock(&hand_told.lock);
    g_assert_cmpstr(side, ==, "destination");
    if (hand_told.phases->len == 0) {
        g_string_append(hand_told.phases, from);
    }
    g_string_append_printf(hand_told.phases, " %s", to);
    g_mutex_unlock(&hand_told.lock);
}

static void tell_refused(const char *side, const char *from, const char *to)
{
    atomic_fetch_add(&hand_told.nr_refused, 1);
}

static void tell_cause(const char *side, const char *message)
{
    atomic_fetch_add(&hand_told.nr_causes, 1);
}

static void tell_opened(const char *side, const char *name)
{
    atomic_fetch_add(&hand_told.nr_opened, 1);
}

static void tell_proved(const char *name)
{
    atomic_fetch_add(&hand_told.nr_proved, 1);
}

static void tell_turned_away(const char *name, const char *why)
{
    g_mutex_lock(&hand_told.lock);
    g_string_assign(hand_told.refusal, why);
    g_mutex_unlock(&hand_told.lock);
    atomic_fetch_add(&hand_told.nr_turned_away, 1);
}

static void tell_lost(const char *side, const char *why)
{
    atomic_fetch_add(&hand_told.nr_lost, 1);
}

static void tell_draft(const char *side, uint64_t nr_pages)
{
    atomic_store(&hand_told.nr_drafted, nr_pages);
}

static void tell_undraft(const char *side)
{
    atomic_fetch_add(&hand_told.nr_undrafted, 1);
}

static void tell_handoff(const char *side, uint64_t nr_missing)
{
    atomic_store(&hand_told.nr_missing, nr_missing);
}

static void tell_loaded(const char *side)
{
    atomic_fetch_add(&hand_told.nr_loaded, 1);
}

static void tell_go(const char *side)
{
    atomic_fetch_add(&hand_told.nr_go, 1);
}

static void tell_fault_asked(uint32_t region, uint64_t page)
{
}

static void tell_fault_answered(uint32_t region, uint64_t page, uint64_t waited_ns)
{
}

static void tell_paused(const char *side, const char *why)
{
    atomic_fetch_add(&hand_told.nr_paused, 1);
}

static void tell_resumed(const char *side, uint64_t nr_missing)
{
    atomic_fetch_add(&hand_told.nr_resumed, 1);
}

static void tell_complete(const char *side)
{
    atomic_fetch_add(&hand_told.nr_complete, 1);
}

static const FerryEvents hand_events = {
    .phase = tell_phase,
    .phase_refused = tell_refused,
    .cause = tell_cause,
    .channel_opened = tell_opened,
    .channel_proved = tell_proved,
    .channel_refused = tell_turned_away,
    .channel_lost = tell_lost,
    .draft = tell_draft,
    .undraft = tell_undraft,
    .handoff = tell_handoff,
    .loaded = tell_loaded,
    .go = tell_go,
    .fault_asked = tell_fault_asked,
    .fault_answered = tell_fault_answered,
    .paused = tell_paused,
    .resumed = tell_resumed,
    .complete = tell_complete,
};

void hand_forget_told(void)
{
    g_mutex_lock(&hand_told.lock);
    g_string_truncate(hand_told.phases, 0);
    g_mutex_unlock(&hand_told.lock);
    hand_told.nr_refused = hand_told.nr_causes = hand_told.nr_paused = hand_told.nr_resumed =
        hand_told.nr_go = 0;
    hand_told.nr_loaded = hand_told.nr_complete = hand_told.nr_opened = hand_told.nr_proved = 0;
    hand_told.nr_turned_away = hand_told.nr_lost = hand_told.nr_undrafted = 0;
    hand_told.nr_drafted = hand_told.nr_missing = 0;
}

void hand_assert_phases(const char *story)
{
    g_mutex_lock(&hand_told.lock);
    g_assert_cmpstr(hand_told.phases->str, ==, story);
    g_mutex_unlock(&hand_told.lock);
}

void hand_listen(void)
{
    hand_told.phases = g_string_new(NULL);
    hand_told.refusal = g_string_new(NULL);
    ferry_events = &hand_events;
}

/* --- A source by hand --------------------------------------------------------------------------- */

static const FakeRegion regions[] = {{.id = "pc.ram", .nr_pages = 64}, {0}};

static bool hand_list_regions(void *opaque, const FerryRegions *remote, FerryRegions *local,
                              GError **errp)
{
    *local = fake_machine_list(((Hand *)opaque)->machine);
    return true;
}

static void hand_complete(void *opaque)
{
    atomic_fetch_add(&((Hand *)opaque)->nr_complete, 1);
}

static void hand_warn(void *opaque, const char *message)
{
}

static void hand_go(void *opaque)
{
    atomic_fetch_add(&((Hand *)opaque)->nr_went, 1);
}

static void hand_broken(void *opaque, const GError *why)
{
    Hand *hand = opaque;

    g_usleep(atomic_load(&hand->hears_ms) * 1000);
    g_strlcpy(hand->why_broken, why->message, sizeof(hand->why_broken));
    atomic_fetch_add(&hand->nr_broken, 1);
}

static void hand_resumed(void *opaque)
{
    atomic_fetch_add(&((Hand *)opaque)->nr_resumed, 1);
}

static void hand_damaged(void *opaque, const GError *why)
{
    g_error("damaged: %s", why->message);
}

Hand *hand_new(void)
{
    static const FerryDestinationOps ops = {
        .list_regions = hand_list_regions,
        .complete = hand_complete,
        .warn = hand_warn,
        .go = hand_go,
        .broken = hand_broken,
        .resumed = hand_resumed,
        .damaged = hand_damaged,
    };
    Hand *hand = g_new0(Hand, 1);

    hand_forget_told();
    hand->machine = fake_machine_new(regions, false);
    hand->destination = ferry_destination_new(
        &(FerryDestinationConfig){.session = SESSION, .timeout_ms = 10000}, &ops, hand);
    return hand;
}

void hand_cut(Hand *hand)
{
    g_clear_pointer(&hand->control, ferry_channel_free);
    g_clear_pointer(&hand->data, ferry_channel_free);
    g_clear_pointer(&hand->fetch, ferry_channel_free);
}

void hand_free(Hand *hand)
{
    hand_cut(hand);
    ferry_destination_free(hand->destination, NULL);
    fake_machine_free(hand->machine);
    g_free(hand);
}

FerryChannel *hand_dial_index(Hand *hand, uint8_t role, uint8_t index, uint32_t attempt)
{
    const FerryHello hello = {
        .session = SESSION,
        .version = FERRY_WIRE_VERSION_MAX,
        .role = role,
        .index = index,
        .attempt = attempt,
    };
    g_autoptr(GByteArray) body = ferry_hello_encode(&hello);
    FerryChannel *channel;
    int ends[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), ==, 0);
    ferry_destination_add_channel(hand->destination, ferry_channel_new_socket(ends[1], "new"));
    channel = ferry_channel_new_socket(ends[0], "hand");
    g_assert_true(ferry_control_send(channel, FERRY_FRAME_HELLO, 0, body, NULL));
    return channel;
}

FerryChannel *hand_dial(Hand *hand, uint8_t role, uint32_t attempt)
{
    return hand_dial_index(hand, role, 0, attempt);
}

void hand_connect(Hand *hand, uint32_t attempt)
{
    const FerryLayout layout = {.nr_data = 1, .nr_fetch = 1};
    g_autoptr(GByteArray) body = attempt ? ferry_layout_encode(&layout)
                                         : ferry_regions_encode(&hand->machine->regions, &layout);

    hand->control = hand_dial(hand, FERRY_ROLE_CONTROL, attempt);
    hand->data = hand_dial(hand, FERRY_ROLE_DATA, attempt);
    hand->fetch = hand_dial(hand, FERRY_ROLE_FETCH, attempt);
    g_assert_true(ferry_control_send(
        hand->control, attempt ? FERRY_FRAME_RESUME : FERRY_FRAME_REGIONS, 0, body, NULL));
}

void hand_send(Hand *hand, FerryFrameType type, uint64_t number)
{
    g_assert_true(ferry_control_send(hand->control, type, number, NULL, NULL));
}

uint64_t hand_expect(Hand *hand, FerryFrameType type, char **text)
{
    FerryFrame frame;

    for (;;) {
        g_autoptr(GByteArray) body = NULL;
        g_autoptr(GError) error = NULL;

        ferry_control_receive(hand->control, &frame, &body, &error);
        g_assert_no_error(error);
        if (frame.type == FERRY_FRAME_BEAT) {
            continue;
        }
        g_assert_cmpuint(frame.type, ==, type);
        if (text) {
            *text = ferry_error_text_decode(body ? body->data : NULL, body ? body->len : 0);
        }
        return frame.first_page;
    }
}

void hand_expect_silence(Hand *hand)
{
    struct pollfd pollfd = {.fd = ferry_channel_fd(hand->control), .events = POLLIN};

    while (poll(&pollfd, 1, 100) > 0) {
        g_autoptr(GByteArray) body = NULL;
        FerryFrame frame;

        if (!ferry_control_receive(hand->control, &frame, &body, NULL)) {
            return;
        }
        g_assert_cmpuint(frame.type, ==, FERRY_FRAME_BEAT);
    }
}

void hand_fence(Hand *hand, uint64_t number)
{
    const FerryFrame frame = {.type = FERRY_FRAME_FENCE, .first_page = number};
    uint8_t head[FERRY_FRAME_BYTES];

    ferry_frame_encode(&frame, head);
    g_assert_true(ferry_channel_write_all(hand->data, head, sizeof(head), NULL));
    g_assert_cmpuint(hand_expect(hand, FERRY_FRAME_REACHED, NULL), ==, number);
}

void hand_announce_page(Hand *hand, uint64_t page)
{
    g_autoptr(GError) error = NULL;
    FerryPageset *set = ferry_pageset_new(regions[0].nr_pages);

    ferry_pageset_add(set, page, 1);
    ferry_missing_send(hand->control, &hand->machine->regions, &set, true, &error);
    g_assert_no_error(error);
    ferry_pageset_free(set);
}

void hand_handoff(Hand *hand, uint64_t fence, uint64_t nr_missing)
{
    g_autoptr(GByteArray) body = ferry_count_encode(nr_missing);

    g_assert_true(ferry_control_send(hand->control, FERRY_FRAME_HANDOFF, fence, body, NULL));
}

void hand_page(FerryChannel *channel, uint64_t page)
{
    const FerryFrame frame = {.type = FERRY_FRAME_PAGES, .nr_extents = 1};
    const FerryExtent extent = {.first = (uint32_t)page, .nr_pages = 1, .zero = true};
    uint8_t head[FERRY_FRAME_BYTES + FERRY_EXTENT_BYTES + sizeof(uint32_t)];

    ferry_frame_encode(&frame, head);
    ferry_extents_encode(&extent, 1, head + FERRY_FRAME_BYTES);
    g_assert_true(ferry_channel_write_all(channel, head, sizeof(head), NULL));
}

FerryDestinationPhase hand_phase(Hand *hand)
{
    FerryDestinationPhase phase;

    g_mutex_lock(&hand->destination->lock);
    phase = hand->destination->phase;
    g_mutex_unlock(&hand->destination->lock);
    return phase;
}

void hand_await_phase(Hand *hand, FerryDestinationPhase phase)
{
    while (hand_phase(hand) != phase) {
        g_usleep(1000);
    }
}

void hand_await_count(_Atomic unsigned *what, unsigned nr)
{
    while (atomic_load(what) < nr) {
        g_usleep(1000);
    }
}

void hand_leave(Hand *hand)
{
    g_autoptr(GError) error = NULL;

    hand_connect(hand, 0);
    hand_expect(hand, FERRY_FRAME_READY, NULL);
    hand_announce_page(hand, 3);
    hand_send(hand, FERRY_FRAME_DRAFT, 1);
    hand_expect(hand, FERRY_FRAME_DRAFTED, NULL);
    hand_send(hand, FERRY_FRAME_STOPPED, 0);
    hand_fence(hand, 1);
    hand_announce_page(hand, 5);
    hand_handoff(hand, 1, 2);
    ferry_destination_wait_left(hand->destination, &error);
    g_assert_no_error(error);
}
