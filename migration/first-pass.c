/*
 * The first pass over guest memory: see first-pass.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "first-pass.h"

#include <stdatomic.h>

struct FerryFirstPass {
    FerryCopy *copy;
    FerryScanner *scanner;
    uint64_t total_bytes;
    _Atomic uint64_t unseen_bytes;
    _Atomic uint64_t skipped_pages;

    GMutex lock; /* for what follows, and for arming */
    size_t next_region;
    uint64_t next_chunk;
    bool restarted;
    FerryHistogram arm;
};

FerryFirstPass *ferry_first_pass_new(FerryCopy *copy)
{
    FerryFirstPass *pass = g_new0(FerryFirstPass, 1);

    pass->copy = copy;
    pass->scanner = ferry_scanner_new();
    pass->total_bytes = ferry_regions_total_bytes(&copy->regions);
    pass->unseen_bytes = pass->total_bytes;
    g_mutex_init(&pass->lock);
    return pass;
}

void ferry_first_pass_free(FerryFirstPass *pass)
{
    ferry_scanner_free(pass->scanner);
    g_mutex_clear(&pass->lock);
    g_free(pass);
}

bool ferry_first_pass_done(const FerryFirstPass *pass)
{
    return atomic_load(&pass->unseen_bytes) == 0;
}

uint64_t ferry_first_pass_unseen_bytes(const FerryFirstPass *pass)
{
    return atomic_load(&pass->unseen_bytes);
}

void ferry_first_pass_query(FerryFirstPass *pass, uint64_t *skipped_pages, FerryHistogram *arm)
{
    *skipped_pages = atomic_load(&pass->skipped_pages);
    g_mutex_lock(&pass->lock);
    *arm = pass->arm;
    g_mutex_unlock(&pass->lock);
}

/* With the lock held. */
static bool arm_chunk(FerryFirstPass *pass, size_t region, uint64_t number, GError **errp)
{
    FerryCopy *copy = pass->copy;
    FerryCopyChunk *chunk = &copy->state[region].chunks[number];
    uint64_t start_ns = ferry_now_ns();

    if (atomic_load(&chunk->armed)) {
        return true;
    }
    if (!copy->tracker.ops->arm(copy->tracker.opaque, (uint32_t)region, number * FERRY_CHUNK_PAGES,
                                ferry_chunk_nr_pages(&copy->regions.list[region], number), errp)) {
        return false;
    }
    atomic_store(&chunk->armed, true);
    ferry_histogram_add(&pass->arm, ferry_now_ns() - start_ns);
    return true;
}

typedef struct Queueing {
    FerryFirstPass *pass;
    FerryCopyRegion *state;
    uint64_t touched_pages;
} Queueing;

static void queue_touched(void *opaque, uint64_t offset_bytes, uint64_t nr_bytes,
                          FerryScanKind kind)
{
    Queueing *queueing = opaque;
    uint64_t nr_pages = nr_bytes >> FERRY_PAGE_SHIFT;

    queueing->touched_pages += nr_pages;
    if (kind == FERRY_SCAN_ZERO && !queueing->pass->restarted) {
        /* The destination's memory starts out empty: nothing to send. */
        atomic_fetch_add(&queueing->pass->copy->zero_pages, nr_pages);
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
        for (uint64_t i = 0; i < FERRY_GRANULE_WORDS; i++) {
            ferry_pageset_remove_mask(state->pages, (uint64_t)granule * FERRY_GRANULE_WORDS + i,
                                      pages[i]);
        }
    }
}

/*
 * The senders get to work at once: a long run of chunks with nothing in them may come next.
 */
bool ferry_first_pass_feed(FerryFirstPass *pass, GError **errp)
{
    size_t region = pass->next_region;
    uint64_t number = pass->next_chunk;
    const FerryRegion *memory = &pass->copy->regions.list[region];
    FerryCopyRegion *state = &pass->copy->state[region];
    FerryScanTarget target = ferry_region_scan_target(memory);
    uint64_t nr_pages = ferry_chunk_nr_pages(memory, number);
    Queueing queueing = {.pass = pass, .state = state};
    bool fine;

    g_mutex_lock(&pass->lock);
    fine = arm_chunk(pass, region, number, errp) &&
           ferry_scan(pass->scanner, &target, number * FERRY_CHUNK_PAGES * FERRY_PAGE_BYTES,
                      nr_pages * FERRY_PAGE_BYTES, queue_touched, &queueing, errp);
    apply_skips(state, number);
    atomic_store(&state->chunks[number].queued, true);
    g_mutex_unlock(&pass->lock);

    atomic_fetch_sub(&pass->unseen_bytes, nr_pages * FERRY_PAGE_BYTES);
    atomic_fetch_add(&pass->skipped_pages, nr_pages - queueing.touched_pages);
    if (queueing.touched_pages) {
        ferry_copy_kick(pass->copy);
    }
    if (++pass->next_chunk == state->nr_chunks) {
        pass->next_chunk = 0;
        pass->next_region++;
    }
    return fine;
}

void ferry_first_pass_restart(FerryFirstPass *pass)
{
    FerryCopy *copy = pass->copy;

    g_mutex_lock(&pass->lock);
    for (size_t region = 0; region < copy->regions.nr; region++) {
        for (uint64_t i = 0; i < copy->state[region].nr_chunks; i++) {
            atomic_store(&copy->state[region].chunks[i].armed, false);
            atomic_store(&copy->state[region].chunks[i].queued, false);
        }
    }
    /* What has become zero since its first copy must be sent now. */
    pass->restarted = true;
    pass->next_region = 0;
    pass->next_chunk = 0;
    atomic_store(&pass->unseen_bytes, pass->total_bytes);
    atomic_store(&pass->skipped_pages, 0);
    g_mutex_unlock(&pass->lock);
}

void ferry_first_pass_skip(FerryFirstPass *pass, uint32_t region, uint64_t first_page,
                           uint64_t nr_pages)
{
    FerryCopy *copy = pass->copy;
    FerryCopyRegion *state = &copy->state[region];
    uint64_t end = MIN(first_page + nr_pages, ferry_region_nr_pages(&copy->regions.list[region]));

    g_mutex_lock(&pass->lock);
    for (uint64_t page = first_page, next; page < end; page = next) {
        uint64_t number = page / FERRY_CHUNK_PAGES;
        GError *error = NULL;

        next = MIN(end, (number + 1) * FERRY_CHUNK_PAGES);
        /* The pages may be put to use again right away: from here on that must be seen. */
        if (!arm_chunk(pass, region, number, &error)) {
            /* Then they go with their chunk, if arming works at that time. */
            g_error_free(error);
            continue;
        }
        ferry_pageset_remove(state->pages, page, next - page);
        if (!atomic_load(&state->chunks[number].queued)) {
            ferry_pageset_add(state->skip, page, next - page);
        }
    }
    g_mutex_unlock(&pass->lock);
}
