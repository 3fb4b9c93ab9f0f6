/*
 * A bed for tests of dirty rings: see ring-bed.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "ring-bed.h"

#include <inttypes.h>
#include <string.h>

/* --- Who uses the rings ---------------------------------------------------------------------- */

bool bed_test_bit(const uint64_t *bits, uint64_t page)
{
    return __atomic_load_n(&bits[page / 64], __ATOMIC_RELAXED) >> (page % 64) & 1;
}

static void copy_pages(BedRegion *region, uint64_t word, uint64_t mask)
{
    for (; mask; mask &= mask - 1) {
        uint64_t offset = (word * 64 + (uint64_t)__builtin_ctzll(mask)) * RAW_PAGE;

        memcpy(region->shadow + offset, region->host + offset, RAW_PAGE);
    }
}

static void take_report(void *opaque, uint32_t number, uint64_t word, uint64_t mask)
{
    Bed *bed = opaque;
    BedRegion *region = &bed->regions[number];

    g_assert_cmpuint(number, <, bed->config.nr_regions);
    g_assert_cmpuint(word, <, (region->nr_pages + 63) / 64);
    g_assert_cmpuint(mask, !=, 0);
    /* Nothing is reported that was not noticed, unless entries were written over meanwhile. */
    if (bed->config.mode == RAW_NATIVE) {
        g_assert_cmphex(mask & ~__atomic_load_n(&region->noticed[word], __ATOMIC_RELAXED), ==, 0);
    }
    __atomic_fetch_add(&bed->nr_reported, (uint64_t)__builtin_popcountll(mask), __ATOMIC_RELAXED);
    __atomic_fetch_add(&bed->nr_reports, 1, __ATOMIC_RELAXED);
    __atomic_fetch_or(&region->ever[word], mask, __ATOMIC_RELAXED);
    if (bed->forget && number == bed->forget_region && word == bed->forget_page / 64) {
        mask &= ~(UINT64_C(1) << (bed->forget_page % 64));
    }
    if (bed->at_once) {
        copy_pages(region, word, mask);
    } else {
        __atomic_fetch_or(&region->reported[word], mask, __ATOMIC_RELAXED);
    }
}

static uint64_t take_notice(void *opaque, uint32_t number, uint64_t word, uint64_t mask)
{
    Bed *bed = opaque;
    BedRegion *region = &bed->regions[number];

    g_assert_cmpuint(number, <, bed->config.nr_regions);
    g_assert_cmpuint(word, <, (region->nr_pages + 63) / 64);
    g_assert_cmpuint(mask, !=, 0);
    __atomic_fetch_add(&bed->nr_noticed, (uint64_t)__builtin_popcountll(mask), __ATOMIC_RELAXED);
    __atomic_fetch_or(&region->noticed[word], mask, __ATOMIC_RELAXED);
    return mask & __atomic_load_n(&region->ever[word], __ATOMIC_RELAXED);
}

void bed_copy_reported(Bed *bed)
{
    for (unsigned i = 0; i < bed->config.nr_regions; i++) {
        BedRegion *region = &bed->regions[i];

        for (uint64_t word = 0; word < (region->nr_pages + 63) / 64; word++) {
            copy_pages(region, word,
                       __atomic_exchange_n(&region->reported[word], 0, __ATOMIC_ACQUIRE));
        }
    }
}

uint64_t bed_compare(const Bed *bed, uint32_t *number, uint64_t *page)
{
    uint64_t nr_different = 0;

    for (unsigned i = 0; i < bed->config.nr_regions; i++) {
        const BedRegion *region = &bed->regions[i];

        for (uint64_t j = 0; j < region->nr_pages; j++) {
            if (memcmp(region->host + j * RAW_PAGE, region->shadow + j * RAW_PAGE, RAW_PAGE) != 0) {
                nr_different++;
                *number = i;
                *page = j;
            }
        }
    }
    return nr_different;
}

