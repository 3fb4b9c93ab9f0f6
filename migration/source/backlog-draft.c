/*
 * The backlog's draft: pages that are to be missing at the destination.  See backlog.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "backlog-internal.h"

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

/*
 * A page of the region's is missing as a whole if any part of it is.  From one page to the next: of 1 GiB,
 * all 512 granules hold something as soon as one of them does.
 */
static void round_up(const FerryRegion *region, FerryPageset *set)
{
    const uint64_t unit_pages = region->page_size_bytes / FERRY_PAGE_BYTES;
    uint64_t granule;
    int64_t found;

    if (unit_pages == 1) {
        return;
    }
    for (found = ferry_pageset_next(set, 0, 0, 1); found >= 0;
         found = ferry_pageset_next(set, granule, 0, 1)) {
        granule = (uint64_t)found;
        if (is_empty_granule(set, granule)) {
            granule++;
        } else {
            uint64_t page = granule * FERRY_GRANULE_PAGES;
            uint64_t first = page - page % unit_pages;

            ferry_pageset_add(set, first, unit_pages);
            granule = MAX(granule + 1, (first + unit_pages) / FERRY_GRANULE_PAGES);
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

void ferry_backlog_draft(FerryBacklog *backlog)
{
    ferry_backlog_release_all(backlog);
    for (size_t i = 0; i < backlog->regions.nr; i++) {
        BacklogRegion *state = &backlog->state[i];

        ferry_pageset_move(state->queued, state->draft);
        add_all(state->draft, state->kept);
        add_all(state->draft, state->swapped);
        round_up(&backlog->regions.list[i], state->draft);
    }
    atomic_store(&backlog->drafted, true);
}

bool ferry_backlog_is_drafted(const FerryBacklog *backlog)
{
    return atomic_load(&backlog->drafted);
}

void ferry_backlog_subtract_draft(FerryBacklog *backlog)
{
    for (size_t i = 0; i < backlog->regions.nr; i++) {
        round_up(&backlog->regions.list[i], backlog->state[i].queued);
        remove_all(backlog->state[i].queued, backlog->state[i].draft);
    }
}

void ferry_backlog_undraft(FerryBacklog *backlog)
{
    for (size_t i = 0; i < backlog->regions.nr; i++) {
        BacklogRegion *state = &backlog->state[i];

        ferry_pageset_move(state->draft, state->queued);
        if (backlog->regions.list[i].page_size_bytes == FERRY_PAGE_BYTES) {
            remove_all(state->queued, state->swapped);
        } else {
            /* A part of a page would be of no use. */
            ferry_pageset_clear(state->swapped);
        }
    }
    atomic_store(&backlog->drafted, false);
}

void ferry_backlog_replace(FerryBacklog *backlog, FerryPageset *const *missing)
{
    for (size_t i = 0; i < backlog->regions.nr; i++) {
        BacklogRegion *state = &backlog->state[i];

        ferry_pageset_clear(state->draft);
        ferry_pageset_clear(state->swapped);
        ferry_pageset_clear(state->queued);
        ferry_pageset_move(missing[i], state->queued);
    }
    atomic_store(&backlog->drafted, false);
    atomic_store(&backlog->in_flight_pages, 0);
}
