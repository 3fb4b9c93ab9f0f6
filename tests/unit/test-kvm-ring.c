/*
 * What dirty rings tell, and when; vCPUs and users of the rings that come and go
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "ring-bed.h"

#include <string.h>
#include <sys/ioctl.h>

#include "migration/error.h"

/* Stands in for GLib's, by which the engine starts its threads. */
static bool no_threads;

GThread *g_thread_try_new(const char *name, GThreadFunc func, gpointer data, GError **error)
{
    if (no_threads) {
        g_set_error_literal(error, G_THREAD_ERROR, G_THREAD_ERROR_AGAIN, "there is none");
        return NULL;
    }
    return g_thread_new(name, func, data);
}

/* --- What is logged, and when ----------------------------------------------------------------- */

/* Scattered writes, to two slots that share a region and one with a region of its own. */
static void test_exact(void)
{
    g_autoptr(Bed) bed = bed_new((BedConfig){.nr_regions = 2});
    uint32_t *list = raw_vm_list(bed->vm), nr = 0;
    uint64_t expected[2][64] = {{0}};

    bed_put_slot(bed, 1, bed_gpa(0), 0, 0, 0, false);
    bed_put_slot(bed, 1, bed_gpa(0), 0, 0, 1024, false);
    bed_put_slot(bed, 9, bed_gpa(0) + BED_GIB / 2, 0, 1024, 3072, false);
    bed_start(bed);
    bed_write_pages(bed, 0, 1, 0, 4096); /* not logged */
    bed_put_slot(bed, 1, bed_gpa(0), 0, 0, 1024, true);
    bed_put_slot(bed, 9, bed_gpa(0) + BED_GIB / 2, 0, 1024, 3072, true);
    bed_put_slot(bed, 2, bed_gpa(1), 1, 0, 4096, true);
    for (uint64_t page = 0; page < 4096; page += 1 + (uint64_t)g_test_rand_int() % 7) {
        unsigned region = (unsigned)g_test_rand_int_range(0, 2);
        uint64_t gpa = bed_gpa(region) + page * RAW_PAGE;

        if (region == 0 && page >= 1024) {
            gpa += BED_GIB / 2 - 1024 * RAW_PAGE;
        }
        list[nr++] = BED_PFN(gpa);
        expected[region][page / 64] |= UINT64_C(1) << (page % 64);
    }
    raw_vm_run(bed->vm, 0, &(RawJob){.nr = nr, .nr_writes = 3 * nr});
    bed_harvest(bed, false);
    for (unsigned i = 0; i < 2; i++) {
        g_assert_cmpmem(bed->regions[i].noticed, 512, expected[i], 512);
    }
    g_assert_cmpuint(bed->nr_noticed, ==, nr);
    g_assert_cmpuint(bed->nr_reported, ==, 0);
    bed_feed_all(bed);
    for (unsigned i = 0; i < 2; i++) {
        g_assert_cmpmem(bed->regions[i].reported, 512, expected[i], 512);
    }
    g_assert_cmpuint(bed->nr_reported, ==, nr);

    /* Then nothing is left to be said. */
    bed_harvest(bed, false);
    g_assert_cmpuint(bed_feed(bed, 1000), ==, 0);
    bed_harvest(bed, true);
    g_assert_cmpuint(bed->nr_noticed, ==, nr);
    g_assert_cmpuint(bed->nr_reported, ==, nr);
    g_assert_cmpuint(bed_stats(bed, 0).collected, ==, nr);
    g_assert_cmpuint(bed_stats(bed, 0).resets, ==, nr);
    g_assert_cmpuint(bed_stats(bed, 0).forced_resets, ==, 0);
    g_assert_cmpuint(bed_stats(bed, 0).redirtied, ==, 0);
    g_assert_cmpuint(raw_vm_counts(bed->vm, 0).nr_exits, ==, 0);
}

