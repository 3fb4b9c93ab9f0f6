/*
 * Whole sessions of a destination: any frame in any state, on any channel, with real memory behind it.
 *
 * The input says what a source does, and what QEMU asks of the destination in between.  After each step the
 * destination comes to rest, unless the step says otherwise, so that most inputs mean the same each time.
 *
 * What must hold, whatever comes: memory around the guest's is as it was; pages are what was sent, or zero; a page
 * that was handed off as missing stays so until it was sent, and who waits for it waits; the guest is let go once,
 * after the device state is in and GO was sent; what the destination says are good frames; nothing is leaked.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "session.h"
#include "session-memory.h"

#include <stdatomic.h>

#include "migration/destination/state.h"
#include "migration/wire/compact.h"

#define NR_VCPUS 4

/* How long the destination may take to come to rest where it cannot be seen that it has. */
#define REST_US 10000

typedef struct Vcpu {
    GThread *thread;
    uint32_t region;
    uint64_t page;
    volatile uint8_t *host;
    _Atomic bool done;
} Vcpu;

typedef struct Fuzz {
    FuzzEnds ends;
    FerryDestination *destination;
    FuzzMemory memory;
    bool left[FUZZ_REGIONS][FUZZ_RAM_PAGES]; /* which pages were handed off as missing */
    Vcpu vcpus[NR_VCPUS];
    unsigned nr_vcpus;

    _Atomic bool
        raced; /* a step was taken while the one before was at work, or with bytes that may be anything */
    _Atomic bool has_failed, has_left, sent_go, said_loaded;
    _Atomic unsigned nr_complete, nr_go, nr_failed, nr_handed_off;
} Fuzz;

/* --- What the destination calls ------------------------------------------------------------------- */

static bool list_regions(void *opaque, const FerryRegions *remote, FerryRegions *local,
                         GError **errp)
{
    Fuzz *fuzz = opaque;

    fuzz_check(local->nr == 0);
    fuzz->memory.emptied = true;
    *local = ferry_regions_copy(&fuzz->memory.regions);
    return true;
}

static void on_complete(void *opaque)
{
    fuzz_check(atomic_fetch_add(&((Fuzz *)opaque)->nr_complete, 1) < 2);
}

static void on_go(void *opaque)
{
    Fuzz *fuzz = opaque;

    fuzz_check(atomic_fetch_add(&fuzz->nr_go, 1) == 0);
    fuzz_check(fuzz->sent_go && fuzz->said_loaded && !fuzz->has_failed);
}

static void on_failed(void *opaque, const GError *why)
{
    Fuzz *fuzz = opaque;

    fuzz_check(why != NULL && why->message[0]);
    fuzz_check(atomic_fetch_add(&fuzz->nr_failed, 1) == 0);
    fuzz_check(fuzz->nr_go == 0);
    fuzz->has_failed = true;
}

static void on_warn(void *opaque, const char *message)
{
    fuzz_check(g_utf8_validate(message, -1, NULL));
}

static void on_handed_off(void *opaque)
{
    Fuzz *fuzz = opaque;
    FerryPageset *const *missing = ferry_fetch_missing(fuzz->destination->receiver.fetch);

    fuzz_check(atomic_fetch_add(&fuzz->nr_handed_off, 1) == 0);
    for (size_t i = 0; i < fuzz->memory.regions.nr; i++) {
        for (uint64_t page = 0; page < ferry_region_nr_pages(&fuzz->memory.regions.list[i]);
             page++) {
            fuzz->left[i][page] = ferry_pageset_get(missing[i], page / 64) >> (page % 64) & 1;
        }
    }
    fuzz->has_left = true;
}

static void on_broken(void *opaque, const GError *why)
{
    fuzz_check(why != NULL && ((Fuzz *)opaque)->has_left);
}

static void on_resumed(void *opaque)
{
    fuzz_check(((Fuzz *)opaque)->has_left);
}

static void on_damaged(void *opaque, const GError *why)
{
    /* Nobody touches a page too early here; but it may still be on its way as it goes missing. */
    fuzz_check(why != NULL && ((Fuzz *)opaque)->raced);
}