static void assert_equal(const Bed *bed)
{
    uint64_t page = 0;
    uint32_t number = 0;
    uint64_t nr_different = bed_compare(bed, &number, &page);

    if (nr_different) {
        g_test_message("one of %" PRIu64 " different pages: %u:%" PRIu64, nr_different, number,
                       page);
    }
    g_assert_cmpuint(nr_different, ==, 0);
}

uint64_t bed_count_bits(const uint64_t *bits, uint64_t nr_pages)
{
    uint64_t nr = 0;

    for (uint64_t page = 0; page < nr_pages; page++) {
        nr += bed_test_bit(bits, page);
    }
    return nr;
}

void bed_clear_bits(uint64_t *bits, uint64_t nr_pages)
{
    for (uint64_t word = 0; word < (nr_pages + 63) / 64; word++) {
        __atomic_store_n(&bits[word], 0, __ATOMIC_RELAXED);
    }
}

void bed_forget_reports(Bed *bed)
{
    for (unsigned i = 0; i < bed->config.nr_regions; i++) {
        BedRegion *region = &bed->regions[i];

        bed_clear_bits(region->noticed, region->nr_pages);
        bed_clear_bits(region->reported, region->nr_pages);
        bed_clear_bits(region->ever, region->nr_pages);
    }
    __atomic_store_n(&bed->nr_noticed, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&bed->nr_reported, 0, __ATOMIC_RELAXED);
}

/* --- The bed --------------------------------------------------------------------------------- */

uint64_t bed_gpa(unsigned region)
{
    return (region + 1) * BED_GIB;
}

static void on_full(void *opaque, unsigned vcpu)
{
    Bed *bed = opaque;

    __atomic_fetch_add(&bed->nr_full[vcpu], 1, __ATOMIC_RELAXED);
    if (!bed->deaf) {
        ferry_kvm_ring_full(bed->ring, vcpu);
    }
}

void bed_put_slot(Bed *bed, uint32_t slot, uint64_t gpa, unsigned region, uint64_t first_page,
                  uint64_t nr_pages, bool log)
{
    ferry_kvm_ring_slots_begin(bed->ring);
    raw_vm_set_slot(bed->vm, slot, gpa, bed->regions[region].host + first_page * RAW_PAGE, nr_pages,
                    log);
    ferry_kvm_ring_set_slot(bed->ring, slot, region, first_page, nr_pages);
    ferry_kvm_ring_slots_end(bed->ring);
}

void bed_set_logging(Bed *bed, bool log)
{
    for (unsigned i = 0; i < bed->config.nr_regions; i++) {
        raw_vm_set_slot(bed->vm, i + 1, bed_gpa(i), bed->regions[i].host, bed->regions[i].nr_pages,
                        log);
    }
}

Bed *bed_new(BedConfig config)
{
    Bed *bed = g_new0(Bed, 1);

    config.nr_entries = config.nr_entries ? config.nr_entries : 65536;
    config.nr_vcpus = config.nr_vcpus ? config.nr_vcpus : 1;
    config.nr_regions = config.nr_regions ? config.nr_regions : 1;
    config.nr_pages = config.nr_pages ? config.nr_pages : 4096;
    bed->config = config;
    bed->vm = raw_vm_new(config.nr_entries, on_full, bed);
    bed->ring = ferry_kvm_ring_new(raw_vm_fd(bed->vm), config.nr_entries);
    for (unsigned i = 0; i < config.nr_regions; i++) {
        BedRegion *region = &bed->regions[i];

        region->nr_pages = config.nr_pages;
        region->noticed = g_new0(uint64_t, (config.nr_pages + 63) / 64);
        region->reported = g_new0(uint64_t, (config.nr_pages + 63) / 64);
        region->ever = g_new0(uint64_t, (config.nr_pages + 63) / 64);
        if (!config.no_memory) {
            region->host = raw_memory_new(config.kind, config.nr_pages);
            region->shadow = raw_memory_new(RAW_SMALL, config.nr_pages);
            bed_put_slot(bed, i + 1, bed_gpa(i), i, 0, config.nr_pages, false);
        }
    }
    for (unsigned i = 0; i < config.nr_vcpus; i++) {
        raw_vm_add_vcpu(bed->vm, config.mode);
        ferry_kvm_ring_add_vcpu(bed->ring, i, raw_vm_ring(bed->vm, i), 0);
    }
    return bed;
}

