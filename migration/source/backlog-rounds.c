/*
 * The backlog's rounds: what the tracker reports, and what is put off.  See backlog.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "backlog-internal.h"

/* So many granules are emptied at once of what is forgotten: well below 1 ms. */
#define FORGET_GRANULES 2048

/* --- Written pages --------------------------------------------------------------------------- */

/*
 * Whether one of those 64 pages may be in the set.  Wrong only while any page is put in or taken out, but
 * found in a few bits that stay in the cache: memory of a set that was never used stays unused.
 */
static bool may_hold(const FerryPageset *set, uint64_t word)
{
    uint64_t granule = word / FERRY_GRANULE_WORDS;

    return ferry_pageset_count(set) > 0 &&
           (ferry_pageset_granules(set, granule / 64) >> (granule % 64) & 1);
}

/* Which of those pages are in the set. */
static uint64_t get_held(const FerryPageset *set, uint64_t word)
{
    return may_hold(set, word) ? ferry_pageset_get(set, word) : 0;
}

/* Take pages out of a set; what is being put in at the same time may stay. */
static void remove_held(FerryPageset *set, uint64_t word, uint64_t mask)
{
    if (may_hold(set, word)) {
        ferry_pageset_remove_mask(set, word, mask);
    }
}

static FerryPageset *written_in(const BacklogRegion *state, unsigned round)
{
    return state->written[round % FERRY_WRITTEN_SETS];
}

static FerryPageset *written_before(const BacklogRegion *state, unsigned round)
{
    return written_in(state, round + FERRY_WRITTEN_SETS - 1);
}

/*
 * Note pages as written in this round.  False if that does not matter: what is not armed yet is
 * copied in full after it is.
 */
static bool note_written(FerryBacklog *backlog, uint32_t region, uint64_t word, uint64_t mask,
                         unsigned round)
{
    unsigned nr_new;

    if (!atomic_load(&ferry_backlog_chunk(backlog, region, word * 64)->armed)) {
        return false;
    }
    if (ferry_backlog_is_stopped(backlog)) {
        /* Nobody will ask what was written in this round: see ferry_backlog_begin_round(). */
        nr_new = (unsigned)__builtin_popcountll(mask);
    } else {
        nr_new = ferry_pageset_add_mask(written_in(&backlog->state[region], round), word, mask);
    }
    atomic_fetch_add_explicit(&backlog->written_pages, nr_new, memory_order_relaxed);
    return true;
}

/* Pages were written: from here on their content matters.  Whether their chunk is armed or not. */
static void unspare(const FerryBacklog *backlog, uint32_t region, uint64_t word, uint64_t mask)
{
    if (atomic_load(&backlog->sparing)) {
        ferry_pageset_remove_mask(backlog->state[region].spared, word, mask);
    }
}

/* The tracker has given up pages that it kept. */
static void forget_kept(FerryBacklog *backlog, uint32_t region, uint64_t word, uint64_t mask)
{
    if (backlog->may_leave) {
        remove_held(backlog->state[region].kept, word, mask);
    }
}

static void defer(FerryBacklog *backlog, uint32_t region, uint64_t word, uint64_t mask,
                  unsigned round)
{
    BacklogRegion *state = &backlog->state[region];

    ferry_pageset_add_mask(state->deferred[round & 1], word, mask);
    remove_held(state->deferred[!(round & 1)], word, mask);
}

static void add_written(FerryBacklog *backlog, uint32_t region, uint64_t word, uint64_t mask,
                        bool may_defer)
{
    BacklogRegion *state = &backlog->state[region];
    unsigned round = atomic_load(&backlog->round);
    uint64_t hot = 0;

    unspare(backlog, region, word, mask);
    if (ferry_backlog_is_stopped(backlog) && atomic_load(&backlog->drafted)) {
        /* In the blackout: most pages are known to be missing already. */
        mask &= ~get_held(state->draft, word);
    }
    if (!mask || !note_written(backlog, region, word, mask, round)) {
        forget_kept(backlog, region, word, mask);
        return;
    }
    if (may_defer && !backlog->send_hot && !ferry_backlog_is_stopped(backlog)) {
        hot = mask & get_held(written_before(state, round), word);
    }
    if (hot) {
        defer(backlog, region, word, hot, round);
        atomic_fetch_add_explicit(&backlog->deferred_pages, (unsigned)__builtin_popcountll(hot),
                                  memory_order_relaxed);
    }
    /*
     * What is sent from here on covers what was put off.  In this order: pages that are put off
     * again by another thread, after they have been sent, stay put off.
     */
    remove_held(state->deferred[round & 1], word, mask & ~hot);
    ferry_pageset_add_mask(state->queued, word, mask & ~hot);
    forget_kept(backlog, region, word, mask);
}

static void report(void *opaque, uint32_t region, uint64_t word, uint64_t mask)
{
    add_written(opaque, region, word, mask, true);
}

