/*
 * Overrun recovery: KVM has written over entries of a dirty ring that nobody had taken.
 *
 * KVM makes a vCPU leave the guest before its ring has no entry free.  A vCPU whose instructions KVM
 * emulates can write on all the same, over older entries.  Nobody knows afterwards which pages they
 * named, so a collector has to give up, or take all pages for written.  The ring itself is out of
 * step, and its vCPU is stuck until the collector stands where KVM does.  An overrun shows as one of
 * these:
 *
 *   gap         KVM writes entries ahead of the collector, which stands before ones that KVM never
 *               fills.  The collector passes over them, as blank entries.
 *   lap         KVM is a whole ring ahead or more.  It calls the ring full although it is empty, at
 *               each entry into the guest.  The collector passes over blank entries, half a ring at
 *               a time.
 *   taken back  KVM wrote over entries that were flagged for reset.  It resets none of these, and
 *               none after them.  The collector steps back to the first of them.
 *
 * A gap and a lap show only when the vCPU goes on, which it does not after the last look of all.  But
 * what they begin with shows at once: no entry of the ring is free.  KVM keeps some free from a vCPU
 * whose instructions it does not emulate, so a ring that was full counts as overrun.
 *
 * Serves Ferry's collector (kvm-ring.h) and QEMU's own.  Touches a ring's entries and nothing else;
 * the caller holds the lock under which entries are taken, while KVM may write to the same ring.
 *
 * Sources: Documentation/virt/kvm/api.rst, KVM_CAP_DIRTY_LOG_RING; virt/kvm/dirty_ring.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_RING_OVERRUN_H
#define FERRY_RING_OVERRUN_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

/* No memory slot has this number, so KVM passes over an entry that names it: a blank one. */
#define FERRY_RING_SLOT_NONE UINT32_MAX

/**
 * FerryRing: a vCPU's ring, and where in it somebody stands
 * @entries: the ring, mapped
 * @nr_entries: its size, a power of two
 * @position: a number of an entry; KVM numbers them from 0 on, wrapping at 2^32
 */
typedef struct FerryRing {
    struct kvm_dirty_gfn *entries;
    uint32_t nr_entries;
    uint32_t position;
} FerryRing;

/** FerryRingLap: where a ring was empty when its vCPU last called it full; all zero at first */
typedef struct FerryRingLap {
    bool was_empty;
    uint32_t position;
} FerryRingLap;

/** ferry_ring_entry: the entry that is @nr after the position (before it, if negative) */
static inline struct kvm_dirty_gfn *ferry_ring_entry(const FerryRing *ring, int64_t nr)
{
    return &ring->entries[(ring->position + (uint32_t)nr) & (ring->nr_entries - 1)];
}

/** ferry_ring_entry_is_dirty: KVM has filled it, and it was not flagged since; it may be read */
static inline bool ferry_ring_entry_is_dirty(const struct kvm_dirty_gfn *entry)
{
    return __atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) == KVM_DIRTY_GFN_F_DIRTY;
}

/**
 * ferry_ring_was_full: @nr entries were in it, none of them reset by then, so it may have been overrun
 *
 * KVM keeps some in reserve: none of these is left.
 */
static inline bool ferry_ring_was_full(const FerryRing *ring, uint32_t nr)
{
    return nr >= ring->nr_entries;
}

/**
 * ferry_ring_find_gap: how many entries KVM has left out before those that it fills
 * @ring: at the first entry that was not taken
 * @nr: how many entries may be looked at from there on
 *
 * 0 if there is no gap, or nothing behind it.
 */
uint32_t ferry_ring_find_gap(const FerryRing *ring, uint32_t nr);

/**
 * ferry_ring_fill_blank: make @nr entries from the position on blank
 * @flags: KVM_DIRTY_GFN_F_DIRTY if they are to be taken like others, KVM_DIRTY_GFN_F_RESET if they
 *         count as taken and go with the next reset
 */
void ferry_ring_fill_blank(const FerryRing *ring, uint32_t nr, uint32_t flags);

/**
 * ferry_ring_is_stuck: the vCPU called an empty ring full; whether it did so here before
 * @ring: at the first entry that was not taken, with nothing held back
 * @lap: this ring's; what the call finds is noted there
 *
 * True means a lap: ferry_ring_lap_entries() of them have to be passed over.
 */
bool ferry_ring_is_stuck(const FerryRing *ring, FerryRingLap *lap);

/** ferry_ring_lap_entries: half of the ring, which is less than KVM believes to be in it */
uint32_t ferry_ring_lap_entries(const FerryRing *ring);

/**
 * ferry_ring_take_back: step back over entries that KVM was given to reset and did not
 * @ring: at the first entry that was not flagged; its position goes back
 * @nr_max: how many entries of all rings KVM did not reset
 * @blank: what was flagged is made blank, since it was taken once; else it is taken once more
 *
 * What KVM wrote over stays as it is. Returns over how many entries.
 */
uint32_t ferry_ring_take_back(FerryRing *ring, uint32_t nr_max, bool blank);

/**
 * ferry_ring_reset: have KVM protect the pages of all flagged entries, once
 * @reset: calls KVM_RESET_DIRTY_RINGS; the number of entries reset, or -errno, is returned
 *
 * Since Linux 6.16 a pending signal ends the system call early, and up to 64 pages whose entries it
 * has freed by then stay writable: nobody would ever hear of what the guest writes there. So
 * signals wait. What no signal mask keeps away is a completion of the calling thread's own requests
 * to io_uring, as QEMU's main thread and its vCPUs make them: so the call is made on a thread of its
 * own, unless the caller has said that it makes none. What cannot be made to wait (a debugger, the
 * freezer) shows in a count that is too small, unless nothing but those pages was left to be reset.
 */
int ferry_ring_reset(int (*reset)(void *opaque), void *opaque);

/** ferry_ring_resets_here: this thread never asks io_uring for anything */
void ferry_ring_resets_here(void);

#endif
