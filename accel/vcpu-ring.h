/*
 * One vCPU's dirty ring: what is new in it, what is held back, what is flagged for reset.
 *
 * kvm-ring.h tells the life of an entry.  Entries are numbered as KVM numbers them, and one ring is
 * at any time
 *
 *     free          flagged, to be reset       held back                new, not looked at
 *     ............ | ........................ | ..................... | ......................
 *                                             reset                   seen
 *
 * with the round's end between reset and seen, or before both.
 *
 * All of it runs under one lock, the owner's of the whole set.  The kernel and this file share the
 * entries themselves:
 *
 *   KVM, on the vCPU                 here                            KVM, in the ioctl
 *   ----------------                 ----                            -----------------
 *   fill slot and offset
 *   flags := DIRTY (release)
 *                                    flags == DIRTY (acquire)
 *                                    read slot and offset
 *                                    ...
 *                                    copy slot and offset
 *                                    flags := RESET (release)
 *                                                                    flags == RESET (acquire)
 *                                                                    protect the page
 *                                                                    flags := 0
 *   may fill it again
 *                                    report the copy
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_VCPU_RING_H
#define FERRY_VCPU_RING_H

#include <glib.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#include "../migration/tracker.h"
#include "ring-slots.h"
#include "ring-sort.h"

typedef struct FerryVcpuRing FerryVcpuRing;

/**
 * FerryKvmRingStats: one vCPU's ring, since ferry_kvm_ring_start()
 * @vcpu: index of the vCPU
 * @collected: entries found
 * @full_exits: times the vCPU left the guest because its ring was full
 * @resets: entries reset, hence pages protected again
 * @forced_resets: those of them that were reset because the ring was filling
 * @redirtied: entries for a page that had been reported in the same round or the one before
 */
typedef struct FerryKvmRingStats {
    unsigned vcpu;
    uint64_t collected;
    uint64_t full_exits;
    uint64_t resets;
    uint64_t forced_resets;
    uint64_t redirtied;
} FerryKvmRingStats;

/**
 * FerryRingSet: what all rings of a VM share
 * @nr_entries: size of each, a power of two
 * @slots: what entries are about
 * @sort: for entries of one ring at a time
 * @client: told of new entries (noticed), while it is started
 * @batch: of FerryRingPage, to be reported once the flagged entries are reset
 * @nr_flagged: entries flagged for reset, with the system call to come
 * @overrun: a ring was overrun, that of @overrun_vcpu first
 */
typedef struct FerryRingSet {
    uint32_t nr_entries;
    FerryRingSlots *slots;
    FerryRingSort *sort;
    FerryTrackerClient client;
    GArray *batch;
    uint32_t nr_flagged;
    bool overrun;
    unsigned overrun_vcpu;
} FerryRingSet;

/**
 * ferry_vcpu_ring_new: a ring of @set, which must outlive it; freed by g_free()
 * @vcpu: the vCPU's index, for reports
 * @entries: the ring, mapped as long
 * @fetch: number of the first entry that was not reset yet
 */
FerryVcpuRing *ferry_vcpu_ring_new(FerryRingSet *set, unsigned vcpu, struct kvm_dirty_gfn *entries,
                                   uint32_t fetch);

/** ferry_vcpu_ring_begin: a new session of tracking; counts from 0 */
void ferry_vcpu_ring_begin(FerryVcpuRing *ring);

/** ferry_vcpu_ring_stats: what was counted since; the ring's own, to be read */
const FerryKvmRingStats *ferry_vcpu_ring_stats(const FerryVcpuRing *ring);

/** ferry_vcpu_ring_fetch: the number of the first entry that is not reset */
uint32_t ferry_vcpu_ring_fetch(const FerryVcpuRing *ring);

/** ferry_vcpu_ring_nr_held: how many entries are held back, */
uint32_t ferry_vcpu_ring_nr_held(const FerryVcpuRing *ring);

/** ferry_vcpu_ring_nr_left: and how many of them belong to the round */
uint32_t ferry_vcpu_ring_nr_left(const FerryVcpuRing *ring);

/** ferry_vcpu_ring_look: take notice of what is new; returns how many entries */
uint32_t ferry_vcpu_ring_look(FerryVcpuRing *ring);

/** ferry_vcpu_ring_end_round: what was looked at so far is the round's */
void ferry_vcpu_ring_end_round(FerryVcpuRing *ring);

/** ferry_vcpu_ring_notice_again: take notice of all that is held back once more */
void ferry_vcpu_ring_notice_again(const FerryVcpuRing *ring);

/** ferry_vcpu_ring_sort: bring the round's entries into the order in which they cost least to reset */
void ferry_vcpu_ring_sort(FerryVcpuRing *ring);

/** ferry_vcpu_ring_flag: flag the @nr oldest entries for reset, and put their pages in the batch */
void ferry_vcpu_ring_flag(FerryVcpuRing *ring, uint32_t nr);
void ferry_vcpu_ring_flag_all(FerryVcpuRing *ring);

/** ferry_vcpu_ring_trim: flag the oldest entries of a ring that is filling, see kvm-ring.h */
void ferry_vcpu_ring_trim(FerryVcpuRing *ring);

/** ferry_vcpu_ring_make_room: its vCPU left the guest because it is full: flag most of it */
void ferry_vcpu_ring_make_room(FerryVcpuRing *ring);

/** ferry_vcpu_ring_take_back: hold back again what is flagged and KVM will not reset */
void ferry_vcpu_ring_take_back(FerryVcpuRing *ring);

/**
 * ferry_vcpu_ring_list_last: the vCPU has stopped; put the pages of what is held back in the batch,
 * without flagging it
 * @new_only: leave out what belongs to the round, which takes no time
 *
 * Finds out if there is more in the ring where nobody looks.
 */
void ferry_vcpu_ring_list_last(FerryVcpuRing *ring, bool new_only);

#endif
