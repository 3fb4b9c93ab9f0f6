/*
 * The page set: see pageset.h.
 *
 * Adding sets bits from the bottom up, taking clears them from the top down; both levels above the
 * pages are hints that may be set for nothing but are never clear for something:
 *
 *   adder                               taker
 *   -----                               -----
 *   page bit := 1
 *                                       granule bit := 0
 *                                       pages := exchange(page bits, 0)    sees the page, or ...
 *   granule bit := 1                                                       ... it stays announced
 *   stripe bit := 1
 *
 * All of these are sequentially consistent, so one of the two always holds.  The same goes one
 * level up, where the taker clears a stripe bit only after it saw the stripe's granule word empty
 * and sets it again when the word has filled in the meantime.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "pageset.h"

#include <errno.h>
#include <stdatomic.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../error.h"

#define STRIPE_GRANULES 64

/* How many runs ahead memory is asked for: enough to hide its latency, few enough to be kept. */
#define PREFETCH_RUNS 16

struct FerryPageset {
    uint64_t nr_pages;
    uint64_t nr_words, nr_granule_words, nr_stripe_words;
    _Atomic uint64_t *words;         /* a bit per page */
    _Atomic uint64_t *granule_words; /* a bit per granule; one word is a stripe */
    _Atomic uint64_t *stripe_words;  /* a bit per stripe */
    _Atomic int64_t count; /* below zero for a moment when a page is taken while it is added */
};

static uint64_t words_for(uint64_t nr_bits)
{
    return (nr_bits + 63) / 64;
}

/* Zeroed and not touched: the kernel gives memory only to what is written. */
static _Atomic uint64_t *map_words(uint64_t nr_words)
{
    void *map = mmap(NULL, MAX(nr_words, 1) * sizeof(uint64_t), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (map == MAP_FAILED) {
        g_error("ferry: cannot map a page set of %" PRIu64 " words: %s", nr_words,
                g_strerror(errno));
    }
    return map;
}

static void unmap_words(_Atomic uint64_t *words, uint64_t nr_words)
{
    munmap((void *)words, MAX(nr_words, 1) * sizeof(uint64_t));
}

bool ferry_pageset_fits(const FerryRegions *regions, unsigned nr_sets, GError **errp)
{
    /* A bit for each page, an eighth of that and more for granules, and what the kernel rounds up. */
    uint64_t nr_bytes = ferry_regions_total_bytes(regions) / FERRY_PAGE_BYTES / 8;
    uint64_t most_bytes = nr_sets * (nr_bytes + nr_bytes / 8 + (uint64_t)regions->nr * 65536);
    void *map;

    if (regions->nr == 0) {
        g_set_error_literal(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM, "there is no memory to move");
        return false;
    }
    map = mmap(NULL, most_bytes, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM,
                    "no %" PRIu64
                    " KiB of memory for bitmaps of guest memory: %s (see RLIMIT_AS, and "
                    "vm.overcommit_memory)",
                    most_bytes >> 10, g_strerror(errno));
        return false;
    }
    munmap(map, most_bytes);
    return true;
}

FerryPageset *ferry_pageset_new(uint64_t nr_pages)
{
    FerryPageset *set = g_new0(FerryPageset, 1);
    uint64_t nr_granules = (nr_pages + FERRY_GRANULE_PAGES - 1) / FERRY_GRANULE_PAGES;

    set->nr_pages = nr_pages;
    /* Whole granules, so that taking the last one needs no special case. */
    set->nr_words = nr_granules * FERRY_GRANULE_WORDS;
    set->nr_granule_words = words_for(nr_granules);
    set->nr_stripe_words = words_for(set->nr_granule_words);
    set->words = map_words(set->nr_words);
    set->granule_words = map_words(set->nr_granule_words);
    set->stripe_words = map_words(set->nr_stripe_words);
    return set;
}

void ferry_pageset_free(FerryPageset *set)
{
    if (set) {
        unmap_words(set->words, set->nr_words);
        unmap_words(set->granule_words, set->nr_granule_words);
        unmap_words(set->stripe_words, set->nr_stripe_words);
        g_free(set);
    }
}

uint64_t ferry_pageset_count(const FerryPageset *set)
{
    int64_t count = atomic_load_explicit(&set->count, memory_order_relaxed);

    return count > 0 ? (uint64_t)count : 0;
}

/* Set a hint unless it is set already: most additions hit a granule that is announced. */
static void announce(_Atomic uint64_t *words, uint64_t bit)
{
    uint64_t mask = UINT64_C(1) << (bit % 64);

    if (!(atomic_load(&words[bit / 64]) & mask)) {
        atomic_fetch_or(&words[bit / 64], mask);
    }
}

static void announce_granule(FerryPageset *set, uint64_t granule)
{
    announce(set->granule_words, granule);
    announce(set->stripe_words, granule / STRIPE_GRANULES);
}

/* Set bits of a word; neither counted nor announced.  Returns those that were not set before. */
static uint64_t set_bits(FerryPageset *set, uint64_t word, uint64_t mask)
{
    return mask & ~atomic_fetch_or(&set->words[word], mask);
}

