/*
 * Copying: see copy.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "backlog.h"

#include "../error.h"
#include "senders.h"

/* So many granules are emptied at once of what is forgotten: well below 1 ms. */
#define FORGET_GRANULES 2048

/* --- Written pages --------------------------------------------------------------------------- */

static FerryCopyChunk *chunk_of(const FerryCopy *copy, uint32_t region, uint64_t page)
{
    return &copy->state[region].chunks[page / FERRY_CHUNK_PAGES];
}

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

static FerryPageset *written_in(const FerryCopyRegion *state, unsigned round)
{
    return state->written[round % FERRY_WRITTEN_SETS];
}

static FerryPageset *written_before(const FerryCopyRegion *state, unsigned round)
{
    return written_in(state, round + FERRY_WRITTEN_SETS - 1);
}

/*
 * Note pages as written in this round.  False if that does not matter: what is not armed yet is
 * copied in full after it is.
 */
static bool note_written(FerryCopy *copy, uint32_t region, uint64_t word, uint64_t mask,
                         unsigned round)
{
    unsigned nr_new;

    if (!atomic_load(&chunk_of(copy, region, word * 64)->armed)) {
        return false;
    }
    if (atomic_load(&copy->stopped)) {
        /* Nobody will ask what was written in this round: see ferry_copy_begin_round(). */
        nr_new = (unsigned)__builtin_popcountll(mask);
    } else {
        nr_new = ferry_pageset_add_mask(written_in(&copy->state[region], round), word, mask);
    }
    atomic_fetch_add_explicit(&copy->written_pages, nr_new, memory_order_relaxed);
    return true;
}

/* The tracker has given up pages that it kept. */
static void forget_kept(FerryCopy *copy, uint32_t region, uint64_t word, uint64_t mask)
{
    if (copy->may_leave) {
        remove_held(copy->state[region].kept, word, mask);
    }
}

static void defer(FerryCopy *copy, uint32_t region, uint64_t word, uint64_t mask, unsigned round)
{
    FerryCopyRegion *state = &copy->state[region];

    ferry_pageset_add_mask(state->deferred[round & 1], word, mask);
    remove_held(state->deferred[!(round & 1)], word, mask);
}

static void add_written(FerryCopy *copy, uint32_t region, uint64_t word, uint64_t mask,
                        bool may_defer)
{
    FerryCopyRegion *state = &copy->state[region];
    unsigned round = atomic_load(&copy->round);
    uint64_t hot = 0;

    if (atomic_load(&copy->leaving)) {
        /* In the blackout: most pages are known to be missing already. */
        mask &= ~get_held(state->base, word);
    }
    if (!mask || !note_written(copy, region, word, mask, round)) {
        return;
    }
    if (may_defer && !copy->send_hot && !atomic_load(&copy->stopped)) {
        hot = mask & get_held(written_before(state, round), word);
    }
    if (hot) {
        defer(copy, region, word, hot, round);
        atomic_fetch_add_explicit(&copy->deferred_pages, (unsigned)__builtin_popcountll(hot),
                                  memory_order_relaxed);
    }
    /*
     * What is sent from here on covers what was put off.  In this order: pages that are put off
     * again by another thread, after they have been sent, stay put off.
     */
    remove_held(state->deferred[round & 1], word, mask & ~hot);
    ferry_pageset_add_mask(state->pages, word, mask & ~hot);
    forget_kept(copy, region, word, mask);
}

static void report(void *opaque, uint32_t region, uint64_t word, uint64_t mask)
{
    add_written(opaque, region, word, mask, true);
}

static void early(void *opaque, uint32_t region, uint64_t word, uint64_t mask)
{
    FerryCopy *copy = opaque;
    unsigned round = atomic_load(&copy->round);

    if (note_written(copy, region, word, mask, round)) {
        defer(copy, region, word, mask, round);
        forget_kept(copy, region, word, mask);
    }
}

/*
 * A page that is not reset is found again in each round, written or not: that it was is no sign of
 * its being hot.
 */
static void found(void *opaque, uint32_t region, uint64_t word, uint64_t mask)
{
    FerryCopy *copy = opaque;

    /* In this order: whoever takes the page out of the set sees that it needs a reset. */
    atomic_fetch_add(&chunk_of(copy, region, word * 64)->found_seq, 1);
    add_written(copy, region, word, mask, false);
}

