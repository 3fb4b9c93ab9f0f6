/*
 * A source that does things out of turn, played by hand: the destination refuses them, and says why.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hand.h"
#include "migration/destination/fetch-internal.h"
#include "migration/error.h"
#include "migration/memory/userfault.h"
#include "migration/wire/control.h"

/* Whether something comes, or the other side closes it, within @timeout_ms. */
static bool stirs(int fd, int timeout_ms)
{
    struct pollfd pollfd = {.fd = fd, .events = POLLIN | POLLRDHUP};

    return poll(&pollfd, 1, timeout_ms) > 0;
}

#define SOON_MS    10000
#define A_WHILE_MS 100

static void send_fence(FerryChannel *channel, uint64_t number)
{
    const FerryFrame frame = {.type = FERRY_FRAME_FENCE, .first_page = number};
    uint8_t head[FERRY_FRAME_BYTES];

    ferry_frame_encode(&frame, head);
    g_assert_true(ferry_channel_write_all(channel, head, sizeof(head), NULL));
}

/* The session fails, and the source is told why. */
static void expect_refusal(Hand *hand, const char *words)
{
    g_autofree char *text = NULL;

    hand_expect(hand, FERRY_FRAME_ERROR, &text);
    if (!strstr(text, words)) {
        g_error("'%s' is not in '%s'", words, text);
    }
    hand_await_phase(hand, FAILED);
    g_assert_cmpuint(hand->nr_went, ==, 0);
    hand_free(hand);
}

static Hand *ready(void)
{
    Hand *hand = hand_new();

    hand_connect(hand, 0);
    hand_expect(hand, FERRY_FRAME_READY, NULL);
    return hand;
}

static void test_fence_repeated(void)
{
    Hand *hand = ready();

    hand_fence(hand, 1);
    send_fence(hand->data, 1);
    expect_refusal(hand, "fence out of turn");
}

static void test_fence_on_fetch(void)
{
    Hand *hand = ready();

    send_fence(hand->fetch, 1);
    expect_refusal(hand, "does not belong here");
}

/* What comes from the hand-off on is fetched: a fence has no meaning any more. */
static void test_fence_late(void)
{
    Hand *hand = hand_new();

    hand_leave(hand);
    send_fence(hand->data, 2);
    expect_refusal(hand, "does not belong here");
}

/* Pages on a fetch channel while none are missing would be written beside those of the data channels. */
static void test_page_on_fetch(void)
{
    Hand *hand = ready();

    hand_page(hand->fetch, 3);
    expect_refusal(hand, "does not belong here");
}

static void test_handoff_before_fence(void)
{
    Hand *hand = ready();

    hand_announce_page(hand, 3);
    hand_handoff(hand, 1, 1);
    expect_refusal(hand, "out of turn");
}

/* What was drafted is not there any more: that nothing is missing cannot be. */
static void test_draft_not_missing(void)
{
    Hand *hand = ready();

    hand_announce_page(hand, 3);
    hand_send(hand, FERRY_FRAME_DRAFT, 1);
    hand_expect(hand, FERRY_FRAME_DRAFTED, NULL);
    hand_fence(hand, 1);
    hand_handoff(hand, 1, 0);
    expect_refusal(hand, "out of turn");
}

static void test_missing_counted(void)
{
    Hand *hand = ready();

    hand_fence(hand, 1);
    hand_announce_page(hand, 3);
    hand_handoff(hand, 1, 2);
    expect_refusal(hand, "the bitmap has 1 missing pages, the source says 2");
}

/* There is no channel to fetch pages, and some are to be missing. */
static void test_missing_unfetched(void)
{
    const FerryLayout layout = {.nr_data = 1};
    Hand *hand = hand_new();
    g_autoptr(GByteArray) body = ferry_regions_encode(&hand->machine->regions, &layout);

    hand->control = hand_dial(hand, FERRY_ROLE_CONTROL, 0);
    hand->data = hand_dial(hand, FERRY_ROLE_DATA, 0);
    g_assert_true(ferry_control_send(hand->control, FERRY_FRAME_REGIONS, 0, body, NULL));
    hand_expect(hand, FERRY_FRAME_READY, NULL);
    hand_fence(hand, 1);
    hand_handoff(hand, 1, 1);
    expect_refusal(hand, "there is no channel to fetch them");
}

