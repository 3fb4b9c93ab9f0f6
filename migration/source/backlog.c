/*
 * The backlog: see backlog.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "backlog-internal.h"

#include <string.h>

#include "../fault.h"

/* --- The beginning and the end --------------------------------------------------------------- */

FerryBacklog *ferry_backlog_new(FerryRegions *regions, const FerryTracker *tracker, bool may_leave,
                                bool send_hot)
{
    FerryBacklog *backlog = g_new0(FerryBacklog, 1);

    backlog->regions = *regions;
    *regions = (FerryRegions){0};
    backlog->tracker = *tracker;
    backlog->may_leave = may_leave;
    backlog->send_hot = send_hot;
    ferry_backlog_init_client(backlog);

    backlog->state = g_new0(BacklogRegion, backlog->regions.nr);
    for (size_t i = 0; i < backlog->regions.nr; i++) {
        BacklogRegion *state = &backlog->state[i];
        uint64_t nr_pages = ferry_region_nr_pages(&backlog->regions.list[i]);

        state->queued = ferry_pageset_new(nr_pages);
        state->swapped = ferry_pageset_new(nr_pages);
        state->kept = ferry_pageset_new(nr_pages);
        state->draft = ferry_pageset_new(nr_pages);
        state->spared = ferry_pageset_new(nr_pages);
        for (unsigned j = 0; j < FERRY_WRITTEN_SETS; j++) {
            state->written[j] = ferry_pageset_new(nr_pages);
        }
        for (unsigned j = 0; j < 2; j++) {
            state->deferred[j] = ferry_pageset_new(nr_pages);
        }
        state->nr_chunks = (nr_pages + FERRY_CHUNK_PAGES - 1) / FERRY_CHUNK_PAGES;
        state->chunks = g_new0(Chunk, state->nr_chunks);
        for (uint64_t j = 0; j < state->nr_chunks; j++) {
            g_mutex_init(&state->chunks[j].lock);
        }
    }
    return backlog;
}

bool ferry_backlog_start_tracker(FerryBacklog *backlog, GError **errp)
{
    backlog->tracking =
        !ferry_fault(FERRY_FAULT_TRACKER_START, errp) &&
        backlog->tracker.ops->start(backlog->tracker.opaque, &backlog->client, errp);
    return backlog->tracking;
}

static void stop_tracker(FerryBacklog *backlog)
{
    if (backlog->tracking) {
        backlog->tracker.ops->stop(backlog->tracker.opaque);
        backlog->tracking = false;
    }
}