/* Nothing has to be exact here: a page that stays in the queue is sent once more than needed. */
static uint64_t noticed(void *opaque, uint32_t region, uint64_t word, uint64_t mask)
{
    FerryCopy *copy = opaque;
    FerryCopyRegion *state = &copy->state[region];
    unsigned round = atomic_load(&copy->round);

    if (atomic_load(&chunk_of(copy, region, word * 64)->armed)) {
        remove_held(state->pages, word, mask);
        if (copy->may_leave) {
            ferry_pageset_add_mask(state->kept, word, mask);
        }
    }
    return mask & (get_held(written_in(state, round), word) |
                   get_held(written_before(state, round), word));
}

/* --- The beginning and the end --------------------------------------------------------------- */

FerryCopy *ferry_copy_new(FerryRegions *regions, const FerryTracker *tracker, bool checksum,
                          bool compress)
{
    FerryCopy *copy = g_new0(FerryCopy, 1);

    copy->regions = *regions;
    *regions = (FerryRegions){0};
    copy->tracker = *tracker;
    copy->checksum = checksum;
    copy->compress = compress;
    copy->client = (FerryTrackerClient){
        .report = report,
        .early = early,
        .found = found,
        .noticed = noticed,
        .opaque = copy,
    };
    copy->pace = ferry_pace_new();
    g_mutex_init(&copy->lock);
    g_cond_init(&copy->work);
    g_cond_init(&copy->idle);

    copy->state = g_new0(FerryCopyRegion, copy->regions.nr);
    for (size_t i = 0; i < copy->regions.nr; i++) {
        FerryCopyRegion *state = &copy->state[i];
        uint64_t nr_pages = ferry_region_nr_pages(&copy->regions.list[i]);

        state->pages = ferry_pageset_new(nr_pages);
        state->skip = ferry_pageset_new(nr_pages);
        state->swapped = ferry_pageset_new(nr_pages);
        state->kept = ferry_pageset_new(nr_pages);
        state->base = ferry_pageset_new(nr_pages);
        for (unsigned j = 0; j < FERRY_WRITTEN_SETS; j++) {
            state->written[j] = ferry_pageset_new(nr_pages);
        }
        for (unsigned j = 0; j < 2; j++) {
            state->deferred[j] = ferry_pageset_new(nr_pages);
        }
        state->nr_chunks = (nr_pages + FERRY_CHUNK_PAGES - 1) / FERRY_CHUNK_PAGES;
        state->chunks = g_new0(FerryCopyChunk, state->nr_chunks);
        for (uint64_t j = 0; j < state->nr_chunks; j++) {
            g_mutex_init(&state->chunks[j].lock);
        }
    }
    return copy;
}

bool ferry_copy_start_tracker(FerryCopy *copy, GError **errp)
{
    copy->tracking = copy->tracker.ops->start(copy->tracker.opaque, &copy->client, errp);
    return copy->tracking;
}

static void stop_tracker(FerryCopy *copy)
{
    if (copy->tracking) {
        copy->tracker.ops->stop(copy->tracker.opaque);
        copy->tracking = false;
    }
}

void ferry_copy_end_senders(FerryCopy *copy)
{
    g_mutex_lock(&copy->lock);
    copy->quit = true;
    g_cond_broadcast(&copy->work);
    g_mutex_unlock(&copy->lock);
    ferry_pace_interrupt(copy->pace);
    for (unsigned i = 0; i < copy->nr_senders; i++) {
        ferry_sender_join(copy->senders[i]);
    }
    g_clear_pointer(&copy->senders, g_free);
    copy->nr_senders = 0;
    copy->quit = false;
    copy->fence = 0;
    g_clear_error(&copy->error);
    ferry_pace_resume(copy->pace);
}