static void test_page_on_control(void)
{
    Hand *hand = ready();

    hand_page(hand->control, 3);
    expect_refusal(hand, "channel 'control': pages where a control frame belongs");
}

/* What only a destination says. */
static void test_not_the_sources(void)
{
    Hand *hand = ready();

    hand_send(hand, FERRY_FRAME_READY, 0);
    expect_refusal(hand, "on the control channel");
}

static uint64_t idle_for_long(void *opaque)
{
    return 20000;
}

static void test_silent_stream(void)
{
    Hand *hand = hand_new();
    g_autoptr(GError) error = NULL;

    hand->destination->ops.stream_idle_ms = idle_for_long;
    hand_connect(hand, 0);
    g_assert_false(ferry_destination_wait_complete(hand->destination, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_IO);
    g_assert_cmpstr(error->message, ==, "the migration stream: nothing came for 10000 ms");
    hand_free(hand);
}

/* Somebody else fetches pages of this memory: then this session cannot. */
static void test_unfetchable(void)
{
    FerryUserfault *other = ferry_userfault_new(NULL);
    Hand *hand = hand_new();

    g_assert_true(ferry_userfault_register(other, &hand->machine->regions.list[0], NULL));
    hand_connect(hand, 0);
    expect_refusal(hand,
                   "post-copy is not possible: missing pages of RAM block 'pc.ram' cannot be");
    ferry_userfault_free(other);
}

/* Nothing is missing, and the stream says that something will be. */
static void test_nothing_left(void)
{
    Hand *hand = ready();
    g_autoptr(GError) error = NULL;

    hand_fence(hand, 1);
    hand_handoff(hand, 1, 0);
    g_assert_false(ferry_destination_wait_left(hand->destination, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_PROTOCOL);
    g_assert_nonnull(strstr(error->message, "did not say which pages are missing"));
    hand_free(hand);
}

static void test_missing_of_same(void)
{
    Hand *hand = ready();

    hand->destination->receiver.regions.list[0].flags |= FERRY_REGION_SAME;
    hand_announce_page(hand, 3);
    expect_refusal(hand, "which both ends map");
}

static void test_missing_of_nothing(void)
{
    static const uint8_t nothing[16];
    g_autoptr(GByteArray) body = g_byte_array_append(g_byte_array_new(), nothing, sizeof(nothing));
    Hand *hand = ready();

    g_assert_true(ferry_control_send_for(hand->control, FERRY_FRAME_MISSING, 1, 0, body, NULL));
    expect_refusal(hand, "bitmap of region 1 of 1");
}

static void test_second_regions(void)
{
    const FerryLayout layout = {.nr_data = 1, .nr_fetch = 1};
    Hand *hand = ready();
    g_autoptr(GByteArray) body = ferry_regions_encode(&hand->machine->regions, &layout);

    g_assert_true(ferry_control_send(hand->control, FERRY_FRAME_REGIONS, 0, body, NULL));
    expect_refusal(hand, "a second list of RAM blocks");
}

/* Pages that come too early are not looked at before memory has been emptied. */
static void test_page_before_ready(void)
{
    const FerryLayout layout = {.nr_data = 1};
    Hand *hand = hand_new();
    g_autoptr(GByteArray) body = ferry_regions_encode(&hand->machine->regions, &layout);

    hand->control = hand_dial(hand, FERRY_ROLE_CONTROL, 0);
    hand->data = hand_dial(hand, FERRY_ROLE_DATA, 0);
    hand_page(hand->data, 3);
    g_usleep(A_WHILE_MS * 1000);
    g_assert_cmpint(hand_phase(hand), ==, OPENING);
    g_assert_true(ferry_control_send(hand->control, FERRY_FRAME_REGIONS, 0, body, NULL));
    hand_expect(hand, FERRY_FRAME_READY, NULL);
    hand_free(hand);
}

/* A fence is reached when all channels have brought it. */
static void test_fence_on_both(void)
{
    const FerryLayout layout = {.nr_data = 2};
    Hand *hand = hand_new();
    g_autoptr(GByteArray) body = ferry_regions_encode(&hand->machine->regions, &layout);
    FerryChannel *second;

    hand->control = hand_dial(hand, FERRY_ROLE_CONTROL, 0);
    hand->data = hand_dial(hand, FERRY_ROLE_DATA, 0);
    second = hand_dial_index(hand, FERRY_ROLE_DATA, 1, 0);
    g_assert_true(ferry_control_send(hand->control, FERRY_FRAME_REGIONS, 0, body, NULL));
    hand_expect(hand, FERRY_FRAME_READY, NULL);
    send_fence(hand->data, 1);
    g_usleep(A_WHILE_MS * 1000);
    g_mutex_lock(&hand->destination->lock);
    g_assert_cmpuint(hand->destination->reached, ==, 0);
    g_mutex_unlock(&hand->destination->lock);
    hand_handoff(hand, 1, 0);
    hand_await_phase(hand, HANDED_OFF);
    g_assert_false(ferry_destination_is_complete(hand->destination, NULL));
    send_fence(second, 1);
    g_assert_cmpuint(hand_expect(hand, FERRY_FRAME_REACHED, NULL), ==, 1);
    g_assert_true(ferry_destination_wait_complete(hand->destination, NULL));
    ferry_channel_free(second);
    hand_free(hand);
}

/* --- Channels that are not the session's ------------------------------------------------------------ */

static void expect_closed(FerryChannel *channel)
{
    uint8_t byte;

    g_assert_true(stirs(ferry_channel_fd(channel), SOON_MS));
    g_assert_false(ferry_channel_read_all(channel, &byte, 1, NULL));
    ferry_channel_free(channel);
}

/* One more than there are to be, and one of another attempt. */
static void test_more_channels(void)
{
    Hand *hand = ready();

    expect_closed(hand_dial_index(hand, FERRY_ROLE_DATA, 1, 0));
    expect_closed(hand_dial_index(hand, FERRY_ROLE_FETCH, 1, 0));
    expect_closed(hand_dial_index(hand, FERRY_ROLE_DATA, 0, 0));
    expect_closed(hand_dial(hand, FERRY_ROLE_CONTROL, 0));
    g_assert_cmpint(hand_phase(hand), ==, COPYING);
    hand_free(hand);
}

static void test_another_attempt(void)
{
    Hand *hand = hand_new();

    expect_closed(hand_dial(hand, FERRY_ROLE_DATA, 7));
    hand_connect(hand, 0);
    hand_expect(hand, FERRY_FRAME_READY, NULL);
    hand_free(hand);
}

static void expect_turned_away(FerryChannel *channel, const char *words)
{
    expect_closed(channel);
    hand_await_count(&hand_told.nr_turned_away, 1);
    g_mutex_lock(&hand_told.lock);
    g_assert_nonnull(strstr(hand_told.refusal->str, words));
    g_mutex_unlock(&hand_told.lock);
}

/* It says hello, to another session; or nothing of the kind. */
static void test_not_this_session(void)
{
    Hand *hand = hand_new();

    hand->destination->config.session++;
    expect_turned_away(hand_dial(hand, FERRY_ROLE_DATA, 0), "it belongs to another session");
    hand_free(hand);
}

static void test_no_hello(void)
{
    Hand *hand = hand_new();
    FerryChannel *channel;
    int ends[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), ==, 0);
    ferry_destination_add_channel(hand->destination, ferry_channel_new_socket(ends[1], "rude"));
    channel = ferry_channel_new_socket(ends[0], "hand");
    g_assert_true(ferry_control_send(channel, FERRY_FRAME_GO, 0, NULL, NULL));
    expect_turned_away(channel, "instead of a hello");
    hand_free(hand);
}

static int dial_silently(Hand *hand)
{
    int ends[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), ==, 0);
    ferry_destination_add_channel(hand->destination, ferry_channel_new_socket(ends[1], "silent"));
    return ends[0];
}

