/*
 * Fetching: placing pages.  See fetch.h.
 *
 * Threads: whatever thread has received a page.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

#include "../error.h"
#include "fetch-internal.h"

void ferry_fetch_advise(FerryFetch *fetch, int advice)
{
    for (size_t i = 0; i < fetch->regions->nr; i++) {
        const FerryRegion *region = &fetch->regions->list[i];

        if (!(region->flags & FERRY_REGION_HUGETLB) && region->length_bytes) {
            /* A kernel that does not know it has no huge pages. */
            (void)madvise(region->host, region->length_bytes, advice);
        }
    }
}

void ferry_fetch_unregister(FerryFetch *fetch)
{
    for (size_t i = 0; i < fetch->regions->nr; i++) {
        if (fetch->registered[i]) {
            ferry_userfault_unregister(fetch->uffd, &fetch->regions->list[i]);
        }
    }
}

/* @nr_pages have been placed: is that all? */
static void note_placed(FerryFetch *fetch, uint64_t nr_pages)
{
    atomic_fetch_add_explicit(&fetch->placed_pages, nr_pages, memory_order_relaxed);
    if (nr_pages && atomic_fetch_sub(&fetch->nr_missing, nr_pages) == nr_pages) {
        ferry_fetch_unregister(fetch);
        ferry_fetch_advise(fetch, MADV_HUGEPAGE);
        fetch->ops.complete(fetch->opaque);
    }
}

/* Place pages that are missing, all of them; with the granule locked. */
static bool place_run(FerryFetch *fetch, uint32_t region, uint64_t first, uint64_t nr_pages,
                      const uint8_t *from, uint64_t *nr_placed, GError **errp)
{
    const char *id = fetch->regions->list[region].id;
    uint64_t done_bytes, done_pages;
    GError *error = NULL;
    FerryPlaceResult result =
        ferry_userfault_place(fetch->uffd, &fetch->regions->list[region], first * FERRY_PAGE_BYTES,
                              from, nr_pages * FERRY_PAGE_BYTES, &done_bytes, &error);

    done_pages = done_bytes / FERRY_PAGE_BYTES;
    ferry_pageset_remove(fetch->missing[region], first, done_pages);
    *nr_placed += done_pages;
    if (result == FERRY_PLACE_PRESENT) {
        /* Someone wrote it before it was registered: what is in it cannot be told. */
        g_set_error(&error, FERRY_ERROR, FERRY_ERROR_SYSTEM,
                    "page 0x%" PRIx64 " of RAM block '%s' was touched before its content had come",
                    first + done_pages, id);
        fetch->ops.failed(fetch->opaque, g_error_copy(error));
    } else if (result == FERRY_PLACE_UNREGISTERED) {
        g_set_error(&error, FERRY_ERROR, FERRY_ERROR_SYSTEM,
                    "RAM block '%s' went away while pages of it were missing", id);
    }
    if (error) {
        g_propagate_error(errp, error);
        return false;
    }
    return true;
}

/* Of @nr_pages from @first on, in one granule that is locked, those that are missing. */
static bool place_missing(FerryFetch *fetch, uint32_t region, uint64_t first, uint64_t nr_pages,
                          const uint8_t *from, uint64_t *nr_placed, GError **errp)
{
    const uint64_t end = first + nr_pages;

    for (uint64_t page = first, next; page < end; page = next) {
        uint64_t bits = ferry_pageset_get(fetch->missing[region], page / 64) >> (page % 64);
        uint64_t room = MIN(end - page, 64 - page % 64);

        if (!(bits & 1)) {
            uint64_t gap = bits ? (uint64_t)__builtin_ctzll(bits) : 64;

            next = page + MIN(gap, room);
            continue;
        }
        /* A run, which may go on in the words that follow. */
        for (next = page; next < end && ferry_fetch_is_missing(fetch, region, next); next++) {
        }
        if (!place_run(fetch, region, page, next - page,
                       from ? from + (page - first) * FERRY_PAGE_BYTES : NULL, nr_placed, errp)) {
            return false;
        }
    }
    return true;
}

