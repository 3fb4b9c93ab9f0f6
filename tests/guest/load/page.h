/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a page of the test guests holds.
 *
 * Every page is a function of (seed, index, generation) and nothing else, so whoever knows the
 * generation a page should have can tell each way in which it can be wrong: lost (still zero),
 * misplaced (another index), stale (an older generation), or corrupt.
 */
#ifndef FERRY_GUEST_PAGE_H
#define FERRY_GUEST_PAGE_H

#include <stdbool.h>
#include <stdint.h>

#define PAGE_BYTES 4096
#define PAGE_WORDS (PAGE_BYTES / 8)

enum page_kind {
    PAGE_RANDOM,       /* no compressor finds anything */
    PAGE_COMPRESSIBLE, /* seven words of eight repeat: about 7:1 */
    PAGE_MIXED, /* by index and generation: half random, a quarter compressible, a quarter zero */
};

enum page_fault {
    PAGE_GOOD,
    PAGE_LOST,
    PAGE_MISPLACED,
    PAGE_STALE,
    PAGE_CORRUPT,
};

/* The stamp: the first words of every page that is not zero. */
#define STAMP_MAGIC 0x59525245464d5651ull
enum {
    STAMP_INDEX,
    STAMP_GENERATION,
    STAMP_SEED,
    STAMP_WORDS
};

static inline uint64_t page_mix(uint64_t x)
{
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93ull;
    x ^= x >> 29;
    return x;
}

static inline uint64_t page_base(uint64_t seed, uint64_t index, uint32_t generation)
{
    return page_mix(page_mix(seed + index * 0x9e3779b97f4a7c15ull) + generation);
}

/* How to make one page: looked up once, then page_word() for each word. */
struct page_recipe {
    uint64_t stamp[STAMP_WORDS];
    uint64_t base;
    bool zero;
    bool repeat;
};

static inline struct page_recipe page_recipe(enum page_kind kind, uint64_t seed, uint64_t index,
                                             uint32_t generation)
{
    struct page_recipe r = {
        .stamp = {STAMP_MAGIC ^ index, generation, seed},
        .base = page_base(seed, index, generation),
        .repeat = kind == PAGE_COMPRESSIBLE,
    };

    if (kind == PAGE_MIXED) {
        r.zero = (r.base & 3) == 0;
        r.repeat = (r.base & 3) == 1;
    }
    return r;
}

static inline uint64_t page_word(const struct page_recipe *r, unsigned int i)
{
    if (r->zero) {
        return 0;
    }
    if (i < STAMP_WORDS) {
        return r->stamp[i];
    }
    /* Never zero, so that no part of such a page looks like memory never written. */
    return r->repeat && (i & 7) ? r->base | 1 : page_mix(r->base + i * 0x9e3779b97f4a7c15ull) | 1;
}

static inline void page_write(volatile uint64_t *page, const struct page_recipe *r)
{
    for (unsigned int i = 0; i < PAGE_WORDS; i++) {
        page[i] = page_word(r, i);
    }
}

/* What is wrong with a page that should have been made by `r`. */
static inline enum page_fault page_check(const volatile uint64_t *page, const struct page_recipe *r)
{
    bool equal = true;
    uint64_t any = 0;

    for (unsigned int i = 0; i < PAGE_WORDS; i++) {
        uint64_t word = page[i];

        any |= word;
        equal &= word == page_word(r, i);
    }
    if (equal) {
        return PAGE_GOOD;
    }
    if (!any) {
        return PAGE_LOST;
    }
    if (r->zero) {
        return PAGE_STALE;
    }
    if (page[STAMP_INDEX] != r->stamp[STAMP_INDEX]) {
        return PAGE_MISPLACED;
    }
    return page[STAMP_GENERATION] != r->stamp[STAMP_GENERATION] ? PAGE_STALE : PAGE_CORRUPT;
}

#endif
