/*
 * The source's side of a session: see source.h.
 *
 * Threads: the driver (whoever calls the functions in source.h's order) owns everything that is not
 * marked otherwise; the control thread reads the control channel and touches only what is under
 * `lock`; the senders are described in copy.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "source.h"

#include <stdatomic.h>
#include <string.h>

#include "control.h"
#include "converge.h"
#include "copy.h"
#include "error.h"

/* Finished rounds that are remembered: the first ones and the last ones tell the story. */
#define ROUNDS_KEPT 256

/* Pages that may wait in the sets before the driver arms another chunk. */
#define QUEUE_PAGES (2 * FERRY_CHUNK_PAGES)

/* How long an I/O error on one channel waits for the peer's own words on the control channel. */
#define LAST_WORDS_US (G_USEC_PER_SEC / 2)

struct FerrySource {
    FerrySourceConfig config;
    FerryCopy *copy;
    FerryScanner *scanner;
    uint64_t total_bytes;

    FerryChannel *control;
    FerryChannel **data; /* config.nr_channels of them */
    GThread *control_thread;

    /* The first pass: the chunk to arm next. */
    size_t next_region;
    uint64_t next_chunk;
    GMutex feed_lock; /* against ferry_source_skip */
    _Atomic uint64_t unseen_bytes;
    _Atomic uint64_t skipped_pages;

    /* Rounds. */
    GMutex stats_lock; /* for rounds, round_*, phase, converge */
    GArray *rounds;    /* finished ones */
    FerryRoundStats round;
    uint64_t round_start_ns;
    uint64_t round_start_pages, round_start_zero, round_start_bytes;
    FerryConverge converge;
    FerrySessionPhase phase;
    uint64_t start_ns, end_ns;
    uint64_t longest_arm_ns;
    uint64_t last_fence; /* number of the newest fence; the driver's */

    GMutex lock; /* for what follows */
    GCond changed;
    bool ready;           /* the destination accepted the regions */
    bool control_over;    /* the control thread has ended */
    GError *last_words;   /* from the destination, or why the control channel broke */
    uint64_t round_fence; /* number of the fence that ends the round under way, or 0 */
    uint64_t reached;     /* the newest fence that the destination has reached on all channels */
    bool has_report;
    FerryReport report;
    _Atomic bool cancelled;
};

FerrySource *ferry_source_new(const FerrySourceConfig *config, FerryRegions *regions,
                              const FerryTracker *tracker)
{
    FerrySource *source = g_new0(FerrySource, 1);

    source->config = *config;
    source->total_bytes = ferry_regions_total_bytes(regions);
    source->unseen_bytes = source->total_bytes;
    source->copy = ferry_copy_new(regions, tracker, config->checksum);
    source->scanner = ferry_scanner_new();
    source->data = g_new0(FerryChannel *, config->nr_channels);
    source->rounds = g_array_new(FALSE, FALSE, sizeof(FerryRoundStats));
    g_mutex_init(&source->feed_lock);
    g_mutex_init(&source->stats_lock);
    g_mutex_init(&source->lock);
    g_cond_init(&source->changed);
    return source;
}

/* Every channel that exists, from any thread: they are opened under the lock and freed last. */
void ferry_source_shutdown(FerrySource *source)
{
    g_mutex_lock(&source->lock);
    if (source->control) {
        ferry_channel_shutdown(source->control);
    }
    for (unsigned i = 0; i < source->config.nr_channels; i++) {
        if (source->data[i]) {
            ferry_channel_shutdown(source->data[i]);
        }
    }
    g_mutex_unlock(&source->lock);
}

