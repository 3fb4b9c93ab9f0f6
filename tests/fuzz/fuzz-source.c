/*
 * Whole sessions of a source: any frame in any state, on any channel, while it migrates a fake machine.
 *
 * A thread drives the source as QEMU's migration thread does, as the input's settings say.  The steps say what a
 * destination sends, what it waits for before, and what others ask of the source meanwhile.
 *
 * What must hold, whatever comes: what the source sends are good frames, with pages as they are in its memory; GO is
 * sent once on a connection, after LOADED, and only by a source that does not want the guest back; a source that
 * did not send it can take the guest back, and knows why it failed; nothing is leaked.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "session.h"

#include <stdatomic.h>

#include "migration/source/source.h"
#include "tests/unit/fake-machine.h"

#define RAM_PAGES 576 /* a granule, and something */

/* How long a frame is waited for, and rest where it cannot be seen. */
#define WAIT_US 10000
#define REST_US 3000

/* How long the source waits for what a destination owes it. */
#define SWITCHOVER_MS 300

enum {
    SET_FETCH = 1, /* pages may be left missing */
    SET_LEAVE = 2, /* they are */
    SET_TWO_DATA = 4,
    SET_ORDERED = 8, /* the tracker feeds */
    SET_COMPRESS = 16,
    SET_CHECKSUM = 32,
    SET_ROUNDS = 64, /* there are some */
    SET_DRAFT = 128, /* a draft is taken back */
};

typedef struct Fuzz {
    GMutex ends_lock; /* connections are opened by the driver */
    FuzzEnds ends;
    FakeMachine *machine;
    FerrySource *source;
    uint8_t settings;
    _Atomic unsigned nr_dials; /* how many connections are left to be opened */
    bool told_loaded;          /* LOADED was sent: the fuzzer's thread */
    unsigned nr_go;            /* the same: GO was heard */
    bool went;                 /* ferry_source_go returned true: the driver's */
    GThread *driver;
    _Atomic bool driven; /* the driver has ended */
} Fuzz;

/* --- The machine ------------------------------------------------------------------------------------ */

static const FakeRegion regions[] = {
    {.id = "pc.ram", .nr_pages = RAM_PAGES, .touched_pages = 24},
    {.id = "shared", .nr_pages = 64, .touched_pages = 4, .shared = true},
    {0},
};

/* Pages in a frame of the source's are as they are in memory, and nothing writes it any more. */
static void check_pages(const Fuzz *fuzz, const FerryFrame *frame, const uint8_t *rest)
{
    FerryExtent extents[FERRY_EXTENTS_MAX];
    g_autoptr(GError) error = NULL;
    const uint8_t *content = rest + ferry_extents_encoded_bytes(frame->nr_extents);
    const FerryRegion *region;

    fuzz_check(frame->region < fuzz->machine->regions.nr);
    region = &fuzz->machine->regions.list[frame->region];
    fuzz_check(ferry_extents_decode(frame, rest, ferry_region_nr_pages(region), extents, &error));
    for (uint32_t i = 0; i < frame->nr_extents && !(frame->flags & FERRY_FRAME_ZSTD); i++) {
        const uint64_t first = frame->first_page + extents[i].first;
        const uint64_t nr_bytes = extents[i].nr_pages * FERRY_PAGE_BYTES;
        const uint8_t *host = region->host + first * FERRY_PAGE_BYTES;

        if (extents[i].zero) {
            fuzz_check(host[0] == 0 && memcmp(host, host + 1, nr_bytes - 1) == 0);
        } else {
            fuzz_check(memcmp(host, content, nr_bytes) == 0);
            content += nr_bytes;
        }
    }
}

/* --- Its driver --------------------------------------------------------------------------------------- */

static bool dial(void *opaque, const char *const *names, unsigned nr, gint64 deadline_us,
                 FerryChannel **dialled, GError **errp)
{
    Fuzz *fuzz = opaque;
    bool ok;

    g_mutex_lock(&fuzz->ends_lock);
    ok = fuzz->nr_dials > 0 && fuzz->ends.nr + nr <= FUZZ_ENDS_MAX;
    for (unsigned i = 0; ok && i < nr; i++) {
        dialled[i] = fuzz_ends_add(&fuzz->ends, names[i]);
        fuzz_end_of(dialled[i])->role = names[i][0] == 'c'   ? FERRY_ROLE_CONTROL
                                        : names[i][0] == 'd' ? FERRY_ROLE_DATA
                                                             : FERRY_ROLE_FETCH;
    }
    fuzz->nr_dials -= ok ? 1 : 0;
    g_mutex_unlock(&fuzz->ends_lock);
    if (!ok) {
        g_set_error_literal(errp, 1, 1, "nobody listens");
    }
    return ok;
}

