/*
 * Which page a storm writes next.
 *
 * Integer arithmetic only, so that two hosts go on in the same way whatever their libraries.
 *
 * Threads: one at a time.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_STORM_PATTERN_H
#define FERRY_STORM_PATTERN_H

#include <stdint.h>

#include "storm-random.h"

typedef enum {
    /* One after the other, round and round. */
    FERRY_STORM_SEQUENTIAL,
    /* Any, all as likely. */
    FERRY_STORM_RANDOM,
    /*
     * The n-th most popular page is written in proportion to 1/n (Zipf's law with exponent 1). The
     * popular ones are scattered over the working set.
     */
    FERRY_STORM_ZIPF,
    /*
     * Nine writes of ten go to a hot spot, the others anywhere. When the spot has been written
     * through FERRY_STORM_HOT_TURNS times, on average, it moves on by its own length.
     */
    FERRY_STORM_HOT_SPOT,
    FERRY_STORM_NR_PATTERNS,
} FerryStormPatternKind;

#define FERRY_STORM_HOT_TURNS 4

/* 2^(i / STEPS), in units of 2^-62. */
#define FERRY_STORM_POWER_STEPS 256

/* How far it has come: this travels. */
typedef struct FerryStormPlace {
    FerryStormRandom random;
    uint64_t position;  /* the next page, if sequential */
    uint64_t hot_first; /* where the hot spot begins */
    uint64_t hot_left;  /* writes until it moves */
} FerryStormPlace;

typedef struct FerryStormPattern {
    FerryStormPatternKind kind;
    uint64_t nr_pages;  /* of the working set, at least 1 */
    uint64_t hot_pages; /* of the hot spot, 1 to nr_pages */

    FerryStormPlace place;

    /* Follow from nr_pages. */
    uint64_t log2_pages; /* log2(nr_pages + 1), in units of 2^-58 */
    uint64_t stride;     /* page of a rank: rank * stride, modulo nr_pages */
    uint64_t powers[FERRY_STORM_POWER_STEPS + 1];
} FerryStormPattern;

void ferry_storm_pattern_init(FerryStormPattern *pattern, uint64_t seed);

/*
 * @nr_pages: at least 1, less than 2^52. @hot_pages: brought into its bounds. It goes on where it
 * is, as far as that lies in the working set.
 */
void ferry_storm_pattern_set(FerryStormPattern *pattern, FerryStormPatternKind kind,
                             uint64_t nr_pages, uint64_t hot_pages);

uint64_t ferry_storm_pattern_next(FerryStormPattern *pattern);

#endif