static void early(void *opaque, uint32_t region, uint64_t word, uint64_t mask)
{
    FerryBacklog *backlog = opaque;
    unsigned round = atomic_load(&backlog->round);

    unspare(backlog, region, word, mask);
    if (note_written(backlog, region, word, mask, round)) {
        defer(backlog, region, word, mask, round);
    }
    forget_kept(backlog, region, word, mask);
}

/*
 * A page that is not reset is found again in each round, written or not: that it was is no sign of
 * its being hot.
 */
static void found(void *opaque, uint32_t region, uint64_t word, uint64_t mask)
{
    FerryBacklog *backlog = opaque;

    /* In this order: whoever takes the page out of the set sees that it needs a reset. */
    atomic_fetch_add(&ferry_backlog_chunk(backlog, region, word * 64)->found_seq, 1);
    add_written(backlog, region, word, mask, false);
}

/* Nothing has to be exact here: a page that stays in the queue is sent once more than needed. */
static uint64_t noticed(void *opaque, uint32_t region, uint64_t word, uint64_t mask)
{
    FerryBacklog *backlog = opaque;
    BacklogRegion *state = &backlog->state[region];
    unsigned round = atomic_load(&backlog->round);

    if (backlog->regions.list[region].scan == FERRY_SCAN_NOTHING) {
        /* Both ends map it: it is not to be taken away there. */
        return 0;
    }
    if (atomic_load(&ferry_backlog_chunk(backlog, region, word * 64)->armed)) {
        remove_held(state->queued, word, mask);
    }
    /* Of chunks that are not armed, too: the page stays writable, and is not noticed again when they are. */
    if (backlog->may_leave) {
        ferry_pageset_add_mask(state->kept, word, mask);
    }
    return mask & (get_held(written_in(state, round), word) |
                   get_held(written_before(state, round), word));
}

/* What was kept when the draft was made is in it. */
static bool knows_noticed(void *opaque)
{
    const FerryBacklog *backlog = opaque;

    return backlog->may_leave &&
           (atomic_load(&backlog->drafting) || atomic_load(&backlog->drafted));
}

void ferry_backlog_init_client(FerryBacklog *backlog)
{
    backlog->client = (FerryTrackerClient){
        .report = report,
        .early = early,
        .found = found,
        .noticed = noticed,
        .knows_noticed = knows_noticed,
        .opaque = backlog,
    };
}

/* --- Rounds ----------------------------------------------------------------------------------- */

bool ferry_backlog_forget_some(FerryBacklog *backlog)
{
    unsigned stale = atomic_load(&backlog->round) + 1;
    int64_t next;

    if (backlog->stale_region == backlog->regions.nr) {
        return true;
    }
    next = ferry_pageset_clear_some(written_in(&backlog->state[backlog->stale_region], stale),
                                    backlog->stale_granule, FORGET_GRANULES);
    backlog->stale_granule = next < 0 ? 0 : (uint64_t)next;
    backlog->stale_region += next < 0;
    return backlog->stale_region == backlog->regions.nr;
}

void ferry_backlog_begin_round(FerryBacklog *backlog)
{
    atomic_store(&backlog->drafting, false);
    if (ferry_backlog_is_stopped(backlog)) {
        /* No page is hot any more: emptying a set of pages written long ago is no work for now. */
        return;
    }
    while (!ferry_backlog_forget_some(backlog)) {
    }
    backlog->stale_region = 0;
    backlog->stale_granule = 0;
    atomic_fetch_add(&backlog->round, 1);
}

void ferry_backlog_begin_draft(FerryBacklog *backlog)
{
    ferry_backlog_begin_round(backlog);
    atomic_store(&backlog->drafting, true);
}

void ferry_backlog_release_cooled(FerryBacklog *backlog)
{
    unsigned last = (atomic_load(&backlog->round) + 1) & 1;

    if (atomic_load(&backlog->round) % FERRY_HOT_ROUNDS == 0) {
        ferry_backlog_release_all(backlog);
        return;
    }

    for (size_t i = 0; i < backlog->regions.nr; i++) {
        ferry_pageset_move(backlog->state[i].deferred[last], backlog->state[i].queued);
    }
}

void ferry_backlog_release_all(FerryBacklog *backlog)
{
    for (size_t i = 0; i < backlog->regions.nr; i++) {
        ferry_pageset_move(backlog->state[i].deferred[0], backlog->state[i].queued);
        ferry_pageset_move(backlog->state[i].deferred[1], backlog->state[i].queued);
    }
}

bool ferry_backlog_has_swapped(const FerryBacklog *backlog)
{
    for (size_t i = 0; i < backlog->regions.nr; i++) {
        if (ferry_pageset_count(backlog->state[i].swapped)) {
            return true;
        }
    }
    return false;
}

bool ferry_backlog_release_swapped(FerryBacklog *backlog)
{
    bool any = ferry_backlog_has_swapped(backlog);

    for (size_t i = 0; any && i < backlog->regions.nr; i++) {
        ferry_pageset_move(backlog->state[i].swapped, backlog->state[i].queued);
    }
    return any;
}
