/*
 * What several runs of a benchmark took
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_BENCH_SAMPLES_H
#define FERRY_BENCH_SAMPLES_H

#include <stdlib.h>

static inline int compare_samples(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Sorts @samples, so that the first is the least afterwards. */
static inline double samples_median(double *samples, size_t nr)
{
    qsort(samples, nr, sizeof(samples[0]), compare_samples);
    return samples[nr / 2];
}

#endif
