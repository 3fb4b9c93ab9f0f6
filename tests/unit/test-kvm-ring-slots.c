/*
 * Dirty rings, and memory slots that come, go and change
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "ring-bed.h"

/* Entries mean what their slot was when they were made. */
static void test_slot_meaning(void)
{
    g_autoptr(Bed) bed = bed_new((BedConfig){.nr_regions = 3});
    const uint64_t gpa = bed_gpa(0);

    bed_start(bed);
    bed_set_logging(bed, true);
    bed_write_pages(bed, 0, 0, 10, 100); /* seen, then not even that */
    bed_harvest(bed, false);
    bed_write_pages(bed, 0, 0, 1000, 100);
    bed_put_slot(bed, 1, gpa, 0, 0, 0, false);
    g_assert_cmpuint(bed->nr_reported, ==, 200);
    g_assert_cmpuint(bed_count_bits(bed->regions[0].reported, 4096), ==, 200);
    g_assert_true(bed_test_bit(bed->regions[0].reported, 10));
    g_assert_true(bed_test_bit(bed->regions[0].reported, 1099));

    /* The same number, another region, not from its beginning. */
    bed_put_slot(bed, 1, gpa, 1, 50, 4000, true);
    bed_write_pages(bed, 0, 0, 10, 100);
    bed_harvest(bed, false);
    bed_feed_all(bed);
    g_assert_cmpuint(bed->nr_reported, ==, 300);
    g_assert_cmpuint(bed_count_bits(bed->regions[1].reported, 4096), ==, 100);
    g_assert_true(bed_test_bit(bed->regions[1].reported, 60));
    g_assert_true(bed_test_bit(bed->regions[1].reported, 159));

    /* Elsewhere in the guest. */
    bed_write_pages(bed, 0, 0, 200, 100);
    bed_put_slot(bed, 1, gpa + BED_GIB / 2, 1, 50, 4000, true);
    raw_vm_list(bed->vm)[0] = BED_PFN(gpa + BED_GIB / 2) + 300;
    raw_vm_run(bed->vm, 0, &(RawJob){.nr = 1, .nr_writes = 1});
    bed_harvest(bed, true);
    g_assert_cmpuint(bed->nr_reported, ==, 401);
    g_assert_cmpuint(bed_count_bits(bed->regions[1].reported, 4096), ==, 201);
    g_assert_true(bed_test_bit(bed->regions[1].reported, 250));
    g_assert_true(bed_test_bit(bed->regions[1].reported, 350));
    g_assert_cmpuint(raw_vm_counts(bed->vm, 0).nr_mmio, ==, 0);
}

/* A number is used again in the same change, and what gets it is written before the change is over. */
static void test_slot_reused(void)
{
    g_autoptr(Bed) bed = bed_new((BedConfig){.nr_regions = 2});

    bed_start(bed);
    bed_set_logging(bed, true);
    bed_write_pages(bed, 0, 0, 10, 100);

    ferry_kvm_ring_slots_begin(bed->ring);
    raw_vm_set_slot(bed->vm, 1, bed_gpa(0), NULL, 0, false);
    ferry_kvm_ring_set_slot(bed->ring, 1, 0, 0, 0);
    raw_vm_set_slot(bed->vm, 1, bed_gpa(0), bed->regions[1].host, 4096, true);
    bed_write_pages(bed, 0, 0, 200, 100);
    ferry_kvm_ring_set_slot(bed->ring, 1, 1, 0, 4096);
    ferry_kvm_ring_slots_end(bed->ring);

    bed_harvest(bed, true);
    g_assert_cmpuint(bed_count_bits(bed->regions[0].reported, 4096), ==, 100);
    g_assert_true(bed_test_bit(bed->regions[0].reported, 10));
    g_assert_cmpuint(bed_count_bits(bed->regions[1].reported, 4096), ==, 100);
    g_assert_true(bed_test_bit(bed->regions[1].reported, 200));
}