/* Between notice and report a page costs nothing; after it, it is logged again. */
static void test_held(void)
{
    g_autoptr(Bed) bed = bed_new((BedConfig){0});

    bed_start(bed);
    bed_set_logging(bed, true);
    bed_write_pages(bed, 0, 0, 100, 1000);
    bed_harvest(bed, false);
    g_assert_cmpuint(bed_stats(bed, 0).collected, ==, 1000);
    for (unsigned i = 0; i < 5; i++) {
        bed_write_pages(bed, 0, 0, 100, 1000);
        g_usleep(25000); /* the thread looks as well */
        bed_harvest(bed, false);
        g_assert_cmpuint(bed_stats(bed, 0).collected, ==, 1000);
    }
    g_assert_cmpuint(bed->nr_reported, ==, 0);
    bed_feed_all(bed);
    g_assert_cmpuint(bed->nr_reported, ==, 1000);
    g_assert_cmpuint(bed_stats(bed, 0).redirtied, ==, 0);
    bed_write_pages(bed, 0, 0, 600, 1000);
    bed_harvest(bed, false);
    g_assert_cmpuint(bed_stats(bed, 0).collected, ==, 2000);
    g_assert_cmpuint(bed_stats(bed, 0).redirtied, ==, 500);
}

/* Some at a time, and only what the last harvest found. */
static void test_feed(void)
{
    g_autoptr(Bed) bed = bed_new((BedConfig){.nr_vcpus = 2});
    uint64_t left_pages, before;

    bed_start(bed);
    bed_set_logging(bed, true);
    bed_write_pages(bed, 0, 0, 0, 1000);
    bed_write_pages(bed, 1, 0, 1000, 200);
    g_assert_cmpuint(bed_feed(bed, 100), ==, 0); /* of a round that has not begun */
    g_assert_cmpuint(bed->nr_reported, ==, 0);
    bed_harvest(bed, false);
    bed_write_pages(bed, 0, 0, 2000, 500); /* of the next one */
    left_pages = bed_feed(bed, 100);
    g_assert_cmpuint(bed->nr_reported, >, 0);
    g_assert_cmpuint(bed->nr_reported, <=, 100 + 2);
    g_assert_cmpuint(left_pages, ==, 1200 - bed->nr_reported);
    g_assert_true(bed_test_bit(bed->regions[0].reported, 0));
    g_assert_false(bed_test_bit(bed->regions[0].reported, 999));
    do {
        before = bed->nr_reported;
        left_pages = bed_feed(bed, 0);
        g_assert_cmpuint(bed->nr_reported, >, before);
    } while (left_pages > 0);
    g_assert_cmpuint(bed_count_bits(bed->regions[0].reported, 1200), ==, 1200);
    g_assert_cmpuint(bed->nr_reported, ==, 1200);
    bed_harvest(bed, false);
    bed_feed_all(bed);
    g_assert_cmpuint(bed->nr_reported, ==, 1700);
}

/* Pages are reset and reported in the order of memory, in whatever order they were written. */
static void test_order(void)
{
    g_autoptr(Bed) bed = bed_new((BedConfig){0});
    const uint32_t nr = 1024, step = 389; /* no common divisor */

    bed_start_migration(bed);
    for (uint32_t i = 0; i < nr; i++) {
        raw_vm_list(bed->vm)[i] = BED_PFN(bed_gpa(0)) + i * step % nr;
    }
    raw_vm_run(bed->vm, 0, &(RawJob){.nr = nr, .nr_writes = nr});
    bed_harvest(bed, false);
    g_assert_cmpuint(bed_feed(bed, nr / 2 - 1), ==, nr / 2);
    g_assert_cmpuint(bed->nr_reported, ==, nr / 2);
    g_assert_cmpuint(bed->nr_reports, ==, nr / 2 / 64);
    g_assert_cmpuint(bed_count_bits(bed->regions[0].reported, nr / 2), ==, nr / 2);
    raw_vm_run(bed->vm, 0, &(RawJob){.nr = nr, .nr_writes = nr});
    bed_feed_all(bed);
    bed_migrate_round(bed);
    bed_end_migration(bed);
}