void bed_free(Bed *bed)
{
    ferry_kvm_ring_stop(bed->ring);
    ferry_kvm_ring_free(bed->ring);
    raw_vm_free(bed->vm);
    for (unsigned i = 0; i < bed->config.nr_regions; i++) {
        BedRegion *region = &bed->regions[i];

        if (region->host) {
            raw_memory_free(region->host, region->nr_pages);
            raw_memory_free(region->shadow, region->nr_pages);
        }
        g_free(region->noticed);
        g_free(region->reported);
        g_free(region->ever);
    }
    g_free(bed);
}

static bool knows_noticed(void *opaque)
{
    return ((Bed *)opaque)->knows_noticed;
}

void bed_start(Bed *bed)
{
    const FerryTrackerClient client = {
        .report = take_report,
        .early = take_report,
        .noticed = take_notice,
        .knows_noticed = knows_noticed,
        .opaque = bed,
    };
    g_autoptr(GError) error = NULL;
    bool ok = ferry_kvm_ring_start(bed->ring, &client, &error);

    g_assert_no_error(error);
    g_assert_true(ok);
}

void bed_start_migration(Bed *bed)
{
    bed_start(bed);
    bed_set_logging(bed, true);
    for (unsigned i = 0; i < bed->config.nr_regions; i++) {
        memcpy(bed->regions[i].shadow, bed->regions[i].host, bed->regions[i].nr_pages * RAW_PAGE);
    }
}

void bed_harvest(Bed *bed, bool last)
{
    g_autoptr(GError) error = NULL;
    bool ok = ferry_kvm_ring_harvest(bed->ring, last, &error);

    g_assert_no_error(error);
    g_assert_true(ok);
}

uint64_t bed_feed(Bed *bed, uint64_t max_pages)
{
    g_autoptr(GError) error = NULL;
    uint64_t left_pages = UINT64_MAX;
    bool ok = ferry_kvm_ring_feed(bed->ring, max_pages, &left_pages, &error);

    g_assert_no_error(error);
    g_assert_true(ok);
    return left_pages;
}

void bed_feed_all(Bed *bed)
{
    while (bed_feed(bed, 256) > 0) {
    }
}

void bed_migrate_round(Bed *bed)
{
    uint64_t left_pages;

    bed_harvest(bed, false);
    do {
        left_pages = bed_feed(bed, 256);
        bed_copy_reported(bed);
    } while (left_pages > 0);
}

void bed_end_migration(Bed *bed)
{
    bed_harvest(bed, true);
    bed_copy_reported(bed);
    assert_equal(bed);
}

FerryKvmRingStats bed_stats(const Bed *bed, unsigned vcpu)
{
    g_autoptr(GArray) all = ferry_kvm_ring_query(bed->ring);

    for (guint i = 0; i < all->len; i++) {
        FerryKvmRingStats stats = g_array_index(all, FerryKvmRingStats, i);

        if (stats.vcpu == vcpu) {
            return stats;
        }
    }
    g_assert_not_reached();
}

void bed_list_region(Bed *bed, uint32_t first, unsigned region, uint32_t first_page, uint32_t nr)
{
    for (uint32_t i = 0; i < nr; i++) {
        raw_vm_list(bed->vm)[first + i] = BED_PFN(bed_gpa(region)) + first_page + i;
    }
}

void bed_write_pages(Bed *bed, unsigned vcpu, unsigned region, uint32_t first_page, uint32_t nr)
{
    bed_list_region(bed, vcpu * 65536, region, first_page, nr);
    raw_vm_run(bed->vm, vcpu, &(RawJob){.first = vcpu * 65536, .nr = nr, .nr_writes = nr});
}