/* Of too many strangers the one goes that has been silent for longest; and all when the source is in. */
static void test_strangers(void)
{
    int strangers[FERRY_STRANGERS_MAX + 1];
    Hand *hand = hand_new();

    for (size_t i = 0; i < FERRY_STRANGERS_MAX; i++) {
        strangers[i] = dial_silently(hand);
    }
    g_assert_false(stirs(strangers[0], A_WHILE_MS));
    strangers[FERRY_STRANGERS_MAX] = dial_silently(hand);
    g_assert_true(stirs(strangers[0], SOON_MS));
    for (size_t i = 1; i <= FERRY_STRANGERS_MAX; i++) {
        g_assert_false(stirs(strangers[i], 0));
    }
    hand_connect(hand, 0);
    hand_expect(hand, FERRY_FRAME_READY, NULL);
    for (size_t i = 0; i <= FERRY_STRANGERS_MAX; i++) {
        g_assert_true(stirs(strangers[i], SOON_MS));
        close(strangers[i]);
    }
    hand_free(hand);
}

/* A stranger that is gone costs nothing any more. */
static void test_strangers_gone(void)
{
    Hand *hand = hand_new();

    for (size_t i = 0; i < FERRY_STRANGERS_MAX; i++) {
        expect_closed(hand_dial(hand, FERRY_ROLE_DATA, 7));
    }
    g_mutex_lock(&hand->destination->lock);
    /* The last ones may still be about to end. */
    g_assert_cmpuint(hand->destination->readers->len, <, FERRY_STRANGERS_MAX / 2);
    g_mutex_unlock(&hand->destination->lock);
    hand_free(hand);
}