static void test_drain(void)
{
    g_autoptr(Bed) bed = bed_new((BedConfig){.nr_vcpus = 2});

    bed_start(bed);
    bed_set_logging(bed, true);
    bed_write_pages(bed, 0, 0, 0, 500);
    bed_harvest(bed, false);
    bed_write_pages(bed, 1, 0, 500, 100);
    g_assert_cmpuint(ferry_kvm_ring_drain(bed->ring), <=, 100); /* the thread may be first */
    g_assert_cmpuint(bed->nr_reported, ==, 600);
    g_assert_cmpuint(ferry_kvm_ring_drain(bed->ring), ==, 0);
    g_assert_cmpuint(bed_feed(bed, 1000), ==, 0);

    /* Each write from then on is logged. */
    bed_write_pages(bed, 1, 0, 0, 600);
    ferry_kvm_ring_drain(bed->ring);
    g_assert_cmpuint(bed->nr_reported, ==, 1200);
    g_assert_cmpuint(bed_stats(bed, 0).resets + bed_stats(bed, 1).resets, ==, 1200);

    ferry_kvm_ring_stop(bed->ring);
    g_assert_cmpuint(ferry_kvm_ring_drain(bed->ring), ==, 0);
}

/* --- vCPUs, and other users ------------------------------------------------------------------- */

/* One vCPU comes and goes, while another one writes. Its ring goes round several times. */
static void test_vcpu_comes_and_goes(void)
{
    g_autoptr(Bed) bed =
        bed_new((BedConfig){.nr_entries = 1024, .nr_vcpus = 2, .nr_regions = 2, .nr_pages = 4096});
    const BedRegion *region = &bed->regions[1];
    uint32_t fetch = 0;

    bed_start_migration(bed);
    bed_list_region(bed, 0, 0, 0, 4096);
    raw_vm_begin(bed->vm, 0, &(RawJob){.nr = 4096, .seed = 1});
    for (unsigned i = 0; i < 30; i++) {
        uint32_t nr = (uint32_t)g_test_rand_int_range(1, 300);

        bed_clear_bits(region->ever, region->nr_pages);
        bed_write_pages(bed, 1, 1, i * 100, nr);
        if (i % 2) {
            bed_migrate_round(bed);
        }
        fetch += nr;
        g_assert_cmpuint(ferry_kvm_ring_remove_vcpu(bed->ring, 1), ==, fetch);
        g_assert_cmpuint(bed_count_bits(region->ever, 4096), ==, nr);
        bed_copy_reported(bed);
        ferry_kvm_ring_add_vcpu(bed->ring, 1, raw_vm_ring(bed->vm, 1), fetch);
        g_assert_cmpuint(bed_stats(bed, 1).collected, ==, 0);
    }
    raw_vm_end(bed->vm, 0);
    raw_vm_wait(bed->vm, 0);
    bed_end_migration(bed);
}

static uint32_t count_flagged(const Bed *bed, unsigned vcpu)
{
    const struct kvm_dirty_gfn *entries = raw_vm_ring(bed->vm, vcpu);
    uint32_t nr = 0;

    for (uint32_t i = 0; i < bed->config.nr_entries; i++) {
        nr += entries[i].flags != 0;
    }
    return nr;
}

/* Somebody else who collects the ring from @fetch on, as long as there are entries. */
static uint32_t collect_otherwise(Bed *bed, unsigned vcpu, uint32_t fetch, uint32_t first_page)
{
    struct kvm_dirty_gfn *entries = raw_vm_ring(bed->vm, vcpu);
    uint32_t nr = 0;

    for (;; nr++) {
        struct kvm_dirty_gfn *entry = &entries[(fetch + nr) & (bed->config.nr_entries - 1)];

        if (entry->flags != KVM_DIRTY_GFN_F_DIRTY) {
            break;
        }
        g_assert_cmpuint(entry->slot, ==, 1);
        g_assert_cmpuint(entry->offset, ==, first_page + nr);
        entry->flags = KVM_DIRTY_GFN_F_RESET;
    }
    g_assert_cmpint(ioctl(raw_vm_fd(bed->vm), KVM_RESET_DIRTY_RINGS, 0), ==, nr);
    return nr;
}