void ferry_source_free(FerrySource *source)
{
    if (!source) {
        return;
    }
    ferry_source_shutdown(source);
    if (source->control_thread) {
        g_thread_join(source->control_thread);
    }
    ferry_copy_free(source->copy);
    ferry_channel_free(source->control);
    for (unsigned i = 0; i < source->config.nr_channels; i++) {
        ferry_channel_free(source->data[i]);
    }
    g_free(source->data);
    ferry_scanner_free(source->scanner);
    g_array_unref(source->rounds);
    g_clear_error(&source->last_words);
    g_mutex_clear(&source->feed_lock);
    g_mutex_clear(&source->stats_lock);
    g_mutex_clear(&source->lock);
    g_cond_clear(&source->changed);
    g_free(source);
}

static void set_phase(FerrySource *source, FerrySessionPhase phase)
{
    g_mutex_lock(&source->stats_lock);
    source->phase = phase;
    if ((phase == FERRY_SESSION_DONE || phase == FERRY_SESSION_FAILED) && !source->end_ns) {
        source->end_ns = ferry_now_ns();
    }
    g_mutex_unlock(&source->stats_lock);
}

/* --- Control channel ------------------------------------------------------------------------ */

/* A channel that broke means little to a user; say what it means. */
static void explain(GError **error)
{
    if (g_error_matches(*error, FERRY_ERROR, FERRY_ERROR_IO)) {
        (*error)->code = FERRY_ERROR_LOST;
        g_prefix_error(error, "lost the connection to the destination: ");
    }
}

/* One frame from the destination; false when the channel is over. */
static bool take_control_frame(FerrySource *source, GError **errp)
{
    g_autoptr(GByteArray) body = NULL;
    g_autofree char *text = NULL;
    FerryFrame frame;
    FerryReport report;

    if (!ferry_control_receive(source->control, &frame, &body, errp)) {
        return false;
    }
    switch (frame.type) {
    case FERRY_FRAME_READY:
        g_mutex_lock(&source->lock);
        source->ready = true;
        g_cond_broadcast(&source->changed);
        g_mutex_unlock(&source->lock);
        return true;
    case FERRY_FRAME_REACHED:
        g_mutex_lock(&source->lock);
        source->reached = frame.first_page;
        g_cond_broadcast(&source->changed);
        g_mutex_unlock(&source->lock);
        return true;
    case FERRY_FRAME_REPORT:
        if (!ferry_report_decode(body ? body->data : NULL, body ? body->len : 0, &report, errp)) {
            return false;
        }
        g_mutex_lock(&source->lock);
        source->has_report = true;
        source->report = report;
        g_cond_broadcast(&source->changed);
        g_mutex_unlock(&source->lock);
        return true;
    case FERRY_FRAME_ERROR:
        text = ferry_error_text_decode(body ? body->data : NULL, body ? body->len : 0);
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_REFUSED, "the destination says: %s", text);
        return false;
    default:
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL,
                    "the destination sent frame type %u, which is not its to send", frame.type);
        return false;
    }
}

static gpointer control_run(gpointer opaque)
{
    FerrySource *source = opaque;
    GError *error = NULL;

    while (take_control_frame(source, &error)) {
    }
    explain(&error);
    g_mutex_lock(&source->lock);
    source->last_words = error;
    source->control_over = true;
    g_cond_broadcast(&source->changed);
    bool over = source->has_report;
    g_mutex_unlock(&source->lock);
    /* After its report the destination has nothing more to say: then this is the end, no error. */
    if (!over) {
        if (source->config.failed && !atomic_load(&source->cancelled)) {
            source->config.failed(source->config.opaque, error);
        }
        ferry_copy_fail(source->copy, g_error_copy(error));
        ferry_source_shutdown(source);
    }
    return NULL;
}

/*
 * What to tell the user.  A channel that broke is only a symptom when the destination has said why
 * on the control channel, so give its words a moment to arrive.
 */
