/*
 * What a session tells about itself: see stats.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "stats.h"

#include <time.h>

void ferry_stats_clear(FerryStats *stats)
{
    g_clear_pointer(&stats->channels, g_array_unref);
    g_clear_pointer(&stats->rounds, g_array_unref);
}

void ferry_histogram_add(FerryHistogram *histogram, uint64_t ns)
{
    unsigned bucket = 0;

    for (uint64_t us = ns / 1000; us > 0 && bucket < FERRY_HISTOGRAM_BUCKETS - 1; us >>= 1) {
        bucket++;
    }
    histogram->counts[bucket]++;
    histogram->max_ns = MAX(histogram->max_ns, ns);
}

uint64_t ferry_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}
