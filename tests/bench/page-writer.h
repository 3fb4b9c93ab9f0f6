/*
 * Who writes to a fake machine's memory while it is migrated, and what that costs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_BENCH_PAGE_WRITER_H
#define FERRY_BENCH_PAGE_WRITER_H

#include <time.h>

#include "tests/unit/fake-machine.h"
#include "tests/unit/raw-vm.h"

/* Of the machine's only region.  Counts go on from what they are set to. */
typedef struct PageWriter {
    FakePair *pair;    /* Required */
    uint64_t nr_pages; /* Required: as many as the region has */
    uint64_t step;     /* Required: one page of so many is written */
    uint64_t nr_writes;
    uint64_t nr_faults; /* of threads; nobody counts a vCPU's */
    double cpu_s;
    RawVm *vm;      /* page_writer_add_vcpu() */
    uint64_t value; /* written last */
    GThread *thread;
    _Atomic uint64_t nr_paired; /* pages sent for which the thread has written one */
    _Atomic bool stop;
} PageWriter;

static inline double clock_s(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Pages that the source has sent so far. */
uint64_t page_writer_nr_sent(const PageWriter *writer);

/* Write each of the pages once: in this thread, or on a vCPU under KVM if there is one. */
void page_writer_write_all(PageWriter *writer);
void page_writer_add_vcpu(PageWriter *writer);
void page_writer_clear(PageWriter *writer);

/*
 * From begin to end a thread writes a page at random for each that is sent: its rate does not
 * depend on what else the machine does.  To catch up is to wait until it has written all of them.
 */
void page_writer_begin(PageWriter *writer);
void page_writer_catch_up(PageWriter *writer);
void page_writer_end(PageWriter *writer);

#endif
