/*
 * Having the kernel swap out some memory of ours
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_TESTS_UNIT_PAGE_OUT_H
#define FERRY_TESTS_UNIT_PAGE_OUT_H

#include <sched.h>
#include <stdbool.h>
#include <sys/mman.h>

/*
 * Asks for it on each CPU that we may run on: a page that was touched a moment ago may still be in a batch of the
 * CPU's where that was, and only that CPU takes it from there.  Returns whether the kernel has such a request.
 */
static inline bool page_out(void *start, size_t nr_bytes)
{
    cpu_set_t all;
    bool can = true;

    if (sched_getaffinity(0, sizeof(all), &all) != 0) {
        return madvise(start, nr_bytes, MADV_PAGEOUT) == 0;
    }
    for (int cpu = 0; cpu < CPU_SETSIZE && can; cpu++) {
        if (CPU_ISSET(cpu, &all)) {
            cpu_set_t one;

            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            (void)sched_setaffinity(0, sizeof(one), &one);
            can = madvise(start, nr_bytes, MADV_PAGEOUT) == 0;
        }
    }
    (void)sched_setaffinity(0, sizeof(all), &all);
    return can;
}

#endif
