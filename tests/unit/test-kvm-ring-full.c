/*
 * Dirty rings that fill
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "ring-bed.h"

/*
 * One vCPU fills its ring again and again while nobody may look.  The other one writes to few
 * pages: its ring is not touched, and it never leaves the guest.
 */
static void test_small_ring(void)
{
    g_autoptr(Bed) bed =
        bed_new((BedConfig){.nr_entries = 1024, .nr_vcpus = 2, .nr_regions = 2, .nr_pages = 4096});
    bed_start_migration(bed);
    bed_list_region(bed, 0, 0, 0, 4096);
    bed_list_region(bed, 4096, 1, 0, 64);
    raw_vm_begin(bed->vm, 0, &(RawJob){.nr = 4096});
    raw_vm_begin(bed->vm, 1, &(RawJob){.first = 4096, .nr = 64, .seed = 1});
    bed_wait_for_writes(bed, 1, 1000);
    for (uint64_t nr_full = 0; nr_full < 20; nr_full = bed_stats(bed, 0).full_exits) {
        ferry_kvm_ring_slots_begin(bed->ring);
        bed_wait_until_full(bed, 0, nr_full, false);
        ferry_kvm_ring_slots_end(bed->ring);
        g_usleep(1000); /* let the vCPU have its turn */
    }
    bed_wait_for_writes(bed, 0, raw_vm_nr_writes(bed->vm, 0) + 4096);
    bed_end_jobs(bed);
    bed_harvest(bed, false);
    g_assert_cmpuint(bed_stats(bed, 0).full_exits, >=, 20);
    g_assert_cmpuint(bed_stats(bed, 0).full_exits, ==, raw_vm_counts(bed->vm, 0).nr_full);
    g_assert_cmpuint(raw_vm_counts(bed->vm, 0).nr_exits, ==, raw_vm_counts(bed->vm, 0).nr_full);
    g_assert_cmpuint(bed_stats(bed, 0).resets, >, 0);
    g_assert_cmpuint(bed_stats(bed, 1).collected, ==, 64);
    g_assert_cmpuint(bed_stats(bed, 1).resets, ==, 0);
    g_assert_cmpuint(raw_vm_counts(bed->vm, 1).nr_exits, ==, 0);

    bed_race(bed, false);
    bed_end_migration(bed);
}

/* Look, then wait until the thread leaves no more entries in the first vCPU's ring than that. */
static void wait_until_held(Bed *bed, uint64_t nr_max)
{
    gint64 end_us = g_get_monotonic_time() + BED_PATIENCE_US;

    bed_harvest(bed, false);
    while (bed_stats(bed, 0).collected - bed_stats(bed, 0).resets > nr_max) {
        g_assert_cmpint(g_get_monotonic_time(), <, end_us);
        g_usleep(1000);
    }
}

/* Rings that are left to fill fill, and nothing is lost. */
static void test_set_fill(void)
{
    const uint32_t nr_entries = 4096, nr_pages = 16384;
    g_autoptr(Bed) bed =
        bed_new((BedConfig){.nr_entries = nr_entries, .nr_vcpus = 2, .nr_pages = nr_pages});
    uint64_t nr_full;

    bed_start_migration(bed);
    ferry_kvm_ring_set_fill(bed->ring, true);
    for (unsigned i = 0; i < 3; i++) {
        bed_write_pages(bed, 0, 0, 0, nr_pages);
        g_usleep(5000);
    }
    /* Each time it is full, a quarter is left. */
    nr_full = bed_stats(bed, 0).full_exits;
    g_assert_cmpuint(nr_full, >=, 3 * (nr_pages - nr_entries) / nr_entries);
    g_assert_cmpuint(raw_vm_counts(bed->vm, 0).nr_full, ==, nr_full);
    bed_copy_reported(bed);
    bed_race(bed, false);
    ferry_kvm_ring_set_fill(bed->ring, false);
    bed_end_migration(bed);

    /* Then the ring of a slow vCPU is emptied before it is full. */
    bed_feed_all(bed);
    nr_full = bed_stats(bed, 0).full_exits;
    for (uint32_t i = 0; i < nr_pages; i += nr_entries / 4) {
        bed_write_pages(bed, 0, 0, i, nr_entries / 4);
        wait_until_held(bed, nr_entries / 2);
    }
    g_assert_cmpuint(bed_stats(bed, 0).full_exits, ==, nr_full);
}

/*
 * Many more pages than a ring has entries, and nobody feeds.  The memory is the same few MiB again
 * and again, so there is nothing to compare; but each page must be reported.
 */
static void test_bound(void)
{
    const uint32_t nr_pages = 204800, slot_pages = 8192;
    g_autoptr(Bed) bed = bed_new((BedConfig){.nr_pages = nr_pages, .no_memory = true});
    uint8_t *host = raw_memory_new(RAW_SMALL, slot_pages);
    FerryKvmRingStats stats;

    bed_start(bed);
    for (uint32_t i = 0; i < nr_pages / slot_pages; i++) {
        const uint64_t gpa = BED_GIB + (uint64_t)i * slot_pages * RAW_PAGE;

        raw_vm_set_slot(bed->vm, i + 1, gpa, host, slot_pages, true);
        ferry_kvm_ring_slots_begin(bed->ring);
        ferry_kvm_ring_set_slot(bed->ring, i + 1, 0, (uint64_t)i * slot_pages, slot_pages);
        ferry_kvm_ring_slots_end(bed->ring);
        raw_vm_run(bed->vm, 0, &(RawJob){.sweep_gpa = gpa, .nr = slot_pages});
        wait_until_held(bed, 49152);
    }
    stats = bed_stats(bed, 0);
    g_assert_cmpuint(stats.full_exits, ==, 0);
    g_assert_cmpuint(stats.collected, ==, nr_pages);
    g_assert_cmpuint(stats.resets, >=, nr_pages - 49152);
    g_assert_cmpuint(stats.resets, ==, bed->nr_reported);
    g_assert_cmpuint(stats.forced_resets, ==, stats.resets);
    bed_harvest(bed, true);
    g_assert_cmpuint(bed->nr_reported, ==, nr_pages);
    g_assert_cmpuint(bed_count_bits(bed->regions[0].reported, nr_pages), ==, nr_pages);
    g_clear_pointer(&bed, bed_free);
    raw_memory_free(host, slot_pages);
}

int main(int argc, char **argv)
{
    bed_init(&argc, &argv);
    bed_add("/kvm-ring/small-ring", test_small_ring);
    bed_add("/kvm-ring/set-fill", test_set_fill);
    bed_add("/kvm-ring/bound", test_bound);
    return bed_run();
}