static const FerryDestinationOps ops = {
    .list_regions = list_regions,
    .complete = on_complete,
    .go = on_go,
    .failed = on_failed,
    .warn = on_warn,
    .handed_off = on_handed_off,
    .broken = on_broken,
    .resumed = on_resumed,
    .damaged = on_damaged,
};

static void on_heard(void *opaque, FuzzEnd *end, const FerryFrame *frame, const uint8_t *rest)
{
    Fuzz *fuzz = opaque;

    switch (frame->type) {
    case FERRY_FRAME_READY:
    case FERRY_FRAME_LOADED:
        fuzz_check(end->nr_heard[frame->type] == 1);
        break;
    case FERRY_FRAME_FETCH:
        fuzz_check(end->role == FERRY_ROLE_FETCH && fuzz->has_left);
        break;
    case FERRY_FRAME_TAKEN:
        fuzz_check(fuzz->sent_go);
        break;
    default:
        fuzz_check(frame->type != FERRY_FRAME_PAGES && frame->type != FERRY_FRAME_GO);
        break;
    }
}

/* --- Rest ------------------------------------------------------------------------------------------- */

/* With the lock held: whether the thread can do nothing before something else happens. */
static bool is_at_rest(const FerryDestination *destination, const ChannelReader *reader)
{
    bool waits = destination->phase == FERRY_DESTINATION_OPENING ||
                 ferry_destination_is_cut_off(destination);

    return reader->over || fuzz_is_idle(fuzz_end_of(reader->channel)) ||
           (reader->proved && waits && fuzz_end_of(reader->channel)->role != FERRY_ROLE_CONTROL);
}

static bool all_rest(FerryDestination *destination)
{
    bool rest = true;

    g_mutex_lock(&destination->lock);
    for (guint i = 0; i < destination->readers->len && rest; i++) {
        rest = is_at_rest(destination, g_ptr_array_index(destination->readers, i));
    }
    g_mutex_unlock(&destination->lock);
    return rest;
}

static void come_to_rest(Fuzz *fuzz)
{
    gint64 deadline = g_get_monotonic_time() + REST_US;

    fuzz_hear(&fuzz->ends);
    while (!all_rest(fuzz->destination) && g_get_monotonic_time() < deadline) {
        g_usleep(20);
        fuzz_hear(&fuzz->ends);
    }
    fuzz->raced = fuzz->raced || g_get_monotonic_time() >= deadline;
}

/* --- Steps ------------------------------------------------------------------------------------------ */

static void dial(Fuzz *fuzz, const FerryHello *hello)
{
    FerryChannel *channel = fuzz_ends_add(&fuzz->ends, "new");
    FuzzFrame frame = {.type = FERRY_FRAME_HELLO};
    FuzzEnd *end;

    if (!channel) {
        return;
    }
    end = fuzz_end_of(channel);
    end->role = hello->role;
    ferry_destination_add_channel(fuzz->destination, channel);
    frame.body = ferry_hello_encode(hello);
    fuzz_send_frame(&fuzz->ends, end, &frame);
    g_byte_array_unref(frame.body);
}

static FerryHello make_hello(uint8_t role, uint8_t index, uint32_t attempt)
{
    return (FerryHello){
        .session = FUZZ_SESSION,
        .attempt = attempt,
        .version = FERRY_WIRE_VERSION_MAX,
        .role = role,
        .index = index,
    };
}

