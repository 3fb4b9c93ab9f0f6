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
#include "first-pass.h"

/* Finished rounds that are remembered: the first ones and the last ones tell the story. */
#define ROUNDS_KEPT 256

/*
 * The driver arms another chunk when fewer pages than these wait to be sent: 32 MiB, at least 5 ms
 * of work for the senders.
 */
#define QUEUE_PAGES FERRY_CHUNK_PAGES

/*
 * A tracker with feed() is asked for so many pages as soon as fewer than half of them wait to be
 * sent: few, as they are write-protected while they wait, but enough to keep the senders busy.
 */
#define FEED_PAGES 4096

/* How often the driver looks whether it is time for that; FEED_PAGES take longer to send. */
#define FEED_POLL_MS 2

/* How long an I/O error on one channel waits for the peer's own words on the control channel. */
#define LAST_WORDS_US (G_USEC_PER_SEC / 2)

struct FerrySource {
    FerrySourceConfig config;
    FerryCopy *copy;
    FerryFirstPass *first_pass;
    uint64_t total_bytes;

    FerryChannel *control;
    FerryChannel **data; /* config.nr_channels of them */
    GThread *control_thread;

    /* Pages of the round that the tracker still keeps. */
    _Atomic uint64_t left_pages;

    /* Rounds. */
    GMutex stats_lock; /* for rounds, round_*, phase, converge */
    GArray *rounds;    /* finished ones */
    FerryRoundStats round;
    uint64_t round_start_ns;
    uint64_t round_start_pages, round_start_zero, round_start_bytes;
    FerryConverge converge;
    FerrySessionPhase phase;
    uint64_t start_ns, end_ns;
    uint64_t last_fence;   /* number of the newest fence; the driver's */
    uint64_t seen_written; /* nr_written() at the last harvest; the driver's */

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
    source->copy = ferry_copy_new(regions, tracker, config->checksum);
    source->copy->send_hot = config->send_hot;
    source->first_pass = ferry_first_pass_new(source->copy);
    source->data = g_new0(FerryChannel *, config->nr_channels);
    source->rounds = g_array_new(FALSE, FALSE, sizeof(FerryRoundStats));
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
    ferry_first_pass_free(source->first_pass);
    ferry_copy_free(source->copy);
    ferry_channel_free(source->control);
    for (unsigned i = 0; i < source->config.nr_channels; i++) {
        ferry_channel_free(source->data[i]);
    }
    g_free(source->data);
    g_array_unref(source->rounds);
    g_clear_error(&source->last_words);
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

/* A failure on this side: of the kernel, of a tracker. */
static bool fail_here(FerrySource *source)
{
    set_phase(source, FERRY_SESSION_FAILED);
    ferry_source_shutdown(source);
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

    if (!ferry_copy_start_tracker(source->copy, errp)) {
        set_phase(source, FERRY_SESSION_FAILED);
        return false;
    }
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
    if (!ferry_first_pass_prepare(source->first_pass, errp)) {
        return fail_here(source);
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

/* --- Copying -------------------------------------------------------------------------------- */

bool ferry_source_first_pass_done(const FerrySource *source)
{
    return ferry_first_pass_done(source->first_pass);
}

void ferry_source_skip(FerrySource *source, uint32_t region, uint64_t first_page, uint64_t nr_pages)
{
    ferry_first_pass_skip(source->first_pass, region, first_page, nr_pages);
}

/*
 * The tracker failed.  While the vCPUs run, another one can begin anew: it costs a second pass over
 * memory, nothing else.  False with @errp set when there is none.
 */
static bool replace_tracker(FerrySource *source, GError *error, GError **errp)
{
    FerryTracker next;

    if (!g_error_matches(error, FERRY_ERROR, FERRY_ERROR_TRACKER) ||
        atomic_load(&source->copy->stopped) || !source->config.next_tracker ||
        !source->config.next_tracker(source->config.opaque, error, &next)) {
        g_propagate_error(errp, error);
        return fail_here(source);
    }
    g_error_free(error);
    if (!ferry_copy_replace_tracker(source->copy, &next, errp)) {
        return fail_here(source);
    }
    ferry_first_pass_restart(source->first_pass);
    atomic_store(&source->left_pages, 0);
    g_mutex_lock(&source->lock);
    source->round_fence = 0;
    g_mutex_unlock(&source->lock);
    set_phase(source, FERRY_SESSION_COPY);
    return true;
}

/* Have the tracker report some pages of the round. */
static bool feed(FerrySource *source, GError **errp)
{
    FerryCopy *copy = source->copy;
    uint64_t left_pages;

    if (!copy->tracker.ops->feed(copy->tracker.opaque, FEED_PAGES, &left_pages, errp)) {
        return false;
    }
    atomic_store(&source->left_pages, left_pages);
    if (left_pages == 0) {
        ferry_copy_release_cooled(copy);
    }
    ferry_copy_kick(copy);
    return true;
}

/* Whether all that is known of is in the page sets. */
static bool is_all_fed(const FerrySource *source)
{
    return ferry_source_first_pass_done(source) && atomic_load(&source->left_pages) == 0;
}

/* Put in what the senders are about to run out of. */
static bool feed_senders(FerrySource *source, GError **errp)
{
    FerryCopy *copy = source->copy;
    const FerryTracker *tracker = &copy->tracker;
    GError *error = NULL;

    if (tracker->ops->check) {
        tracker->ops->check(tracker->opaque, &error);
    }
    while (!error && !ferry_source_first_pass_done(source) &&
           ferry_copy_queued(copy) < QUEUE_PAGES) {
        ferry_first_pass_feed(source->first_pass, &error);
    }
    while (!error && atomic_load(&source->left_pages) > 0 &&
           ferry_copy_queued(copy) < FEED_PAGES / 2) {
        feed(source, &error);
    }
    return !error || replace_tracker(source, error, errp);
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
        if (!feed_senders(source, errp)) {
            return false;
        }
        if (ferry_copy_wait_dry(copy, is_all_fed(source) ? timeout_ms : FEED_POLL_MS) &&
            is_all_fed(source)) {
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
    uint64_t nr_pages = ferry_copy_unsent(source->copy) + atomic_load(&source->left_pages);

    return ferry_first_pass_unseen_bytes(source->first_pass) + nr_pages * FERRY_PAGE_BYTES;
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

/* Ask the tracker what was written; the first of it can be sent at once. */
static bool ask_tracker(FerrySource *source, bool last, GError **errp)
{
    FerryCopy *copy = source->copy;
    const FerryTracker *tracker = &copy->tracker;

    ferry_copy_begin_round(copy);
    if (!tracker->ops->harvest(tracker->opaque, last, errp)) {
        return false;
    }
    if (last) {
        atomic_store(&source->left_pages, 0);
        ferry_copy_release_all(copy);
    } else if (tracker->ops->feed) {
        return feed(source, errp);
    } else {
        ferry_copy_release_cooled(copy);
    }
    ferry_copy_kick(copy);
    return true;
}

/* A round ends, and another one begins with what was found. */
static void turn_round(FerrySource *source, uint64_t dirty_pages, uint64_t harvest_ns, bool last)
{
    FerryRoundStats finished;

    g_mutex_lock(&source->stats_lock);
    finished = round_so_far(source);
    if (source->rounds->len == ROUNDS_KEPT) {
        g_array_remove_index(source->rounds, ROUNDS_KEPT / 2);
    }
    g_array_append_val(source->rounds, finished);
    source->round_start_ns = ferry_now_ns();
    source->round_start_pages = atomic_load(&source->copy->normal_pages);
    source->round_start_zero = atomic_load(&source->copy->zero_pages);
    source->round_start_bytes = sent_bytes(source);
    source->round = (FerryRoundStats){.dirty_pages = dirty_pages, .harvest_ns = harvest_ns};
    source->phase = last ? FERRY_SESSION_HAND_OFF : FERRY_SESSION_ROUNDS;
    g_mutex_unlock(&source->stats_lock);
    g_mutex_lock(&source->lock);
    source->round_fence = 0;
    g_mutex_unlock(&source->lock);
}

/* Pages known to have been written since the session began. */
static uint64_t nr_written(const FerrySource *source)
{
    return atomic_load(&source->copy->written_pages) + atomic_load(&source->left_pages);
}

static bool harvest(FerrySource *source, bool last, uint64_t *dirty_pages, GError **errp)
{
    uint64_t start_ns = ferry_now_ns();
    uint64_t written, nr_dirty;
    GError *error = NULL;

    if (!ask_tracker(source, last, &error)) {
        return replace_tracker(source, error, errp);
    }
    written = nr_written(source);
    /* Pages that were fed since may have been kept several times. */
    nr_dirty = written > source->seen_written ? written - source->seen_written : 0;
    source->seen_written = written;
    if (dirty_pages) {
        *dirty_pages = nr_dirty;
    }
    turn_round(source, nr_dirty, ferry_now_ns() - start_ns, last);
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
        .deferred_pages = atomic_load(&copy->deferred_pages),
        .channels = g_array_new(FALSE, FALSE, sizeof(FerryChannelStats)),
        .rounds = g_array_new(FALSE, FALSE, sizeof(FerryRoundStats)),
    };
    ferry_first_pass_query(source->first_pass, &stats->skipped_pages, &stats->arm);
    g_mutex_lock(&source->lock);
    stats->has_report = source->has_report;
    stats->report = source->report;
    stats->sent_bytes = sent_bytes(source);
    g_mutex_lock(&source->stats_lock);
    stats->phase = source->phase;
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
