/*
 * Dirty rings, on guests that really write
 *
 * The oracle: a "migration" copies the guest's memory when logging is on, then each page that is
 * reported, while vCPUs write as fast as they can.  When they have stopped and the last reports are
 * copied, the copy must equal the memory in every byte.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/kvm-ring.h"
#include "migration/error.h"
#include "raw-vm.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>

#define GIB         (UINT64_C(1) << 30)
#define PFN(gpa)    ((uint32_t)((gpa) / RAW_PAGE))
#define REGIONS_MAX 4
#define PATIENCE_US (20 * G_USEC_PER_SEC) /* before a test gives up what must come */

/* Region i is in slot i + 1, at the (i + 1)th GiB, unless a test puts it elsewhere. */
typedef struct Region {
    uint64_t nr_pages;
    uint8_t *host, *shadow;
    uint64_t *noticed;  /* a bit for each page: found written */
    uint64_t *reported; /* a bit for each page: to be copied */
    uint64_t *ever;     /* a bit for each page: was reported */
} Region;

typedef struct BedConfig {
    uint32_t nr_entries; /* Optional: of each ring; 65,536 */
    unsigned nr_vcpus;   /* Optional: 1 */
    unsigned nr_regions; /* Optional: 1 */
    uint64_t nr_pages;   /* Optional: of each region; 4096 */
    RawMode mode;        /* Optional: native */
    RawKind kind;        /* Optional: small pages */
    bool no_memory;      /* Optional: regions without memory or slots of their own */
} BedConfig;

/* A machine, its rings, and who uses them. */
typedef struct Bed {
    BedConfig config;
    RawVm *vm;
    FerryKvmRing *ring;
    Region regions[REGIONS_MAX];
    uint64_t nr_noticed, nr_reported; /* pages, each as often as it was */
    uint64_t nr_reports;              /* calls: up to 64 pages each */
    uint64_t nr_full[RAW_VCPUS_MAX];  /* times a vCPU asked for room in its ring */
    bool deaf;                        /* it is given none */
    bool at_once;                     /* pages are copied in the very moment they are reported */
    bool forget;                      /* the positive control: reports of this page are ignored */
    uint32_t forget_region;
    uint64_t forget_page;
} Bed;

/* --- Who uses the rings ---------------------------------------------------------------------- */

static bool test_bit(const uint64_t *bits, uint64_t page)
{
    return __atomic_load_n(&bits[page / 64], __ATOMIC_RELAXED) >> (page % 64) & 1;
}

static void copy_pages(Region *region, uint64_t word, uint64_t mask)
{
    for (; mask; mask &= mask - 1) {
        uint64_t offset = (word * 64 + (uint64_t)__builtin_ctzll(mask)) * RAW_PAGE;

        memcpy(region->shadow + offset, region->host + offset, RAW_PAGE);
    }
}

static void take_report(void *opaque, uint32_t number, uint64_t word, uint64_t mask)
{
    Bed *bed = opaque;
    Region *region = &bed->regions[number];

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
    Region *region = &bed->regions[number];

    g_assert_cmpuint(number, <, bed->config.nr_regions);
    g_assert_cmpuint(word, <, (region->nr_pages + 63) / 64);
    g_assert_cmpuint(mask, !=, 0);
    __atomic_fetch_add(&bed->nr_noticed, (uint64_t)__builtin_popcountll(mask), __ATOMIC_RELAXED);
    __atomic_fetch_or(&region->noticed[word], mask, __ATOMIC_RELAXED);
    return mask & __atomic_load_n(&region->ever[word], __ATOMIC_RELAXED);
}

static void copy_reported(Bed *bed)
{
    for (unsigned i = 0; i < bed->config.nr_regions; i++) {
        Region *region = &bed->regions[i];

        for (uint64_t word = 0; word < (region->nr_pages + 63) / 64; word++) {
            copy_pages(region, word,
                       __atomic_exchange_n(&region->reported[word], 0, __ATOMIC_ACQUIRE));
        }
    }
}

/* How many pages differ from their copy; all of them are in @region at @page if that is one. */
static uint64_t compare(const Bed *bed, uint32_t *number, uint64_t *page)
{
    uint64_t nr_different = 0;

    for (unsigned i = 0; i < bed->config.nr_regions; i++) {
        const Region *region = &bed->regions[i];

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
    uint64_t nr_different = compare(bed, &number, &page);

    if (nr_different) {
        g_test_message("one of %" PRIu64 " different pages: %u:%" PRIu64, nr_different, number,
                       page);
    }
    g_assert_cmpuint(nr_different, ==, 0);
}

static uint64_t count_bits(const uint64_t *bits, uint64_t nr_pages)
{
    uint64_t nr = 0;

    for (uint64_t page = 0; page < nr_pages; page++) {
        nr += test_bit(bits, page);
    }
    return nr;
}

static void clear_bits(uint64_t *bits, uint64_t nr_pages)
{
    for (uint64_t word = 0; word < (nr_pages + 63) / 64; word++) {
        __atomic_store_n(&bits[word], 0, __ATOMIC_RELAXED);
    }
}

/* From here on what is noticed and reported counts afresh. */
static void forget_reports(Bed *bed)
{
    for (unsigned i = 0; i < bed->config.nr_regions; i++) {
        Region *region = &bed->regions[i];

        clear_bits(region->noticed, region->nr_pages);
        clear_bits(region->reported, region->nr_pages);
        clear_bits(region->ever, region->nr_pages);
    }
    __atomic_store_n(&bed->nr_noticed, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&bed->nr_reported, 0, __ATOMIC_RELAXED);
}

/* --- The bed --------------------------------------------------------------------------------- */

static uint64_t gpa_of(unsigned region)
{
    return (region + 1) * GIB;
}

static void on_full(void *opaque, unsigned vcpu)
{
    Bed *bed = opaque;

    __atomic_fetch_add(&bed->nr_full[vcpu], 1, __ATOMIC_RELAXED);
    if (!bed->deaf) {
        ferry_kvm_ring_full(bed->ring, vcpu);
    }
}

/* A change of a slot, as it should be announced. */
static void put_slot(Bed *bed, uint32_t slot, uint64_t gpa, unsigned region, uint64_t first_page,
                     uint64_t nr_pages, bool log)
{
    ferry_kvm_ring_slots_begin(bed->ring);
    raw_vm_set_slot(bed->vm, slot, gpa, bed->regions[region].host + first_page * RAW_PAGE, nr_pages,
                    log);
    ferry_kvm_ring_set_slot(bed->ring, slot, region, first_page, nr_pages);
    ferry_kvm_ring_slots_end(bed->ring);
}

static void set_logging(Bed *bed, bool log)
{
    for (unsigned i = 0; i < bed->config.nr_regions; i++) {
        raw_vm_set_slot(bed->vm, i + 1, gpa_of(i), bed->regions[i].host, bed->regions[i].nr_pages,
                        log);
    }
}

static Bed *bed_new(BedConfig config)
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
        Region *region = &bed->regions[i];

        region->nr_pages = config.nr_pages;
        region->noticed = g_new0(uint64_t, (config.nr_pages + 63) / 64);
        region->reported = g_new0(uint64_t, (config.nr_pages + 63) / 64);
        region->ever = g_new0(uint64_t, (config.nr_pages + 63) / 64);
        if (!config.no_memory) {
            region->host = raw_memory_new(config.kind, config.nr_pages);
            region->shadow = raw_memory_new(RAW_SMALL, config.nr_pages);
            put_slot(bed, i + 1, gpa_of(i), i, 0, config.nr_pages, false);
        }
    }
    for (unsigned i = 0; i < config.nr_vcpus; i++) {
        raw_vm_add_vcpu(bed->vm, config.mode);
        ferry_kvm_ring_add_vcpu(bed->ring, i, raw_vm_ring(bed->vm, i), 0);
    }
    return bed;
}

