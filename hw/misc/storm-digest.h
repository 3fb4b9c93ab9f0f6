/*
 * Which generation each page should hold, in few bytes: sums over blocks of pages.
 *
 * Every state of a page has a number (0 if it is blank, otherwise the check of its stamp, 64 bits
 * that depend on page, generation and content). For each block two sums are kept, modulo 2^64: of
 * the numbers of its pages, and of those numbers weighted by the page's place in the block. A write
 * adds the difference between the new number and the one that it found. So a walk over all pages
 * that adds up what it finds must come to the same sums.
 *
 * Why nothing gets lost in it: let n be the number of a page as it was last written, and n' that of
 * the content that a faulty migration left there. From then on the kept sum is n - n' more than what
 * a walk finds. A later write takes off n', which it finds, and adds the new number: the kept
 * sum is still n - n' more. The error stays, even when the page itself looks good again. It goes
 * unnoticed only if differences cancel out in both sums, by chance one time in 2^64 or less.
 *
 * If just one page of a block is wrong, the weighted sum is off by its place times what the plain
 * sum is off, which tells the place. Blocks are of one page as long as there are few; with more pages,
 * neighbouring blocks are joined, which is exact.
 *
 * Threads: one at a time.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_STORM_DIGEST_H
#define FERRY_STORM_DIGEST_H

#include <stdint.h>

#define FERRY_STORM_MAX_BLOCKS 8192u

typedef struct FerryStormSums {
    uint64_t plain;
    uint64_t weighted; /* the first page of a block counts once, the second twice, ... */
} FerryStormSums;

typedef struct FerryStormDigest {
    uint64_t nr_pages;    /* one more than the highest page ever added */
    uint64_t block_pages; /* a power of two */
    FerryStormSums blocks[FERRY_STORM_MAX_BLOCKS];
} FerryStormDigest;

void ferry_storm_digest_init(FerryStormDigest *digest);

/* Of so many pages; all numbers are 0 that were not added. */
uint64_t ferry_storm_digest_nr_blocks(const FerryStormDigest *digest);

/* The number of @page, less than 2^52, has changed by @difference. */
void ferry_storm_digest_add(FerryStormDigest *digest, uint64_t page, uint64_t difference);

/* The page at @place of its block has the number @number. */
static inline void ferry_storm_sums_add(FerryStormSums *sums, uint64_t place, uint64_t number)
{
    sums->plain += number;
    sums->weighted += (place + 1) * number;
}

typedef enum {
    FERRY_STORM_SUMS_EQUAL,
    FERRY_STORM_SUMS_ONE_WRONG, /* most likely just one page */
    FERRY_STORM_SUMS_MORE_WRONG,
} FerryStormSumsResult;

/* What was kept against what was found, over @nr_pages pages; *@place is set for ONE_WRONG. */
FerryStormSumsResult ferry_storm_sums_compare(const FerryStormSums *kept,
                                              const FerryStormSums *found, uint64_t nr_pages,
                                              uint64_t *place);

#endif
