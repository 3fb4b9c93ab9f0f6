/*
 * Sorting entries of a KVM dirty ring: see ring-sort.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "ring-sort.h"

#include <stdbool.h>

/* With fewer entries there are hardly two in a stretch of 64 pages. */
#define WORTH_ENTRIES 16

/* An entry as one number: 17 bits of slot (with its address space) and 47 bits of offset. */
#define OFFSET_BITS 47
#define SLOT_BITS   17

#define DIGIT_BITS   8
#define DIGIT_VALUES (1 << DIGIT_BITS)
#define NR_DIGITS    (64 / DIGIT_BITS)

struct FerryRingSort {
    uint32_t nr_entries;
    uint64_t *keys, *other; /* one for each entry */
};

FerryRingSort *ferry_ring_sort_new(uint32_t nr_entries)
{
    FerryRingSort *sort = g_new0(FerryRingSort, 1);

    sort->nr_entries = nr_entries;
    sort->keys = g_new(uint64_t, nr_entries);
    sort->other = g_new(uint64_t, nr_entries);
    return sort;
}

void ferry_ring_sort_free(FerryRingSort *sort)
{
    if (sort) {
        g_free(sort->keys);
        g_free(sort->other);
        g_free(sort);
    }
}

/* Returns the bits in which the keys differ; false when an entry has no key. */
static bool read_keys(FerryRingSort *sort, const struct kvm_dirty_gfn *entries, uint32_t first,
                      uint32_t nr, uint64_t *differ)
{
    *differ = 0;
    for (uint32_t i = 0; i < nr; i++) {
        const struct kvm_dirty_gfn *entry = &entries[(first + i) & (sort->nr_entries - 1)];

        if (entry->slot >> SLOT_BITS || entry->offset >> OFFSET_BITS) {
            return false;
        }
        sort->keys[i] = (uint64_t)entry->slot << OFFSET_BITS | entry->offset;
        *differ |= sort->keys[i] ^ sort->keys[0];
    }
    return true;
}

static void write_keys(const FerryRingSort *sort, struct kvm_dirty_gfn *entries, uint32_t first,
                       uint32_t nr)
{
    for (uint32_t i = 0; i < nr; i++) {
        struct kvm_dirty_gfn *entry = &entries[(first + i) & (sort->nr_entries - 1)];

        entry->slot = (uint32_t)(sort->keys[i] >> OFFSET_BITS);
        entry->offset = sort->keys[i] & ((UINT64_C(1) << OFFSET_BITS) - 1);
    }
}

/* Sort the keys by one of their digits; those with the same one stay in their order. */
static void sort_by_digit(FerryRingSort *sort, uint32_t nr, unsigned digit)
{
    uint32_t places[DIGIT_VALUES + 1] = {0};
    uint64_t *sorted = sort->other;

    for (uint32_t i = 0; i < nr; i++) {
        places[(sort->keys[i] >> digit * DIGIT_BITS) % DIGIT_VALUES + 1]++;
    }
    for (unsigned value = 1; value < DIGIT_VALUES; value++) {
        places[value] += places[value - 1];
    }
    for (uint32_t i = 0; i < nr; i++) {
        sorted[places[(sort->keys[i] >> digit * DIGIT_BITS) % DIGIT_VALUES]++] = sort->keys[i];
    }
    sort->other = sort->keys;
    sort->keys = sorted;
}

void ferry_ring_sort(FerryRingSort *sort, struct kvm_dirty_gfn *entries, uint32_t first,
                     uint32_t nr)
{
    uint64_t differ;

    g_assert(nr <= sort->nr_entries);
    if (nr < WORTH_ENTRIES || !read_keys(sort, entries, first, nr, &differ)) {
        return;
    }
    for (unsigned digit = 0; digit < NR_DIGITS; digit++) {
        if ((differ >> digit * DIGIT_BITS) % DIGIT_VALUES) {
            sort_by_digit(sort, nr, digit);
        }
    }
    write_keys(sort, entries, first, nr);
}
