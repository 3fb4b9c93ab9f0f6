/*
 * What a session tells about itself: see stats.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "stats.h"

void ferry_stats_clear(FerryStats *stats)
{
    g_clear_pointer(&stats->channels, g_array_unref);
    g_clear_pointer(&stats->rounds, g_array_unref);
    g_clear_pointer(&stats->vcpu_blocked_ms, g_array_unref);
}

void ferry_stats_copy(FerryStats *to, const FerryStats *from)
{
    *to = *from;
    g_array_ref(to->channels);
    g_array_ref(to->rounds);
    if (to->vcpu_blocked_ms) {
        g_array_ref(to->vcpu_blocked_ms);
    }
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

/*
 * Bucket 0 takes less than 1 us.  After that, FERRY_LATENCY_STEPS linear ones for each doubling; as
 * long as there are fewer microseconds than steps in it, some stay empty.
 */
static unsigned latency_bucket(uint64_t ns)
{
    uint64_t us = ns / 1000;
    unsigned octave, step;

    if (us == 0) {
        return 0;
    }
    octave = 63 - (unsigned)__builtin_clzll(us);
    step = (unsigned)(((us - (UINT64_C(1) << octave)) * FERRY_LATENCY_STEPS) >> octave);
    return MIN(1 + octave * FERRY_LATENCY_STEPS + step, FERRY_LATENCY_BUCKETS - 1);
}

/* What everything in it is below. */
static uint64_t latency_bound_ns(unsigned bucket)
{
    uint64_t octave_us, octave, step;

    if (bucket == 0) {
        return 1000;
    }
    octave = (bucket - 1) / FERRY_LATENCY_STEPS;
    step = (bucket - 1) % FERRY_LATENCY_STEPS + 1;
    octave_us = UINT64_C(1) << octave;
    return octave_us * 1000 + octave_us * 1000 * step / FERRY_LATENCY_STEPS;
}

void ferry_latency_add(FerryLatency *latency, uint64_t ns)
{
    latency->counts[latency_bucket(ns)]++;
    latency->nr++;
    latency->max_ns = MAX(latency->max_ns, ns);
}

uint64_t ferry_latency_percentile(const FerryLatency *latency, unsigned per_100k)
{
    uint64_t wanted = (latency->nr * per_100k + 99999) / 100000, seen = 0;

    for (unsigned i = 0; i < FERRY_LATENCY_BUCKETS && wanted; i++) {
        seen += latency->counts[i];
        if (seen >= wanted) {
            return MIN(latency_bound_ns(i), latency->max_ns);
        }
    }
    return 0;
}
