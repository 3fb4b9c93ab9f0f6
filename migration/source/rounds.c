/*
 * The source's side of a session: the first pass and the rounds.  See source.h and internal.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../clock.h"
#include "../error.h"
#include "../events.h"
#include "../fault.h"
#include "internal.h"

/* Finished rounds that are remembered: the first ones and the last ones tell the story. */
#define ROUNDS_KEPT 256

/*
 * The driver arms another chunk when fewer pages than these wait to be sent: 32 MiB, at least 5 ms
 * of work for the senders.  With a limited bandwidth it is what takes FEED_MS to send: the guest's
 * writes to what waits longer are traced for nothing.
 */
#define QUEUE_PAGES FERRY_CHUNK_PAGES

/*
 * A tracker with feed() is asked for so many pages as soon as fewer than half of them wait to be
 * sent: few, as they are write-protected while they wait, but enough to keep the senders busy.  With
 * a limited bandwidth it is what takes FEED_MS to send: what waits longer is written again before it
 * has gone.
 */
#define FEED_PAGES     4096
#define FEED_PAGES_MIN 32
#define FEED_MS        20

/* How often the driver looks whether it is time for that; FEED_PAGES take longer to send. */
#define FEED_POLL_MS 2

/* --- Copying -------------------------------------------------------------------------------- */

bool ferry_source_first_pass_done(const FerrySource *source)
{
    return ferry_first_pass_done(source->first_pass);
}

bool ferry_source_expect_hints(FerrySource *source, GError **errp)
{
    /* All memory may be armed here: whoever cancels is not to wait for that. */
    for (bool done = false; !done;) {
        if (ferry_source_has_failed(source)) {
            return ferry_source_fail(source, errp);
        }
        if (!ferry_first_pass_expect_hints(source->first_pass, &done, errp)) {
            return ferry_source_fail_here(source, errp);
        }
    }
    return true;
}

void ferry_source_hint(FerrySource *source, uint32_t region, uint64_t first_page, uint64_t nr_pages)
{
    ferry_first_pass_hint(source->first_pass, region, first_page, nr_pages);
}

/* What takes FEED_MS to send, or @max_pages if that is less or bandwidth is not limited. */
static uint64_t pages_to_feed(const FerrySource *source, uint64_t max_pages)
{
    uint64_t rate = atomic_load(&source->bandwidth);

    return rate ? CLAMP(rate / FERRY_PAGE_BYTES * FEED_MS / 1000, FEED_PAGES_MIN, max_pages)
                : max_pages;
}

/* Have the tracker report some pages of the round. */
static bool feed(FerrySource *source, GError **errp)
{
    const FerryTracker *tracker = ferry_backlog_tracker(source->backlog);
    uint64_t left_pages;

    if (ferry_fault(FERRY_FAULT_TRACKER_FEED, errp) ||
        !tracker->ops->feed(tracker->opaque, pages_to_feed(source, FEED_PAGES), &left_pages,
                            errp)) {
        return false;
    }
    atomic_store(&source->left_pages, left_pages);
    if (left_pages == 0) {
        ferry_backlog_release_cooled(source->backlog);
    }
    ferry_senders_kick(source->senders);
    return true;
}

/* Whether all that is known of is in the page sets. */
static bool is_all_fed(const FerrySource *source)
{
    return ferry_source_first_pass_done(source) && !ferry_backlog_has_swapped(source->backlog) &&
           atomic_load(&source->left_pages) == 0;
}

/* Put in what the senders are about to run out of. */
static bool feed_senders(FerrySource *source, GError **errp)
{
    FerryBacklog *backlog = source->backlog;
    const FerryTracker *tracker = ferry_backlog_tracker(backlog);
    GError *error = NULL;

    if (tracker->ops->check) {
        tracker->ops->check(tracker->opaque, &error);
    }
    while (!error && !ferry_source_first_pass_done(source) &&
           ferry_backlog_queued(backlog) < pages_to_feed(source, QUEUE_PAGES)) {
        ferry_first_pass_settle(source->first_pass, atomic_load(&source->bandwidth));
        ferry_first_pass_feed(source->first_pass, &error);
    }
    ferry_backlog_forget_some(backlog);
    if (!error && ferry_source_first_pass_done(source) && ferry_backlog_queued(backlog) == 0 &&
        ferry_backlog_release_swapped(backlog)) {
        ferry_senders_kick(source->senders);
    }
    while (!error && atomic_load(&source->left_pages) > 0 &&
           ferry_backlog_queued(backlog) < pages_to_feed(source, FEED_PAGES) / 2) {
        feed(source, &error);
    }
    return !error || ferry_source_replace_tracker(source, error, errp);
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
        ferry_senders_fence(source->senders, source->last_fence);
    }
    g_mutex_lock(&source->lock);
    while (source->reached < source->round_fence && !ferry_cause_is_closed(&source->cause)) {
        if (!ferry_cond_wait_until(&source->changed, &source->lock, deadline)) {
            break;
        }
    }
    g_mutex_unlock(&source->lock);
}

