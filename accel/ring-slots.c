/*
 * Memory slots: see ring-slots.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "ring-slots.h"

#include <glib.h>

/* Address spaces of a VM: x86 has two, the second for SMM. */
#define NR_SPACES 2

/* KVM's own limit on the number of a slot. */
#define SLOT_MAX 32767

struct FerryRingSlots {
    GArray *spaces[NR_SPACES]; /* of FerryRingSlot, by number */
};

FerryRingSlots *ferry_ring_slots_new(void)
{
    FerryRingSlots *slots = g_new0(FerryRingSlots, 1);

    for (unsigned i = 0; i < NR_SPACES; i++) {
        slots->spaces[i] = g_array_new(FALSE, TRUE, sizeof(FerryRingSlot));
    }
    return slots;
}

void ferry_ring_slots_free(FerryRingSlots *slots)
{
    if (slots) {
        for (unsigned i = 0; i < NR_SPACES; i++) {
            g_array_unref(slots->spaces[i]);
        }
        g_free(slots);
    }
}

/* NULL for a slot that was never told of. */
static FerryRingSlot *find_slot(const FerryRingSlots *slots, uint32_t number)
{
    uint32_t space = number >> 16, id = number & 0xffff;

    if (space >= NR_SPACES || id >= slots->spaces[space]->len) {
        return NULL;
    }
    return &g_array_index(slots->spaces[space], FerryRingSlot, id);
}

FerryRingSlot ferry_ring_slots_get(const FerryRingSlots *slots, uint32_t number)
{
    const FerryRingSlot *slot = find_slot(slots, number);

    return slot ? *slot : (FerryRingSlot){0};
}

void ferry_ring_slots_set(FerryRingSlots *slots, uint32_t number, FerryRingSlot slot)
{
    uint32_t space = number >> 16, id = number & 0xffff;

    if (space >= NR_SPACES || id > SLOT_MAX) {
        return;
    }
    if (id >= slots->spaces[space]->len) {
        g_array_set_size(slots->spaces[space], id + 1);
    }
    *find_slot(slots, number) = slot;
}

bool ferry_ring_slots_resolve(const FerryRingSlots *slots, const struct kvm_dirty_gfn *entry,
                              FerryRingPage *page)
{
    const FerryRingSlot *slot = find_slot(slots, entry->slot);

    if (!slot || entry->offset >= slot->nr_pages) {
        return false;
    }
    *page = (FerryRingPage){.region = slot->region, .page = slot->first_page + entry->offset};
    return true;
}
