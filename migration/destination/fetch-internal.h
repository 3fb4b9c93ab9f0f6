/*
 * Shared between fetch.c (going live, faults, reports) and fetch-place.c (placing pages), the former of
 * which uses the latter.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_FETCH_INTERNAL_H
#define FERRY_FETCH_INTERNAL_H

#include <stdatomic.h>

#include "fetch.h"
#include "gather.h"
#include "waiters.h"

/* Granules share locks; more than there are threads to want them. */
#define NR_LOCKS 64

typedef struct FaultThread {
    FerryFetch *fetch;
    unsigned index;
    GThread *thread;
} FaultThread;

struct FerryFetch {
    const FerryRegions *regions;
    FerryFetchOps ops;
    void *opaque;
    FerryUserfault *uffd;
    /* Of each region, as are the next two: pages that are not there, as they were discarded. */
    FerryPageset **missing;
    FerryPageset **incoming; /* what is to be discarded next, and missing from then on */
    bool *registered;        /* its faults are ours to answer */
    FaultThread *threads;
    unsigned nr_threads;
    int quit_fd;       /* readable: the fault threads end */
    bool drafted;      /* the kernel was told not to provide huge pages */
    _Atomic bool live; /* all missing pages are known, and can be asked for; for good */

    GMutex locks[NR_LOCKS]; /* of granules: see fetch.h */
    GMutex gather_lock;     /* of all pages longer than those, and of: */
    FerryGather *gather;
    _Atomic uint64_t nr_missing; /* once live */
    uint64_t nr_handed;          /* how many these were at first */
    _Atomic uint64_t placed_pages;
    _Atomic uint64_t duplicates;
    _Atomic uint64_t zero_faults;
    FerryWaiters *waiters;
    GMutex starved_lock; /* for the next one */
    GArray *starved;     /* of FerryWanted: zero pages for which there was no memory */
};

static inline uint64_t ferry_fetch_unit_pages(const FerryFetch *fetch, uint32_t region)
{
    return fetch->regions->list[region].page_size_bytes / FERRY_PAGE_BYTES;
}

static inline GMutex *ferry_fetch_lock_of(FerryFetch *fetch, uint32_t region, uint64_t page)
{
    return ferry_fetch_unit_pages(fetch, region) > FERRY_GRANULE_PAGES
               ? &fetch->gather_lock
               : &fetch->locks[page / FERRY_GRANULE_PAGES % NR_LOCKS];
}

static inline bool ferry_fetch_is_missing(const FerryFetch *fetch, uint32_t region, uint64_t page)
{
    return ferry_pageset_get(fetch->missing[region], page / 64) >> (page % 64) & 1;
}

/* --- fetch-place.c --- */

/* Have the kernel provide huge pages, or not: @advice is madvise's. */
void ferry_fetch_advise(FerryFetch *fetch, int advice);

/* Faults are not ours to answer any more. */
void ferry_fetch_unregister(FerryFetch *fetch);

#endif
