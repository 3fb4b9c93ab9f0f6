/*
 * Which page a storm writes next: see storm-pattern.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <glib.h>

#include "storm-pattern.h"

/* Fractional bits of a logarithm, of a power, and of a power's place between two steps. */
#define LOG_BITS   58
#define POWER_BITS 62
#define STEP_BITS  8

G_STATIC_ASSERT(FERRY_STORM_POWER_STEPS == 1 << STEP_BITS);

/* One write of so many goes anywhere, not to the hot spot. */
#define HOT_ONE_IN 10

static uint64_t square_root(FerryStormWide x)
{
    uint64_t root = 0;

    for (uint64_t bit = UINT64_C(1) << 63; bit; bit >>= 1) {
        uint64_t next = root | bit;

        if ((FerryStormWide)next * next <= x) {
            root = next;
        }
    }
    return root;
}

/* Each step a product of 2^(1/2), 2^(1/4), ... as the bits of its number say. */
static void compute_powers(uint64_t powers[])
{
    uint64_t roots[STEP_BITS];
    uint64_t root = UINT64_C(2) << POWER_BITS;

    for (unsigned i = 0; i < STEP_BITS; i++) {
        root = square_root((FerryStormWide)root << POWER_BITS);
        roots[i] = root;
    }
    for (unsigned step = 0; step < FERRY_STORM_POWER_STEPS; step++) {
        FerryStormWide power = UINT64_C(1) << POWER_BITS;

        for (unsigned i = 0; i < STEP_BITS; i++) {
            if (step & (1u << (STEP_BITS - 1 - i))) {
                power = (power * roots[i]) >> POWER_BITS;
            }
        }
        powers[step] = (uint64_t)power;
    }
    powers[FERRY_STORM_POWER_STEPS] = UINT64_C(2) << POWER_BITS;
}

/* In units of 2^-LOG_BITS: bit by bit, by squaring. */
static uint64_t log2_of(uint64_t x)
{
    unsigned whole = 63 - (unsigned)__builtin_clzll(x);
    uint64_t log = (uint64_t)whole << LOG_BITS;
    /* From 1 to below 2, in units of 2^-63. */
    uint64_t mantissa = x << (63 - whole);

    for (uint64_t bit = UINT64_C(1) << (LOG_BITS - 1); bit; bit >>= 1) {
        FerryStormWide square = (FerryStormWide)mantissa * mantissa;

        if (square >> 127) {
            log |= bit;
            mantissa = (uint64_t)(square >> 64);
        } else {
            mantissa = (uint64_t)(square >> 63);
        }
    }
    return log;
}

static uint64_t greatest_common_divisor(uint64_t a, uint64_t b)
{
    while (b) {
        uint64_t rest = a % b;

        a = b;
        b = rest;
    }
    return a;
}

/* Something near the golden ratio, so that neighbours in rank are far apart. */
static uint64_t choose_stride(uint64_t nr_pages)
{
    uint64_t stride = ferry_storm_scale(UINT64_C(0x9e3779b97f4a7c15), nr_pages);

    while (greatest_common_divisor(stride, nr_pages) != 1) {
        stride++;
    }
    return stride;
}

void ferry_storm_pattern_init(FerryStormPattern *pattern, uint64_t seed)
{
    *pattern = (FerryStormPattern){.place.random.state = ferry_storm_mix(seed)};
    compute_powers(pattern->powers);
    ferry_storm_pattern_set(pattern, FERRY_STORM_SEQUENTIAL, 1, 1);
}

void ferry_storm_pattern_set(FerryStormPattern *pattern, FerryStormPatternKind kind,
                             uint64_t nr_pages, uint64_t hot_pages)
{
    pattern->kind = kind;
    if (nr_pages != pattern->nr_pages) {
        pattern->nr_pages = nr_pages;
        pattern->log2_pages = log2_of(nr_pages + 1);
        pattern->stride = choose_stride(nr_pages);
    }
    pattern->hot_pages = CLAMP(hot_pages, 1, nr_pages);
    pattern->place.position %= nr_pages;
    pattern->place.hot_first %= nr_pages;
    pattern->place.hot_left =
        MIN(pattern->place.hot_left, FERRY_STORM_HOT_TURNS * pattern->hot_pages);
}

/* 2 to a power that is uniform from 0 to log2(n + 1) is at most k + 1 in proportion to log(k + 1). */
static uint64_t next_by_zipf(FerryStormPattern *pattern)
{
    uint64_t log =
        ferry_storm_scale(ferry_storm_random_next(&pattern->place.random), pattern->log2_pages);
    unsigned whole = (unsigned)(log >> LOG_BITS);
    uint64_t fraction = log & ((UINT64_C(1) << LOG_BITS) - 1);
    unsigned step = (unsigned)(fraction >> (LOG_BITS - STEP_BITS));
    uint64_t rest = fraction << (64 - LOG_BITS + STEP_BITS);
    uint64_t power = pattern->powers[step];
    uint64_t rank;

    power += ferry_storm_scale(rest, pattern->powers[step + 1] - power);
    rank = MIN(power >> (POWER_BITS - whole), pattern->nr_pages) - 1;
    return (uint64_t)((FerryStormWide)rank * pattern->stride % pattern->nr_pages);
}

static uint64_t next_by_hot_spot(FerryStormPattern *pattern)
{
    if (pattern->place.hot_left == 0) {
        pattern->place.hot_first =
            (pattern->place.hot_first + pattern->hot_pages) % pattern->nr_pages;
        pattern->place.hot_left = FERRY_STORM_HOT_TURNS * pattern->hot_pages;
    }
    pattern->place.hot_left--;
    if (ferry_storm_random_below(&pattern->place.random, HOT_ONE_IN) == 0) {
        return ferry_storm_random_below(&pattern->place.random, pattern->nr_pages);
    }
    return (pattern->place.hot_first +
            ferry_storm_random_below(&pattern->place.random, pattern->hot_pages)) %
           pattern->nr_pages;
}

uint64_t ferry_storm_pattern_next(FerryStormPattern *pattern)
{
    uint64_t page;

    switch (pattern->kind) {
    case FERRY_STORM_RANDOM:
        return ferry_storm_random_below(&pattern->place.random, pattern->nr_pages);
    case FERRY_STORM_ZIPF:
        return next_by_zipf(pattern);
    case FERRY_STORM_HOT_SPOT:
        return next_by_hot_spot(pattern);
    default:
        page = pattern->place.position;
        pattern->place.position = page + 1 == pattern->nr_pages ? 0 : page + 1;
        return page;
    }
}