void ferry_backlog_free(FerryBacklog *backlog)
{
    stop_tracker(backlog);
    for (size_t i = 0; i < backlog->regions.nr; i++) {
        BacklogRegion *state = &backlog->state[i];

        ferry_pageset_free(state->queued);
        ferry_pageset_free(state->swapped);
        ferry_pageset_free(state->kept);
        ferry_pageset_free(state->draft);
        ferry_pageset_free(state->spared);
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
    g_free(backlog->state);
    ferry_regions_clear(&backlog->regions);
    g_free(backlog);
}

bool ferry_backlog_replace_tracker(FerryBacklog *backlog, const FerryTracker *next, GError **errp)
{
    stop_tracker(backlog);
    backlog->tracker = *next;
    return ferry_backlog_start_tracker(backlog, errp);
}

const FerryRegions *ferry_backlog_regions(const FerryBacklog *backlog)
{
    return &backlog->regions;
}

void ferry_backlog_settle(FerryBacklog *backlog, const uint8_t *answers)
{
    for (size_t i = 0; i < backlog->regions.nr; i++) {
        FerryRegion *region = &backlog->regions.list[i];

        switch (answers[i]) {
        case FERRY_ANSWER_IN_FULL:
            region->flags |= FERRY_REGION_IN_FULL;
            if (region->scan == FERRY_SCAN_SHARED && !(region->flags & FERRY_REGION_HUGETLB)) {
                region->flags |= FERRY_REGION_HOLES_KNOWN;
            }
            break;
        case FERRY_ANSWER_SAME:
            region->flags |= FERRY_REGION_SAME;
            region->scan = FERRY_SCAN_NOTHING;
            break;
        default:
            break;
        }
    }
}

const FerryTracker *ferry_backlog_tracker(const FerryBacklog *backlog)
{
    return &backlog->tracker;
}

void ferry_backlog_set_guest(FerryBacklog *backlog, FerryGuest guest)
{
    atomic_store(&backlog->guest, guest);
}

FerryGuest ferry_backlog_guest(const FerryBacklog *backlog)
{
    return atomic_load(&backlog->guest);
}

/* --- The first pass ---------------------------------------------------------------------------- */

uint64_t ferry_backlog_nr_chunks(const FerryBacklog *backlog, size_t region)
{
    return backlog->state[region].nr_chunks;
}

bool ferry_backlog_is_armed(const FerryBacklog *backlog, size_t region, uint64_t chunk)
{
    return atomic_load(&backlog->state[region].chunks[chunk].armed);
}

bool ferry_backlog_arm(FerryBacklog *backlog, size_t region, uint64_t chunk, GError **errp)
{
    if (backlog->regions.list[region].scan == FERRY_SCAN_NOTHING) {
        /* What is written there does not matter, now or later: what is not armed is not sent. */
        return true;
    }
    if (ferry_fault(FERRY_FAULT_TRACKER_ARM, errp) ||
        !backlog->tracker.ops->arm(
            backlog->tracker.opaque, (uint32_t)region, chunk * FERRY_CHUNK_PAGES,
            ferry_chunk_nr_pages(&backlog->regions.list[region], chunk), errp)) {
        return false;
    }
    atomic_store(&backlog->state[region].chunks[chunk].armed, true);
    return true;
}

void ferry_backlog_disarm_all(FerryBacklog *backlog)
{
    for (size_t region = 0; region < backlog->regions.nr; region++) {
        for (uint64_t i = 0; i < backlog->state[region].nr_chunks; i++) {
            atomic_store(&backlog->state[region].chunks[i].armed, false);
        }
    }
}

static FerryPageset *set_of(const BacklogRegion *state, FerryBacklogSet which)
{
    switch (which) {
    case FERRY_BACKLOG_QUEUED:
        return state->queued;
    case FERRY_BACKLOG_SWAPPED:
        return state->swapped;
    case FERRY_BACKLOG_KEPT:
        return state->kept;
    case FERRY_BACKLOG_DRAFT:
        return state->draft;
    default:
        return which < FERRY_BACKLOG_WRITTEN ? state->deferred[which - FERRY_BACKLOG_DEFERRED]
                                             : state->written[which - FERRY_BACKLOG_WRITTEN];
    }
}

const FerryPageset *ferry_backlog_set(const FerryBacklog *backlog, uint32_t region,
                                      FerryBacklogSet which)
{
    return set_of(&backlog->state[region], which);
}

FerryPageset **ferry_backlog_list(FerryBacklog *backlog, FerryBacklogSet which)
{
    FerryPageset **sets = g_new(FerryPageset *, backlog->regions.nr);

    for (size_t i = 0; i < backlog->regions.nr; i++) {
        sets[i] = set_of(&backlog->state[i], which);
    }
    return sets;
}

/* --- Counts ------------------------------------------------------------------------------------ */

uint64_t ferry_backlog_queued(const FerryBacklog *backlog)
{
    uint64_t count = 0;

    for (size_t i = 0; i < backlog->regions.nr; i++) {
        count += ferry_pageset_count(backlog->state[i].queued);
    }
    return count;
}

uint64_t ferry_backlog_deferred(const FerryBacklog *backlog)
{
    uint64_t count = 0;

    for (size_t i = 0; i < backlog->regions.nr; i++) {
        count += ferry_pageset_count(backlog->state[i].deferred[0]) +
                 ferry_pageset_count(backlog->state[i].deferred[1]);
    }
    return count;
}

uint64_t ferry_backlog_get_deferred(const FerryBacklog *backlog, uint32_t region, uint64_t word)
{
    const BacklogRegion *state = &backlog->state[region];

    return ferry_pageset_get(state->deferred[0], word) |
           ferry_pageset_get(state->deferred[1], word);
}

int64_t ferry_backlog_next_deferred(const FerryBacklog *backlog, uint32_t region, uint64_t from)
{
    const BacklogRegion *state = &backlog->state[region];
    int64_t one = ferry_pageset_next(state->deferred[0], from, 0, 1);
    int64_t other = ferry_pageset_next(state->deferred[1], from, 0, 1);

    return one < 0 || other < 0 ? MAX(one, other) : MIN(one, other);
}

uint64_t ferry_backlog_count(const FerryBacklog *backlog)
{
    uint64_t count = ferry_backlog_deferred(backlog);

    for (size_t i = 0; i < backlog->regions.nr; i++) {
        count += ferry_pageset_count(backlog->state[i].swapped) +
                 ferry_pageset_count(backlog->state[i].draft);
    }
    return count + ferry_backlog_queued(backlog);
}

uint64_t ferry_backlog_unsent(const FerryBacklog *backlog)
{
    /* In this order: a page that moves on meanwhile is counted twice, not left out. */
    uint64_t count = ferry_backlog_count(backlog);

    return count + atomic_load(&backlog->in_flight_pages);
}

void ferry_backlog_query(const FerryBacklog *backlog, FerryBacklogCounts *counts)
{
    *counts = (FerryBacklogCounts){
        .normal_pages = atomic_load(&backlog->normal_pages),
        .zero_pages = atomic_load(&backlog->zero_pages),
        .deferred_pages = atomic_load(&backlog->deferred_pages),
        .written_pages = atomic_load(&backlog->written_pages),
    };
}

/* --- Senders and servers ----------------------------------------------------------------------- */

bool ferry_backlog_make_readable(FerryBacklog *backlog, uint32_t region, uint64_t page,
                                 GError **errp)
{
    uint64_t first = page - page % FERRY_CHUNK_PAGES;
    Chunk *chunk = ferry_backlog_chunk(backlog, region, page);
    bool ok = true;

    if (atomic_load(&chunk->reset_seq) == atomic_load(&chunk->found_seq) ||
        ferry_backlog_is_stopped(backlog)) {
        return true;
    }
    g_mutex_lock(&chunk->lock);
    uint32_t seen = atomic_load(&chunk->found_seq);
    if (atomic_load(&chunk->reset_seq) != seen) {
        uint64_t nr_pages =
            ferry_chunk_nr_pages(&backlog->regions.list[region], page / FERRY_CHUNK_PAGES);

        ok = !ferry_fault(FERRY_FAULT_TRACKER_RESET, errp) &&
             backlog->tracker.ops->reset(backlog->tracker.opaque, region, first, nr_pages, errp);
        if (ok) {
            atomic_store(&chunk->reset_seq, seen);
        }
    }
    g_mutex_unlock(&chunk->lock);
    return ok;
}

int64_t ferry_backlog_next(const FerryBacklog *backlog, uint32_t region, uint64_t from,
                           unsigned index, unsigned nr)
{
    return ferry_pageset_next(backlog->state[region].queued, from, index, nr);
}

int ferry_backlog_take(FerryBacklog *backlog, uint32_t region, uint64_t granule,
                       uint64_t pages[FERRY_GRANULE_WORDS], GError **errp)
{
    const uint64_t first = granule * FERRY_GRANULE_PAGES;
    unsigned nr_pages;

    /* First, as a reset may add pages: these can go along. */
    if (!ferry_backlog_make_readable(backlog, region, first, errp)) {
        return -1;
    }
    /* Before they leave the set: pages must be counted somewhere at any moment. */
    atomic_fetch_add(&backlog->in_flight_pages, FERRY_GRANULE_PAGES);
    nr_pages = ferry_pageset_take(backlog->state[region].queued, granule, pages);
    if (nr_pages && atomic_load(&backlog->guest) == FERRY_GUEST_LEFT &&
        backlog->regions.list[region].page_size_bytes > FERRY_PAGE_BYTES) {
        /* A part of a huge page, the rest of which was asked for meanwhile, cannot be placed. */
        memset(pages, 0xff, FERRY_GRANULE_WORDS * sizeof(*pages));
        nr_pages = FERRY_GRANULE_PAGES;
    }
    atomic_fetch_sub(&backlog->in_flight_pages, FERRY_GRANULE_PAGES - nr_pages);
    /* Again: pages may have been found between the last time and their being taken. */
    if (nr_pages && !ferry_backlog_make_readable(backlog, region, first, errp)) {
        ferry_backlog_sent(backlog, nr_pages);
        return -1;
    }
    return (int)nr_pages;
}

void ferry_backlog_sent(FerryBacklog *backlog, unsigned nr_pages)
{
    atomic_fetch_sub(&backlog->in_flight_pages, nr_pages);
}

uint64_t ferry_backlog_take_asked(FerryBacklog *backlog, uint32_t region, uint64_t word,
                                  uint64_t mask)
{
    BacklogRegion *state = &backlog->state[region];

    return ferry_pageset_remove_mask(state->queued, word, mask) |
           ferry_pageset_remove_mask(state->draft, word, mask) |
           ferry_pageset_remove_mask(state->swapped, word, mask);
}

void ferry_backlog_count_sent(FerryBacklog *backlog, const FerryPagesFrame *frame)
{
    uint64_t nr_normal = frame->content_bytes / FERRY_PAGE_BYTES;

    atomic_fetch_add_explicit(&backlog->normal_pages, nr_normal, memory_order_relaxed);
    ferry_backlog_count_zero(backlog, frame->nr_pages - nr_normal);
}

void ferry_backlog_count_zero(FerryBacklog *backlog, uint64_t nr_pages)
{
    atomic_fetch_add_explicit(&backlog->zero_pages, nr_pages, memory_order_relaxed);
}
