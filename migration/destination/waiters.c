/*
 * Who waits for which missing page: see waiters.h.
 *
 * Threads: any; all of it is under the lock of the waiters.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "waiters.h"

#include <stdatomic.h>

#include "../clock.h"
#include "../events.h"

typedef struct Pending {
    FerryWanted wanted;
    uint32_t thread;
    uint64_t since_ns;
} Pending;

typedef struct Vcpu {
    uint32_t thread;
    uint64_t since_ns; /* waits since then; 0: does not wait */
    uint64_t waited_ns;
} Vcpu;

struct FerryWaiters {
    FerryPageset *const *missing;
    _Atomic unsigned nr_pending; /* a hint, so that most placing need not take the lock */

    GMutex lock; /* for what follows */
    GArray *pending;
    GArray *vcpus;
    unsigned nr_waiting; /* vCPUs */
    uint64_t all_since_ns, all_waited_ns;
    uint64_t faults;
    FerryLatency latency;
};

FerryWaiters *ferry_waiters_new(FerryPageset *const *missing)
{
    FerryWaiters *waiters = g_new0(FerryWaiters, 1);

    waiters->missing = missing;
    g_mutex_init(&waiters->lock);
    waiters->pending = g_array_new(FALSE, FALSE, sizeof(Pending));
    waiters->vcpus = g_array_new(FALSE, FALSE, sizeof(Vcpu));
    return waiters;
}

void ferry_waiters_free(FerryWaiters *waiters)
{
    g_mutex_clear(&waiters->lock);
    g_array_unref(waiters->pending);
    g_array_unref(waiters->vcpus);
    g_free(waiters);
}

void ferry_waiters_set_vcpus(FerryWaiters *waiters, const uint32_t *threads, unsigned nr_threads)
{
    g_mutex_lock(&waiters->lock);
    g_array_set_size(waiters->vcpus, 0);
    for (unsigned i = 0; i < nr_threads; i++) {
        Vcpu vcpu = {.thread = threads[i]};

        g_array_append_val(waiters->vcpus, vcpu);
    }
    g_mutex_unlock(&waiters->lock);
}

/* With the lock held; so are the next two. */
static Vcpu *find_vcpu(FerryWaiters *waiters, uint32_t thread)
{
    for (guint i = 0; i < waiters->vcpus->len; i++) {
        Vcpu *vcpu = &g_array_index(waiters->vcpus, Vcpu, i);

        if (vcpu->thread == thread) {
            return vcpu;
        }
    }
    return NULL;
}

/* Number @index of what is pending is not any more. */
static void resolve(FerryWaiters *waiters, guint index, uint64_t now_ns)
{
    const Pending *pending = &g_array_index(waiters->pending, Pending, index);
    Vcpu *vcpu = find_vcpu(waiters, pending->thread);

    ferry_event(fault_answered, pending->wanted.region, pending->wanted.page,
                now_ns - pending->since_ns);
    ferry_latency_add(&waiters->latency, now_ns - pending->since_ns);
    if (vcpu && vcpu->since_ns) {
        if (waiters->nr_waiting-- == waiters->vcpus->len) {
            waiters->all_waited_ns += now_ns - waiters->all_since_ns;
        }
        vcpu->waited_ns += now_ns - vcpu->since_ns;
        vcpu->since_ns = 0;
    }
    g_array_remove_index_fast(waiters->pending, index);
    atomic_store(&waiters->nr_pending, waiters->pending->len);
}

static void resolve_range(FerryWaiters *waiters, uint32_t region, uint64_t first, uint64_t end)
{
    uint64_t now_ns = ferry_now_ns();

    for (guint i = waiters->pending->len; i-- > 0;) {
        const FerryWanted *wanted = &g_array_index(waiters->pending, Pending, i).wanted;

        if (wanted->region == region && wanted->page >= first && wanted->page < end &&
            !(ferry_pageset_get(waiters->missing[region], wanted->page / 64) >>
                  (wanted->page % 64) &
              1)) {
            resolve(waiters, i, now_ns);
        }
    }
}