static bool fail(FerrySource *source, GError **errp)
{
    g_autoptr(GError) error = NULL;
    gint64 deadline = g_get_monotonic_time() + LAST_WORDS_US;

    ferry_copy_check(source->copy, &error);
    if (!error) {
        error = g_error_new_literal(FERRY_ERROR, FERRY_ERROR_IO, "it is gone");
    }
    explain(&error);
    g_mutex_lock(&source->lock);
    while (source->control_thread && !source->control_over) {
        if (!g_cond_wait_until(&source->changed, &source->lock, deadline)) {
            break;
        }
    }
    if (source->last_words &&
        g_error_matches(source->last_words, FERRY_ERROR, FERRY_ERROR_REFUSED)) {
        g_clear_error(&error);
        error = g_error_copy(source->last_words);
    }
    g_mutex_unlock(&source->lock);
    if (atomic_load(&source->cancelled)) {
        g_clear_error(&error);
        error = g_error_new_literal(FERRY_ERROR, FERRY_ERROR_CANCELLED, "cancelled");
    }
    set_phase(source, FERRY_SESSION_FAILED);
    ferry_source_shutdown(source);
    g_propagate_error(errp, g_steal_pointer(&error));
    return false;
}

void ferry_source_cancel(FerrySource *source)
{
    atomic_store(&source->cancelled, true);
    ferry_copy_fail(source->copy,
                    g_error_new_literal(FERRY_ERROR, FERRY_ERROR_CANCELLED, "cancelled"));
    ferry_source_shutdown(source);
}

/* --- Connecting ----------------------------------------------------------------------------- */

static FerryChannel *open_channel(FerrySource *source, FerryRole role, unsigned index,
                                  GError **errp)
{
    g_autofree char *name =
        role == FERRY_ROLE_CONTROL ? g_strdup("control") : g_strdup_printf("data %u", index);
    g_autoptr(FerryChannel) channel = source->config.dial(source->config.opaque, name, errp);
    FerryHello hello = {
        .session = source->config.session,
        .version = source->config.version,
        .role = (uint8_t)role,
        .index = (uint8_t)index,
    };
    g_autoptr(GByteArray) body = ferry_hello_encode(&hello);

    if (!channel || !ferry_control_send(channel, FERRY_FRAME_HELLO, 0, body, errp)) {
        return NULL;
    }
    return g_steal_pointer(&channel);
}

static bool open_channels(FerrySource *source, GError **errp)
{
    FerryChannel *channel = open_channel(source, FERRY_ROLE_CONTROL, 0, errp);

    if (!channel) {
        return false;
    }
    g_mutex_lock(&source->lock);
    source->control = channel;
    g_mutex_unlock(&source->lock);
    for (unsigned i = 0; i < source->config.nr_channels; i++) {
        channel = open_channel(source, FERRY_ROLE_DATA, i, errp);
        if (!channel) {
            return false;
        }
        g_mutex_lock(&source->lock);
        source->data[i] = channel;
        g_mutex_unlock(&source->lock);
        if (atomic_load(&source->cancelled)) {
            return false;
        }
    }
    return true;
}

bool ferry_source_connect(FerrySource *source, GError **errp)
{
    g_autoptr(GByteArray) body =
        ferry_regions_encode(&source->copy->regions, source->config.nr_channels);
    bool ready;

    if (!open_channels(source, errp)) {
        if (atomic_load(&source->cancelled)) {
            g_clear_error(errp);
            return fail(source, errp);
        }
        set_phase(source, FERRY_SESSION_FAILED);
        return false;
    }
    source->start_ns = ferry_now_ns();
    source->round_start_ns = source->start_ns;
    source->control_thread = g_thread_new("ferry-control", control_run, source);
    if (!ferry_control_send(source->control, FERRY_FRAME_REGIONS, 0, body, NULL)) {
        return fail(source, errp);
    }
    g_mutex_lock(&source->lock);
    while (!source->ready && !source->control_over) {
        g_cond_wait(&source->changed, &source->lock);
    }
    ready = source->ready;
    g_mutex_unlock(&source->lock);
    if (!ready) {
        return fail(source, errp);
    }
    ferry_copy_start(source->copy, source->data, source->config.nr_channels);
    set_phase(source, FERRY_SESSION_COPY);
    return true;
}