void ferry_copy_free(FerryCopy *copy)
{
    ferry_copy_end_senders(copy);
    stop_tracker(copy);

    for (size_t i = 0; i < copy->regions.nr; i++) {
        FerryCopyRegion *state = &copy->state[i];

        ferry_pageset_free(state->pages);
        ferry_pageset_free(state->skip);
        ferry_pageset_free(state->swapped);
        ferry_pageset_free(state->kept);
        ferry_pageset_free(state->base);
        for (unsigned j = 0; j < FERRY_WRITTEN_SETS; j++) {
            ferry_pageset_free(state->written[j]);
        }
        for (unsigned j = 0; j < 2; j++) {
            ferry_pageset_free(state->deferred[j]);
        }
        for (uint64_t j = 0; j < state->nr_chunks; j++) {
            g_mutex_clear(&state->chunks[j].lock);
        }
        g_free(state->chunks);
    }
    g_free(copy->state);
    ferry_regions_clear(&copy->regions);
    ferry_pace_free(copy->pace);
    g_mutex_clear(&copy->lock);
    g_cond_clear(&copy->work);
    g_cond_clear(&copy->idle);
    g_clear_error(&copy->error);
    g_free(copy);
}

bool ferry_copy_replace_tracker(FerryCopy *copy, const FerryTracker *next, GError **errp)
{
    stop_tracker(copy);
    copy->tracker = *next;
    return ferry_copy_start_tracker(copy, errp);
}

void ferry_copy_start(FerryCopy *copy, FerryChannel **channels, unsigned nr_channels)
{
    copy->senders = g_new0(FerrySender *, nr_channels);
    copy->nr_busy = nr_channels;
    /* Each sender reads this to know its share, so it is set before the first one runs. */
    copy->nr_senders = nr_channels;
    for (unsigned i = 0; i < nr_channels; i++) {
        copy->senders[i] = ferry_sender_start(copy, channels[i], i);
    }
}

/* --- Driver and senders ----------------------------------------------------------------------- */

void ferry_copy_kick(FerryCopy *copy)
{
    g_mutex_lock(&copy->lock);
    copy->generation++;
    /* Sleepers count as busy from here on, not from when they have woken up. */
    copy->nr_busy = copy->nr_senders;
    g_cond_broadcast(&copy->work);
    g_mutex_unlock(&copy->lock);
}

bool ferry_copy_wait_dry(FerryCopy *copy, unsigned timeout_ms)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)timeout_ms * 1000;
    bool dry;

    g_mutex_lock(&copy->lock);
    while (copy->nr_busy > 0 && !copy->error) {
        if (!g_cond_wait_until(&copy->idle, &copy->lock, deadline)) {
            break;
        }
    }
    dry = copy->nr_busy == 0 && !copy->error;
    g_mutex_unlock(&copy->lock);
    return dry;
}

void ferry_copy_fence(FerryCopy *copy, uint64_t number)
{
    g_mutex_lock(&copy->lock);
    copy->fence = number;
    copy->nr_fenced = 0;
    g_cond_broadcast(&copy->work);
    g_mutex_unlock(&copy->lock);
}

bool ferry_copy_wait_fenced(FerryCopy *copy)
{
    bool done;

    g_mutex_lock(&copy->lock);
    while (copy->nr_fenced < copy->nr_senders && !copy->error) {
        g_cond_wait(&copy->idle, &copy->lock);
    }
    done = !copy->error;
    g_mutex_unlock(&copy->lock);
    return done;
}

void ferry_copy_fail(FerryCopy *copy, GError *error)
{
    g_mutex_lock(&copy->lock);
    if (!copy->error) {
        copy->error = error;
    } else {
        g_error_free(error);
    }
    g_cond_broadcast(&copy->work);
    g_cond_broadcast(&copy->idle);
    g_mutex_unlock(&copy->lock);
    ferry_pace_interrupt(copy->pace);
}

bool ferry_copy_check(FerryCopy *copy, GError **errp)
{
    bool ok;

    g_mutex_lock(&copy->lock);
    ok = !copy->error;
    if (!ok && errp) {
        *errp = g_error_copy(copy->error);
    }
    g_mutex_unlock(&copy->lock);
    return ok;
}

void ferry_copy_count_sent(FerryCopy *copy, const FerryPagesFrame *frame)
{
    uint64_t nr_normal = frame->content_bytes / FERRY_PAGE_BYTES;

    atomic_fetch_add_explicit(&copy->normal_pages, nr_normal, memory_order_relaxed);
    atomic_fetch_add_explicit(&copy->zero_pages, frame->nr_pages - nr_normal, memory_order_relaxed);
}

uint64_t ferry_copy_queued(const FerryCopy *copy)
{
    uint64_t count = 0;

    for (size_t i = 0; i < copy->regions.nr; i++) {
        count += ferry_pageset_count(copy->state[i].pages);
    }
    return count;
}