bool ferry_source_step(FerrySource *source, unsigned timeout_ms, GError **errp)
{
    gint64 deadline = ferry_now_us() + (gint64)timeout_ms * 1000;

    if (!ferry_source_undraft(source, errp)) {
        return false;
    }
    do {
        if (!feed_senders(source, errp)) {
            return false;
        }
        if (ferry_senders_wait_dry(source->senders,
                                   is_all_fed(source) ? timeout_ms : FEED_POLL_MS)) {
            if (is_all_fed(source)) {
                end_round(source, deadline);
            } else if (ferry_backlog_queued(source->backlog) > 0) {
                /* A tracker reports of its own accord, too, and nobody has told the senders. */
                ferry_senders_kick(source->senders);
            }
        }
        if (ferry_cause_is_known(&source->cause)) {
            return ferry_source_fail(source, errp);
        }
        if (is_round_over(source)) {
            break;
        }
    } while (ferry_now_us() < deadline);
    return true;
}

uint64_t ferry_source_remaining_bytes(const FerrySource *source)
{
    uint64_t nr_pages = ferry_backlog_unsent(source->backlog) + atomic_load(&source->left_pages);

    return ferry_first_pass_unseen_bytes(source->first_pass) + nr_pages * FERRY_PAGE_BYTES;
}

/* --- Rounds --------------------------------------------------------------------------------- */

static FerryRoundMark mark_at(FerrySource *source, uint64_t now_ns)
{
    FerryBacklogCounts counts;

    ferry_backlog_query(source->backlog, &counts);
    return (FerryRoundMark){
        .ns = now_ns,
        .pages = counts.normal_pages,
        .zero_pages = counts.zero_pages,
        .bytes = ferry_channels_sent_bytes(&source->channels),
    };
}

/* The round under way, if it ended at @end. */
static FerryRoundStats round_until(const FerrySource *source, const FerryRoundMark *end)
{
    const FerryRoundMark *start = &source->round_start;
    FerryRoundStats round = source->round;

    round.pages = end->pages - start->pages;
    round.zero_pages = end->zero_pages - start->zero_pages;
    round.bytes = end->bytes - start->bytes;
    round.elapsed_ns = end->ns > start->ns ? end->ns - start->ns : 0;
    return round;
}

FerryRoundStats ferry_source_round_so_far(FerrySource *source)
{
    FerryRoundMark now = mark_at(source, source->end_ns ?: ferry_now_ns());

    return round_until(source, &now);
}

/* Ask the tracker what was written; the first of it can be sent at once. */
static bool ask_tracker(FerrySource *source, bool last, GError **errp)
{
    const FerryTracker *tracker = ferry_backlog_tracker(source->backlog);

    ferry_backlog_begin_round(source->backlog);
    if (ferry_fault(FERRY_FAULT_TRACKER_HARVEST, errp) ||
        !tracker->ops->harvest(tracker->opaque, last, errp) ||
        !ferry_first_pass_look_again(source->first_pass, errp)) {
        return false;
    }
    if (last) {
        atomic_store(&source->left_pages, 0);
        ferry_backlog_release_all(source->backlog);
    } else if (tracker->ops->feed) {
        return feed(source, errp);
    } else {
        ferry_backlog_release_cooled(source->backlog);
    }
    ferry_senders_kick(source->senders);
    return true;
}

/*
 * A round ended at @mark, and another one began with the search for @dirty_pages: what is found is sent while
 * the search goes on.
 */