/* --- First pass ----------------------------------------------------------------------------- */

/* With feed_lock held. */
static void arm_chunk(FerrySource *source, size_t region, uint64_t number)
{
    FerryCopy *copy = source->copy;
    FerryCopyChunk *chunk = &copy->state[region].chunks[number];
    uint64_t start_ns = ferry_now_ns();

    if (!atomic_load(&chunk->armed)) {
        copy->tracker.ops->arm(copy->tracker.opaque, (uint32_t)region, number * FERRY_CHUNK_PAGES,
                               ferry_chunk_nr_pages(&copy->regions.list[region], number));
        atomic_store(&chunk->armed, true);
        source->longest_arm_ns = MAX(source->longest_arm_ns, ferry_now_ns() - start_ns);
    }
}

typedef struct Queueing {
    FerrySource *source;
    FerryCopyRegion *state;
    uint64_t touched_pages;
} Queueing;

static void queue_touched(void *opaque, uint64_t offset_bytes, uint64_t nr_bytes,
                          FerryScanKind kind)
{
    Queueing *queueing = opaque;
    uint64_t nr_pages = nr_bytes >> FERRY_PAGE_SHIFT;

    queueing->touched_pages += nr_pages;
    if (kind == FERRY_SCAN_ZERO) {
        /* The destination's memory starts out empty: nothing to send. */
        atomic_fetch_add(&queueing->source->copy->zero_pages, nr_pages);
    } else {
        ferry_pageset_add(queueing->state->pages, offset_bytes >> FERRY_PAGE_SHIFT, nr_pages);
    }
}

/* Take out of the page set what is not to be sent in the first pass. */
static void apply_skips(FerryCopyRegion *state, uint64_t number)
{
    uint64_t first_granule = number * (FERRY_CHUNK_PAGES / FERRY_GRANULE_PAGES);
    uint64_t end_granule = first_granule + FERRY_CHUNK_PAGES / FERRY_GRANULE_PAGES;
    uint64_t pages[FERRY_GRANULE_WORDS];

    for (int64_t granule = ferry_pageset_next(state->skip, first_granule, 0, 1);
         granule >= 0 && (uint64_t)granule < end_granule;
         granule = ferry_pageset_next(state->skip, (uint64_t)granule + 1, 0, 1)) {
        ferry_pageset_take(state->skip, (uint64_t)granule, pages);
        for (uint64_t word = 0; word < FERRY_GRANULE_WORDS; word++) {
            uint64_t first = (uint64_t)granule * FERRY_GRANULE_PAGES + word * 64;

            for (uint64_t mask = pages[word]; mask; mask &= mask - 1) {
                ferry_pageset_remove(state->pages, first + (uint64_t)__builtin_ctzll(mask), 1);
            }
        }
    }
}

/*
 * Arm one chunk, then queue what was ever touched in it.  The senders get to work at once: a long
 * run of chunks with nothing in them may come next.
 */
static bool feed_chunk(FerrySource *source, GError **errp)
{
    size_t region = source->next_region;
    uint64_t number = source->next_chunk;
    const FerryRegion *memory = &source->copy->regions.list[region];
    FerryCopyRegion *state = &source->copy->state[region];
    FerryScanTarget target = ferry_region_scan_target(memory);
    uint64_t nr_pages = ferry_chunk_nr_pages(memory, number);
    Queueing queueing = {.source = source, .state = state};
    bool scanned;

    g_mutex_lock(&source->feed_lock);
    arm_chunk(source, region, number);
    scanned = ferry_scan(source->scanner, &target, number * FERRY_CHUNK_PAGES * FERRY_PAGE_BYTES,
                         nr_pages * FERRY_PAGE_BYTES, queue_touched, &queueing, errp);
    apply_skips(state, number);
    atomic_store(&state->chunks[number].queued, true);
    g_mutex_unlock(&source->feed_lock);

    atomic_fetch_sub(&source->unseen_bytes, nr_pages * FERRY_PAGE_BYTES);
    atomic_fetch_add(&source->skipped_pages, nr_pages - queueing.touched_pages);
    if (queueing.touched_pages) {
        ferry_copy_kick(source->copy);
    }
    if (++source->next_chunk == state->nr_chunks) {
        source->next_chunk = 0;
        source->next_region++;
    }
    return scanned;
}