uint64_t ferry_copy_count(const FerryCopy *copy)
{
    uint64_t count = 0;

    for (size_t i = 0; i < copy->regions.nr; i++) {
        count += ferry_pageset_count(copy->state[i].deferred[0]) +
                 ferry_pageset_count(copy->state[i].deferred[1]) +
                 ferry_pageset_count(copy->state[i].swapped) +
                 ferry_pageset_count(copy->state[i].base);
    }
    return count + ferry_copy_queued(copy);
}

uint64_t ferry_copy_unsent(const FerryCopy *copy)
{
    /* In this order: a page that moves on meanwhile is counted twice, not left out. */
    uint64_t count = ferry_copy_count(copy);

    return count + atomic_load(&copy->in_flight_pages);
}

/* --- Rounds ----------------------------------------------------------------------------------- */

bool ferry_copy_forget_some(FerryCopy *copy)
{
    unsigned stale = atomic_load(&copy->round) + 1;
    int64_t next;

    if (copy->stale_region == copy->regions.nr) {
        return true;
    }
    next = ferry_pageset_clear_some(written_in(&copy->state[copy->stale_region], stale),
                                    copy->stale_granule, FORGET_GRANULES);
    copy->stale_granule = next < 0 ? 0 : (uint64_t)next;
    copy->stale_region += next < 0;
    return copy->stale_region == copy->regions.nr;
}

void ferry_copy_begin_round(FerryCopy *copy)
{
    if (atomic_load(&copy->stopped)) {
        /* No page is hot any more: emptying a set of pages written long ago is no work for now. */
        return;
    }
    while (!ferry_copy_forget_some(copy)) {
    }
    copy->stale_region = 0;
    copy->stale_granule = 0;
    atomic_fetch_add(&copy->round, 1);
}

void ferry_copy_release_cooled(FerryCopy *copy)
{
    unsigned last = (atomic_load(&copy->round) + 1) & 1;

    if (atomic_load(&copy->round) % FERRY_HOT_ROUNDS == 0) {
        ferry_copy_release_all(copy);
        return;
    }

    for (size_t i = 0; i < copy->regions.nr; i++) {
        ferry_pageset_move(copy->state[i].deferred[last], copy->state[i].pages);
    }
}

void ferry_copy_release_all(FerryCopy *copy)
{
    for (size_t i = 0; i < copy->regions.nr; i++) {
        ferry_pageset_move(copy->state[i].deferred[0], copy->state[i].pages);
        ferry_pageset_move(copy->state[i].deferred[1], copy->state[i].pages);
    }
}

/* --- Leaving pages missing -------------------------------------------------------------------- */

bool ferry_copy_has_swapped(const FerryCopy *copy)
{
    for (size_t i = 0; i < copy->regions.nr; i++) {
        if (ferry_pageset_count(copy->state[i].swapped)) {
            return true;
        }
    }
    return false;
}

bool ferry_copy_release_swapped(FerryCopy *copy)
{
    bool any = ferry_copy_has_swapped(copy);

    for (size_t i = 0; any && i < copy->regions.nr; i++) {
        ferry_pageset_move(copy->state[i].swapped, copy->state[i].pages);
    }
    return any;
}

bool ferry_copy_freeze(FerryCopy *copy)
{
    atomic_store(&copy->frozen, true);
    ferry_copy_kick(copy);
    while (!ferry_copy_wait_dry(copy, 1000)) {
        if (!ferry_copy_check(copy, NULL)) {
            return false;
        }
    }
    return true;
}

void ferry_copy_unfreeze(FerryCopy *copy)
{
    atomic_store(&copy->frozen, false);
    ferry_copy_kick(copy);
}

/* Call it for each granule of @set that holds a page. */
#define FOREACH_GRANULE(granule, set)                                      \
    for (int64_t granule = ferry_pageset_next(set, 0, 0, 1); granule >= 0; \
         granule = ferry_pageset_next(set, (uint64_t)granule + 1, 0, 1))

static bool is_empty_granule(FerryPageset *set, uint64_t granule)
{
    uint64_t any = 0;

    for (uint32_t i = 0; i < FERRY_GRANULE_WORDS; i++) {
        any |= ferry_pageset_get(set, granule * FERRY_GRANULE_WORDS + i);
    }
    return any == 0;
}