/* A whole connection: all channels, and the frame that begins it. */
static void open_all(Fuzz *fuzz, FuzzInput *input)
{
    const uint32_t attempt = fuzz_byte(input);
    const uint8_t nr = fuzz_byte(input);
    const FerryLayout layout = {.nr_data = 1 + (nr & 1), .nr_fetch = nr >> 1 & 3};
    const unsigned control = fuzz->ends.nr;
    FuzzFrame frame = {.type = attempt ? FERRY_FRAME_RESUME : FERRY_FRAME_REGIONS};
    FerryHello hello = make_hello(FERRY_ROLE_CONTROL, 0, attempt);

    dial(fuzz, &hello);
    if (control == fuzz->ends.nr) {
        return;
    }
    for (unsigned i = 0; i < layout.nr_data; i++) {
        hello = make_hello(FERRY_ROLE_DATA, (uint8_t)i, attempt);
        dial(fuzz, &hello);
    }
    for (unsigned i = 0; i < layout.nr_fetch; i++) {
        hello = make_hello(FERRY_ROLE_FETCH, (uint8_t)i, attempt);
        dial(fuzz, &hello);
    }
    frame.body = attempt ? ferry_layout_encode(&layout)
                         : ferry_regions_encode(&fuzz->memory.regions, &layout);
    fuzz_send_frame(&fuzz->ends, &fuzz->ends.list[control], &frame);
    g_byte_array_unref(frame.body);
}

static void dial_one(Fuzz *fuzz, FuzzInput *input)
{
    uint8_t role = fuzz_byte(input) & 3, index = fuzz_byte(input), attempt = fuzz_byte(input);
    FerryHello hello = make_hello(role, index, attempt);
    uint8_t damage = fuzz_byte(input);

    hello.session ^= damage == 0xff;
    hello.version = (uint16_t)(hello.version ^ (damage == 0xfe));
    dial(fuzz, &hello);
}

static void send_frame(Fuzz *fuzz, FuzzInput *input)
{
    FuzzEnd *end = fuzz_ends_get(&fuzz->ends, fuzz_byte(input));
    FuzzFrame frame = fuzz_read_frame(input);

    fuzz->sent_go |= frame.type == FERRY_FRAME_GO;
    if (end) {
        fuzz_send_frame(&fuzz->ends, end, &frame);
    }
    g_clear_pointer(&frame.body, g_byte_array_unref);
}

static void send_pages(Fuzz *fuzz, FuzzInput *input)
{
    FuzzEnd *end = fuzz_ends_get(&fuzz->ends, fuzz_byte(input));
    FuzzPages pages = fuzz_read_pages(input);

    if (end) {
        fuzz->ends.torn |= pages.torn;
        fuzz->raced = fuzz->raced || pages.torn;
        fuzz_memory_note(&fuzz->memory, &pages);
        fuzz_send(&fuzz->ends, end, pages.bytes->data, pages.bytes->len);
    }
    g_byte_array_unref(pages.bytes);
}

/* A bitmap of missing pages, as it should be. */
static void send_missing(Fuzz *fuzz, FuzzInput *input)
{
    FuzzEnd *end = fuzz_ends_get(&fuzz->ends, fuzz_byte(input));
    uint8_t region = fuzz_byte(input) % 2, nr_runs = fuzz_byte(input) & 3;
    uint64_t nr_pages = ferry_region_nr_pages(&fuzz->memory.regions.list[region]), first = 0;
    FerryPageset *set = ferry_pageset_new(nr_pages);
    FerryCompactWriter *writer;
    uint32_t next_tile = 0;
    FuzzFrame frame = {.type = FERRY_FRAME_MISSING, .region = region};

    for (unsigned i = 0; i <= nr_runs; i++) {
        uint64_t nr;

        first += fuzz_number(input);
        nr = 1 + fuzz_number(input);
        if (first >= nr_pages) {
            break;
        }
        nr = MIN(nr, nr_pages - first);
        ferry_pageset_add(set, first, nr);
        first += nr;
    }
    writer = ferry_compact_writer_new(set, nr_pages);
    frame.body = g_byte_array_new();
    g_byte_array_set_size(frame.body, 65536);
    g_byte_array_set_size(frame.body,
                          (guint)ferry_compact_write(writer, &next_tile, frame.body->data, 65536));
    if (end) {
        fuzz_send_frame(&fuzz->ends, end, &frame);
    }
    g_byte_array_unref(frame.body);
    ferry_compact_writer_free(writer);
    ferry_pageset_free(set);
}