bool ferry_source_first_pass_done(const FerrySource *source)
{
    return atomic_load(&source->unseen_bytes) == 0;
}

void ferry_source_skip(FerrySource *source, uint32_t region, uint64_t first_page, uint64_t nr_pages)
{
    FerryCopy *copy = source->copy;
    FerryCopyRegion *state = &copy->state[region];
    uint64_t end = MIN(first_page + nr_pages, ferry_region_nr_pages(&copy->regions.list[region]));

    g_mutex_lock(&source->feed_lock);
    for (uint64_t page = first_page, next; page < end; page = next) {
        uint64_t number = page / FERRY_CHUNK_PAGES;

        next = MIN(end, (number + 1) * FERRY_CHUNK_PAGES);
        /* The pages may be put to use again right away: from here on that must be seen. */
        arm_chunk(source, region, number);
        ferry_pageset_remove(state->pages, page, next - page);
        if (!atomic_load(&state->chunks[number].queued)) {
            ferry_pageset_add(state->skip, page, next - page);
        }
    }
    g_mutex_unlock(&source->feed_lock);
}

static bool is_round_over(FerrySource *source)
{
    bool over;

    g_mutex_lock(&source->lock);
    over = source->round_fence && source->reached >= source->round_fence;
    g_mutex_unlock(&source->lock);
    return over;
}

/*
 * All that is known of has been handed to the network: end the round with a fence, and wait until
 * the destination has reached it.  What is still on its way would be part of a blackout.
 */
static void end_round(FerrySource *source, gint64 deadline)
{
    if (!source->round_fence) {
        g_mutex_lock(&source->lock);
        source->round_fence = ++source->last_fence;
        g_mutex_unlock(&source->lock);
        ferry_copy_fence(source->copy, source->last_fence);
    }
    g_mutex_lock(&source->lock);
    while (source->reached < source->round_fence && !source->control_over) {
        if (!g_cond_wait_until(&source->changed, &source->lock, deadline)) {
            break;
        }
    }
    g_mutex_unlock(&source->lock);
}

bool ferry_source_step(FerrySource *source, unsigned timeout_ms, GError **errp)
{
    FerryCopy *copy = source->copy;
    gint64 deadline = g_get_monotonic_time() + (gint64)timeout_ms * 1000;

    do {
        while (!ferry_source_first_pass_done(source) && ferry_copy_count(copy) < QUEUE_PAGES) {
            if (!feed_chunk(source, errp)) {
                set_phase(source, FERRY_SESSION_FAILED);
                ferry_source_shutdown(source);
                return false;
            }
        }
        if (ferry_copy_wait_dry(copy, ferry_source_first_pass_done(source) ? timeout_ms : 5) &&
            ferry_source_first_pass_done(source)) {
            end_round(source, deadline);
        }
        if (!ferry_copy_check(copy, NULL)) {
            return fail(source, errp);
        }
        if (is_round_over(source)) {
            break;
        }
    } while (g_get_monotonic_time() < deadline);
    return true;
}

uint64_t ferry_source_remaining_bytes(const FerrySource *source)
{
    return atomic_load(&source->unseen_bytes) + ferry_copy_unsent(source->copy) * FERRY_PAGE_BYTES;
}

/* --- Rounds --------------------------------------------------------------------------------- */

static uint64_t sent_bytes(FerrySource *source)
{
    uint64_t total = source->control ? source->control->sent_bytes : 0;

    for (unsigned i = 0; i < source->config.nr_channels; i++) {
        total += source->data[i] ? source->data[i]->sent_bytes : 0;
    }
    return total;
}

