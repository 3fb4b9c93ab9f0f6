/*
 * Sorting entries of a KVM dirty ring.
 *
 * KVM resets up to 64 pages at once, with one look-up, one lock and one stretch of a page table,
 * when their entries follow one another in the ring.  A guest that writes here and there fills it
 * in no such order; but nothing obliges whoever collects to leave the entries as they are until
 * they are flagged for reset.  Pages in the order of memory are also sent in fewer frames.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_RING_SORT_H
#define FERRY_RING_SORT_H

#include <glib.h>
#include <linux/kvm.h>
#include <stdint.h>

typedef struct FerryRingSort FerryRingSort;

/* For rings of @nr_entries, a power of two. */
FerryRingSort *ferry_ring_sort_new(uint32_t nr_entries);
void ferry_ring_sort_free(FerryRingSort *sort);

/*
 * Sort the @nr entries from number @first on, of the ring of @entries, by slot and offset.  They
 * must have been looked at and not be flagged for reset, so that they are the caller's.  Entries
 * about no memory (of a slot that cannot be) leave all as it is.
 */
void ferry_ring_sort(FerryRingSort *sort, struct kvm_dirty_gfn *entries, uint32_t first,
                     uint32_t nr);

#endif