static void send_raw(Fuzz *fuzz, FuzzInput *input)
{
    FuzzEnd *end = fuzz_ends_get(&fuzz->ends, fuzz_byte(input));
    uint64_t nr_bytes = fuzz_byte(input);
    const uint8_t *bytes = fuzz_bytes(input, &nr_bytes);

    if (end) {
        fuzz->raced = true;
        fuzz->ends.torn = true;
        fuzz_send(&fuzz->ends, end, bytes, nr_bytes);
    }
}

/* A head with a good checksum and anything else. */
static void send_head(Fuzz *fuzz, FuzzInput *input)
{
    FuzzEnd *end = fuzz_ends_get(&fuzz->ends, fuzz_byte(input));
    FerryFrame frame = fuzz_read_head(input);
    uint8_t head[FERRY_FRAME_BYTES];

    ferry_frame_encode(&frame, head);
    fuzz->sent_go |= frame.type == FERRY_FRAME_GO;
    if (end) {
        fuzz->raced = true;
        fuzz->ends.torn = true;
        fuzz_send(&fuzz->ends, end, head, sizeof(head));
    }
}

static gpointer vcpu_run(gpointer opaque)
{
    Vcpu *vcpu = opaque;

    (void)*vcpu->host;
    vcpu->done = true;
    return NULL;
}

/* Whoever loads the device state, or runs the guest, touches a page. */
static void touch(Fuzz *fuzz, FuzzInput *input)
{
    uint32_t region = fuzz_byte(input) % 2;
    uint64_t page = fuzz_number(input) % ferry_region_nr_pages(&fuzz->memory.regions.list[region]);
    Vcpu *vcpu = &fuzz->vcpus[fuzz->nr_vcpus];

    if (fuzz->nr_vcpus == NR_VCPUS || !fuzz->has_left) {
        return;
    }
    fuzz->nr_vcpus++;
    vcpu->region = region;
    vcpu->page = page;
    vcpu->host = fuzz->memory.regions.list[region].host + page * FERRY_PAGE_BYTES;
    vcpu->thread = g_thread_new("vcpu", vcpu_run, vcpu);
}

/* As QEMU does: once, and not before there is something to load. */
static void load(Fuzz *fuzz)
{
    FerryDestination *destination = fuzz->destination;
    g_autoptr(GError) error = NULL;
    bool ready = ferry_destination_is_complete(destination, NULL) ||
                 (fuzz->has_left && ferry_destination_is_left(destination));

    if (ready && !fuzz->said_loaded) {
        fuzz->said_loaded = true;
        fuzz_check(ferry_destination_loaded(destination, &error) || error);
        ferry_destination_running(destination);
    }
}

static void query(FerryDestination *destination)
{
    g_autofree char *why = ferry_destination_opening_failure(destination);
    FerryStats stats;

    (void)why;
    ferry_destination_query(destination, &stats);
    fuzz_check(!stats.has_fetch || stats.fetch.missing_pages <= FUZZ_RAM_PAGES + FUZZ_SHARED_PAGES);
    ferry_stats_clear(&stats);
    ferry_destination_has_all_channels(destination);
    ferry_destination_awaits_handoff(destination);
}

static void call(Fuzz *fuzz, uint8_t what)
{
    FerryDestination *destination = fuzz->destination;
    g_autoptr(GError) error = NULL;
    g_autofree char *text = NULL;

    switch (what % 9) {
    case 0:
        load(fuzz);
        break;
    case 1:
        ferry_destination_send_report(destination);
        break;
    case 2:
    case 3:
        if (fuzz->has_left) {
            ferry_destination_stream_broke(destination, "the stream broke");
        }
        break;
    case 4:
        ferry_destination_stream_came(destination);
        break;
    case 5:
        fuzz_check(ferry_destination_abandon(destination, &error) || error);
        break;
    case 6:
        ferry_destination_shutdown(destination);
        break;
    case 7:
        text = fuzz->has_left ? ferry_destination_describe_missing(destination) : NULL;
        fuzz_check(!fuzz->has_left || text);
        break;
    default:
        query(destination);
        break;
    }
}