void bed_wait_until_full(Bed *bed, unsigned vcpu, uint64_t nr_before, bool may_end)
{
    gint64 end_us = g_get_monotonic_time() + BED_PATIENCE_US;

    while (__atomic_load_n(&bed->nr_full[vcpu], __ATOMIC_RELAXED) <= nr_before &&
           !(may_end && raw_vm_is_over(bed->vm, vcpu))) {
        if (g_get_monotonic_time() > end_us) {
            const struct kvm_dirty_gfn *ring = raw_vm_ring(bed->vm, vcpu);
            unsigned nr_dirty = 0;

            for (unsigned i = 0; i < 1024; i++) {
                nr_dirty += ring[i].flags & KVM_DIRTY_GFN_F_DIRTY;
            }
            g_error("vCPU %u does not ask for room: %u of its first 1024 entries dirty, %" PRIu64
                    " pages written, "
                    "job %s",
                    vcpu, nr_dirty, raw_vm_nr_writes(bed->vm, vcpu),
                    raw_vm_is_over(bed->vm, vcpu) ? "over" : "not over");
        }
        g_usleep(100);
    }
}

void bed_wait_for_writes(Bed *bed, unsigned vcpu, uint64_t nr_writes)
{
    gint64 end_us = g_get_monotonic_time() + BED_PATIENCE_US;

    while (raw_vm_nr_writes(bed->vm, vcpu) < nr_writes) {
        g_assert_cmpint(g_get_monotonic_time(), <, end_us);
        g_usleep(100);
    }
}

void bed_end_jobs(Bed *bed)
{
    for (unsigned i = 0; i < bed->config.nr_vcpus; i++) {
        raw_vm_end(bed->vm, i);
    }
    for (unsigned i = 0; i < bed->config.nr_vcpus; i++) {
        raw_vm_wait(bed->vm, i);
    }
}

/* Odd vCPUs write at random, all over; even ones in order, each from another place on. */
static void begin_jobs(Bed *bed)
{
    uint32_t nr = bed->config.nr_regions * (uint32_t)bed->config.nr_pages;

    for (unsigned i = 0; i < bed->config.nr_regions; i++) {
        bed_list_region(bed, i * (uint32_t)bed->config.nr_pages, i, 0,
                        (uint32_t)bed->config.nr_pages);
    }
    memcpy(raw_vm_list(bed->vm) + nr, raw_vm_list(bed->vm), nr * sizeof(uint32_t));
    for (unsigned i = 0; i < bed->config.nr_vcpus; i++) {
        const RawJob job = {
            .first = i * nr / bed->config.nr_vcpus,
            .nr = nr,
            .seed = i % 2 ? g_test_rand_int() | UINT64_C(1) << 40 : 0,
        };

        raw_vm_begin(bed->vm, i, &job);
    }
}

static bool has_each_written(const Bed *bed)
{
    for (unsigned i = 0; i < bed->config.nr_vcpus; i++) {
        if (bed_stats(bed, i).collected == 0) {
            return false;
        }
    }
    return true;
}

void bed_race(Bed *bed, bool drain)
{
    gint64 begin_us = g_get_monotonic_time(), us = 0;

    begin_jobs(bed);
    for (; us < G_USEC_PER_SEC / 10 || !has_each_written(bed);
         us = g_get_monotonic_time() - begin_us) {
        g_assert_cmpint(us, <, BED_PATIENCE_US);
        if (drain) {
            ferry_kvm_ring_drain(bed->ring);
            bed_copy_reported(bed);
        } else {
            bed_migrate_round(bed);
        }
    }
    bed_end_jobs(bed);
}

/* --- A test program's cases ------------------------------------------------------------------ */

static char *why_not;

static void skip(void)
{
    g_test_skip(why_not);
}

void bed_init(int *argc, char ***argv)
{
    g_test_init(argc, argv, NULL);
    why_not = raw_vm_why_not();
}

void bed_add(const char *path, GTestFunc function)
{
    g_test_add_func(path, why_not ? skip : function);
}

void bed_add_data(const char *path, gconstpointer data, GTestDataFunc function)
{
    if (why_not) {
        g_test_add_func(path, skip);
    } else {
        g_test_add_data_func(path, data, function);
    }
}

int bed_run(void)
{
    int result = g_test_run();

    g_free(why_not);
    return result;
}