static void turn_round(FerrySource *source, const FerryRoundMark *mark, uint64_t dirty_pages,
                       uint64_t harvest_ns)
{
    FerryRoundStats finished;

    g_mutex_lock(&source->stats_lock);
    finished = round_until(source, mark);
    ferry_event(round_ended, source->nr_rounds, finished.pages, finished.zero_pages, finished.bytes,
                finished.elapsed_ns);
    if (source->rounds->len == ROUNDS_KEPT) {
        g_array_remove_index(source->rounds, ROUNDS_KEPT / 2);
    }
    g_array_append_val(source->rounds, finished);
    if (source->nr_rounds > 0 && source->config.compress) {
        /* The first pass has other pages than those that are written again. */
        ferry_wire_cost_note(&source->wire_cost, finished.pages * FERRY_PAGE_BYTES, finished.bytes);
    }
    source->round_start = *mark;
    source->round = (FerryRoundStats){.dirty_pages = dirty_pages, .harvest_ns = harvest_ns};
    source->nr_rounds++;
    ferry_event(round_begun, source->nr_rounds, dirty_pages, harvest_ns);
    g_mutex_unlock(&source->stats_lock);
    g_mutex_lock(&source->lock);
    source->round_fence = 0;
    g_mutex_unlock(&source->lock);
}

/* Pages known to have been written since the session began. */
static uint64_t nr_written(const FerrySource *source)
{
    FerryBacklogCounts counts;

    ferry_backlog_query(source->backlog, &counts);
    return counts.written_pages + atomic_load(&source->left_pages);
}

/* The round is over: what it has put off would be part of a blackout. */
static void look_at_hot(FerrySource *source)
{
    FerryWireCost cost = source->hot_cost;

    ferry_sample_look(source->hot_sample, &cost);
    g_mutex_lock(&source->stats_lock);
    source->hot_cost = cost;
    g_mutex_unlock(&source->stats_lock);
}

bool ferry_source_look(FerrySource *source, bool last, uint64_t *dirty_pages, GError **errp)
{
    FerryRoundMark mark;
    uint64_t written, nr_dirty;
    GError *error = NULL;

    if (source->hot_sample && !last) {
        look_at_hot(source);
    }
    mark = mark_at(source, ferry_now_ns());
    if (!ask_tracker(source, last, &error)) {
        return ferry_source_replace_tracker(source, error, errp);
    }
    written = nr_written(source);
    /* Pages that were fed since may have been kept several times. */
    nr_dirty = written > source->seen_written ? written - source->seen_written : 0;
    source->seen_written = written;
    if (dirty_pages) {
        *dirty_pages = nr_dirty;
    }
    turn_round(source, &mark, nr_dirty, ferry_now_ns() - mark.ns);
    return ferry_source_is_stopped(source) || ferry_backlog_is_drafted(source->backlog) ||
           ferry_source_enter(source, FERRY_SOURCE_ROUNDS) || ferry_source_fail(source, errp);
}

bool ferry_source_may_harvest(FerrySource *source)
{
    return is_round_over(source);
}

bool ferry_source_harvest(FerrySource *source, uint64_t *dirty_pages, GError **errp)
{
    if (ferry_cause_is_known(&source->cause)) {
        return ferry_source_fail(source, errp);
    }
    return ferry_source_look(source, false, dirty_pages, errp);
}

uint64_t ferry_source_wire_bytes(FerrySource *source, uint64_t page_bytes)
{
    uint64_t wire_bytes;

    g_mutex_lock(&source->stats_lock);
    wire_bytes = ferry_wire_cost_of(&source->wire_cost, page_bytes);
    g_mutex_unlock(&source->stats_lock);
    return wire_bytes;
}

uint64_t ferry_source_remaining_wire_bytes(FerrySource *source)
{
    uint64_t pending = ferry_source_remaining_bytes(source);
    uint64_t hot_bytes = MIN(pending, ferry_backlog_deferred(source->backlog) * FERRY_PAGE_BYTES);
    uint64_t wire_bytes;

    g_mutex_lock(&source->stats_lock);
    wire_bytes = ferry_wire_cost_of(&source->wire_cost, pending - hot_bytes) +
                 ferry_wire_cost_of(&source->hot_cost, hot_bytes);
    g_mutex_unlock(&source->stats_lock);
    return wire_bytes;
}

bool ferry_source_wants_round(FerrySource *source, uint64_t limit_bytes)
{
    uint64_t pending = ferry_source_remaining_bytes(source);
    uint64_t wire_bytes = ferry_source_remaining_wire_bytes(source);
    bool wants;

    g_mutex_lock(&source->stats_lock);
    ferry_converge_note(&source->converge, wire_bytes, limit_bytes);
    wants = ferry_converge_wants_round(&source->converge, pending);
    g_mutex_unlock(&source->stats_lock);
    return wants;
}
