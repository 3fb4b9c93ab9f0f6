/*
 * Copying: see copy.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "copy.h"

#include "error.h"
#include "sender.h"

FerryCopy *ferry_copy_new(FerryRegions *regions, const FerryTracker *tracker, bool checksum)
{
    FerryCopy *copy = g_new0(FerryCopy, 1);

    copy->regions = *regions;
    *regions = (FerryRegions){0};
    copy->tracker = *tracker;
    copy->checksum = checksum;
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
        state->nr_chunks = (nr_pages + FERRY_CHUNK_PAGES - 1) / FERRY_CHUNK_PAGES;
        state->chunks = g_new0(FerryCopyChunk, state->nr_chunks);
        for (uint64_t j = 0; j < state->nr_chunks; j++) {
            g_mutex_init(&state->chunks[j].lock);
        }
    }
    return copy;
}

void ferry_copy_free(FerryCopy *copy)
{
    g_mutex_lock(&copy->lock);
    copy->quit = true;
    g_cond_broadcast(&copy->work);
    g_mutex_unlock(&copy->lock);
    ferry_pace_interrupt(copy->pace);
    for (unsigned i = 0; i < copy->nr_senders; i++) {
        ferry_sender_join(copy->senders[i]);
    }
    g_free(copy->senders);

    for (size_t i = 0; i < copy->regions.nr; i++) {
        FerryCopyRegion *state = &copy->state[i];

        ferry_pageset_free(state->pages);
        ferry_pageset_free(state->skip);
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
    bool fine;

    g_mutex_lock(&copy->lock);
    fine = !copy->error;
    if (!fine && errp) {
        *errp = g_error_copy(copy->error);
    }
    g_mutex_unlock(&copy->lock);
    return fine;
}

uint64_t ferry_copy_count(const FerryCopy *copy)
{
    uint64_t count = 0;

    for (size_t i = 0; i < copy->regions.nr; i++) {
        count += ferry_pageset_count(copy->state[i].pages);
    }
    return count;
}

uint64_t ferry_copy_unsent(const FerryCopy *copy)
{
    /* In this order: a page that moves on meanwhile is counted twice, not left out. */
    uint64_t count = ferry_copy_count(copy);

    return count + atomic_load(&copy->in_flight_pages);
}

void ferry_copy_report(void *opaque, uint32_t region, uint64_t word, uint64_t mask)
{
    FerryCopy *copy = opaque;
    FerryCopyRegion *state = &copy->state[region];
    FerryCopyChunk *chunk = &state->chunks[word * 64 / FERRY_CHUNK_PAGES];

    /* What is not armed yet is copied in full after it is: older writes do not matter. */
    if (atomic_load(&chunk->armed)) {
        /* In this order: whoever takes the page out of the set sees that it needs a reset. */
        atomic_fetch_add(&chunk->report_seq, 1);
        ferry_pageset_add_mask(state->pages, word, mask);
    }
}

void ferry_copy_make_readable(FerryCopy *copy, uint32_t region, uint64_t page)
{
    uint64_t number = page / FERRY_CHUNK_PAGES;
    FerryCopyChunk *chunk = &copy->state[region].chunks[number];

    if (atomic_load(&chunk->reset_seq) == atomic_load(&chunk->report_seq) ||
        atomic_load(&copy->stopped)) {
        return;
    }
    g_mutex_lock(&chunk->lock);
    uint32_t seen = atomic_load(&chunk->report_seq);
    if (atomic_load(&chunk->reset_seq) != seen) {
        copy->tracker.ops->reset(copy->tracker.opaque, region, number * FERRY_CHUNK_PAGES,
                                 ferry_chunk_nr_pages(&copy->regions.list[region], number));
        atomic_store(&chunk->reset_seq, seen);
    }
    g_mutex_unlock(&chunk->lock);
}
