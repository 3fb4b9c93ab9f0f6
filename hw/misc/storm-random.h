/*
 * Numbers that look random, the same on every machine.
 *
 * SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014): all of
 * its state is one number, so it travels in eight bytes.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_STORM_RANDOM_H
#define FERRY_STORM_RANDOM_H

#include <stdint.h>

typedef struct FerryStormRandom {
    uint64_t state;
} FerryStormRandom;

__extension__ typedef unsigned __int128 FerryStormWide;

/* A number in which each bit depends on each bit of @x; one to one. */
static inline uint64_t ferry_storm_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static inline uint64_t ferry_storm_random_next(FerryStormRandom *random)
{
    random->state += UINT64_C(0x9e3779b97f4a7c15);
    return ferry_storm_mix(random->state);
}

/* The upper half of a product: of a random @a, a number from 0 to @b - 1. */
static inline uint64_t ferry_storm_scale(uint64_t a, uint64_t b)
{
    return (uint64_t)(((FerryStormWide)a * b) >> 64);
}

/* From 0 to @limit - 1; uniform but for one part in 2^64 / @limit. */
static inline uint64_t ferry_storm_random_below(FerryStormRandom *random, uint64_t limit)
{
    return ferry_storm_scale(ferry_storm_random_next(random), limit);
}

#endif
