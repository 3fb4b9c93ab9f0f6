/*
 * KVM's dirty rings: collected without stopping a vCPU, reset just before pages are read.
 *
 * With logging switched on in a memory slot, KVM write-protects the slot's pages; the first write
 * to one makes it writable and puts an entry (slot, offset) into the writing vCPU's ring.  The
 * life of an entry, by the flags in it:
 *
 *   KVM                        this file                          KVM
 *   ---                        ---------                          ---
 *   free -> DIRTY  ........>   seen: `noticed`; the page stays
 *                              writable, more writes cost nothing
 *                              ... until it is to be sent:
 *                              DIRTY -> RESET, ioctl  ........>   protects the page; RESET -> free
 *                              `report`: the page may be read
 *
 * Entries are reset in the order they were made, ring by ring: that is how KVM does it.  A thread
 * of its own looks at the rings every few milliseconds.  Entries held back must not fill a ring:
 * from three quarters full on (a small ring: half) the oldest ones are reset and reported `early`,
 * without being asked for.  If a ring fills all the same, its vCPU leaves KVM_RUN and has that one
 * ring drained by ferry_kvm_ring_full(); no other vCPU is disturbed, and no lock of QEMU's is taken.
 *
 * A vCPU whose instructions KVM emulates can overrun its ring, overwriting entries that nobody has
 * seen.  That is found (see ring-overrun.h), and ends the tracker with an error: another one must begin
 * from scratch.
 *
 * Knows KVM's interface only, no QEMU.  Any thread may call anything, unless said otherwise.
 *
 * Sources: Documentation/virt/kvm/api.rst, KVM_CAP_DIRTY_LOG_RING; virt/kvm/dirty_ring.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_KVM_RING_H
#define FERRY_KVM_RING_H

#include <glib.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#include "../migration/tracker.h"
#include "vcpu-ring.h"

typedef struct FerryKvmRing FerryKvmRing;

/**
 * ferry_kvm_ring_supported: entries per ring that @vm_fd's kernel allows, 0 without rings
 *
 * Rings whose entries are handed over with acquire and release (KVM_CAP_DIRTY_LOG_RING_ACQ_REL);
 * on x86 the older KVM_CAP_DIRTY_LOG_RING is the same.
 */
uint32_t ferry_kvm_ring_supported(int vm_fd);

/**
 * ferry_kvm_ring_new: rings of a VM whose ring capability is enabled
 * @vm_fd: the VM; stays the caller's, open until ferry_kvm_ring_free()
 * @nr_entries: size of each ring, a power of two
 */
FerryKvmRing *ferry_kvm_ring_new(int vm_fd, uint32_t nr_entries);

/** ferry_kvm_ring_free: frees @ring, which must be stopped; NULL is allowed */
void ferry_kvm_ring_free(FerryKvmRing *ring);

/**
 * ferry_kvm_ring_add_vcpu: a vCPU to look after
 * @vcpu: its index, for ferry_kvm_ring_full() and reports
 * @entries: its ring, mapped until ferry_kvm_ring_remove_vcpu()
 * @fetch: number of the first entry that was not reset yet (0 for a fresh vCPU)
 */
void ferry_kvm_ring_add_vcpu(FerryKvmRing *ring, unsigned vcpu, struct kvm_dirty_gfn *entries,
                             uint32_t fetch);

/**
 * ferry_kvm_ring_remove_vcpu: collect, reset and report what its ring holds, then forget it
 *
 * The vCPU must not run. Returns the number of the first entry that was not reset, for whoever
 * looks after the ring from then on.
 */
uint32_t ferry_kvm_ring_remove_vcpu(FerryKvmRing *ring, unsigned vcpu);

/**
 * ferry_kvm_ring_slots_begin, ferry_kvm_ring_slots_end: around changes of memory slots
 *
 * Between the two nothing is collected; the changes (KVM_SET_USER_MEMORY_REGION) are the caller's,
 * who tells of each with ferry_kvm_ring_set_slot(). Switching logging on or off is no change in
 * this sense. All calls come from one thread.
 *
 * While vCPUs run, a slot must be told to be gone when KVM has removed it, and before anything else
 * gets its number:
 *
 *     KVM removes slot 5  ->  set_slot(5, nothing)  ->  KVM makes a slot 5  ->  set_slot(5, what it is)
 */
void ferry_kvm_ring_slots_begin(FerryKvmRing *ring);
void ferry_kvm_ring_slots_end(FerryKvmRing *ring);

/**
 * ferry_kvm_ring_set_slot: what slot @slot is now, between begin and end
 * @slot: KVM's number, with the address space in bits 16 to 31
 * @region, @first_page: what the slot's page 0 is
 * @nr_pages: its length; 0 when the slot is gone, or holds no memory that migrates
 *
 * What was logged before this call is reported by the meaning that it had before.
 */
void ferry_kvm_ring_set_slot(FerryKvmRing *ring, uint32_t slot, uint32_t region,
                             uint64_t first_page, uint64_t nr_pages);

/**
 * ferry_kvm_ring_start: begin to collect, with a thread
 *
 * Slots and vCPUs may have been announced before. See FerryTrackerOps.start.
 */
bool ferry_kvm_ring_start(FerryKvmRing *ring, const FerryTrackerClient *client, GError **errp);

/** ferry_kvm_ring_stop: end it; leaves all rings empty. ferry_kvm_ring_start() may follow */
void ferry_kvm_ring_stop(FerryKvmRing *ring);

/** ferry_kvm_ring_harvest, ferry_kvm_ring_feed: as FerryTrackerOps has it */
bool ferry_kvm_ring_harvest(FerryKvmRing *ring, bool last, GError **errp);
bool ferry_kvm_ring_feed(FerryKvmRing *ring, uint64_t max_pages, uint64_t *left_pages,
                         GError **errp);
bool ferry_kvm_ring_check(FerryKvmRing *ring, GError **errp);

/**
 * ferry_kvm_ring_full: KVM_RUN of @vcpu ended with KVM_EXIT_DIRTY_RING_FULL
 *
 * To be called by the vCPU's thread, before it enters the guest again. Drains that ring.
 */
void ferry_kvm_ring_full(FerryKvmRing *ring, unsigned vcpu);

/**
 * ferry_kvm_ring_drain: collect, reset and report everything now
 *
 * For other users of the rings, who want each write from now on to be logged. Returns how many
 * entries were collected that had not been yet.
 */
uint64_t ferry_kvm_ring_drain(FerryKvmRing *ring);

/**
 * ferry_kvm_ring_set_fill: let rings fill, so that vCPUs leave the guest when they are full
 *
 * For QEMU's dirty limit, which slows a vCPU down at these exits. Entries are still looked at.
 */
void ferry_kvm_ring_set_fill(FerryKvmRing *ring, bool fill);

/** ferry_kvm_ring_query: statistics of each vCPU, a GArray of FerryKvmRingStats, the caller's */
GArray *ferry_kvm_ring_query(FerryKvmRing *ring);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(FerryKvmRing, ferry_kvm_ring_free)

#endif