/* Collected here, by somebody else, and here again; and not at all for a while. */
static void test_start_stop(void)
{
    g_autoptr(Bed) bed = bed_new((BedConfig){.nr_entries = 1024, .nr_vcpus = 2});

    bed_set_logging(bed, true);
    for (uint32_t i = 0; i < 8; i++) {
        uint32_t fetch, nr;

        bed_start(bed);
        bed_forget_reports(bed);
        bed_write_pages(bed, 0, 0, i * 10, 150);
        bed_write_pages(bed, 1, 0, 2000 + i * 10, 100);
        bed_harvest(bed, false);
        g_assert_cmpuint(bed->nr_noticed, ==, 250);
        g_assert_cmpuint(bed_stats(bed, 0).collected, ==, 150);
        g_assert_cmpuint(bed_stats(bed, 1).collected, ==, 100);
        bed_feed(bed, i * 20);
        bed_write_pages(bed, 0, 0, 1000 + i * 10, 120);
        ferry_kvm_ring_stop(bed->ring);
        g_assert_true(bed_test_bit(bed->regions[0].ever, 1000 + i * 10 + 119));
        nr = (uint32_t)bed->nr_reported;
        g_assert_cmpuint(count_flagged(bed, 0) + count_flagged(bed, 1), ==, 0);

        fetch = ferry_kvm_ring_remove_vcpu(bed->ring, 0);
        bed_write_pages(bed, 0, 0, i * 10, 90);
        g_assert_cmpuint(collect_otherwise(bed, 0, fetch, i * 10), ==, 90);
        bed_write_pages(bed, 0, 0, i * 10, 80);
        g_assert_cmpuint(collect_otherwise(bed, 0, fetch + 90, i * 10), ==, 80);
        g_assert_cmpuint(bed->nr_reported, ==, nr);
        ferry_kvm_ring_add_vcpu(bed->ring, 0, raw_vm_ring(bed->vm, 0), fetch + 170);
    }
}

static void test_nothing(void)
{
    g_autoptr(Bed) bed = bed_new((BedConfig){.nr_pages = 64, .no_memory = true});
    g_autoptr(GArray) stats = NULL;

    g_assert_cmpuint(ferry_kvm_ring_supported(raw_vm_fd(bed->vm)), >=, 1024);
    g_assert_cmpuint(ferry_kvm_ring_remove_vcpu(bed->ring, 0), ==, 0);
    g_assert_cmpuint(ferry_kvm_ring_remove_vcpu(bed->ring, 0), ==, 0);
    ferry_kvm_ring_stop(bed->ring);
    for (unsigned i = 0; i < 3; i++) {
        bed_start(bed);
        bed_harvest(bed, false);
        g_assert_cmpuint(bed_feed(bed, 100), ==, 0);
        ferry_kvm_ring_full(bed->ring, 0);
        g_assert_cmpuint(ferry_kvm_ring_drain(bed->ring), ==, 0);
        bed_harvest(bed, true);
        stats = ferry_kvm_ring_query(bed->ring);
        g_assert_cmpuint(stats->len, ==, 0);
        g_clear_pointer(&stats, g_array_unref);
        ferry_kvm_ring_stop(bed->ring);
        ferry_kvm_ring_stop(bed->ring);
    }
    g_assert_cmpuint(bed->nr_noticed + bed->nr_reported, ==, 0);
    ferry_kvm_ring_free(NULL);
}

/* Without a thread there is nobody to tell: what the rings hold is left for others. */
static void test_no_thread(void)
{
    g_autoptr(Bed) bed = bed_new((BedConfig){.nr_entries = 1024});
    const FerryTrackerClient nobody = {0};
    g_autoptr(GError) error = NULL;

    bed_set_logging(bed, true);
    no_threads = true;
    g_assert_false(ferry_kvm_ring_start(bed->ring, &nobody, &error));
    no_threads = false;
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_SYSTEM);

    bed_write_pages(bed, 0, 0, 0, 100);
    ferry_kvm_ring_full(bed->ring, 0);
    g_assert_cmpuint(ferry_kvm_ring_drain(bed->ring), ==, 0);
    g_assert_cmpuint(ferry_kvm_ring_remove_vcpu(bed->ring, 0), ==, 0);
    g_assert_cmpuint(collect_otherwise(bed, 0, 0, 0), ==, 100);

    ferry_kvm_ring_add_vcpu(bed->ring, 0, raw_vm_ring(bed->vm, 0), 100);
    bed_start(bed);
    bed_write_pages(bed, 0, 0, 0, 100);
    bed_harvest(bed, true);
    g_assert_cmpuint(bed->nr_reported, ==, 100);
}