/* Copy, with some rounds of dirty pages that are what they were. */
static bool copy(Fuzz *fuzz, GError **errp)
{
    unsigned nr_rounds = fuzz->settings & SET_ROUNDS ? 2 : 0;

    for (unsigned i = 0; i < 20; i++) {
        if (!ferry_source_step(fuzz->source, 1, errp)) {
            return false;
        }
        if (nr_rounds && ferry_source_may_harvest(fuzz->source)) {
            nr_rounds--;
            for (uint64_t page = 0; page < 8; page++) {
                fake_machine_write(fuzz->machine, 0, page * 48,
                                   *fake_machine_page(fuzz->machine, 0, page * 48));
            }
            if (!ferry_source_harvest(fuzz->source, NULL, errp)) {
                return false;
            }
        }
        if (ferry_source_may_harvest(fuzz->source)) {
            break;
        }
    }
    if ((fuzz->settings & SET_DRAFT) && (fuzz->settings & SET_FETCH)) {
        return ferry_source_draft(fuzz->source, errp) && ferry_source_step(fuzz->source, 1, errp);
    }
    return true;
}

static bool hand_off(Fuzz *fuzz, GError **errp)
{
    bool leaves = (fuzz->settings & SET_LEAVE) && (fuzz->settings & SET_FETCH);

    return (!leaves || ferry_source_draft(fuzz->source, errp)) &&
           ferry_source_stopped(fuzz->source, SWITCHOVER_MS, errp) &&
           (leaves ? ferry_source_leave(fuzz->source, errp)
                   : ferry_source_hand_off(fuzz->source, errp)) &&
           ferry_source_wait_loaded(fuzz->source, errp);
}

/* As long as anybody listens; false at the end of that. */
static bool reconnect(Fuzz *fuzz)
{
    bool listens, connected;

    do {
        g_autoptr(GError) error = NULL;

        listens = fuzz->nr_dials > 0;
        connected =
            ferry_source_reconnect(fuzz->source, FERRY_WIRE_VERSION_MAX, FUZZ_SESSION, &error);
        fuzz_check(connected || error != NULL);
    } while (!connected && listens);
    return connected;
}

/* The guest has left: serve it, over as many connections as it takes. */
static void serve(Fuzz *fuzz)
{
    bool connected = true;

    while (connected && !ferry_source_is_complete(fuzz->source)) {
        g_autoptr(GError) error = NULL;

        if (!ferry_source_push(fuzz->source, 1, &error)) {
            fuzz_check(error != NULL);
            connected = reconnect(fuzz);
        }
    }
}

static gpointer drive(gpointer opaque)
{
    Fuzz *fuzz = opaque;
    g_autoptr(GError) error = NULL;

    if (!ferry_source_connect(fuzz->source, &error) || !copy(fuzz, &error) ||
        !hand_off(fuzz, &error)) {
        fuzz_check(error != NULL);
    } else if (!ferry_source_go(fuzz->source)) {
        fuzz_check(!ferry_source_fail(fuzz->source, &error) && error != NULL);
    } else {
        fuzz->went = true;
        if (ferry_source_is_left(fuzz->source)) {
            serve(fuzz);
        } else {
            fuzz_check(ferry_source_wait_taken(fuzz->source, &error) || error != NULL);
        }
        if (!error) {
            ferry_source_finish(fuzz->source, 5);
        }
    }
    fuzz->driven = true;
    return NULL;
}

/* --- What is heard --------------------------------------------------------------------------------------- */

static void on_heard(void *opaque, FuzzEnd *end, const FerryFrame *frame, const uint8_t *rest)
{
    Fuzz *fuzz = opaque;

    switch (frame->type) {
    case FERRY_FRAME_PAGES:
        fuzz_check(end->role != FERRY_ROLE_CONTROL);
        check_pages(fuzz, frame, rest);
        break;
    case FERRY_FRAME_GO:
        fuzz_check(end->role == FERRY_ROLE_CONTROL && fuzz->told_loaded);
        fuzz_check(ferry_source_is_gone(fuzz->source));
        fuzz->nr_go++;
        /* Fall through. */
    case FERRY_FRAME_HELLO:
    case FERRY_FRAME_REGIONS:
    case FERRY_FRAME_RESUME:
    case FERRY_FRAME_HANDOFF:
        fuzz_check(end->nr_heard[frame->type] == 1);
        break;
    default:
        break;
    }
}