/* Slots that nobody announced, that were announced as none of ours, or as shorter than they are. */
static void test_slot_unknown(void)
{
    g_autoptr(Bed) bed = bed_new((BedConfig){0});
    uint8_t *host = raw_memory_new(RAW_SMALL, 1024);
    const uint64_t gpas[] = {4 * BED_GIB, 5 * BED_GIB, 6 * BED_GIB};
    uint32_t *list = raw_vm_list(bed->vm), nr = 0;

    raw_vm_set_slot(bed->vm, 20, gpas[0], host, 1024, true);
    raw_vm_set_slot(bed->vm, 5, gpas[1], host, 1024, true);
    raw_vm_set_slot(bed->vm, 6, gpas[2], host, 1024, true);
    bed_start(bed);
    bed_put_slot(bed, 1, bed_gpa(0), 0, 0, 4096, true);
    ferry_kvm_ring_slots_begin(bed->ring);
    ferry_kvm_ring_set_slot(bed->ring, 6, 0, 0, 0);
    ferry_kvm_ring_set_slot(bed->ring, 1, 0, 0, 2048);
    /* No such address space, no such slot. */
    ferry_kvm_ring_set_slot(bed->ring, 0x7fff0001, 0, 0, 4096);
    ferry_kvm_ring_set_slot(bed->ring, 0xffff, 0, 0, 4096);
    ferry_kvm_ring_slots_end(bed->ring);

    for (uint32_t page = 0; page < 1024; page++) {
        list[nr++] = BED_PFN(gpas[page % 3]) + page;
        list[nr++] = BED_PFN(bed_gpa(0)) + page * 4;
    }
    for (unsigned i = 1; i <= 2; i++) {
        raw_vm_run(bed->vm, 0, &(RawJob){.nr = nr, .nr_writes = nr});
        bed_harvest(bed, false);
        bed_feed_all(bed);
        g_assert_cmpuint(bed->nr_noticed, ==, i * 512);
        g_assert_cmpuint(bed->nr_reported, ==, i * 512);
        g_assert_cmpuint(bed_stats(bed, 0).collected, ==, i * 2048);
        g_assert_cmpuint(bed_stats(bed, 0).resets, ==, i * 2048);
    }
    g_clear_pointer(&bed, bed_free);
    raw_memory_free(host, 1024);
}

typedef struct Rounds {
    Bed *bed;
    bool quit;
} Rounds;

static gpointer run_rounds(gpointer opaque)
{
    Rounds *rounds = opaque;

    while (!__atomic_load_n(&rounds->quit, __ATOMIC_RELAXED)) {
        bed_migrate_round(rounds->bed);
    }
    return NULL;
}

/*
 * Two regions change places and slots, and a third one moves about, under vCPUs that write to all
 * of it and to where nothing is.
 */
static void test_slot_race(void)
{
    g_autoptr(Bed) bed = bed_new((BedConfig){.nr_vcpus = 2, .nr_regions = 3, .nr_pages = 1024});
    Rounds rounds = {.bed = bed};
    const uint64_t places[] = {bed_gpa(0), bed_gpa(1), bed_gpa(2), bed_gpa(3)};
    const uint64_t nr_writes_min = 2 * 4096; /* so that each comes to where nothing is */
    gint64 end_us = g_get_monotonic_time() + BED_PATIENCE_US;
    uint32_t *list = raw_vm_list(bed->vm);
    GThread *thread;

    for (uint32_t i = 0; i < 4 * 1024; i++) {
        list[i] = BED_PFN(places[i / 1024]) + i % 1024;
    }
    bed_start_migration(bed);
    thread = g_thread_new("rounds", run_rounds, &rounds);
    raw_vm_begin(bed->vm, 0, &(RawJob){.nr = 4096});
    raw_vm_begin(bed->vm, 1, &(RawJob){.nr = 4096, .seed = 1});
    for (unsigned i = 0; i < 40 || raw_vm_nr_writes(bed->vm, 0) < nr_writes_min ||
                         raw_vm_nr_writes(bed->vm, 1) < nr_writes_min;
         i++) {
        g_assert_cmpint(g_get_monotonic_time(), <, end_us);
        g_usleep(2000);
        bed_put_slot(bed, 1, places[0], 0, 0, 0, false);
        g_usleep(100 * (i % 4));
        bed_put_slot(bed, 2, places[1], 0, 0, 0, false);
        bed_put_slot(bed, 1, places[0], (i + 1) % 2, 0, 1024, true);
        bed_put_slot(bed, 2, places[1], i % 2, 0, 1024, true);
        bed_put_slot(bed, 3, places[2 + (i + 1) % 2], 2, 0, 1024, true);
    }
    bed_end_jobs(bed);
    __atomic_store_n(&rounds.quit, true, __ATOMIC_RELAXED);
    g_thread_join(thread);
    for (unsigned i = 0; i < 2; i++) {
        g_assert_cmpuint(raw_vm_counts(bed->vm, i).nr_mmio, >, 0);
    }
    bed_end_migration(bed);
}

int main(int argc, char **argv)
{
    bed_init(&argc, &argv);
    bed_add("/kvm-ring/slot/meaning", test_slot_meaning);
    bed_add("/kvm-ring/slot/reused", test_slot_reused);
    bed_add("/kvm-ring/slot/unknown", test_slot_unknown);
    bed_add("/kvm-ring/slot/race", test_slot_race);
    return bed_run();
}