unsigned ferry_pageset_add_mask(FerryPageset *set, uint64_t word, uint64_t mask)
{
    uint64_t first = word * 64;
    unsigned nr_new;

    if (first >= set->nr_pages) {
        return 0;
    }
    if (set->nr_pages - first < 64) {
        mask &= (UINT64_C(1) << (set->nr_pages - first)) - 1;
    }
    if (mask == 0) {
        return 0;
    }
    nr_new = (unsigned)__builtin_popcountll(set_bits(set, word, mask));
    if (nr_new) {
        atomic_fetch_add_explicit(&set->count, nr_new, memory_order_relaxed);
        announce_granule(set, word / FERRY_GRANULE_WORDS);
    }
    return nr_new;
}

/* The bits of @word that lie in [first, end). */
static uint64_t mask_between(uint64_t word, uint64_t first, uint64_t end)
{
    uint64_t base = word * 64;
    uint64_t mask = UINT64_MAX;

    if (first > base) {
        mask &= UINT64_MAX << (first - base);
    }
    if (end - base < 64) {
        mask &= (UINT64_C(1) << (end - base)) - 1;
    }
    return mask;
}

uint64_t ferry_pageset_add(FerryPageset *set, uint64_t first, uint64_t nr_pages)
{
    uint64_t end = MIN(first + nr_pages, set->nr_pages);
    uint64_t nr_new = 0;

    for (uint64_t word = first / 64; word * 64 < end; word++) {
        nr_new += ferry_pageset_add_mask(set, word, mask_between(word, first, end));
    }
    return nr_new;
}

uint64_t ferry_pageset_add_runs(FerryPageset *set, const FerryPageRun *runs, size_t nr_runs)
{
    uint64_t nr_new = 0;

    for (size_t i = 0; i < nr_runs; i++) {
        uint64_t first = runs[i].first;
        uint64_t end = first + runs[i].nr_pages;
        uint64_t granule = first / FERRY_GRANULE_PAGES;

        g_assert(end <= set->nr_pages);
        if (i + PREFETCH_RUNS < nr_runs) {
            __builtin_prefetch((const void *)&set->words[runs[i + PREFETCH_RUNS].first / 64], 1);
        }
        nr_new += runs[i].nr_pages;
        for (uint64_t word = first / 64; word * 64 < end; word++) {
            uint64_t mask = mask_between(word, first, end);
            uint64_t added = set_bits(set, word, mask);

            if (added != mask) {
                nr_new -= (unsigned)__builtin_popcountll(mask ^ added);
            }
        }
        for (; granule * FERRY_GRANULE_PAGES < end; granule++) {
            announce_granule(set, granule);
        }
    }
    atomic_fetch_add_explicit(&set->count, (int64_t)nr_new, memory_order_relaxed);
    return nr_new;
}

unsigned ferry_pageset_add_granule(FerryPageset *set, uint64_t granule,
                                   const uint64_t pages[FERRY_GRANULE_WORDS])
{
    unsigned nr_new = 0;

    for (unsigned i = 0; i < FERRY_GRANULE_WORDS; i++) {
        uint64_t word = granule * FERRY_GRANULE_WORDS + i;

        if (pages[i]) {
            nr_new += (unsigned)__builtin_popcountll(set_bits(set, word, pages[i]));
        }
    }
    if (nr_new) {
        atomic_fetch_add_explicit(&set->count, nr_new, memory_order_relaxed);
        announce_granule(set, granule);
    }
    return nr_new;
}

uint64_t ferry_pageset_get(const FerryPageset *set, uint64_t word)
{
    return word < set->nr_words ? atomic_load(&set->words[word]) : 0;
}

uint64_t ferry_pageset_granules(const FerryPageset *set, uint64_t stripe)
{
    return stripe < set->nr_granule_words ? atomic_load(&set->granule_words[stripe]) : 0;
}

void ferry_pageset_prefetch(const FerryPageset *set, uint64_t stripe)
{
    for (uint64_t rest = ferry_pageset_granules(set, stripe); rest; rest &= rest - 1) {
        uint64_t granule = stripe * STRIPE_GRANULES + (unsigned)__builtin_ctzll(rest);

        __builtin_prefetch((const void *)&set->words[granule * FERRY_GRANULE_WORDS]);
    }
}

uint64_t ferry_pageset_remove_mask(FerryPageset *set, uint64_t word, uint64_t mask)
{
    if (!(ferry_pageset_get(set, word) & mask)) {
        return 0;
    }
    mask &= atomic_fetch_and(&set->words[word], ~mask);
    atomic_fetch_sub_explicit(&set->count, __builtin_popcountll(mask), memory_order_relaxed);
    return mask;
}

uint64_t ferry_pageset_remove(FerryPageset *set, uint64_t first, uint64_t nr_pages)
{
    uint64_t end = MIN(first + nr_pages, set->nr_pages);
    uint64_t nr_removed = 0;

    for (uint64_t word = first / 64; word * 64 < end; word++) {
        uint64_t removed = ferry_pageset_remove_mask(set, word, mask_between(word, first, end));

        nr_removed += (unsigned)__builtin_popcountll(removed);
    }
    return nr_removed;
}