static void hear(Fuzz *fuzz)
{
    g_mutex_lock(&fuzz->ends_lock);
    fuzz_hear(&fuzz->ends);
    g_mutex_unlock(&fuzz->ends_lock);
}

static FuzzEnd *get_end(Fuzz *fuzz, uint8_t number)
{
    FuzzEnd *end;

    g_mutex_lock(&fuzz->ends_lock);
    end = fuzz_ends_get(&fuzz->ends, number);
    g_mutex_unlock(&fuzz->ends_lock);
    return end;
}

/* Nobody reads data channels at the source. */
static bool all_rest(Fuzz *fuzz)
{
    bool rest = true;

    g_mutex_lock(&fuzz->ends_lock);
    for (unsigned i = 0; i < fuzz->ends.nr && rest; i++) {
        rest = fuzz->ends.list[i].role == FERRY_ROLE_DATA || fuzz_is_idle(&fuzz->ends.list[i]);
    }
    g_mutex_unlock(&fuzz->ends_lock);
    return rest;
}

static void come_to_rest(Fuzz *fuzz)
{
    gint64 deadline = g_get_monotonic_time() + REST_US;

    hear(fuzz);
    while (!all_rest(fuzz) && g_get_monotonic_time() < deadline) {
        g_usleep(20);
        hear(fuzz);
    }
}

/* Until so many frames of the type have come on the channel with that number. */
static void await(Fuzz *fuzz, uint8_t number, uint8_t type, uint8_t nr)
{
    gint64 deadline = g_get_monotonic_time() + WAIT_US;

    while (!fuzz->driven && g_get_monotonic_time() < deadline) {
        const FuzzEnd *end = NULL;

        hear(fuzz);
        g_mutex_lock(&fuzz->ends_lock);
        end = number < fuzz->ends.nr ? &fuzz->ends.list[number] : NULL;
        g_mutex_unlock(&fuzz->ends_lock);
        if (end && end->nr_heard[type] >= nr) {
            break;
        }
        g_usleep(20);
    }
}

/* --- Steps --------------------------------------------------------------------------------------------------- */

static void send_frame(Fuzz *fuzz, FuzzInput *input)
{
    FuzzEnd *end = get_end(fuzz, fuzz_byte(input));
    FuzzFrame frame = fuzz_read_frame(input);

    fuzz->told_loaded |= frame.type == FERRY_FRAME_LOADED;
    if (end) {
        fuzz_send_frame(&fuzz->ends, end, &frame);
    }
    g_clear_pointer(&frame.body, g_byte_array_unref);
}

static void send_head(Fuzz *fuzz, FuzzInput *input)
{
    FuzzEnd *end = get_end(fuzz, fuzz_byte(input));
    FerryFrame frame = fuzz_read_head(input);
    uint8_t head[FERRY_FRAME_BYTES];

    ferry_frame_encode(&frame, head);
    fuzz->told_loaded |= frame.type == FERRY_FRAME_LOADED;
    if (end) {
        fuzz_send(&fuzz->ends, end, head, sizeof(head));
    }
}

static void send_raw(Fuzz *fuzz, FuzzInput *input)
{
    FuzzEnd *end = get_end(fuzz, fuzz_byte(input));
    uint64_t nr_bytes = fuzz_byte(input);
    const uint8_t *bytes = fuzz_bytes(input, &nr_bytes);

    if (end) {
        fuzz_send(&fuzz->ends, end, bytes, nr_bytes);
    }
}

static void close_one(Fuzz *fuzz, FuzzInput *input)
{
    FuzzEnd *end = get_end(fuzz, fuzz_byte(input));
    uint8_t way = fuzz_byte(input) & 3;

    if (end) {
        g_mutex_lock(&fuzz->ends_lock);
        fuzz_close(&fuzz->ends, end, way);
        g_mutex_unlock(&fuzz->ends_lock);
    }
}

static void query(FerrySource *source)
{
    FerryCounters counters;
    FerryStats stats;

    ferry_source_count(source, &counters);
    ferry_source_query(source, &stats);
    ferry_stats_clear(&stats);
}

