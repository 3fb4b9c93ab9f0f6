/*
 * Overrun recovery: see ring-overrun.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "ring-overrun.h"

#include <pthread.h>
#include <signal.h>

#include "../migration/thread.h"

uint32_t ferry_ring_find_gap(const FerryRing *ring, uint32_t nr)
{
    for (uint32_t i = 0; i < nr; i++) {
        if (ferry_ring_entry_is_dirty(ferry_ring_entry(ring, i))) {
            /* The vCPU may run, and have filled those before it since they were looked at. */
            while (i > 0 && ferry_ring_entry_is_dirty(ferry_ring_entry(ring, i - 1))) {
                i--;
            }
            return i;
        }
    }
    return 0;
}

void ferry_ring_fill_blank(const FerryRing *ring, uint32_t nr, uint32_t flags)
{
    for (uint32_t i = 0; i < nr; i++) {
        struct kvm_dirty_gfn *entry = ferry_ring_entry(ring, i);

        entry->slot = FERRY_RING_SLOT_NONE;
        entry->offset = 0;
        __atomic_store_n(&entry->flags, flags, __ATOMIC_RELEASE);
    }
}

bool ferry_ring_is_stuck(const FerryRing *ring, FerryRingLap *lap)
{
    bool is_stuck = lap->was_empty && lap->position == ring->position;

    /* Once it is passed over, the vCPU has to call the ring full twice again. */
    *lap = (FerryRingLap){.was_empty = !is_stuck, .position = ring->position};
    return is_stuck;
}

uint32_t ferry_ring_lap_entries(const FerryRing *ring)
{
    return ring->nr_entries / 2;
}

uint32_t ferry_ring_take_back(FerryRing *ring, uint32_t nr_max, bool blank)
{
    uint32_t nr = 0;

    for (; nr < nr_max; nr++) {
        struct kvm_dirty_gfn *entry = ferry_ring_entry(ring, -1);
        uint32_t flags = __atomic_load_n(&entry->flags, __ATOMIC_RELAXED);

        if (!flags) {
            break;
        }
        /* No longer flagged, lest KVM take more of them the next time than it is given. */
        if (flags != KVM_DIRTY_GFN_F_DIRTY) {
            if (blank) {
                entry->slot = FERRY_RING_SLOT_NONE;
            }
            __atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_DIRTY, __ATOMIC_RELEASE);
        }
        ring->position--;
    }
    return nr;
}

static _Thread_local bool resets_here;

void ferry_ring_resets_here(void)
{
    resets_here = true;
}

static int reset_undisturbed(int (*reset)(void *opaque), void *opaque)
{
    sigset_t all, before;
    int nr;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    nr = reset(opaque);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return nr;
}

typedef struct Reset {
    int (*reset)(void *opaque);
    void *opaque;
    int nr;
} Reset;

static gpointer reset_run(gpointer opaque)
{
    Reset *reset = opaque;

    reset->nr = reset_undisturbed(reset->reset, reset->opaque);
    return NULL;
}

int ferry_ring_reset(int (*reset)(void *opaque), void *opaque)
{
    Reset there = {.reset = reset, .opaque = opaque};
    GThread *thread = resets_here ? NULL : ferry_thread_new("ferry-reset", reset_run, &there, NULL);

    if (!thread) {
        return reset_undisturbed(reset, opaque);
    }
    g_thread_join(thread);
    return there.nr;
}