/* What the round under way has done so far.  With stats_lock held. */
static FerryRoundStats round_so_far(FerrySource *source)
{
    FerryRoundStats round = source->round;

    round.pages = atomic_load(&source->copy->normal_pages) - source->round_start_pages;
    round.zero_pages = atomic_load(&source->copy->zero_pages) - source->round_start_zero;
    round.bytes = sent_bytes(source) - source->round_start_bytes;
    round.elapsed_ns = (source->end_ns ? source->end_ns : ferry_now_ns()) - source->round_start_ns;
    return round;
}

static bool harvest(FerrySource *source, bool last, uint64_t *dirty_pages, GError **errp)
{
    FerryCopy *copy = source->copy;
    FerryRoundStats finished;
    uint64_t before = ferry_copy_count(copy);
    uint64_t start_ns = ferry_now_ns();

    if (!copy->tracker.ops->harvest(copy->tracker.opaque, last, ferry_copy_report, copy, errp)) {
        set_phase(source, FERRY_SESSION_FAILED);
        ferry_source_shutdown(source);
        return false;
    }
    g_mutex_lock(&source->stats_lock);
    finished = round_so_far(source);
    if (source->rounds->len == ROUNDS_KEPT) {
        g_array_remove_index(source->rounds, ROUNDS_KEPT / 2);
    }
    g_array_append_val(source->rounds, finished);
    source->round_start_ns = ferry_now_ns();
    source->round_start_pages = atomic_load(&copy->normal_pages);
    source->round_start_zero = atomic_load(&copy->zero_pages);
    source->round_start_bytes = sent_bytes(source);
    uint64_t after = ferry_copy_count(copy);
    source->round = (FerryRoundStats){
        .dirty_pages = after > before ? after - before : 0,
        .harvest_ns = source->round_start_ns - start_ns,
    };
    if (dirty_pages) {
        *dirty_pages = source->round.dirty_pages;
    }
    source->phase = last ? FERRY_SESSION_HAND_OFF : FERRY_SESSION_ROUNDS;
    g_mutex_unlock(&source->stats_lock);
    g_mutex_lock(&source->lock);
    source->round_fence = 0;
    g_mutex_unlock(&source->lock);
    ferry_copy_kick(copy);
    return true;
}

bool ferry_source_may_harvest(FerrySource *source)
{
    return is_round_over(source);
}

bool ferry_source_harvest(FerrySource *source, uint64_t *dirty_pages, GError **errp)
{
    if (!ferry_copy_check(source->copy, NULL)) {
        return fail(source, errp);
    }
    return harvest(source, false, dirty_pages, errp);
}

bool ferry_source_wants_round(FerrySource *source, uint64_t limit_bytes)
{
    uint64_t pending = ferry_source_remaining_bytes(source);
    bool wants;

    g_mutex_lock(&source->stats_lock);
    ferry_converge_note(&source->converge, pending, limit_bytes);
    wants = ferry_converge_wants_round(&source->converge, pending);
    g_mutex_unlock(&source->stats_lock);
    return wants;
}

/* --- Hand-off ------------------------------------------------------------------------------- */

bool ferry_source_stopped(FerrySource *source, GError **errp)
{
    atomic_store(&source->copy->stopped, true);
    ferry_pace_set_rate(source->copy->pace, 0);
    if (!ferry_control_send(source->control, FERRY_FRAME_STOPPED, 0, NULL, NULL)) {
        return fail(source, errp);
    }
    return true;
}

