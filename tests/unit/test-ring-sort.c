/*
 * Entries of dirty rings are sorted, none is lost, and what lies around them is left alone
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/ring-sort.h"

#include <stdlib.h>
#include <string.h>

#define NR_ENTRIES 1024

typedef struct kvm_dirty_gfn Entry;

static int compare_entries(const void *a, const void *b)
{
    const Entry *x = a, *y = b;

    if (x->slot != y->slot) {
        return x->slot < y->slot ? -1 : 1;
    }
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static void fill(Entry *entries, uint32_t nr_slots, uint64_t nr_offsets)
{
    for (unsigned i = 0; i < NR_ENTRIES; i++) {
        uint64_t high = (uint32_t)g_test_rand_int(), low = (uint32_t)g_test_rand_int();

        entries[i] = (Entry){.flags = KVM_DIRTY_GFN_F_DIRTY,
                             .slot = (uint32_t)g_test_rand_int() % nr_slots,
                             .offset = (high << 32 | low) % nr_offsets};
    }
}

/* Sort some of a ring and compare it with what qsort() makes of them. */
static void check(uint32_t nr_slots, uint64_t nr_offsets, uint32_t first, uint32_t nr)
{
    FerryRingSort *sort = ferry_ring_sort_new(NR_ENTRIES);
    Entry ring[NR_ENTRIES], before[NR_ENTRIES], wanted[NR_ENTRIES] = {{0}};

    fill(ring, nr_slots, nr_offsets);
    memcpy(before, ring, sizeof(ring));
    for (uint32_t i = 0; i < nr; i++) {
        wanted[i] = ring[(first + i) % NR_ENTRIES];
    }
    qsort(wanted, nr, sizeof(Entry), compare_entries);
    ferry_ring_sort(sort, ring, first, nr);
    for (uint32_t i = 0; i < NR_ENTRIES; i++) {
        uint32_t at = (first + i) % NR_ENTRIES;
        const Entry *entry = i < nr ? &wanted[i] : &before[at];

        g_assert_cmpuint(ring[at].flags, ==, KVM_DIRTY_GFN_F_DIRTY);
        g_assert_cmpuint(ring[at].slot, ==, entry->slot);
        g_assert_cmpuint(ring[at].offset, ==, entry->offset);
    }
    ferry_ring_sort_free(sort);
}

static void test_all(void)
{
    check(1, 1, 0, NR_ENTRIES); /* one page, over and over */
    check(1, 8192, 0, NR_ENTRIES);
    check(8, 8192, 0, NR_ENTRIES);
    check(1 << 17, UINT64_C(1) << 47, 0, NR_ENTRIES); /* all bits that there are */
}

static void test_some(void)
{
    for (uint32_t nr = 16; nr < NR_ENTRIES; nr += 97) {
        check(3, 100000, 0, nr);
        check(3, 100000, NR_ENTRIES - nr / 2, nr);     /* round the end */
        check(3, 100000, UINT32_MAX - nr / 2 + 1, nr); /* numbers wrap, too */
    }
}

/* What is no memory has no place in the order: nothing is moved. */
static void test_no_memory(void)
{
    static const Entry strange[] = {
        {.flags = KVM_DIRTY_GFN_F_DIRTY, .slot = UINT32_MAX},
        {.flags = KVM_DIRTY_GFN_F_DIRTY, .slot = 1 << 17},
        {.flags = KVM_DIRTY_GFN_F_DIRTY, .offset = UINT64_C(1) << 47},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(strange); i++) {
        FerryRingSort *sort = ferry_ring_sort_new(NR_ENTRIES);
        Entry ring[NR_ENTRIES], before[NR_ENTRIES];

        fill(ring, 2, 1000);
        ring[NR_ENTRIES / 2] = strange[i];
        memcpy(before, ring, sizeof(ring));
        ferry_ring_sort(sort, ring, 0, NR_ENTRIES);
        g_assert_cmpmem(ring, sizeof(ring), before, sizeof(before));
        ferry_ring_sort_free(sort);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ring-sort/all", test_all);
    g_test_add_func("/ring-sort/some", test_some);
    g_test_add_func("/ring-sort/no-memory", test_no_memory);
    return g_test_run();
}