bool ferry_waiters_add(FerryWaiters *waiters, uint32_t region, uint64_t page, uint32_t thread)
{
    Pending new = {
        .wanted = {.region = region, .page = page},
        .thread = thread,
        .since_ns = ferry_now_ns(),
    };
    bool asked = false, waits = false;
    Vcpu *vcpu;

    g_mutex_lock(&waiters->lock);
    for (guint i = waiters->pending->len; i-- > 0;) {
        const Pending *pending = &g_array_index(waiters->pending, Pending, i);
        bool same_page = pending->wanted.region == region && pending->wanted.page == page;

        asked |= same_page;
        if (thread && pending->thread == thread) {
            /* It was woken, and came back: for the same page or for another one. */
            if (same_page) {
                waits = true;
            } else {
                resolve(waiters, i, new.since_ns);
            }
        }
    }
    if (!waits) {
        vcpu = find_vcpu(waiters, thread);
        if (vcpu) {
            vcpu->since_ns = new.since_ns;
            if (++waiters->nr_waiting == waiters->vcpus->len) {
                waiters->all_since_ns = new.since_ns;
            }
        }
        waiters->faults++;
        g_array_append_val(waiters->pending, new);
        atomic_store(&waiters->nr_pending, waiters->pending->len);
        /* It may have been placed just before it was noted that somebody waits for it. */
        resolve_range(waiters, region, page, page + 1);
    }
    g_mutex_unlock(&waiters->lock);
    return !asked;
}

void ferry_waiters_resolve(FerryWaiters *waiters, uint32_t region, uint64_t first, uint64_t end)
{
    if (atomic_load(&waiters->nr_pending)) {
        g_mutex_lock(&waiters->lock);
        resolve_range(waiters, region, first, end);
        g_mutex_unlock(&waiters->lock);
    }
}

GArray *ferry_waiters_list(FerryWaiters *waiters)
{
    GArray *list = g_array_new(FALSE, FALSE, sizeof(FerryWanted));

    g_mutex_lock(&waiters->lock);
    for (guint i = 0; i < waiters->pending->len; i++) {
        g_array_append_val(list, g_array_index(waiters->pending, Pending, i).wanted);
    }
    g_mutex_unlock(&waiters->lock);
    return list;
}

GArray *ferry_waiters_threads(FerryWaiters *waiters)
{
    GArray *threads = g_array_new(FALSE, FALSE, sizeof(uint32_t));

    g_mutex_lock(&waiters->lock);
    for (guint i = 0; i < waiters->pending->len; i++) {
        uint32_t thread = g_array_index(waiters->pending, Pending, i).thread;

        if (thread) {
            g_array_append_val(threads, thread);
        }
    }
    g_mutex_unlock(&waiters->lock);
    return threads;
}

void ferry_waiters_forget(FerryWaiters *waiters)
{
    g_mutex_lock(&waiters->lock);
    g_array_set_size(waiters->pending, 0);
    atomic_store(&waiters->nr_pending, 0);
    for (guint i = 0; i < waiters->vcpus->len; i++) {
        g_array_index(waiters->vcpus, Vcpu, i).since_ns = 0;
    }
    waiters->nr_waiting = 0;
    g_mutex_unlock(&waiters->lock);
}

void ferry_waiters_query(FerryWaiters *waiters, FerryFetchStats *stats, GArray *vcpu_ms)
{
    uint64_t now_ns = ferry_now_ns(), all_ns;

    g_mutex_lock(&waiters->lock);
    /* What is waited for still counts until now. */
    all_ns = waiters->all_waited_ns;
    if (waiters->vcpus->len && waiters->nr_waiting == waiters->vcpus->len) {
        all_ns += now_ns - waiters->all_since_ns;
    }
    stats->faults = waiters->faults;
    stats->latency = waiters->latency;
    stats->all_blocked_ms = all_ns / 1000000;
    for (guint i = 0; i < waiters->vcpus->len; i++) {
        const Vcpu *vcpu = &g_array_index(waiters->vcpus, Vcpu, i);
        uint64_t ms = (vcpu->waited_ns + (vcpu->since_ns ? now_ns - vcpu->since_ns : 0)) / 1000000;

        g_array_append_val(vcpu_ms, ms);
    }
    g_mutex_unlock(&waiters->lock);
}