bool ferry_source_hand_over(FerrySource *source, GError **errp)
{
    FerryCopy *copy = source->copy;

    atomic_store(&copy->stopped, true);
    ferry_pace_set_rate(copy->pace, 0);
    /* A guest that was paused all along may get here before the first pass is over. */
    while (!ferry_source_first_pass_done(source)) {
        if (!ferry_source_step(source, 100, errp)) {
            return false;
        }
    }
    if (!harvest(source, true, NULL, errp)) {
        return false;
    }
    while (!ferry_copy_wait_dry(copy, 1000)) {
        if (!ferry_copy_check(copy, NULL)) {
            return fail(source, errp);
        }
    }
    ferry_copy_fence(copy, ++source->last_fence);
    if (!ferry_copy_wait_fenced(copy) ||
        !ferry_control_send(source->control, FERRY_FRAME_HANDOFF, source->last_fence, NULL, NULL)) {
        return fail(source, errp);
    }
    g_mutex_lock(&source->stats_lock);
    source->end_ns = ferry_now_ns();
    g_mutex_unlock(&source->stats_lock);
    return true;
}

bool ferry_source_finish(FerrySource *source, unsigned timeout_ms)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)timeout_ms * 1000;
    bool has_report;

    g_mutex_lock(&source->lock);
    while (!source->has_report && !source->control_over) {
        if (!g_cond_wait_until(&source->changed, &source->lock, deadline)) {
            break;
        }
    }
    has_report = source->has_report;
    g_mutex_unlock(&source->lock);
    set_phase(source, FERRY_SESSION_DONE);
    return has_report;
}

/* --- Parameters and reports ------------------------------------------------------------------ */

void ferry_source_set_bandwidth(FerrySource *source, uint64_t bytes_per_second)
{
    if (!atomic_load(&source->copy->stopped)) {
        ferry_pace_set_rate(source->copy->pace, bytes_per_second);
    }
}

void ferry_source_count(FerrySource *source, FerryCounters *counters)
{
    *counters = (FerryCounters){
        .sent_bytes = sent_bytes(source),
        .normal_pages = atomic_load(&source->copy->normal_pages),
        .zero_pages = atomic_load(&source->copy->zero_pages),
    };
}

static void add_channel_stats(GArray *channels, const FerryChannel *channel, uint64_t elapsed_ns)
{
    FerryChannelStats stats = {0};

    if (channel) {
        g_strlcpy(stats.name, channel->name, sizeof(stats.name));
        stats.bytes = channel->sent_bytes;
        stats.bytes_per_second =
            elapsed_ns ? (uint64_t)((double)stats.bytes * 1e9 / (double)elapsed_ns) : 0;
        g_array_append_val(channels, stats);
    }
}

void ferry_source_query(FerrySource *source, FerryStats *stats)
{
    FerryCopy *copy = source->copy;
    uint64_t now_ns = ferry_now_ns();

    *stats = (FerryStats){
        .total_bytes = source->total_bytes,
        .remaining_bytes = ferry_source_remaining_bytes(source),
        .normal_pages = atomic_load(&copy->normal_pages),
        .zero_pages = atomic_load(&copy->zero_pages),
        .skipped_pages = atomic_load(&source->skipped_pages),
        .channels = g_array_new(FALSE, FALSE, sizeof(FerryChannelStats)),
        .rounds = g_array_new(FALSE, FALSE, sizeof(FerryRoundStats)),
    };
    g_mutex_lock(&source->lock);
    stats->has_report = source->has_report;
    stats->report = source->report;
    stats->sent_bytes = sent_bytes(source);
    g_mutex_lock(&source->stats_lock);
    stats->phase = source->phase;
    stats->longest_arm_ns = source->longest_arm_ns;
    if (source->start_ns) {
        FerryRoundStats current = round_so_far(source);

        stats->elapsed_ns = (source->end_ns ? source->end_ns : now_ns) - source->start_ns;
        g_array_append_vals(stats->rounds, source->rounds->data, source->rounds->len);
        g_array_append_val(stats->rounds, current);
    }
    g_mutex_unlock(&source->stats_lock);
    add_channel_stats(stats->channels, source->control, stats->elapsed_ns);
    for (unsigned i = 0; i < source->config.nr_channels; i++) {
        add_channel_stats(stats->channels, source->data[i], stats->elapsed_ns);
    }
    g_mutex_unlock(&source->lock);
}