/* The granules of stripe @stripe that belong to @share, as bits. */
static uint64_t share_mask(uint64_t stripe, unsigned share, unsigned nr_shares)
{
    unsigned skew = (unsigned)(stripe * STRIPE_GRANULES % nr_shares);
    uint64_t mask = 0;

    if (nr_shares == 1) {
        return UINT64_MAX;
    }
    for (unsigned bit = (share + nr_shares - skew) % nr_shares; bit < 64; bit += nr_shares) {
        mask |= UINT64_C(1) << bit;
    }
    return mask;
}

/* Withdraw a stripe's hint if none of its granules is announced. */
static void settle_stripe(FerryPageset *set, uint64_t stripe)
{
    if (atomic_load(&set->granule_words[stripe]) == 0) {
        atomic_fetch_and(&set->stripe_words[stripe / 64], ~(UINT64_C(1) << (stripe % 64)));
        if (atomic_load(&set->granule_words[stripe]) != 0) {
            announce(set->stripe_words, stripe);
        }
    }
}

int64_t ferry_pageset_next(FerryPageset *set, uint64_t from, unsigned share, unsigned nr_shares)
{
    uint64_t first_stripe = from / STRIPE_GRANULES;

    for (uint64_t i = first_stripe / 64; i < set->nr_stripe_words; i++) {
        uint64_t stripes = atomic_load(&set->stripe_words[i]);

        if (i == first_stripe / 64) {
            stripes &= UINT64_MAX << (first_stripe % 64);
        }
        while (stripes) {
            uint64_t stripe = i * 64 + (unsigned)__builtin_ctzll(stripes);
            uint64_t granules =
                atomic_load(&set->granule_words[stripe]) & share_mask(stripe, share, nr_shares);

            if (stripe == first_stripe) {
                granules &= UINT64_MAX << (from % STRIPE_GRANULES);
            }
            if (granules) {
                return (int64_t)(stripe * STRIPE_GRANULES + (unsigned)__builtin_ctzll(granules));
            }
            settle_stripe(set, stripe);
            stripes &= stripes - 1;
        }
    }
    return -1;
}

unsigned ferry_pageset_take(FerryPageset *set, uint64_t granule,
                            uint64_t pages[FERRY_GRANULE_WORDS])
{
    uint64_t bit = UINT64_C(1) << (granule % 64);
    unsigned nr = 0;

    if ((atomic_fetch_and(&set->granule_words[granule / 64], ~bit) & ~bit) == 0) {
        settle_stripe(set, granule / STRIPE_GRANULES);
    }
    for (unsigned i = 0; i < FERRY_GRANULE_WORDS; i++) {
        _Atomic uint64_t *word = &set->words[granule * FERRY_GRANULE_WORDS + i];

        pages[i] = atomic_load(word) ? atomic_exchange(word, 0) : 0;
        nr += (unsigned)__builtin_popcountll(pages[i]);
    }
    atomic_fetch_sub_explicit(&set->count, nr, memory_order_relaxed);
    return nr;
}

void ferry_pageset_move(FerryPageset *from, FerryPageset *to)
{
    uint64_t pages[FERRY_GRANULE_WORDS];

    for (int64_t granule = ferry_pageset_next(from, 0, 0, 1); granule >= 0;
         granule = ferry_pageset_next(from, (uint64_t)granule + 1, 0, 1)) {
        ferry_pageset_take(from, (uint64_t)granule, pages);
        ferry_pageset_add_granule(to, (uint64_t)granule, pages);
    }
}

int64_t ferry_pageset_clear_some(FerryPageset *set, uint64_t from, uint64_t max_granules)
{
    uint64_t pages[FERRY_GRANULE_WORDS];
    int64_t granule = ferry_pageset_next(set, from, 0, 1);

    for (uint64_t i = 0; i < max_granules && granule >= 0; i++) {
        ferry_pageset_take(set, (uint64_t)granule, pages);
        granule = ferry_pageset_next(set, (uint64_t)granule + 1, 0, 1);
    }
    return granule;
}

void ferry_pageset_clear(FerryPageset *set)
{
    ferry_pageset_clear_some(set, 0, UINT64_MAX);
}

static uint64_t resident_bytes(_Atomic uint64_t *words, uint64_t nr_words)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t nr_bytes = MAX(nr_words, 1) * sizeof(uint64_t);
    size_t nr = (nr_bytes + page - 1) / page;
    g_autofree unsigned char *resident = g_malloc0(nr);
    uint64_t total = 0;

    if (mincore((void *)words, nr_bytes, resident) < 0) {
        return nr_bytes;
    }
    for (size_t i = 0; i < nr; i++) {
        total += (resident[i] & 1) ? page : 0;
    }
    return total;
}

uint64_t ferry_pageset_memory_bytes(const FerryPageset *set)
{
    return resident_bytes(set->words, set->nr_words) +
           resident_bytes(set->granule_words, set->nr_granule_words) +
           resident_bytes(set->stripe_words, set->nr_stripe_words);
}