/* A page of the region's is missing as a whole if any part of it is. */
static void round_up(const FerryRegion *region, FerryPageset *set)
{
    const uint64_t unit_pages = region->page_size_bytes / FERRY_PAGE_BYTES;

    if (unit_pages == 1) {
        return;
    }
    FOREACH_GRANULE(granule, set)
    {
        if (!is_empty_granule(set, (uint64_t)granule)) {
            uint64_t page = (uint64_t)granule * FERRY_GRANULE_PAGES;

            ferry_pageset_add(set, page - page % unit_pages, unit_pages);
        }
    }
}

static void add_all(FerryPageset *to, FerryPageset *from)
{
    FOREACH_GRANULE(granule, from)
    {
        for (uint32_t i = 0; i < FERRY_GRANULE_WORDS; i++) {
            uint64_t word = (uint64_t)granule * FERRY_GRANULE_WORDS + i;

            ferry_pageset_add_mask(to, word, ferry_pageset_get(from, word));
        }
    }
}

static void remove_all(FerryPageset *from, FerryPageset *what)
{
    FOREACH_GRANULE(granule, from)
    {
        for (uint32_t i = 0; i < FERRY_GRANULE_WORDS; i++) {
            uint64_t word = (uint64_t)granule * FERRY_GRANULE_WORDS + i;

            ferry_pageset_remove_mask(from, word, ferry_pageset_get(what, word));
        }
    }
}

void ferry_copy_set_apart(FerryCopy *copy)
{
    ferry_copy_release_all(copy);
    for (size_t i = 0; i < copy->regions.nr; i++) {
        FerryCopyRegion *state = &copy->state[i];

        ferry_pageset_move(state->pages, state->base);
        add_all(state->base, state->kept);
        add_all(state->base, state->swapped);
        round_up(&copy->regions.list[i], state->base);
    }
}

void ferry_copy_reduce_late(FerryCopy *copy)
{
    for (size_t i = 0; i < copy->regions.nr; i++) {
        round_up(&copy->regions.list[i], copy->state[i].pages);
        remove_all(copy->state[i].pages, copy->state[i].base);
    }
}

void ferry_copy_rejoin(FerryCopy *copy)
{
    for (size_t i = 0; i < copy->regions.nr; i++) {
        FerryCopyRegion *state = &copy->state[i];

        ferry_pageset_move(state->base, state->pages);
        if (copy->regions.list[i].page_size_bytes == FERRY_PAGE_BYTES) {
            remove_all(state->pages, state->swapped);
        } else {
            /* A part of a page would be of no use. */
            ferry_pageset_clear(state->swapped);
        }
    }
}

void ferry_copy_replace_pages(FerryCopy *copy, FerryPageset *const *missing)
{
    for (size_t i = 0; i < copy->regions.nr; i++) {
        FerryCopyRegion *state = &copy->state[i];

        ferry_pageset_clear(state->base);
        ferry_pageset_clear(state->swapped);
        ferry_pageset_clear(state->pages);
        ferry_pageset_move(missing[i], state->pages);
    }
    atomic_store(&copy->in_flight_pages, 0);
}

bool ferry_copy_make_readable(FerryCopy *copy, uint32_t region, uint64_t page)
{
    uint64_t first = page - page % FERRY_CHUNK_PAGES;
    FerryCopyChunk *chunk = chunk_of(copy, region, page);
    GError *error = NULL;

    if (atomic_load(&chunk->reset_seq) == atomic_load(&chunk->found_seq) ||
        atomic_load(&copy->stopped)) {
        return true;
    }
    g_mutex_lock(&chunk->lock);
    uint32_t seen = atomic_load(&chunk->found_seq);
    if (atomic_load(&chunk->reset_seq) != seen) {
        uint64_t nr_pages =
            ferry_chunk_nr_pages(&copy->regions.list[region], page / FERRY_CHUNK_PAGES);

        if (copy->tracker.ops->reset(copy->tracker.opaque, region, first, nr_pages, &error)) {
            atomic_store(&chunk->reset_seq, seen);
        }
    }
    g_mutex_unlock(&chunk->lock);
    if (error) {
        ferry_copy_fail(copy, error);
        return false;
    }
    return true;
}
