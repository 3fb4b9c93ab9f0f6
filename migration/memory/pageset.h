/*
 * The page set: which pages still have to go.
 *
 * Three levels of bits: a bit per page, a bit per granule that may hold one, a bit per stripe of 64
 * granules (128 MiB) that may hold one of those.  Finding the next page costs what is set, not how
 * large the guest is; memory behind bits that were never set is never touched, so an idle set of a
 * 24 TiB guest costs a few pages.
 *
 * Threads: everything may be called from any thread at any time.  A page added while its granule
 * is being taken is either in what is taken or still in the set, never lost.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_PAGESET_H
#define FERRY_PAGESET_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "region.h"

#define FERRY_GRANULE_WORDS (FERRY_GRANULE_PAGES / 64)

typedef struct FerryPageset FerryPageset;

/*
 * Whether this process may map @nr_sets sets more over all of @regions; if not, @errp says how large they are.
 * Where nobody looks, a set that cannot be mapped is the end of the process.
 */
bool ferry_pageset_fits(const FerryRegions *regions, unsigned nr_sets, GError **errp);

/* An empty set over @nr_pages pages. */
FerryPageset *ferry_pageset_new(uint64_t nr_pages);
void ferry_pageset_free(FerryPageset *set);

/* How many pages are in the set; exact when nobody changes it. */
uint64_t ferry_pageset_count(const FerryPageset *set);

/*
 * Add the pages whose bits are set in @mask, bit 0 being page @word * 64.  Bits past the end are
 * ignored.  Returns how many of them were not in the set before.
 */
unsigned ferry_pageset_add_mask(FerryPageset *set, uint64_t word, uint64_t mask);

/* A run of pages, not empty. */
typedef struct FerryPageRun {
    uint64_t first;
    uint64_t nr_pages;
} FerryPageRun;

/*
 * Add many runs at once; returns how many pages were not in the set before.  All must lie within
 * the set.  Takes less time than adding one by one: a quarter less where they are close together,
 * two thirds where they are scattered.
 */
uint64_t ferry_pageset_add_runs(FerryPageset *set, const FerryPageRun *runs, size_t nr_runs);

/*
 * Add the pages of @granule whose bits are set in @pages, the reverse of taking them; returns how
 * many were not in the set before.  None may lie past the end.
 */
unsigned ferry_pageset_add_granule(FerryPageset *set, uint64_t granule,
                                   const uint64_t pages[FERRY_GRANULE_WORDS]);

/* Which of the 64 pages from @word * 64 on are in the set, as bits. */
uint64_t ferry_pageset_get(const FerryPageset *set, uint64_t word);

/* Which of the 64 granules from @stripe * 64 on may hold a page, as bits; some may turn out empty. */
uint64_t ferry_pageset_granules(const FerryPageset *set, uint64_t stripe);

/* Have the bits of those granules brought into the cache, without waiting for it. */
void ferry_pageset_prefetch(const FerryPageset *set, uint64_t stripe);

/* Take out the pages whose bits are set in @mask; returns those that were in the set. */
uint64_t ferry_pageset_remove_mask(FerryPageset *set, uint64_t word, uint64_t mask);

/* Add or remove @nr_pages from @first on; returns how many pages changed. */
uint64_t ferry_pageset_add(FerryPageset *set, uint64_t first, uint64_t nr_pages);
uint64_t ferry_pageset_remove(FerryPageset *set, uint64_t first, uint64_t nr_pages);

/*
 * The first granule from @from on that may hold a page and belongs to @share (granule % @nr_shares),
 * or -1.  The answer can be stale in one direction only: the granule may turn out empty.
 */
int64_t ferry_pageset_next(FerryPageset *set, uint64_t from, unsigned share, unsigned nr_shares);

/* Take all pages of @granule out of the set; returns how many, and their bits in @pages. */
unsigned ferry_pageset_take(FerryPageset *set, uint64_t granule,
                            uint64_t pages[FERRY_GRANULE_WORDS]);

/* Take all pages out of @from and add them to @to, a set of the same length. */
void ferry_pageset_move(FerryPageset *from, FerryPageset *to);

/*
 * Take all pages of at most @max_granules granules from @from on out of the set.  Returns the granule
 * to go on from, or -1 when there is no other.
 */
int64_t ferry_pageset_clear_some(FerryPageset *set, uint64_t from, uint64_t max_granules);

/* Take all pages out of the set. */
void ferry_pageset_clear(FerryPageset *set);

/* Bytes of memory that the set has touched so far, for reports; an upper estimate. */
uint64_t ferry_pageset_memory_bytes(const FerryPageset *set);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(FerryPageset, ferry_pageset_free)

#endif
