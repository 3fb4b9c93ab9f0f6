/*
 * Who waits for which missing page, since when; and how long that took.
 *
 * Threads: any.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_WAITERS_H
#define FERRY_WAITERS_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "../memory/pageset.h"
#include "../stats.h"

typedef struct FerryWaiters FerryWaiters;

typedef struct FerryWanted {
    uint32_t region;
    uint64_t page; /* the first of its unit */
} FerryWanted;

/* @missing: the pages of each region that are; it must outlive the waiters. */
FerryWaiters *ferry_waiters_new(FerryPageset *const *missing);
void ferry_waiters_free(FerryWaiters *waiters);

/* The threads of which it is told how long they had to wait: vCPUs. */
void ferry_waiters_set_vcpus(FerryWaiters *waiters, const uint32_t *threads, unsigned nr_threads);

/*
 * A thread (the kernel's number; 0 if that is not known) waits for a missing page.  True if nobody has
 * asked for it yet.
 */
bool ferry_waiters_add(FerryWaiters *waiters, uint32_t region, uint64_t page, uint32_t thread);

/* Pages in [@first, @end) may have been placed: those that are not missing any more are not waited for. */
void ferry_waiters_resolve(FerryWaiters *waiters, uint32_t region, uint64_t first, uint64_t end);

/* What is waited for: FerryWanted; the caller's to free. */
GArray *ferry_waiters_list(FerryWaiters *waiters);

/* The threads that wait, as far as they are known: uint32_t; the caller's to free. */
GArray *ferry_waiters_threads(FerryWaiters *waiters);

/* Nobody waits. */
void ferry_waiters_forget(FerryWaiters *waiters);

/* Fills in what of @stats is about waiting; how long each vCPU did is appended to @vcpu_ms, uint64_t. */
void ferry_waiters_query(FerryWaiters *waiters, FerryFetchStats *stats, GArray *vcpu_ms);

#endif