/* What other threads than the driver may ask. */
static void call(Fuzz *fuzz, FuzzInput *input)
{
    uint64_t page, nr_pages;

    switch (fuzz_byte(input) % 6) {
    case 0:
        ferry_source_cancel(fuzz->source);
        break;
    case 1:
        ferry_source_note_failure(fuzz->source, g_error_new_literal(1, 1, "something else failed"));
        break;
    case 2:
        ferry_source_shutdown(fuzz->source);
        break;
    case 3:
        ferry_source_set_bandwidth(fuzz->source, fuzz_number(input) << 20);
        break;
    case 4:
        page = fuzz_number(input) % RAM_PAGES;
        nr_pages = fuzz_number(input);
        if (ferry_source_phase(fuzz->source) != FERRY_SOURCE_OPENING) {
            ferry_source_hint(fuzz->source, 0, page, MIN(nr_pages, RAM_PAGES - page));
        }
        break;
    default:
        query(fuzz->source);
        break;
    }
}

static void step(Fuzz *fuzz, FuzzInput *input)
{
    uint8_t opcode = fuzz_byte(input), number, type;
    bool waits = false;

    switch ((opcode & 0x7f) % 6) {
    case 0:
        number = fuzz_byte(input);
        type = fuzz_byte(input) % (FERRY_FRAME_LAST + 1);
        await(fuzz, number, type, fuzz_byte(input));
        waits = true;
        break;
    case 1:
        send_frame(fuzz, input);
        break;
    case 2:
        close_one(fuzz, input);
        break;
    case 3:
        call(fuzz, input);
        break;
    case 4:
        send_head(fuzz, input);
        break;
    default:
        send_raw(fuzz, input);
        break;
    }
    if (!waits && !(opcode & 0x80)) {
        come_to_rest(fuzz);
    }
}

/* --- The end ----------------------------------------------------------------------------------------------------- */

/* All is broken off, and nobody listens any more. */
static void end(Fuzz *fuzz)
{
    come_to_rest(fuzz);
    while (!fuzz->driven) {
        g_mutex_lock(&fuzz->ends_lock);
        fuzz->nr_dials = 0;
        fuzz_hear(&fuzz->ends);
        for (unsigned i = 0; i < fuzz->ends.nr; i++) {
            fuzz_close(&fuzz->ends, &fuzz->ends.list[i], 0);
        }
        g_mutex_unlock(&fuzz->ends_lock);
        g_usleep(50);
    }
    g_thread_join(fuzz->driver);
    hear(fuzz);
    fuzz_check(fuzz->went == ferry_source_is_gone(fuzz->source));
    fuzz_check(fuzz->nr_go == 0 || fuzz->went);
    if (!fuzz->went) {
        fuzz_check(ferry_source_is_over(fuzz->source));
    }
    ferry_source_free(fuzz->source);
    hear(fuzz);
    fuzz_ends_clear(&fuzz->ends);
    fake_machine_free(fuzz->machine);
    g_mutex_clear(&fuzz->ends_lock);
}

static FerrySource *new_source(Fuzz *fuzz)
{
    const FerrySourceConfig config = {
        .session = FUZZ_SESSION,
        .version = FERRY_WIRE_VERSION_MAX,
        .nr_channels = fuzz->settings & SET_TWO_DATA ? 2 : 1,
        .nr_fetch = fuzz->settings & SET_FETCH ? 1 : 0,
        .timeout_ms = 10000,
        .switchover_ms = SWITCHOVER_MS,
        .compress = fuzz->settings & SET_COMPRESS,
        .checksum = fuzz->settings & SET_CHECKSUM,
        .dial = dial,
        .opaque = fuzz,
    };
    FerryTracker tracker = fake_machine_tracker(fuzz->machine, fuzz->settings & SET_ORDERED);
    FerryRegions list = fake_machine_list(fuzz->machine);

    return ferry_source_new(&config, &list, &tracker);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nr_bytes)
{
    FuzzInput input = {.at = data, .end = data + nr_bytes};
    g_autofree Fuzz *fuzz = g_new0(Fuzz, 1);

    fuzz->settings = fuzz_byte(&input);
    fuzz->nr_dials = 3;
    fuzz->ends.heard = on_heard;
    fuzz->ends.opaque = fuzz;
    g_mutex_init(&fuzz->ends_lock);
    fuzz->machine = fake_machine_new(regions, true);
    fuzz->source = new_source(fuzz);
    fuzz->driver = g_thread_new("driver", drive, fuzz);
    while (fuzz_has_more(&input)) {
        step(fuzz, &input);
    }
    end(fuzz);
    return 0;
}
