/*
 * Memory slots: which page an entry of a dirty ring is about.
 *
 * An entry names a slot by number and a page in it.  The caller says what each slot is; memory that
 * is none of a migration's has no meaning here.
 *
 * No lock of its own: one thread at a time.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_RING_SLOTS_H
#define FERRY_RING_SLOTS_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct FerryRingSlots FerryRingSlots;

/** FerryRingSlot: what page 0 of a slot is, and its length; 0: it holds nothing that migrates */
typedef struct FerryRingSlot {
    uint32_t region;
    uint64_t first_page;
    uint64_t nr_pages;
} FerryRingSlot;

/** FerryRingPage: a page number in a region */
typedef struct FerryRingPage {
    uint32_t region;
    uint64_t page;
} FerryRingPage;

/** ferry_ring_slots_new: no slot means anything yet; ferry_ring_slots_free() allows NULL */
FerryRingSlots *ferry_ring_slots_new(void);
void ferry_ring_slots_free(FerryRingSlots *slots);

/**
 * ferry_ring_slots_get: what a slot is
 * @number: KVM's number, with the address space in bits 16 to 31
 */
FerryRingSlot ferry_ring_slots_get(const FerryRingSlots *slots, uint32_t number);

/** ferry_ring_slots_set: what it is from now on; a number that KVM never uses is ignored */
void ferry_ring_slots_set(FerryRingSlots *slots, uint32_t number, FerryRingSlot slot);

/** ferry_ring_slots_resolve: which page an entry is about; false if none that migrates */
bool ferry_ring_slots_resolve(const FerryRingSlots *slots, const struct kvm_dirty_gfn *entry,
                              FerryRingPage *page);

#endif