/* A whole granule of a page that is longer; it is placed when all of them have come. */
static bool place_gathered(FerryFetch *fetch, const FerryFrame *frame, const FerryExtent *extents,
                           const uint8_t *payload, uint64_t *nr_placed, GError **errp)
{
    const uint64_t nr_pages = ferry_fetch_unit_pages(fetch, frame->region);
    const uint64_t first = frame->first_page - frame->first_page % nr_pages;
    const uint8_t *content;
    GError *error = NULL;
    uint64_t nr_whole = 0;
    bool is_new = false;

    if (!ferry_fetch_is_missing(fetch, frame->region, first)) {
        atomic_fetch_add_explicit(&fetch->duplicates, FERRY_GRANULE_PAGES, memory_order_relaxed);
        return true;
    }
    content = ferry_gather_add(fetch->gather, &fetch->regions->list[frame->region], frame, extents,
                               payload, &is_new, &error);
    if (error) {
        g_propagate_error(errp, error);
        return false;
    }
    atomic_fetch_add_explicit(&fetch->duplicates, is_new ? 0 : FERRY_GRANULE_PAGES,
                              memory_order_relaxed);
    if (content) {
        if (!place_run(fetch, frame->region, first, nr_pages, content, &nr_whole, errp)) {
            return false;
        }
        ferry_gather_forget(fetch->gather, frame->region, first);
    }
    *nr_placed += nr_whole;
    return true;
}

/* A page larger than those on the wire is placed as a whole: it must have come as a whole. */
static bool place_huge(FerryFetch *fetch, const FerryFrame *frame, const FerryExtent *extents,
                       const uint8_t *payload, uint64_t *nr_placed, GError **errp)
{
    const FerryRegion *region = &fetch->regions->list[frame->region];
    g_autofree uint8_t *whole = NULL;
    uint64_t nr_pages = 0;

    for (uint32_t i = 0; i < frame->nr_extents; i++) {
        nr_pages += extents[i].nr_pages;
    }
    if (nr_pages != FERRY_GRANULE_PAGES) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL,
                    "%" PRIu64 " of the %" PRIu64 " pages in a huge page of RAM block '%s'",
                    nr_pages, FERRY_GRANULE_PAGES, region->id);
        return false;
    }
    if (ferry_fetch_unit_pages(fetch, frame->region) > FERRY_GRANULE_PAGES) {
        return place_gathered(fetch, frame, extents, payload, nr_placed, errp);
    }
    if (frame->nr_extents > 1) {
        whole = g_malloc(FERRY_GRANULE_PAGES * FERRY_PAGE_BYTES);
        ferry_gather_unpack(whole, frame, extents, payload);
        payload = whole;
    } else if (extents[0].zero) {
        payload = NULL;
    }
    return place_missing(fetch, frame->region, frame->first_page, FERRY_GRANULE_PAGES, payload,
                         nr_placed, errp);
}

static bool place_extents(FerryFetch *fetch, const FerryFrame *frame, const FerryExtent *extents,
                          const uint8_t *payload, uint64_t *nr_placed, GError **errp)
{
    for (uint32_t i = 0; i < frame->nr_extents; i++) {
        if (!place_missing(fetch, frame->region, frame->first_page + extents[i].first,
                           extents[i].nr_pages, extents[i].zero ? NULL : payload, nr_placed,
                           errp)) {
            return false;
        }
        payload += extents[i].zero ? 0 : extents[i].nr_pages * FERRY_PAGE_BYTES;
    }
    return true;
}

bool ferry_fetch_place(FerryFetch *fetch, const FerryFrame *frame, const FerryExtent *extents,
                       const uint8_t *payload, GError **errp)
{
    const FerryRegion *region = &fetch->regions->list[frame->region];
    GMutex *lock = ferry_fetch_lock_of(fetch, frame->region, frame->first_page);
    const uint64_t nr_unit_pages = ferry_fetch_unit_pages(fetch, frame->region);
    const uint64_t first_page = frame->first_page - frame->first_page % nr_unit_pages;
    uint64_t nr_placed = 0, nr_pages = 0;
    bool ok;

    for (uint32_t i = 0; i < frame->nr_extents; i++) {
        nr_pages += extents[i].nr_pages;
    }
    g_mutex_lock(lock);
    ok = region->page_size_bytes > FERRY_PAGE_BYTES
             ? place_huge(fetch, frame, extents, payload, &nr_placed, errp)
             : place_extents(fetch, frame, extents, payload, &nr_placed, errp);
    g_mutex_unlock(lock);
    ferry_waiters_resolve(fetch->waiters, frame->region, first_page,
                          first_page + MAX(FERRY_GRANULE_PAGES, nr_unit_pages));
    if (nr_unit_pages <= FERRY_GRANULE_PAGES) {
        atomic_fetch_add_explicit(&fetch->duplicates, nr_pages - nr_placed, memory_order_relaxed);
    }
    note_placed(fetch, nr_placed);
    return ok;
}