/* Of pages that are to be left missing, the last harvest reports what was written since the one before. */
static void test_last_new(void)
{
    g_autoptr(Bed) bed = bed_new((BedConfig){.nr_vcpus = 2});

    bed_start(bed);
    bed_set_logging(bed, true);
    bed_write_pages(bed, 0, 0, 0, 1000);
    bed_harvest(bed, false);
    bed_write_pages(bed, 0, 0, 2000, 100);
    bed_write_pages(bed, 1, 0, 3000, 50);
    bed->knows_noticed = true;
    bed_harvest(bed, true);
    g_assert_cmpuint(bed->nr_reported, ==, 150);
    g_assert_true(bed_test_bit(bed->regions[0].reported, 2000));
    g_assert_true(bed_test_bit(bed->regions[0].reported, 3049));
}

/*
 * A page with two addresses: a reset protects it at one of them.  It was reported, and then written by the other
 * one, for which an entry is held back already: whoever is to leave it missing must hear of it.
 */
static void test_two_addresses(void)
{
    g_autoptr(Bed) bed = bed_new((BedConfig){.nr_vcpus = 2});

    bed_put_slot(bed, 9, bed_gpa(0) + BED_GIB / 2, 0, 0, 4096, false);
    bed_start(bed);
    bed_set_logging(bed, true);
    bed_put_slot(bed, 9, bed_gpa(0) + BED_GIB / 2, 0, 0, 4096, true);
    bed_write_pages(bed, 0, 0, 7, 1);
    raw_vm_list(bed->vm)[0] = BED_PFN(bed_gpa(0)) + 100;
    raw_vm_list(bed->vm)[1] = BED_PFN(bed_gpa(0) + BED_GIB / 2) + 7;
    raw_vm_run(bed->vm, 1, &(RawJob){.nr = 2, .nr_writes = 2});
    bed_harvest(bed, false);
    g_assert_cmpuint(bed->nr_noticed, ==, 3);
    g_assert_cmpuint(bed_feed(bed, 1), ==, 1);
    g_assert_true(bed_test_bit(bed->regions[0].reported, 7));
    bed_clear_bits(bed->regions[0].noticed, 4096); /* as a client does, of what is reported */

    raw_vm_run(bed->vm, 1, &(RawJob){.nr = 2, .nr_writes = 2});
    bed->knows_noticed = true;
    bed_harvest(bed, false);
    g_assert_true(bed_test_bit(bed->regions[0].noticed, 7));
    bed_harvest(bed, true);
}

/* Where none are to be left missing, it reports all that is held back as well. */
static void test_last_all(void)
{
    g_autoptr(Bed) bed = bed_new((BedConfig){.nr_vcpus = 2});

    bed_start(bed);
    bed_set_logging(bed, true);
    bed_write_pages(bed, 0, 0, 0, 1000);
    bed_harvest(bed, false);
    bed_write_pages(bed, 0, 0, 2000, 100);
    bed_harvest(bed, true);
    g_assert_cmpuint(bed->nr_reported, ==, 1100);
    g_assert_true(bed_test_bit(bed->regions[0].reported, 0));
    g_assert_true(bed_test_bit(bed->regions[0].reported, 2099));
}

int main(int argc, char **argv)
{
    bed_init(&argc, &argv);
    bed_add("/kvm-ring/exact", test_exact);
    bed_add("/kvm-ring/held", test_held);
    bed_add("/kvm-ring/feed", test_feed);
    bed_add("/kvm-ring/order", test_order);
    bed_add("/kvm-ring/drain", test_drain);
    bed_add("/kvm-ring/vcpu", test_vcpu_comes_and_goes);
    bed_add("/kvm-ring/start-stop", test_start_stop);
    bed_add("/kvm-ring/no-thread", test_no_thread);
    bed_add("/kvm-ring/nothing", test_nothing);
    bed_add("/kvm-ring/last-new", test_last_new);
    bed_add("/kvm-ring/two-addresses", test_two_addresses);
    bed_add("/kvm-ring/last-all", test_last_all);
    return bed_run();
}
