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

uint64_t ferry_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}