static void bed_free(Bed *bed)
{
    ferry_kvm_ring_stop(bed->ring);
    ferry_kvm_ring_free(bed->ring);
    raw_vm_free(bed->vm);
    for (unsigned i = 0; i < bed->config.nr_regions; i++) {
        Region *region = &bed->regions[i];

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

G_DEFINE_AUTOPTR_CLEANUP_FUNC(Bed, bed_free)

static void start(Bed *bed)
{
    const FerryTrackerClient client = {
        .report = take_report,
        .early = take_report,
        .noticed = take_notice,
        .opaque = bed,
    };
    g_autoptr(GError) error = NULL;
    bool ok = ferry_kvm_ring_start(bed->ring, &client, &error);

    g_assert_no_error(error);
    g_assert_true(ok);
}

/* Begin, and copy everything once: what is written from here on is to be reported. */
static void start_migration(Bed *bed)
{
    start(bed);
    set_logging(bed, true);
    for (unsigned i = 0; i < bed->config.nr_regions; i++) {
        memcpy(bed->regions[i].shadow, bed->regions[i].host, bed->regions[i].nr_pages * RAW_PAGE);
    }
}

static void harvest(Bed *bed, bool last)
{
    g_autoptr(GError) error = NULL;
    bool ok = ferry_kvm_ring_harvest(bed->ring, last, &error);

    g_assert_no_error(error);
    g_assert_true(ok);
}

static uint64_t feed(Bed *bed, uint64_t max_pages)
{
    g_autoptr(GError) error = NULL;
    uint64_t left_pages = UINT64_MAX;
    bool ok = ferry_kvm_ring_feed(bed->ring, max_pages, &left_pages, &error);

    g_assert_no_error(error);
    g_assert_true(ok);
    return left_pages;
}

static void feed_all(Bed *bed)
{
    while (feed(bed, 256) > 0) {
    }
}

static void migrate_round(Bed *bed)
{
    uint64_t left_pages;

    harvest(bed, false);
    do {
        left_pages = feed(bed, 256);
        copy_reported(bed);
    } while (left_pages > 0);
}

/* With all vCPUs stopped. */
static void end_migration(Bed *bed)
{
    harvest(bed, true);
    copy_reported(bed);
    assert_equal(bed);
}

static FerryKvmRingStats stats_of(const Bed *bed, unsigned vcpu)
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

/* Fill part of the list with consecutive pages of a region. */
static void list_region(Bed *bed, uint32_t first, unsigned region, uint32_t first_page, uint32_t nr)
{
    for (uint32_t i = 0; i < nr; i++) {
        raw_vm_list(bed->vm)[first + i] = PFN(gpa_of(region)) + first_page + i;
    }
}

/* Write to so many consecutive pages, each once. */
static void write_pages(Bed *bed, unsigned vcpu, unsigned region, uint32_t first_page, uint32_t nr)
{
    list_region(bed, vcpu * 65536, region, first_page, nr);
    raw_vm_run(bed->vm, vcpu, &(RawJob){.first = vcpu * 65536, .nr = nr, .nr_writes = nr});
}

/* Wait until a vCPU has asked for room more often than that; or, if it may, has done its job. */
static void wait_until_full(Bed *bed, unsigned vcpu, uint64_t nr_before, bool may_end)
{
    gint64 end_us = g_get_monotonic_time() + PATIENCE_US;

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

static void wait_for_writes(Bed *bed, unsigned vcpu, uint64_t nr_writes)
{
    gint64 end_us = g_get_monotonic_time() + PATIENCE_US;

    while (raw_vm_nr_writes(bed->vm, vcpu) < nr_writes) {
        g_assert_cmpint(g_get_monotonic_time(), <, end_us);
        g_usleep(100);
    }
}

static void end_jobs(Bed *bed)
{
    for (unsigned i = 0; i < bed->config.nr_vcpus; i++) {
        raw_vm_end(bed->vm, i);
    }
    for (unsigned i = 0; i < bed->config.nr_vcpus; i++) {
        raw_vm_wait(bed->vm, i);
    }
}

/* --- What is logged, and when ---------------------------------------------------------------- */

/* Scattered writes, to two slots that share a region and one with a region of its own. */
static void test_exact(void)
{
    g_autoptr(Bed) bed = bed_new((BedConfig){.nr_regions = 2});
    uint32_t *list = raw_vm_list(bed->vm), nr = 0;
    uint64_t expected[2][64] = {{0}};

    put_slot(bed, 1, gpa_of(0), 0, 0, 0, false);
    put_slot(bed, 1, gpa_of(0), 0, 0, 1024, false);
    put_slot(bed, 9, gpa_of(0) + GIB / 2, 0, 1024, 3072, false);
    start(bed);
    write_pages(bed, 0, 1, 0, 4096); /* not logged */
    put_slot(bed, 1, gpa_of(0), 0, 0, 1024, true);
    put_slot(bed, 9, gpa_of(0) + GIB / 2, 0, 1024, 3072, true);
    put_slot(bed, 2, gpa_of(1), 1, 0, 4096, true);
    for (uint32_t page = 0; page < 4096; page += (uint32_t)g_test_rand_int_range(1, 8)) {
        unsigned region = (unsigned)g_test_rand_int_range(0, 2);
        uint64_t gpa = gpa_of(region) + page * RAW_PAGE;

        if (region == 0 && page >= 1024) {
            gpa += GIB / 2 - 1024 * RAW_PAGE;
        }
        list[nr++] = PFN(gpa);
        expected[region][page / 64] |= UINT64_C(1) << (page % 64);
    }
    raw_vm_run(bed->vm, 0, &(RawJob){.nr = nr, .nr_writes = 3 * nr});
    harvest(bed, false);
    for (unsigned i = 0; i < 2; i++) {
        g_assert_cmpmem(bed->regions[i].noticed, 512, expected[i], 512);
    }
    g_assert_cmpuint(bed->nr_noticed, ==, nr);
    g_assert_cmpuint(bed->nr_reported, ==, 0);
    feed_all(bed);
    for (unsigned i = 0; i < 2; i++) {
        g_assert_cmpmem(bed->regions[i].reported, 512, expected[i], 512);
    }
    g_assert_cmpuint(bed->nr_reported, ==, nr);

    /* Then nothing is left to be said. */
    harvest(bed, false);
    g_assert_cmpuint(feed(bed, 1000), ==, 0);
    harvest(bed, true);
    g_assert_cmpuint(bed->nr_noticed, ==, nr);
    g_assert_cmpuint(bed->nr_reported, ==, nr);
    g_assert_cmpuint(stats_of(bed, 0).collected, ==, nr);
    g_assert_cmpuint(stats_of(bed, 0).resets, ==, nr);
    g_assert_cmpuint(stats_of(bed, 0).forced_resets, ==, 0);
    g_assert_cmpuint(stats_of(bed, 0).redirtied, ==, 0);
    g_assert_cmpuint(raw_vm_counts(bed->vm, 0).nr_exits, ==, 0);
}

/* Between notice and report a page costs nothing; after it, it is logged again. */
static void test_held(void)
{
    g_autoptr(Bed) bed = bed_new((BedConfig){0});

    start(bed);
    set_logging(bed, true);
    write_pages(bed, 0, 0, 100, 1000);
    harvest(bed, false);
    g_assert_cmpuint(stats_of(bed, 0).collected, ==, 1000);
    for (unsigned i = 0; i < 5; i++) {
        write_pages(bed, 0, 0, 100, 1000);
        g_usleep(25000); /* the thread looks as well */
        harvest(bed, false);
        g_assert_cmpuint(stats_of(bed, 0).collected, ==, 1000);
    }
    g_assert_cmpuint(bed->nr_reported, ==, 0);
    feed_all(bed);
    g_assert_cmpuint(bed->nr_reported, ==, 1000);
    g_assert_cmpuint(stats_of(bed, 0).redirtied, ==, 0);
    write_pages(bed, 0, 0, 600, 1000);
    harvest(bed, false);
    g_assert_cmpuint(stats_of(bed, 0).collected, ==, 2000);
    g_assert_cmpuint(stats_of(bed, 0).redirtied, ==, 500);
}

/* Some at a time, and only what the last harvest found. */
static void test_feed(void)
{
    g_autoptr(Bed) bed = bed_new((BedConfig){.nr_vcpus = 2});
    uint64_t left_pages, before;

    start(bed);
    set_logging(bed, true);
    write_pages(bed, 0, 0, 0, 1000);
    write_pages(bed, 1, 0, 1000, 200);
    g_assert_cmpuint(feed(bed, 100), ==, 0); /* of a round that has not begun */
    g_assert_cmpuint(bed->nr_reported, ==, 0);
    harvest(bed, false);
    write_pages(bed, 0, 0, 2000, 500); /* of the next one */
    left_pages = feed(bed, 100);
    g_assert_cmpuint(bed->nr_reported, >, 0);
    g_assert_cmpuint(bed->nr_reported, <=, 100 + 2);
    g_assert_cmpuint(left_pages, ==, 1200 - bed->nr_reported);
    g_assert_true(test_bit(bed->regions[0].reported, 0));
    g_assert_false(test_bit(bed->regions[0].reported, 999));
    do {
        before = bed->nr_reported;
        left_pages = feed(bed, 0);
        g_assert_cmpuint(bed->nr_reported, >, before);
    } while (left_pages > 0);
    g_assert_cmpuint(count_bits(bed->regions[0].reported, 1200), ==, 1200);
    g_assert_cmpuint(bed->nr_reported, ==, 1200);
    harvest(bed, false);
    feed_all(bed);
    g_assert_cmpuint(bed->nr_reported, ==, 1700);
}

/* Pages are reset and reported in the order of memory, in whatever order they were written. */
static void test_order(void)
{
    g_autoptr(Bed) bed = bed_new((BedConfig){0});
    const uint32_t nr = 1024, step = 389; /* no common divisor */

    start_migration(bed);
    for (uint32_t i = 0; i < nr; i++) {
        raw_vm_list(bed->vm)[i] = PFN(gpa_of(0)) + i * step % nr;
    }
    raw_vm_run(bed->vm, 0, &(RawJob){.nr = nr, .nr_writes = nr});
    harvest(bed, false);
    g_assert_cmpuint(feed(bed, nr / 2 - 1), ==, nr / 2);
    g_assert_cmpuint(bed->nr_reported, ==, nr / 2);
    g_assert_cmpuint(bed->nr_reports, ==, nr / 2 / 64);
    g_assert_cmpuint(count_bits(bed->regions[0].reported, nr / 2), ==, nr / 2);
    raw_vm_run(bed->vm, 0, &(RawJob){.nr = nr, .nr_writes = nr});
    feed_all(bed);
    migrate_round(bed);
    end_migration(bed);
}

static void test_drain(void)
{
    g_autoptr(Bed) bed = bed_new((BedConfig){.nr_vcpus = 2});

    start(bed);
    set_logging(bed, true);
    write_pages(bed, 0, 0, 0, 500);
    harvest(bed, false);
    write_pages(bed, 1, 0, 500, 100);
    g_assert_cmpuint(ferry_kvm_ring_drain(bed->ring), <=, 100); /* the thread may be first */
    g_assert_cmpuint(bed->nr_reported, ==, 600);
    g_assert_cmpuint(ferry_kvm_ring_drain(bed->ring), ==, 0);
    g_assert_cmpuint(feed(bed, 1000), ==, 0);

    /* Each write from then on is logged. */
    write_pages(bed, 1, 0, 0, 600);
    ferry_kvm_ring_drain(bed->ring);
    g_assert_cmpuint(bed->nr_reported, ==, 1200);
    g_assert_cmpuint(stats_of(bed, 0).resets + stats_of(bed, 1).resets, ==, 1200);

    ferry_kvm_ring_stop(bed->ring);
    g_assert_cmpuint(ferry_kvm_ring_drain(bed->ring), ==, 0);
}

/* --- Races ----------------------------------------------------------------------------------- */

typedef struct Race {
    RawKind kind;
    unsigned nr_vcpus;
    bool drain; /* instead of feeding */
} Race;

/* Odd vCPUs write at random, all over; even ones in order, each from another place on. */
static void begin_jobs(Bed *bed)
{
    uint32_t nr = bed->config.nr_regions * (uint32_t)bed->config.nr_pages;

    for (unsigned i = 0; i < bed->config.nr_regions; i++) {
        list_region(bed, i * (uint32_t)bed->config.nr_pages, i, 0, (uint32_t)bed->config.nr_pages);
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
        if (stats_of(bed, i).collected == 0) {
            return false;
        }
    }
    return true;
}

/* Returns when vCPUs have written a while, each of them. */
static void race(Bed *bed, const Race *how)
{
    gint64 begin_us = g_get_monotonic_time(), us = 0;

    begin_jobs(bed);
    for (; us < G_USEC_PER_SEC / 10 || !has_each_written(bed);
         us = g_get_monotonic_time() - begin_us) {
        g_assert_cmpint(us, <, PATIENCE_US);
        if (how->drain) {
            ferry_kvm_ring_drain(bed->ring);
            copy_reported(bed);
        } else {
            migrate_round(bed);
        }
    }
    end_jobs(bed);
}

static void test_race(gconstpointer data)
{
    const Race *how = data;
    g_autoptr(Bed) bed = bed_new((BedConfig){
        .nr_vcpus = how->nr_vcpus, .kind = how->kind, .nr_regions = 2, .nr_pages = 2048});
    for (unsigned i = 0; i < 2; i++) {
        start_migration(bed);
        race(bed, how);
        end_migration(bed);
        ferry_kvm_ring_stop(bed->ring);
        set_logging(bed, false);
    }
}

/*
 * What is reported may be read at once: it has been reset.  vCPUs end by themselves, all the time,
 * so that the last write to a page is often one right after that.
 */
static void test_race_at_once(void)
{
    const uint32_t nr_pages = 1024;
    g_autoptr(Bed) bed = bed_new((BedConfig){.nr_vcpus = 2, .nr_pages = nr_pages});

    bed->at_once = true;
    start_migration(bed);
    list_region(bed, 0, 0, 0, nr_pages);
    for (unsigned i = 0; i < 40; i++) {
        const RawJob jobs[] = {{.nr = nr_pages, .nr_writes = 10000, .seed = g_test_rand_int() | 1U},
                               {.nr = nr_pages, .nr_writes = 10000, .seed = i + 1}};

        raw_vm_begin(bed->vm, 0, &jobs[0]);
        raw_vm_begin(bed->vm, 1, &jobs[1]);
        while (raw_vm_nr_writes(bed->vm, 0) < 10000 || raw_vm_nr_writes(bed->vm, 1) < 10000) {
            migrate_round(bed);
        }
        raw_vm_wait(bed->vm, 0);
        raw_vm_wait(bed->vm, 1);
        end_migration(bed);
    }
}

/* The positive control: whoever forgets what is said about one page is found out. */
static void test_race_forgetful(void)
{
    g_autoptr(Bed) bed = bed_new((BedConfig){.nr_regions = 2, .nr_pages = 2048});
    uint64_t page = 0;
    uint32_t number = 0;

    bed->forget = true;
    bed->forget_region = 1;
    bed->forget_page = (uint64_t)g_test_rand_int_range(0, 2048);
    start_migration(bed);
    race(bed, &(Race){0});
    write_pages(bed, 0, 1, 0, 2048);
    harvest(bed, true);
    copy_reported(bed);
    g_assert_cmpuint(compare(bed, &number, &page), ==, 1);
    g_assert_cmpuint(number, ==, bed->forget_region);
    g_assert_cmpuint(page, ==, bed->forget_page);
}

typedef struct Nuisance {
    pthread_t target;
    bool quit;
} Nuisance;

static void on_signal(int number)
{
}

static gpointer send_signals(gpointer opaque)
{
    Nuisance *nuisance = opaque;

    while (!__atomic_load_n(&nuisance->quit, __ATOMIC_RELAXED)) {
        pthread_kill(nuisance->target, SIGUSR1);
        g_usleep(20);
    }
    return NULL;
}

/* Signals would end KVM_RESET_DIRTY_RINGS early, with pages left unprotected. */
static void test_race_signals(void)
{
    g_autoptr(Bed) bed = bed_new((BedConfig){.nr_vcpus = 2, .nr_pages = 8192});
    const struct sigaction action = {.sa_handler = on_signal};
    Nuisance nuisance = {.target = pthread_self()};
    GThread *thread;

    g_assert_cmpint(sigaction(SIGUSR1, &action, NULL), ==, 0);
    thread = g_thread_new("nuisance", send_signals, &nuisance);
    start_migration(bed);
    for (unsigned i = 0; i < 4; i++) {
        race(bed, &(Race){.drain = true});
        end_migration(bed);
    }
    __atomic_store_n(&nuisance.quit, true, __ATOMIC_RELAXED);
    g_thread_join(thread);
}

/* --- Rings that fill ------------------------------------------------------------------------- */

/*
 * One vCPU fills its ring again and again while nobody may look.  The other one writes to few
 * pages: its ring is not touched, and it never leaves the guest.
 */
static void test_small_ring(void)
{
    g_autoptr(Bed) bed =
        bed_new((BedConfig){.nr_entries = 1024, .nr_vcpus = 2, .nr_regions = 2, .nr_pages = 4096});
    start_migration(bed);
    list_region(bed, 0, 0, 0, 4096);
    list_region(bed, 4096, 1, 0, 64);
    raw_vm_begin(bed->vm, 0, &(RawJob){.nr = 4096});
    raw_vm_begin(bed->vm, 1, &(RawJob){.first = 4096, .nr = 64, .seed = 1});
    wait_for_writes(bed, 1, 1000);
    for (uint64_t nr_full = 0; nr_full < 20; nr_full = stats_of(bed, 0).full_exits) {
        ferry_kvm_ring_slots_begin(bed->ring);
        wait_until_full(bed, 0, nr_full, false);
        ferry_kvm_ring_slots_end(bed->ring);
        g_usleep(1000); /* let the vCPU have its turn */
    }
    wait_for_writes(bed, 0, raw_vm_nr_writes(bed->vm, 0) + 4096);
    end_jobs(bed);
    harvest(bed, false);
    g_assert_cmpuint(stats_of(bed, 0).full_exits, >=, 20);
    g_assert_cmpuint(stats_of(bed, 0).full_exits, ==, raw_vm_counts(bed->vm, 0).nr_full);
    g_assert_cmpuint(raw_vm_counts(bed->vm, 0).nr_exits, ==, raw_vm_counts(bed->vm, 0).nr_full);
    g_assert_cmpuint(stats_of(bed, 0).resets, >, 0);
    g_assert_cmpuint(stats_of(bed, 1).collected, ==, 64);
    g_assert_cmpuint(stats_of(bed, 1).resets, ==, 0);
    g_assert_cmpuint(raw_vm_counts(bed->vm, 1).nr_exits, ==, 0);

    race(bed, &(Race){0});
    end_migration(bed);
}

/* Look, then wait until the thread leaves no more entries in the first vCPU's ring than that. */
static void wait_until_held(Bed *bed, uint64_t nr_max)
{
    gint64 end_us = g_get_monotonic_time() + PATIENCE_US;

    harvest(bed, false);
    while (stats_of(bed, 0).collected - stats_of(bed, 0).resets > nr_max) {
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

    start_migration(bed);
    ferry_kvm_ring_set_fill(bed->ring, true);
    for (unsigned i = 0; i < 3; i++) {
        write_pages(bed, 0, 0, 0, nr_pages);
        g_usleep(5000);
    }
    /* Each time it is full, a quarter is left. */
    nr_full = stats_of(bed, 0).full_exits;
    g_assert_cmpuint(nr_full, >=, 3 * (nr_pages - nr_entries) / nr_entries);
    g_assert_cmpuint(raw_vm_counts(bed->vm, 0).nr_full, ==, nr_full);
    copy_reported(bed);
    race(bed, &(Race){0});
    ferry_kvm_ring_set_fill(bed->ring, false);
    end_migration(bed);

    /* Then the ring of a slow vCPU is emptied before it is full. */
    feed_all(bed);
    nr_full = stats_of(bed, 0).full_exits;
    for (uint32_t i = 0; i < nr_pages; i += nr_entries / 4) {
        write_pages(bed, 0, 0, i, nr_entries / 4);
        wait_until_held(bed, nr_entries / 2);
    }
    g_assert_cmpuint(stats_of(bed, 0).full_exits, ==, nr_full);
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

    start(bed);
    for (uint32_t i = 0; i < nr_pages / slot_pages; i++) {
        const uint64_t gpa = GIB + (uint64_t)i * slot_pages * RAW_PAGE;

        raw_vm_set_slot(bed->vm, i + 1, gpa, host, slot_pages, true);
        ferry_kvm_ring_slots_begin(bed->ring);
        ferry_kvm_ring_set_slot(bed->ring, i + 1, 0, (uint64_t)i * slot_pages, slot_pages);
        ferry_kvm_ring_slots_end(bed->ring);
        raw_vm_run(bed->vm, 0, &(RawJob){.sweep_gpa = gpa, .nr = slot_pages});
        wait_until_held(bed, 49152);
    }
    stats = stats_of(bed, 0);
    g_assert_cmpuint(stats.full_exits, ==, 0);
    g_assert_cmpuint(stats.collected, ==, nr_pages);
    g_assert_cmpuint(stats.resets, >=, nr_pages - 49152);
    g_assert_cmpuint(stats.resets, ==, bed->nr_reported);
    g_assert_cmpuint(stats.forced_resets, ==, stats.resets);
    harvest(bed, true);
    g_assert_cmpuint(bed->nr_reported, ==, nr_pages);
    g_assert_cmpuint(count_bits(bed->regions[0].reported, nr_pages), ==, nr_pages);
    g_clear_pointer(&bed, bed_free);
    raw_memory_free(host, slot_pages);
}

/* --- Slots ----------------------------------------------------------------------------------- */

/* Entries mean what their slot was when they were made. */
static void test_slot_meaning(void)
{
    g_autoptr(Bed) bed = bed_new((BedConfig){.nr_regions = 3});
    const uint64_t gpa = gpa_of(0);

    start(bed);
    set_logging(bed, true);
    write_pages(bed, 0, 0, 10, 100); /* seen, then not even that */
    harvest(bed, false);
    write_pages(bed, 0, 0, 1000, 100);
    put_slot(bed, 1, gpa, 0, 0, 0, false);
    g_assert_cmpuint(bed->nr_reported, ==, 200);
    g_assert_cmpuint(count_bits(bed->regions[0].reported, 4096), ==, 200);
    g_assert_true(test_bit(bed->regions[0].reported, 10));
    g_assert_true(test_bit(bed->regions[0].reported, 1099));

    /* The same number, another region, not from its beginning. */
    put_slot(bed, 1, gpa, 1, 50, 4000, true);
    write_pages(bed, 0, 0, 10, 100);
    harvest(bed, false);
    feed_all(bed);
    g_assert_cmpuint(bed->nr_reported, ==, 300);
    g_assert_cmpuint(count_bits(bed->regions[1].reported, 4096), ==, 100);
    g_assert_true(test_bit(bed->regions[1].reported, 60));
    g_assert_true(test_bit(bed->regions[1].reported, 159));

    /* Elsewhere in the guest. */
    write_pages(bed, 0, 0, 200, 100);
    put_slot(bed, 1, gpa + GIB / 2, 1, 50, 4000, true);
    raw_vm_list(bed->vm)[0] = PFN(gpa + GIB / 2) + 300;
    raw_vm_run(bed->vm, 0, &(RawJob){.nr = 1, .nr_writes = 1});
    harvest(bed, true);
    g_assert_cmpuint(bed->nr_reported, ==, 401);
    g_assert_cmpuint(count_bits(bed->regions[1].reported, 4096), ==, 201);
    g_assert_true(test_bit(bed->regions[1].reported, 250));
    g_assert_true(test_bit(bed->regions[1].reported, 350));
    g_assert_cmpuint(raw_vm_counts(bed->vm, 0).nr_mmio, ==, 0);
}

/* Slots that nobody announced, that were announced as none of ours, or as shorter than they are. */
static void test_slot_unknown(void)
{
    g_autoptr(Bed) bed = bed_new((BedConfig){0});
    uint8_t *host = raw_memory_new(RAW_SMALL, 1024);
    const uint64_t gpas[] = {4 * GIB, 5 * GIB, 6 * GIB};
    uint32_t *list = raw_vm_list(bed->vm), nr = 0;

    raw_vm_set_slot(bed->vm, 20, gpas[0], host, 1024, true);
    raw_vm_set_slot(bed->vm, 5, gpas[1], host, 1024, true);
    raw_vm_set_slot(bed->vm, 6, gpas[2], host, 1024, true);
    start(bed);
    put_slot(bed, 1, gpa_of(0), 0, 0, 4096, true);
    ferry_kvm_ring_slots_begin(bed->ring);
    ferry_kvm_ring_set_slot(bed->ring, 6, 0, 0, 0);
    ferry_kvm_ring_set_slot(bed->ring, 1, 0, 0, 2048);
    /* No such address space, no such slot. */
    ferry_kvm_ring_set_slot(bed->ring, 0x7fff0001, 0, 0, 4096);
    ferry_kvm_ring_set_slot(bed->ring, 0xffff, 0, 0, 4096);
    ferry_kvm_ring_slots_end(bed->ring);

    for (uint32_t page = 0; page < 1024; page++) {
        list[nr++] = PFN(gpas[page % 3]) + page;
        list[nr++] = PFN(gpa_of(0)) + page * 4;
    }
    for (unsigned i = 1; i <= 2; i++) {
        raw_vm_run(bed->vm, 0, &(RawJob){.nr = nr, .nr_writes = nr});
        harvest(bed, false);
        feed_all(bed);
        g_assert_cmpuint(bed->nr_noticed, ==, i * 512);
        g_assert_cmpuint(bed->nr_reported, ==, i * 512);
        g_assert_cmpuint(stats_of(bed, 0).collected, ==, i * 2048);
        g_assert_cmpuint(stats_of(bed, 0).resets, ==, i * 2048);
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
        migrate_round(rounds->bed);
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
    const uint64_t places[] = {gpa_of(0), gpa_of(1), gpa_of(2), gpa_of(3)};
    const uint64_t nr_writes_min = 2 * 4096; /* so that each comes to where nothing is */
    gint64 end_us = g_get_monotonic_time() + PATIENCE_US;
    uint32_t *list = raw_vm_list(bed->vm);
    GThread *thread;

    for (uint32_t i = 0; i < 4 * 1024; i++) {
        list[i] = PFN(places[i / 1024]) + i % 1024;
    }
    start_migration(bed);
    thread = g_thread_new("rounds", run_rounds, &rounds);
    raw_vm_begin(bed->vm, 0, &(RawJob){.nr = 4096});
    raw_vm_begin(bed->vm, 1, &(RawJob){.nr = 4096, .seed = 1});
    for (unsigned i = 0; i < 40 || raw_vm_nr_writes(bed->vm, 0) < nr_writes_min ||
                         raw_vm_nr_writes(bed->vm, 1) < nr_writes_min;
         i++) {
        g_assert_cmpint(g_get_monotonic_time(), <, end_us);
        g_usleep(2000);
        put_slot(bed, 1, places[0], 0, 0, 0, false);
        g_usleep(100 * (i % 4));
        put_slot(bed, 2, places[1], 0, 0, 0, false);
        put_slot(bed, 1, places[0], (i + 1) % 2, 0, 1024, true);
        put_slot(bed, 2, places[1], i % 2, 0, 1024, true);
        put_slot(bed, 3, places[2 + (i + 1) % 2], 2, 0, 1024, true);
    }
    end_jobs(bed);
    __atomic_store_n(&rounds.quit, true, __ATOMIC_RELAXED);
    g_thread_join(thread);
    for (unsigned i = 0; i < 2; i++) {
        g_assert_cmpuint(raw_vm_counts(bed->vm, i).nr_mmio, >, 0);
    }
    end_migration(bed);
}

/* --- vCPUs ----------------------------------------------------------------------------------- */

/* One vCPU comes and goes, while another one writes. Its ring goes round several times. */
static void test_vcpu_comes_and_goes(void)
{
    g_autoptr(Bed) bed =
        bed_new((BedConfig){.nr_entries = 1024, .nr_vcpus = 2, .nr_regions = 2, .nr_pages = 4096});
    const Region *region = &bed->regions[1];
    uint32_t fetch = 0;

    start_migration(bed);
    list_region(bed, 0, 0, 0, 4096);
    raw_vm_begin(bed->vm, 0, &(RawJob){.nr = 4096, .seed = 1});
    for (unsigned i = 0; i < 30; i++) {
        uint32_t nr = (uint32_t)g_test_rand_int_range(1, 300);

        clear_bits(region->ever, region->nr_pages);
        write_pages(bed, 1, 1, i * 100, nr);
        if (i % 2) {
            migrate_round(bed);
        }
        fetch += nr;
        g_assert_cmpuint(ferry_kvm_ring_remove_vcpu(bed->ring, 1), ==, fetch);
        g_assert_cmpuint(count_bits(region->ever, 4096), ==, nr);
        copy_reported(bed);
        ferry_kvm_ring_add_vcpu(bed->ring, 1, raw_vm_ring(bed->vm, 1), fetch);
        g_assert_cmpuint(stats_of(bed, 1).collected, ==, 0);
    }
    raw_vm_end(bed->vm, 0);
    raw_vm_wait(bed->vm, 0);
    end_migration(bed);
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

    set_logging(bed, true);
    for (uint32_t i = 0; i < 8; i++) {
        uint32_t fetch, nr;

        start(bed);
        forget_reports(bed);
        write_pages(bed, 0, 0, i * 10, 150);
        write_pages(bed, 1, 0, 2000 + i * 10, 100);
        harvest(bed, false);
        g_assert_cmpuint(bed->nr_noticed, ==, 250);
        g_assert_cmpuint(stats_of(bed, 0).collected, ==, 150);
        g_assert_cmpuint(stats_of(bed, 1).collected, ==, 100);
        feed(bed, i * 20);
        write_pages(bed, 0, 0, 1000 + i * 10, 120);
        ferry_kvm_ring_stop(bed->ring);
        nr = (uint32_t)bed->nr_reported;
        g_assert_cmpuint(count_flagged(bed, 0) + count_flagged(bed, 1), ==, 0);

        fetch = ferry_kvm_ring_remove_vcpu(bed->ring, 0);
        write_pages(bed, 0, 0, i * 10, 90);
        g_assert_cmpuint(collect_otherwise(bed, 0, fetch, i * 10), ==, 90);
        write_pages(bed, 0, 0, i * 10, 80);
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
        start(bed);
        harvest(bed, false);
        g_assert_cmpuint(feed(bed, 100), ==, 0);
        ferry_kvm_ring_full(bed->ring, 0);
        g_assert_cmpuint(ferry_kvm_ring_drain(bed->ring), ==, 0);
        harvest(bed, true);
        stats = ferry_kvm_ring_query(bed->ring);
        g_assert_cmpuint(stats->len, ==, 0);
        g_clear_pointer(&stats, g_array_unref);
        ferry_kvm_ring_stop(bed->ring);
        ferry_kvm_ring_stop(bed->ring);
    }
    g_assert_cmpuint(bed->nr_noticed + bed->nr_reported, ==, 0);
    ferry_kvm_ring_free(NULL);
}

/* --- Overruns -------------------------------------------------------------------------------- */

/* Whether this KVM emulates code at ring 0: that costs more than a microsecond a write. */
static bool is_emulated(void)
{
    g_autoptr(Bed) bed = bed_new((BedConfig){.mode = RAW_EMULATED});
    const unsigned nr_writes = 2000;
    uint64_t least_ns = UINT64_MAX;

    raw_vm_list(bed->vm)[0] = PFN(gpa_of(0));
    for (unsigned i = 0; i < 3; i++) {
        const uint64_t before_ns = raw_vm_counts(bed->vm, 0).cpu_ns;

        raw_vm_run(bed->vm, 0, &(RawJob){.nr = 1, .nr_writes = nr_writes});
        least_ns = MIN(least_ns, raw_vm_counts(bed->vm, 0).cpu_ns - before_ns);
    }
    return least_ns > nr_writes * 1000;
}

/*
 * A job that overruns a ring of 1024 entries if it is emulated.  The emulator does not look up in a
 * string instruction before what is left to do is a multiple of 1024, and logs each single write:
 * 900 of them, for which there is room, then 1024 at once.
 */
static RawJob overrunning_job(void)
{
    return (RawJob){.burst_gpa = gpa_of(0), .nr = 900 + 3 * 1024};
}

/*
 * Nobody looks at the ring before it is full, or all is written: KVM may emulate the rest of a program
 * in one go, and then it does not ask for room (seen once in some 600 runs).
 */
static void run_unseen(Bed *bed, const RawJob *job)
{
    const uint64_t nr_full = __atomic_load_n(&bed->nr_full[0], __ATOMIC_RELAXED);

    ferry_kvm_ring_slots_begin(bed->ring);
    raw_vm_begin(bed->vm, 0, job);
    wait_until_full(bed, 0, nr_full, bed->config.mode == RAW_EMULATED);
    if (bed->deaf) {
        raw_vm_end(bed->vm, 0);
        raw_vm_wait(bed->vm, 0);
    }
    ferry_kvm_ring_slots_end(bed->ring);
    if (!bed->deaf) {
        raw_vm_wait(bed->vm, 0);
    }
}

/* The last harvest; returns whether it says that the ring was overrun. */
static bool harvest_overrun(Bed *bed)
{
    g_autoptr(GError) error = NULL;

    if (ferry_kvm_ring_harvest(bed->ring, true, &error)) {
        g_assert_no_error(error);
        return false;
    }
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_TRACKER);
    g_assert_nonnull(strstr(error->message, "overrun"));
    return true;
}

/* A native vCPU leaves the guest before its ring has no entry free, and nothing is lost. */
static void test_overrun_native(void)
{
    g_autoptr(Bed) bed = bed_new((BedConfig){.nr_entries = 1024, .nr_pages = 8192});
    const RawJob jobs[] = {{.sweep_gpa = gpa_of(0), .nr = 8192},
                           {.burst_gpa = gpa_of(0), .nr = 8192 * 512}};

    start(bed);
    set_logging(bed, true);
    for (unsigned i = 0; i < 6; i++) {
        forget_reports(bed);
        run_unseen(bed, &jobs[i % 2]);
        g_assert_false(harvest_overrun(bed));
        g_assert_cmpuint(count_bits(bed->regions[0].reported, 8192), ==, 8192);
        ferry_kvm_ring_drain(bed->ring);
    }
    g_assert_cmpuint(stats_of(bed, 0).resets, >=, 6 * 8192);
}

/* A machine whose code is emulated, or NULL where there is no such thing. */
static Bed *bed_new_emulated(uint32_t nr_entries, uint64_t nr_pages)
{
    Bed *bed;

    if (!is_emulated()) {
        g_test_skip("this KVM emulates no code at ring 0");
        return NULL;
    }
    bed =
        bed_new((BedConfig){.nr_entries = nr_entries, .nr_pages = nr_pages, .mode = RAW_EMULATED});
    start(bed);
    set_logging(bed, true);
    return bed;
}

/* At the pace of a guest that can be kept up with, even if its code is emulated. */
static void assert_exact(Bed *bed)
{
    const uint32_t nr = bed->config.nr_entries / 4;

    for (uint32_t i = 0; i < 8192; i += nr) {
        forget_reports(bed);
        write_pages(bed, 0, 0, i, nr);
        harvest(bed, i >= 4096);
        if (i < 4096) {
            feed_all(bed);
        }
        g_assert_cmpuint(count_bits(bed->regions[0].reported, 8192), ==, nr);
        ferry_kvm_ring_drain(bed->ring);
    }
}

/* The tracker ends with an error, and the vCPU goes on. */
static void test_overrun_emulated(void)
{
    g_autoptr(Bed) bed = bed_new_emulated(1024, 8192);
    const RawJob job = overrunning_job();
    g_autoptr(GError) error = NULL;
    uint64_t left_pages;

    if (!bed) {
        return;
    }
    run_unseen(bed, &job);
    g_assert_true(harvest_overrun(bed));
    /* It is said again, to whoever asks. */
    g_assert_false(ferry_kvm_ring_feed(bed->ring, 100, &left_pages, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_TRACKER);
    g_clear_error(&error);
    g_assert_false(ferry_kvm_ring_harvest(bed->ring, false, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_TRACKER);

    list_region(bed, 0, 0, 0, 8192);
    raw_vm_begin(bed->vm, 0, &(RawJob){.nr = 8192});
    wait_for_writes(bed, 0, 10000);
    end_jobs(bed);

    /* From scratch. */
    ferry_kvm_ring_stop(bed->ring);
    set_logging(bed, false);
    start(bed);
    set_logging(bed, true);
    assert_exact(bed);
}

/* The vCPU is stopped as soon as its ring is overrun, and only the last harvest is left to see it. */
static void test_overrun_last(void)
{
    g_autoptr(Bed) bed = bed_new_emulated(1024, 8192);
    const RawJob job = overrunning_job();

    if (!bed) {
        return;
    }
    ferry_kvm_ring_set_fill(bed->ring, true);
    bed->deaf = true;
    run_unseen(bed, &job);
    g_assert_true(harvest_overrun(bed));
}

/* What an overrun leaves in the ring is no trouble of the next tracker's. */
static void check_leftover(uint32_t nr_entries)
{
    g_autoptr(Bed) bed = bed_new_emulated(nr_entries, 8192);
    const RawJob job = overrunning_job();

    if (!bed) {
        return;
    }
    for (unsigned i = 0; i < 3; i++) {
        run_unseen(bed, &job);
        g_assert_true(harvest_overrun(bed));
        ferry_kvm_ring_stop(bed->ring);
        start(bed);
        assert_exact(bed);
    }
}

static void test_overrun_leftover(void)
{
    check_leftover(1024);
}

/* The same job, by four laps of a smaller ring. */
static void test_overrun_laps(void)
{
    check_leftover(256);
}

/* Pages are fed while the emulator overruns the ring: all of them are reported, or it is said. */
static void test_overrun_race(void)
{
    g_autoptr(Bed) bed = bed_new_emulated(1024, 2048);
    unsigned nr_overruns = 0;

    if (!bed) {
        return;
    }
    ferry_kvm_ring_stop(bed->ring);
    for (unsigned i = 0; i < 30; i++) {
        start(bed);
        forget_reports(bed);
        raw_vm_begin(bed->vm, 0, &(RawJob){.sweep_gpa = gpa_of(0), .nr = 2048});
        while (raw_vm_nr_writes(bed->vm, 0) < 2048) {
            uint64_t left_pages;

            g_usleep(i * 20);
            ferry_kvm_ring_feed(bed->ring, 64, &left_pages, NULL);
            if (i % 2) {
                ferry_kvm_ring_harvest(bed->ring, false, NULL);
            }
        }
        raw_vm_wait(bed->vm, 0);
        if (harvest_overrun(bed)) {
            nr_overruns++;
        } else {
            g_assert_cmpuint(count_bits(bed->regions[0].reported, 2048), ==, 2048);
        }
        ferry_kvm_ring_stop(bed->ring);
    }
    g_test_message("%u of 30 overrun", nr_overruns);
}

/* --------------------------------------------------------------------------------------------- */

static char *why_not;

static void skip(void)
{
    g_test_skip(why_not);
}

static void add(const char *path, GTestFunc function)
{
    g_test_add_func(path, why_not ? skip : function);
}

static void add_race(const char *path, const Race *how)
{
    if (why_not) {
        g_test_add_func(path, skip);
    } else {
        g_test_add_data_func(path, how, test_race);
    }
}

int main(int argc, char **argv)
{
    static const char *const kinds[] = {"small", "huge", "memfd"};
    static Race races[G_N_ELEMENTS(kinds)][3];
    static const Race drain = {.nr_vcpus = 2, .drain = true};
    int result;

    g_test_init(&argc, &argv, NULL);
    why_not = raw_vm_why_not();
    add("/kvm-ring/exact", test_exact);
    add("/kvm-ring/held", test_held);
    add("/kvm-ring/feed", test_feed);
    add("/kvm-ring/order", test_order);
    add("/kvm-ring/drain", test_drain);
    for (unsigned kind = 0; kind < G_N_ELEMENTS(kinds); kind++) {
        for (unsigned i = 0; i < 3; i++) {
            g_autofree char *path = g_strdup_printf("/kvm-ring/race/%s/%u", kinds[kind], 1U << i);

            races[kind][i] = (Race){.kind = (RawKind)kind, .nr_vcpus = 1U << i};
            add_race(path, &races[kind][i]);
        }
    }
    add_race("/kvm-ring/race/drain", &drain);
    add("/kvm-ring/race/at-once", test_race_at_once);
    add("/kvm-ring/race/forgetful", test_race_forgetful);
    add("/kvm-ring/race/signals", test_race_signals);
    add("/kvm-ring/small-ring", test_small_ring);
    add("/kvm-ring/set-fill", test_set_fill);
    add("/kvm-ring/bound", test_bound);
    add("/kvm-ring/slot/meaning", test_slot_meaning);
    add("/kvm-ring/slot/unknown", test_slot_unknown);
    add("/kvm-ring/slot/race", test_slot_race);
    add("/kvm-ring/vcpu", test_vcpu_comes_and_goes);
    add("/kvm-ring/start-stop", test_start_stop);
    add("/kvm-ring/nothing", test_nothing);
    add("/kvm-ring/overrun/native", test_overrun_native);
    add("/kvm-ring/overrun/emulated", test_overrun_emulated);
    add("/kvm-ring/overrun/last", test_overrun_last);
    add("/kvm-ring/overrun/leftover", test_overrun_leftover);
    add("/kvm-ring/overrun/laps", test_overrun_laps);
    add("/kvm-ring/overrun/race", test_overrun_race);
    result = g_test_run();
    g_free(why_not);
    return result;
}