static void step(Fuzz *fuzz, FuzzInput *input)
{
    uint8_t opcode = fuzz_byte(input);
    FuzzEnd *end;

    switch ((opcode & 0x7f) % 10) {
    case 0:
        open_all(fuzz, input);
        break;
    case 1:
        dial_one(fuzz, input);
        break;
    case 2:
        send_frame(fuzz, input);
        break;
    case 3:
        send_pages(fuzz, input);
        break;
    case 4:
        send_missing(fuzz, input);
        break;
    case 5:
        call(fuzz, fuzz_byte(input));
        break;
    case 6:
        end = fuzz_ends_get(&fuzz->ends, fuzz_byte(input));
        if (end) {
            fuzz_close(&fuzz->ends, end, fuzz_byte(input) & 3);
        }
        break;
    case 7:
        touch(fuzz, input);
        break;
    case 8:
        send_head(fuzz, input);
        break;
    default:
        send_raw(fuzz, input);
        break;
    }
    fuzz->raced = fuzz->raced || (opcode & 0x80) || fuzz->ends.torn;
    if (!(opcode & 0x80)) {
        come_to_rest(fuzz);
    }
}

/* --- The end ------------------------------------------------------------------------------------------ */

/* With the session at rest: nobody has a page that was never sent. */
static void check_left(Fuzz *fuzz)
{
    FerryDestination *destination = fuzz->destination;
    FerryPageset *const *missing;
    bool has_all, over;

    if (!fuzz->has_left || fuzz->ends.torn) {
        return;
    }
    missing = ferry_fetch_missing(destination->receiver.fetch);
    g_mutex_lock(&destination->lock);
    has_all = ferry_destination_has_all(destination);
    over = destination->phase == FERRY_DESTINATION_FAILED;
    g_mutex_unlock(&destination->lock);
    for (size_t i = 0; i < fuzz->memory.regions.nr; i++) {
        for (uint64_t page = 0; page < ferry_region_nr_pages(&fuzz->memory.regions.list[i]);
             page++) {
            bool here = !(ferry_pageset_get(missing[i], page / 64) >> (page % 64) & 1);

            fuzz_check(!fuzz->left[i][page] || fuzz->memory.sent[i][page] || (!here && !has_all));
        }
    }
    for (unsigned i = 0; i < fuzz->nr_vcpus; i++) {
        const Vcpu *vcpu = &fuzz->vcpus[i];

        fuzz_check(over || !vcpu->done || !fuzz->left[vcpu->region][vcpu->page] ||
                   fuzz->memory.sent[vcpu->region][vcpu->page]);
    }
}

static void end(Fuzz *fuzz, bool with_reason)
{
    come_to_rest(fuzz);
    check_left(fuzz);
    for (unsigned i = 0; i < fuzz->ends.nr; i++) {
        fuzz_close(&fuzz->ends, &fuzz->ends.list[i], 0);
    }
    ferry_destination_free(fuzz->destination, with_reason ? "the fuzzer is done" : NULL);
    for (unsigned i = 0; i < fuzz->nr_vcpus; i++) {
        g_thread_join(fuzz->vcpus[i].thread);
    }
    fuzz_memory_check(&fuzz->memory, fuzz->ends.torn);
    fuzz_ends_clear(&fuzz->ends);
    fuzz_memory_clear(&fuzz->memory);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nr_bytes)
{
    const FerryDestinationConfig config = {.session = FUZZ_SESSION, .timeout_ms = 10000};
    FuzzInput input = {.at = data, .end = data + nr_bytes};
    uint8_t settings = fuzz_byte(&input);
    g_autofree Fuzz *fuzz = g_new0(Fuzz, 1);

    fuzz->ends.heard = on_heard;
    fuzz->ends.opaque = fuzz;
    fuzz_memory_init(&fuzz->memory, settings & 1);
    fuzz->destination = ferry_destination_new(&config, &ops, fuzz);
    while (fuzz_has_more(&input)) {
        step(fuzz, &input);
    }
    end(fuzz, settings & 2);
    return 0;
}