/* --- A connection after another --------------------------------------------------------------------- */

/* What the old connection has read is placed before it is said what is missing. */
static void test_stale_channels(void)
{
    Hand *hand = hand_new();
    GMutex *lock;

    hand_leave(hand);
    g_assert_true(ferry_destination_loaded(hand->destination, NULL));
    hand_expect(hand, FERRY_FRAME_LOADED, NULL);
    hand_send(hand, FERRY_FRAME_GO, 0);
    hand_expect(hand, FERRY_FRAME_TAKEN, NULL);
    lock = ferry_fetch_lock_of(hand->destination->receiver.fetch, 0, 3);
    g_mutex_lock(lock);
    hand_page(hand->data, 3);
    /* It has read the page, and waits for the lock. */
    while (atomic_load(&hand->destination->data[0]->channel->received_bytes) <
           FERRY_FRAME_BYTES * 3 + FERRY_EXTENT_BYTES + sizeof(uint32_t)) {
        g_usleep(1000);
    }
    hand_cut(hand);
    hand_await_phase(hand, PAUSED);
    hand_connect(hand, 1);
    g_assert_false(stirs(ferry_channel_fd(hand->control), A_WHILE_MS));
    g_mutex_unlock(lock);
    hand_expect(hand, FERRY_FRAME_MISSING, NULL);
    g_assert_cmpuint(hand_expect(hand, FERRY_FRAME_RESUMED, NULL), ==, 1);
    hand_free(hand);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    hand_listen();
    g_test_add_func("/turns/fence/repeated", test_fence_repeated);
    g_test_add_func("/turns/fence/on-fetch", test_fence_on_fetch);
    g_test_add_func("/turns/fence/late", test_fence_late);
    g_test_add_func("/turns/fence/on-both", test_fence_on_both);
    g_test_add_func("/turns/page/on-fetch", test_page_on_fetch);
    g_test_add_func("/turns/page/before-ready", test_page_before_ready);
    g_test_add_func("/turns/handoff-before-fence", test_handoff_before_fence);
    g_test_add_func("/turns/missing/counted", test_missing_counted);
    g_test_add_func("/turns/missing/drafted", test_draft_not_missing);
    g_test_add_func("/turns/missing/of-same", test_missing_of_same);
    g_test_add_func("/turns/missing/unfetched", test_missing_unfetched);
    g_test_add_func("/turns/missing/unfetchable", test_unfetchable);
    g_test_add_func("/turns/missing/nothing", test_nothing_left);
    g_test_add_func("/turns/page/on-control", test_page_on_control);
    g_test_add_func("/turns/not-the-sources", test_not_the_sources);
    g_test_add_func("/turns/silent-stream", test_silent_stream);
    g_test_add_func("/turns/no-hello", test_no_hello);
    g_test_add_func("/turns/not-this-session", test_not_this_session);
    g_test_add_func("/turns/missing/of-nothing", test_missing_of_nothing);
    g_test_add_func("/turns/second-regions", test_second_regions);
    g_test_add_func("/turns/more-channels", test_more_channels);
    g_test_add_func("/turns/another-attempt", test_another_attempt);
    g_test_add_func("/turns/strangers", test_strangers);
    g_test_add_func("/turns/strangers-gone", test_strangers_gone);
    g_test_add_func("/turns/stale-channels", test_stale_channels);
    return g_test_run();
}
