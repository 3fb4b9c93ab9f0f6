/*
 * Finding writes in the page tables, on real memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/pagemap.h"
#include "migration/memory/kernel-abi.h"
#include "migration/error.h"
#include "migration/memory/pageset.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE     4096
#define HUGE     (UINT64_C(2) << 20)
#define PER_HUGE (HUGE / PAGE)
#define GIB      (UINT64_C(1) << 30)

/* --- Memory ------------------------------------------------------------------------------------ */

typedef enum {
    SMALL,           /* anonymous, 4 KiB pages */
    THP,             /* anonymous, transparent huge pages */
    MEMFD,           /* shared */
    HUGETLB,         /* anonymous, reserved huge pages */
    HUGETLB_SHARED,  /* shared, reserved huge pages */
    FILE_PRIVATE,    /* of an ordinary file */
    FILE_SHARED,     /* the same, shared */
    MEMFD_UNTOUCHED, /* shared, full of data, with nothing in our page tables */
    NR_KINDS,
} Kind;

static const char *const kind_names[NR_KINDS] = {
    "small",          "thp",          "memfd",       "hugetlb",
    "hugetlb-shared", "file-private", "file-shared", "memfd-untouched",
};

typedef struct {
    FerryRegion region;
    void *mapping;
    size_t mapping_bytes;
} Area;

static void area_clear(Area *area)
{
    if (area->mapping) {
        munmap(area->mapping, area->mapping_bytes);
    }
    if (area->region.fd >= 0) {
        close(area->region.fd);
    }
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Area, area_clear)

static uint8_t *area_at(const Area *area, uint64_t page)
{
    return area->region.host + page * PAGE;
}

static int open_file(Kind kind)
{
    g_autofree char *name = NULL;
    int fd = -1;

    switch (kind) {
    case MEMFD:
    case MEMFD_UNTOUCHED:
        return memfd_create("ferry-test-pagemap", MFD_CLOEXEC);
    case HUGETLB_SHARED:
        return memfd_create("ferry-test-pagemap",
                            MFD_CLOEXEC | MFD_HUGETLB | (21 << MAP_HUGE_SHIFT));
    case FILE_PRIVATE:
    case FILE_SHARED:
        fd = g_file_open_tmp("ferry-test-pagemap-XXXXXX", &name, NULL);
        g_assert_cmpint(fd, >=, 0);
        unlink(name);
        return fd;
    default:
        return -1;
    }
}

/* False, with the test marked as skipped, where there is no such memory. */
static bool area_make(Area *area, Kind kind, uint64_t nr_pages)
{
    const bool huge = kind == HUGETLB || kind == HUGETLB_SHARED;
    const bool shared =
        kind == MEMFD || kind == MEMFD_UNTOUCHED || kind == HUGETLB_SHARED || kind == FILE_SHARED;
    int flags = shared ? MAP_SHARED : MAP_PRIVATE;
    uintptr_t at;

    *area = (Area){
        .region =
            {
                .length_bytes = nr_pages * PAGE,
                .page_size_bytes = huge ? HUGE : PAGE,
                .flags = shared ? FERRY_REGION_SHARED : 0,
                .fd = open_file(kind),
                .scan = shared                 ? FERRY_SCAN_SHARED
                        : kind == FILE_PRIVATE ? FERRY_SCAN_ALL
                                               : FERRY_SCAN_PRIVATE,
            },
    };
    g_strlcpy(area->region.id, kind_names[kind], sizeof(area->region.id));
    if (kind == HUGETLB_SHARED && area->region.fd < 0) {
        g_test_skip("no hugetlb in this kernel");
        return false;
    }
    if (area->region.fd >= 0) {
        g_assert_cmpint(ftruncate(area->region.fd, (off_t)(nr_pages * PAGE)), ==, 0);
    } else {
        flags |= MAP_ANONYMOUS | MAP_NORESERVE;
    }
    if (huge) {
        flags &= ~MAP_NORESERVE;
        flags |= kind == HUGETLB ? MAP_HUGETLB | (21 << MAP_HUGE_SHIFT) : 0;
    }
    if (kind == MEMFD_UNTOUCHED || kind == FILE_PRIVATE || kind == FILE_SHARED) {
        for (uint64_t page = 0; page < nr_pages; page++) {
            g_assert_cmpint(pwrite(area->region.fd, "data", 4, (off_t)(page * PAGE)), ==, 4);
        }
    }
    /* Some more, so that it can begin at a multiple of a huge page. */
    area->mapping_bytes = nr_pages * PAGE + HUGE;
    area->mapping = mmap(NULL, area->mapping_bytes, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    g_assert_true(area->mapping != MAP_FAILED);
    at = ((uintptr_t)area->mapping + HUGE - 1) & ~(HUGE - 1);
    if (mmap((void *)at, nr_pages * PAGE, PROT_READ | PROT_WRITE, flags | MAP_FIXED,
             area->region.fd, 0) == MAP_FAILED) {
        g_test_skip("no 2 MiB pages reserved (vm.nr_hugepages)");
        return false;
    }
    area->region.host = (uint8_t *)at;
    if (kind == SMALL && madvise(area->region.host, nr_pages * PAGE, MADV_NOHUGEPAGE) != 0) {
        g_assert_cmpint(errno, ==, EINVAL); /* no transparent huge pages in this kernel */
    }
    if (kind == THP && madvise(area->region.host, nr_pages * PAGE, MADV_HUGEPAGE) != 0) {
        g_test_skip("no transparent huge pages");
        return false;
    }
    return true;
}

/* Write to a page what was not there before. */
static void touch(const Area *area, uint64_t page)
{
    __atomic_fetch_add((uint64_t *)(void *)area_at(area, page), 1, __ATOMIC_RELAXED);
}

static uint64_t look(const Area *area, uint64_t page)
{
    return __atomic_load_n((uint64_t *)(void *)area_at(area, page), __ATOMIC_RELAXED);
}

/* What the kernel says of a page. */
static uint64_t categories_of(const Area *area, uint64_t page)
{
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    struct ferry_page_region range = {0};
    struct ferry_pm_scan_arg arg = {
        .size = sizeof(arg),
        .start = (uintptr_t)area_at(area, page),
        .end = (uintptr_t)area_at(area, page + 1),
        .vec = (uintptr_t)&range,
        .vec_len = 1,
        .return_mask = FERRY_PAGE_IS_WPALLOWED | FERRY_PAGE_IS_PRESENT | FERRY_PAGE_IS_SWAPPED |
                       FERRY_PAGE_IS_HUGE,
    };

    g_assert_cmpint(ioctl(fd, FERRY_PAGEMAP_SCAN, &arg), ==, 1);
    close(fd);
    return range.categories;
}

static uint64_t page_tables_kib(void)
{
    g_autofree char *status = NULL;
    const char *line;

    g_assert_true(g_file_get_contents("/proc/self/status", &status, NULL, NULL));
    line = strstr(status, "VmPTE:");
    g_assert_nonnull(line);
    return g_ascii_strtoull(line + strlen("VmPTE:"), NULL, 10);
}

/* --- A tracker and what it told ---------------------------------------------------------------- */

#define REGIONS_MAX 4

typedef struct {
    FerryRegions regions;
    FerryPagemap *pagemap;
    FerryTracker tracker;
    FerryTrackerClient client;
    FerryPageset *found[REGIONS_MAX];
    FerryPageset *reported[REGIONS_MAX];
} Tracking;

static void on_found(void *opaque, uint32_t region, uint64_t word, uint64_t mask)
{
    Tracking *tracking = opaque;

    ferry_pageset_add_mask(tracking->found[region], word, mask);
}

static void on_report(void *opaque, uint32_t region, uint64_t word, uint64_t mask)
{
    Tracking *tracking = opaque;

    ferry_pageset_add_mask(tracking->reported[region], word, mask);
}

static void tracking_start(Tracking *tracking)
{
    g_autoptr(GError) error = NULL;

    tracking->tracker.ops->start(tracking->tracker.opaque, &tracking->client, &error);
    g_assert_no_error(error);
}

static void tracking_stop(Tracking *tracking)
{
    tracking->tracker.ops->stop(tracking->tracker.opaque);
}

static void tracking_arm_chunk(Tracking *tracking, uint32_t region, uint64_t first)
{
    uint64_t nr_pages = ferry_region_nr_pages(&tracking->regions.list[region]) - first;
    g_autoptr(GError) error = NULL;

    tracking->tracker.ops->arm(tracking->tracker.opaque, region, first,
                               MIN(nr_pages, FERRY_CHUNK_PAGES), &error);
    g_assert_no_error(error);
}

static void tracking_arm(Tracking *tracking)
{
    for (uint32_t i = 0; i < tracking->regions.nr; i++) {
        uint64_t nr_pages = ferry_region_nr_pages(&tracking->regions.list[i]);

        for (uint64_t first = 0; first < nr_pages; first += FERRY_CHUNK_PAGES) {
            tracking_arm_chunk(tracking, i, first);
        }
    }
}

static void tracking_harvest(Tracking *tracking, bool last)
{
    g_autoptr(GError) error = NULL;

    tracking->tracker.ops->harvest(tracking->tracker.opaque, last, &error);
    g_assert_no_error(error);
}

static void tracking_reset(Tracking *tracking, uint32_t region, uint64_t page)
{
    uint64_t first = page - page % FERRY_CHUNK_PAGES;
    uint64_t nr_pages = ferry_region_nr_pages(&tracking->regions.list[region]) - first;
    g_autoptr(GError) error = NULL;

    tracking->tracker.ops->reset(tracking->tracker.opaque, region, first,
                                 MIN(nr_pages, FERRY_CHUNK_PAGES), &error);
    g_assert_no_error(error);
}

static void tracking_clear(Tracking *tracking)
{
    if (tracking->pagemap) {
        tracking_stop(tracking);
    }
    ferry_pagemap_free(tracking->pagemap);
    for (size_t i = 0; i < REGIONS_MAX; i++) {
        ferry_pageset_free(tracking->found[i]);
        ferry_pageset_free(tracking->reported[i]);
    }
    g_free(tracking->regions.list);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Tracking, tracking_clear)

static bool is_supported(void)
{
    g_autofree char *why = ferry_pagemap_unsupported();

    if (why) {
        g_test_skip(why);
    }
    return why == NULL;
}

/* @tracking must stay where it is: the tracker calls it. */
static void tracking_open(Tracking *tracking, const Area *areas, size_t nr_areas)
{
    g_autoptr(GError) error = NULL;

    *tracking = (Tracking){.regions = {.list = g_new0(FerryRegion, nr_areas), .nr = nr_areas}};
    for (size_t i = 0; i < nr_areas; i++) {
        uint64_t nr_pages = ferry_region_nr_pages(&areas[i].region);

        tracking->regions.list[i] = areas[i].region;
        tracking->found[i] = ferry_pageset_new(nr_pages);
        tracking->reported[i] = ferry_pageset_new(nr_pages);
    }
    tracking->pagemap = ferry_pagemap_new(&tracking->regions, &error);
    g_assert_no_error(error);
    tracking->tracker = ferry_pagemap_tracker(tracking->pagemap);
    g_assert_nonnull(tracking->tracker.ops);
    tracking->client =
        (FerryTrackerClient){.report = on_report, .found = on_found, .opaque = tracking};
    tracking_start(tracking);
}

/* Compares with what was told since the last time, and forgets that. */
static void assert_told(FerryPageset *told, FerryPageset *expected, const char *what)
{
    for (uint64_t page = 0; page < 4 * FERRY_CHUNK_PAGES; page += 64) {
        uint64_t got, want;

        if (ferry_pageset_count(told) == 0 && ferry_pageset_count(expected) == 0) {
            break;
        }
        got = ferry_pageset_get(told, page / 64);
        want = ferry_pageset_get(expected, page / 64);
        if (got != want) {
            g_error("%s: of pages from %" G_GUINT64_FORMAT " on, %016" G_GINT64_MODIFIER
                    "x were written, and told %016" G_GINT64_MODIFIER "x",
                    what, page, want, got);
        }
        ferry_pageset_remove_mask(told, page / 64, got);
        ferry_pageset_remove_mask(expected, page / 64, want);
    }
    g_assert_cmpuint(ferry_pageset_count(told), ==, 0);
    g_assert_cmpuint(ferry_pageset_count(expected), ==, 0);
}

static void assert_nothing(FerryPageset *told, const char *what)
{
    g_autoptr(FerryPageset) nothing = ferry_pageset_new(4 * FERRY_CHUNK_PAGES);

    assert_told(told, nothing, what);
}

static void assert_pages(FerryPageset *told, const char *what, const uint64_t *pages, size_t nr)
{
    g_autoptr(FerryPageset) expected = ferry_pageset_new(4 * FERRY_CHUNK_PAGES);

    for (size_t i = 0; i < nr; i++) {
        ferry_pageset_add(expected, pages[i], 1);
    }
    assert_told(told, expected, what);
}

#define ASSERT_PAGES(told, what, ...)                         \
    assert_pages(told, what, (const uint64_t[]){__VA_ARGS__}, \
                 G_N_ELEMENTS(((const uint64_t[]){__VA_ARGS__})))

/* --- Exactness on all kinds of memory ---------------------------------------------------------- */

static uint64_t random_page(uint64_t nr_pages)
{
    return (uint64_t)g_test_rand_int_range(0, (gint32)nr_pages);
}

/* A page that was written, as it is told. */
static void expect(FerryPageset *expected, const Area *area, uint64_t page)
{
    uint64_t per = area->region.page_size_bytes / PAGE;

    ferry_pageset_add(expected, page - page % per, per);
}

static void test_exact(gconstpointer data)
{
    const Kind kind = GPOINTER_TO_UINT(data);
    const uint64_t nr_pages = 4 * PER_HUGE;
    g_autoptr(FerryPageset) expected = ferry_pageset_new(4 * FERRY_CHUNK_PAGES);
    g_auto(Area) area = {.region.fd = -1};
    g_auto(Tracking) tracking = {0};

    if (!is_supported() || !area_make(&area, kind, nr_pages)) {
        return;
    }
    if (kind != MEMFD_UNTOUCHED) {
        for (uint64_t page = 0; page < nr_pages / 2; page++) {
            touch(&area, page);
        }
    }
    if (kind == THP && !(categories_of(&area, 0) & FERRY_PAGE_IS_HUGE)) {
        g_test_skip("asked for huge pages and got small ones");
        return;
    }
    tracking_open(&tracking, &area, 1);
    tracking_harvest(&tracking, false);
    assert_nothing(tracking.found[0], "before anything is armed");
    tracking_arm(&tracking);
    tracking_harvest(&tracking, false);
    assert_nothing(tracking.found[0], "nothing is written");

    for (unsigned round = 0; round < 5; round++) {
        const uint64_t limit = kind == THP ? nr_pages / 2 : nr_pages;

        for (unsigned i = 0; i < 100; i++) {
            uint64_t page = random_page(limit);

            touch(&area, page);
            expect(expected, &area, page);
        }
        if (round == 4) {
            tracking_harvest(&tracking, true);
            assert_nothing(tracking.found[0], "the last harvest reports");
            assert_told(tracking.reported[0], expected, "the last harvest");
            break;
        }
        tracking_harvest(&tracking, false);
        assert_told(tracking.found[0], expected, "a harvest");
        tracking_reset(&tracking, 0, 0);
        tracking_harvest(&tracking, false);
        assert_nothing(tracking.found[0], "nothing is written since the reset");
        assert_nothing(tracking.reported[0], "all was told before the reset");
    }
}

static void test_found_again(gconstpointer data)
{
    g_auto(Area) area = {.region.fd = -1};
    g_auto(Tracking) tracking = {0};

    if (!is_supported() || !area_make(&area, GPOINTER_TO_UINT(data), PER_HUGE)) {
        return;
    }
    tracking_open(&tracking, &area, 1);
    tracking_arm(&tracking);
    touch(&area, 9);
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "first", 9);
    touch(&area, 300);
    /* Not reset: it may be told again, and must be in the end. */
    tracking_harvest(&tracking, true);
    ASSERT_PAGES(tracking.reported[0], "last", 9, 300);
}

/* A write by the kernel on behalf of somebody, at one page each. */
static void write_by_kernel(const Area *area, uint64_t first)
{
    struct iovec local, remote;
    int fd[2];

    g_assert_cmpint(pipe(fd), ==, 0);
    g_assert_cmpint(write(fd[1], "abcd", 4), ==, 4);
    g_assert_cmpint(read(fd[0], area_at(area, first), 4), ==, 4);
    close(fd[0]);
    close(fd[1]);

    /* Through get_user_pages(), as KVM does. */
    local = (struct iovec){.iov_base = (void *)"efgh", .iov_len = 4};
    remote = (struct iovec){.iov_base = area_at(area, first + 1), .iov_len = 4};
    g_assert_cmpint(process_vm_writev(getpid(), &local, 1, &remote, 1, 0), ==, 4);

    fd[0] = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
    g_assert_cmpint(pwrite(fd[0], "ijkl", 4, (off_t)(uintptr_t)area_at(area, first + 2)), ==, 4);
    close(fd[0]);

    /* From a file, across two pages. */
    fd[0] = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(read(fd[0], area_at(area, first + 3) + PAGE - 2, 4), ==, 4);
    close(fd[0]);
}

static void test_kernel_writes(gconstpointer data)
{
    const Kind kind = GPOINTER_TO_UINT(data);
    g_autoptr(FerryPageset) expected = ferry_pageset_new(4 * FERRY_CHUNK_PAGES);
    g_auto(Area) area = {.region.fd = -1};
    g_auto(Tracking) tracking = {0};

    if (!is_supported() || !area_make(&area, kind, 2 * PER_HUGE)) {
        return;
    }
    for (uint64_t page = 0; page < 2 * PER_HUGE; page++) {
        touch(&area, page);
    }
    tracking_open(&tracking, &area, 1);
    tracking_arm(&tracking);
    for (unsigned round = 0; round < 3; round++) {
        write_by_kernel(&area, 100 + 5 * round);
        for (uint64_t page = 100 + 5 * round; page < 105 + 5 * round; page++) {
            expect(expected, &area, page);
        }
        tracking_harvest(&tracking, false);
        assert_told(tracking.found[0], expected, "written by the kernel");
        tracking_reset(&tracking, 0, 0);
    }
}

/* --- What reset() does ------------------------------------------------------------------------- */

static void test_reset_reports(void)
{
    g_auto(Area) area = {.region.fd = -1};
    g_auto(Tracking) tracking = {0};

    if (!is_supported() || !area_make(&area, SMALL, PER_HUGE)) {
        return;
    }
    for (uint64_t page = 0; page < PER_HUGE; page++) {
        touch(&area, page);
    }
    tracking_open(&tracking, &area, 1);
    tracking_arm(&tracking);
    touch(&area, 60);
    touch(&area, 70);
    touch(&area, 400);
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "the first three", 60, 70, 400);

    /* Between two that are reset at once, and apart from them. */
    touch(&area, 65);
    touch(&area, 200);
    tracking_reset(&tracking, 0, 0);
    ASSERT_PAGES(tracking.reported[0], "reset on the way", 65);
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "left alone", 200);
    touch(&area, 65);
    touch(&area, 400);
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "written again", 65, 200, 400);

    /* Nothing was found since: nothing is reset. */
    tracking_reset(&tracking, 0, 0);
    touch(&area, 300);
    tracking_reset(&tracking, 0, 0);
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "not found when it was reset", 300);
    assert_nothing(tracking.reported[0], "the end");
}

/* What was told of before must not keep a reset silent about what comes after. */
static void test_arm_again(void)
{
    g_auto(Area) area = {.region.fd = -1};
    g_auto(Tracking) tracking = {0};

    if (!is_supported() || !area_make(&area, SMALL, PER_HUGE)) {
        return;
    }
    tracking_open(&tracking, &area, 1);
    tracking_arm(&tracking);
    touch(&area, 5);
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "first", 5);
    tracking_arm(&tracking);
    tracking_harvest(&tracking, false);
    assert_nothing(tracking.found[0], "armed again");
    touch(&area, 6);
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "a neighbour", 6);
    touch(&area, 5);
    touch(&area, 7);
    tracking_reset(&tracking, 0, 0);
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "written after it was armed again", 5, 7);
}

/* Chunks that are not armed, lengths that fill no word, ranges that fill no vector. */
static void test_shapes(void)
{
    const uint64_t long_pages = FERRY_CHUNK_PAGES + 1100;
    g_autoptr(FerryPageset) expected = ferry_pageset_new(4 * FERRY_CHUNK_PAGES);
    Area areas[2] = {{.region.fd = -1}, {.region.fd = -1}};
    g_auto(Tracking) tracking = {0};

    if (!is_supported()) {
        return;
    }
    g_assert_true(area_make(&areas[0], MEMFD, 77));
    g_assert_true(area_make(&areas[1], SMALL, long_pages));
    for (uint64_t page = 0; page < long_pages; page++) {
        touch(&areas[1], page);
    }
    tracking_open(&tracking, areas, 2);
    tracking_arm_chunk(&tracking, 0, 0);
    tracking_arm_chunk(&tracking, 1, FERRY_CHUNK_PAGES);
    touch(&areas[0], 0);
    touch(&areas[0], 76);
    touch(&areas[1], 5);
    touch(&areas[1], FERRY_CHUNK_PAGES - 1);
    for (uint64_t page = FERRY_CHUNK_PAGES + 1; page < long_pages; page += 2) {
        touch(&areas[1], page);
        ferry_pageset_add(expected, page, 1);
    }
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "the short region", 0, 76);
    assert_told(tracking.found[1], expected, "the chunk that is armed");

    tracking_arm_chunk(&tracking, 1, 0);
    touch(&areas[1], FERRY_CHUNK_PAGES - 1);
    touch(&areas[1], FERRY_CHUNK_PAGES + 2);
    tracking_reset(&tracking, 1, FERRY_CHUNK_PAGES);
    ASSERT_PAGES(tracking.reported[1], "in the second chunk", FERRY_CHUNK_PAGES + 2);
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "the short region, not reset", 0, 76);
    ASSERT_PAGES(tracking.found[1], "in the first chunk", FERRY_CHUNK_PAGES - 1);

    tracking_clear(&tracking);
    tracking = (Tracking){0};
    area_clear(&areas[0]);
    area_clear(&areas[1]);
}

/* --- Pages that come and go -------------------------------------------------------------------- */

static void test_untouched(void)
{
    const uint64_t nr_pages = 64 * GIB / PAGE;
    g_auto(Area) area = {.region.fd = -1};
    g_auto(Tracking) tracking = {0};
    uint64_t before, after;

    if (!is_supported() || !area_make(&area, SMALL, nr_pages)) {
        return;
    }
    tracking_open(&tracking, &area, 1);
    before = page_tables_kib();
    tracking_arm(&tracking);
    tracking_harvest(&tracking, false);
    after = page_tables_kib();
    g_test_message("page tables grew by %" G_GUINT64_FORMAT " KiB for 64 GiB", after - before);
    g_assert_cmpuint(after - before, <, 256);
    assert_nothing(tracking.found[0], "never touched");

    touch(&area, 3);
    touch(&area, 2 * FERRY_CHUNK_PAGES - 1);
    touch(&area, nr_pages - 1);
    tracking_harvest(&tracking, false);
    g_assert_cmpuint(ferry_pageset_remove(tracking.found[0], nr_pages - 1, 1), ==, 1);
    ASSERT_PAGES(tracking.found[0], "first touched", 3, 2 * FERRY_CHUNK_PAGES - 1);
    /* Only read: need not be told, but once is allowed. */
    g_assert_cmpuint(look(&area, 10), ==, 0);
    tracking_harvest(&tracking, false);
    tracking_reset(&tracking, 0, 0);
    ferry_pageset_clear(tracking.found[0]);
    tracking_harvest(&tracking, false);
    g_assert_cmpuint(ferry_pageset_remove(tracking.found[0], nr_pages - 1, 1), ==, 1);
    ASSERT_PAGES(tracking.found[0], "second chunk", 2 * FERRY_CHUNK_PAGES - 1);
    /* The zero page is protected like any other. */
    touch(&area, 10);
    tracking_harvest(&tracking, true);
    g_assert_cmpuint(ferry_pageset_remove(tracking.reported[0], nr_pages - 1, 1), ==, 1);
    ASSERT_PAGES(tracking.reported[0], "no longer zero", 10, 2 * FERRY_CHUNK_PAGES - 1);
}

static void test_untouched_shared(void)
{
    const uint64_t nr_pages = 64 * GIB / PAGE;
    g_auto(Area) area = {.region.fd = -1};
    g_auto(Tracking) tracking = {0};
    uint64_t before, after;
    struct stat st;

    if (!is_supported() || !area_make(&area, MEMFD, nr_pages)) {
        return;
    }
    tracking_open(&tracking, &area, 1);
    before = page_tables_kib();
    tracking_arm(&tracking);
    tracking_harvest(&tracking, false);
    after = page_tables_kib();
    g_assert_cmpuint(after - before, <, 256);
    assert_nothing(tracking.found[0], "never touched");
    g_assert_cmpint(fstat(area.region.fd, &st), ==, 0);
    g_assert_cmpint(st.st_blocks, ==, 0);
    touch(&area, 30000);
    tracking_harvest(&tracking, true);
    ASSERT_PAGES(tracking.reported[0], "first touched", 30000);
}

/*
 * The kernel takes page table entries of shared memory away when it likes, and so do we here.  Of
 * written pages this must not hide that they were.
 */
static void test_entries_gone(gconstpointer data)
{
    g_auto(Area) area = {.region.fd = -1};
    g_auto(Tracking) tracking = {0};

    if (!is_supported() || !area_make(&area, GPOINTER_TO_UINT(data), 2 * PER_HUGE)) {
        return;
    }
    for (uint64_t page = 0; page < 20; page++) {
        touch(&area, page);
    }
    tracking_open(&tracking, &area, 1);
    tracking_arm(&tracking);
    touch(&area, 7);
    touch(&area, 12);
    g_assert_cmpint(madvise(area_at(&area, 5), 5 * PAGE, MADV_DONTNEED), ==, 0);
    g_assert_false(categories_of(&area, 7) & (FERRY_PAGE_IS_PRESENT | FERRY_PAGE_IS_SWAPPED));
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "an entry gone", 7, 12);
    tracking_reset(&tracking, 0, 0);
    /* Protected pages are so still when they come back. */
    g_assert_cmpuint(look(&area, 5) & look(&area, 6), >, 0);
    touch(&area, 9);
    g_assert_cmpuint(look(&area, 7), >, 0);
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "back again", 7, 9);
    tracking_reset(&tracking, 0, 0);
    tracking_harvest(&tracking, true);
    assert_nothing(tracking.reported[0], "settled");
}

/* Dropped and read again, it has another content than it had. */
static void test_dropped(void)
{
    g_auto(Area) area = {.region.fd = -1};
    g_auto(Tracking) tracking = {0};

    if (!is_supported() || !area_make(&area, SMALL, PER_HUGE)) {
        return;
    }
    touch(&area, 8);
    tracking_open(&tracking, &area, 1);
    tracking_arm(&tracking);
    g_assert_cmpint(madvise(area_at(&area, 8), PAGE, MADV_DONTNEED), ==, 0);
    g_assert_cmpuint(look(&area, 8), ==, 0);
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "read as zero", 8);
}

static void test_swapped(gconstpointer data)
{
    g_auto(Area) area = {.region.fd = -1};
    g_auto(Tracking) tracking = {0};

    if (!is_supported() || !area_make(&area, GPOINTER_TO_UINT(data), PER_HUGE)) {
        return;
    }
    for (uint64_t page = 0; page < 64; page++) {
        touch(&area, page);
    }
    tracking_open(&tracking, &area, 1);
    tracking_arm(&tracking);
    for (uint64_t page = 20; page < 30; page++) {
        touch(&area, page);
    }
    if (madvise(area_at(&area, 16), 8 * PAGE, MADV_PAGEOUT) != 0 ||
        (categories_of(&area, 16) & FERRY_PAGE_IS_PRESENT) ||
        (categories_of(&area, 22) & FERRY_PAGE_IS_PRESENT)) {
        g_test_skip("the kernel swapped nothing out (no swap space?)");
        return;
    }
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "some swapped out", 20, 21, 22, 23, 24, 25, 26, 27, 28, 29);
    for (uint64_t page = 16; page < 20; page++) {
        g_assert_cmpuint(look(&area, page), ==, 1);
    }
    for (uint64_t page = 20; page < 30; page++) {
        g_assert_cmpuint(look(&area, page), ==, 2);
    }
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "swapped in", 20, 21, 22, 23, 24, 25, 26, 27, 28, 29);
    tracking_reset(&tracking, 0, 0);
    tracking_harvest(&tracking, false);
    assert_nothing(tracking.found[0], "reset");
    touch(&area, 17);
    touch(&area, 22);
    tracking_harvest(&tracking, true);
    ASSERT_PAGES(tracking.reported[0], "written after all that", 17, 22);
}

/* --- Racing ------------------------------------------------------------------------------------ */

/*
 * Pages of a few granules in three chunks are written without a pause.  Two senders copy those that
 * the tracker tells, as the engine does it: chunk by chunk, resetting before they read.  When all
 * have stopped, each page's copy must be as new as the page, or be in the last report.  For a write
 * that was lost to be noticed, no other may follow: one page after the other is left alone.
 */
#define RACE_CHUNKS     3
#define RACE_PER_CHUNK  (2 * PER_HUGE)
#define RACE_NR         (RACE_CHUNKS * RACE_PER_CHUNK)
#define RACE_SENDERS    2
#define RACE_WRITERS    2
#define RACE_DURATION_S 1.0

typedef struct {
    atomic_uint found_seq;
    atomic_uint reset_seq;
    GMutex lock;
} RaceChunk;

typedef struct {
    Area area;
    Tracking tracking;
    FerryPageset *pages; /* to copy */
    RaceChunk chunks[RACE_CHUNKS];
    atomic_uint_least64_t copies[RACE_NR];
    uint64_t written[RACE_NR];        /* only its writer's */
    atomic_uint_least64_t nr_retired; /* these are written no more, others still are */
    atomic_bool stop_writing;
    atomic_bool stop_sending;
    atomic_uint_least64_t nr_copied;
    atomic_uint_least64_t nr_reported;
    int lose_page; /* what is told of this page goes lost; -1: none */
} Race;

typedef struct {
    Race *race;
    unsigned number;
} RaceThread;

/* Page numbers of the region are sparse; these are those that are written. */
static uint64_t race_page(uint64_t index)
{
    return index / RACE_PER_CHUNK * FERRY_CHUNK_PAGES + index % RACE_PER_CHUNK;
}

static uint64_t race_index(uint64_t page)
{
    return page / FERRY_CHUNK_PAGES * RACE_PER_CHUNK + page % FERRY_CHUNK_PAGES;
}

static void race_add(Race *race, uint64_t word, uint64_t mask)
{
    if (race->lose_page >= 0 && (uint64_t)race->lose_page / 64 == word) {
        mask &= ~(UINT64_C(1) << (race->lose_page % 64));
    }
    ferry_pageset_add_mask(race->pages, word, mask);
}

static void race_found(void *opaque, uint32_t region, uint64_t word, uint64_t mask)
{
    Race *race = opaque;

    atomic_fetch_add(&race->chunks[word * 64 / FERRY_CHUNK_PAGES].found_seq, 1);
    race_add(race, word, mask);
}

static void race_report(void *opaque, uint32_t region, uint64_t word, uint64_t mask)
{
    Race *race = opaque;

    atomic_fetch_add(&race->nr_reported, 1);
    race_add(race, word, mask);
}

static void race_make_readable(Race *race, uint64_t number)
{
    RaceChunk *chunk = &race->chunks[number];

    g_mutex_lock(&chunk->lock);
    unsigned seen = atomic_load(&chunk->found_seq);
    if (atomic_load(&chunk->reset_seq) != seen) {
        tracking_reset(&race->tracking, 0, number * FERRY_CHUNK_PAGES);
        atomic_store(&chunk->reset_seq, seen);
    }
    g_mutex_unlock(&chunk->lock);
}

static void race_copy(Race *race, uint64_t granule)
{
    uint64_t chunk = granule * FERRY_GRANULE_PAGES / FERRY_CHUNK_PAGES;
    uint64_t pages[FERRY_GRANULE_WORDS];

    if (!ferry_pageset_take(race->pages, granule, pages)) {
        return;
    }
    race_make_readable(race, chunk);
    for (unsigned word = 0; word < FERRY_GRANULE_WORDS; word++) {
        for (uint64_t mask = pages[word]; mask; mask &= mask - 1) {
            uint64_t page =
                granule * FERRY_GRANULE_PAGES + word * 64 + (unsigned)__builtin_ctzll(mask);

            atomic_store(&race->copies[race_index(page)], look(&race->area, page));
            atomic_fetch_add(&race->nr_copied, 1);
        }
    }
}

static gpointer race_send(gpointer opaque)
{
    const RaceThread *thread = opaque;
    Race *race = thread->race;

    while (!atomic_load(&race->stop_sending)) {
        int64_t granule = -1;

        while ((granule = ferry_pageset_next(race->pages, (uint64_t)(granule + 1), thread->number,
                                             RACE_SENDERS)) >= 0) {
            race_copy(race, (uint64_t)granule);
        }
        g_usleep(100);
    }
    return NULL;
}

static gpointer race_write(gpointer opaque)
{
    const RaceThread *thread = opaque;
    Race *race = thread->race;
    uint32_t seed = thread->number + 1;

    while (!atomic_load(&race->stop_writing)) {
        seed = seed * 1664525 + 1013904223;
        uint64_t retired = atomic_load(&race->nr_retired) / RACE_WRITERS;
        uint64_t index =
            (retired + (seed >> 8) % (RACE_NR / RACE_WRITERS - retired)) * RACE_WRITERS +
            thread->number;

        race->written[index]++;
        touch(&race->area, race_page(index));
    }
    return NULL;
}

/* Returns how many pages ended with an old copy. */
static unsigned race_run(Race *race)
{
    RaceThread threads[RACE_SENDERS + RACE_WRITERS];
    GThread *running[RACE_SENDERS + RACE_WRITERS];
    g_autoptr(GTimer) timer = NULL;
    const uint64_t nr_retiring = RACE_NR - 64;
    unsigned nr_old = 0, nr_harvests = 0;

    for (unsigned i = 0; i < RACE_CHUNKS; i++) {
        g_mutex_init(&race->chunks[i].lock);
    }
    race->pages = ferry_pageset_new(RACE_CHUNKS * FERRY_CHUNK_PAGES);
    tracking_open(&race->tracking, &race->area, 1);
    tracking_stop(&race->tracking);
    race->tracking.client =
        (FerryTrackerClient){.report = race_report, .found = race_found, .opaque = race};
    tracking_start(&race->tracking);
    for (unsigned i = 0; i < RACE_WRITERS; i++) {
        threads[i] = (RaceThread){.race = race, .number = i};
        running[i] = g_thread_new("write", race_write, &threads[i]);
    }
    tracking_arm(&race->tracking);
    for (uint64_t i = 0; i < RACE_NR; i++) {
        atomic_store(&race->copies[i], look(&race->area, race_page(i)));
    }
    for (unsigned i = 0; i < RACE_SENDERS; i++) {
        threads[RACE_WRITERS + i] = (RaceThread){.race = race, .number = i};
        running[RACE_WRITERS + i] = g_thread_new("send", race_send, &threads[RACE_WRITERS + i]);
    }
    timer = g_timer_new();
    for (double past = 0; past < RACE_DURATION_S; past = g_timer_elapsed(timer, NULL)) {
        atomic_store(&race->nr_retired, (uint64_t)(past / RACE_DURATION_S * (double)nr_retiring));
        tracking_harvest(&race->tracking, false);
        nr_harvests++;
    }
    atomic_store(&race->stop_writing, true);
    for (unsigned i = 0; i < RACE_WRITERS; i++) {
        g_thread_join(running[i]);
    }
    atomic_store(&race->stop_sending, true);
    for (unsigned i = 0; i < RACE_SENDERS; i++) {
        g_thread_join(running[RACE_WRITERS + i]);
    }
    g_test_message("%u harvests, %" G_GUINT64_FORMAT " pages copied, %" G_GUINT64_FORMAT
                   " words reported by resets",
                   nr_harvests, atomic_load(&race->nr_copied), atomic_load(&race->nr_reported));
    g_assert_cmpuint(nr_harvests, >, 3);
    g_assert_cmpuint(atomic_load(&race->nr_copied), >, RACE_NR);

    tracking_harvest(&race->tracking, true);
    for (uint64_t granule = 0; granule < RACE_CHUNKS * FERRY_CHUNK_PAGES / FERRY_GRANULE_PAGES;
         granule++) {
        race_copy(race, granule);
    }
    for (uint64_t i = 0; i < RACE_NR; i++) {
        g_assert_cmpuint(look(&race->area, race_page(i)), ==, race->written[i]);
        nr_old += atomic_load(&race->copies[i]) != race->written[i];
    }
    tracking_clear(&race->tracking);
    ferry_pageset_free(race->pages);
    area_clear(&race->area);
    for (unsigned i = 0; i < RACE_CHUNKS; i++) {
        g_mutex_clear(&race->chunks[i].lock);
    }
    return nr_old;
}

static bool race_area(Race *race, Kind kind)
{
    return is_supported() && area_make(&race->area, kind, RACE_CHUNKS * FERRY_CHUNK_PAGES);
}

static void test_race(gconstpointer data)
{
    g_autofree Race *race = g_new0(Race, 1);

    race->lose_page = -1;
    if (race_area(race, GPOINTER_TO_UINT(data))) {
        g_assert_cmpuint(race_run(race), ==, 0);
    }
}

/* The race finds it out when what is told of a single page goes lost. */
static void test_race_control(void)
{
    g_autofree Race *race = g_new0(Race, 1);

    race->lose_page = FERRY_CHUNK_PAGES + 100;
    if (race_area(race, SMALL)) {
        g_assert_cmpuint(race_run(race), ==, 1);
    }
}

/* --- The beginning and the end ----------------------------------------------------------------- */

static void test_stop(gconstpointer data)
{
    g_auto(Area) area = {.region.fd = -1};
    g_auto(Tracking) tracking = {0};

    if (!is_supported() || !area_make(&area, GPOINTER_TO_UINT(data), 2 * PER_HUGE)) {
        return;
    }
    for (uint64_t page = 0; page < PER_HUGE; page++) {
        touch(&area, page);
    }
    tracking_open(&tracking, &area, 1);
    tracking_arm(&tracking);
    touch(&area, 5);
    tracking_harvest(&tracking, false);
    g_assert_cmpuint(ferry_pageset_count(tracking.found[0]), >, 0);
    g_assert_true(categories_of(&area, 0) & FERRY_PAGE_IS_WPALLOWED);
    tracking_stop(&tracking);
    g_assert_false(categories_of(&area, 0) & FERRY_PAGE_IS_WPALLOWED);
    g_assert_false(categories_of(&area, 2 * PER_HUGE - 1) & FERRY_PAGE_IS_WPALLOWED);
    for (uint64_t page = 0; page < PER_HUGE; page++) {
        g_assert_cmpuint(look(&area, page), >=, page == 5 ? 2 : 1);
        touch(&area, page);
    }

    /* Once more, from scratch. */
    ferry_pageset_clear(tracking.found[0]);
    tracking_start(&tracking);
    g_assert_true(categories_of(&area, 0) & FERRY_PAGE_IS_WPALLOWED);
    tracking_harvest(&tracking, true);
    assert_nothing(tracking.reported[0], "not armed yet");
    tracking_arm(&tracking);
    tracking_harvest(&tracking, true);
    assert_nothing(tracking.reported[0], "not written yet");
    touch(&area, 5);
    tracking_harvest(&tracking, true);
    g_assert_true(ferry_pageset_get(tracking.reported[0], 0) & (1 << 5));
}

/* Expects that these cannot be traced, and that what could be is left alone. */
static void assert_refused(const Area *areas, size_t nr, const char *name, const char *remedy)
{
    FerryRegion list[REGIONS_MAX];
    FerryRegions regions = {.list = list, .nr = nr};
    g_autoptr(GError) error = NULL;

    for (size_t i = 0; i < nr; i++) {
        list[i] = areas[i].region;
    }
    g_assert_null(ferry_pagemap_new(&regions, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_SYSTEM);
    g_test_message("%s", error->message);
    g_assert_nonnull(strstr(error->message, name));
    g_assert_nonnull(strstr(error->message, remedy));
}

static void test_refused(void)
{
    Area areas[2] = {{.region.fd = -1}, {.region.fd = -1}};
    g_autofree char *path = NULL;
    int writable;

    if (!is_supported()) {
        return;
    }
    g_assert_true(area_make(&areas[0], SMALL, PER_HUGE));
    touch(&areas[0], 0);

    g_assert_true(area_make(&areas[1], SMALL, PER_HUGE));
    areas[1].region.page_size_bytes = UINT32_C(1) << 30;
    assert_refused(areas, 2, "'small'", "1024 MiB large, the limit is 2 MiB");
    g_assert_false(categories_of(&areas[0], 0) & FERRY_PAGE_IS_WPALLOWED);
    area_clear(&areas[1]);

    g_assert_true(area_make(&areas[1], MEMFD, PER_HUGE));
    path = g_strdup_printf("/proc/self/fd/%d", areas[1].region.fd);
    writable = areas[1].region.fd;
    areas[1].region.fd = open(path, O_RDONLY | O_CLOEXEC);
    close(writable);
    g_assert_true(mmap(areas[1].region.host, PER_HUGE * PAGE, PROT_READ, MAP_SHARED | MAP_FIXED,
                       areas[1].region.fd, 0) == areas[1].region.host);
    assert_refused(areas, 2, "'memfd'", "may not be written");
    g_assert_false(categories_of(&areas[0], 0) & FERRY_PAGE_IS_WPALLOWED);
    area_clear(&areas[1]);

    {
        g_auto(Tracking) tracking = {0};

        tracking_open(&tracking, areas, 1);
        assert_refused(areas, 1, "'small'", "end that first");
        /* The one that has it keeps it. */
        g_assert_true(categories_of(&areas[0], 0) & FERRY_PAGE_IS_WPALLOWED);
    }
    area_clear(&areas[0]);
}

/* Part of it is something else now: it counts as written, and cannot be armed. */
static void test_mapped_over(void)
{
    g_auto(Area) area = {.region.fd = -1};
    g_auto(Tracking) tracking = {0};
    g_autoptr(GError) error = NULL;

    if (!is_supported() || !area_make(&area, MEMFD, PER_HUGE)) {
        return;
    }
    for (uint64_t page = 0; page < 20; page++) {
        touch(&area, page);
    }
    tracking_open(&tracking, &area, 1);
    tracking_arm(&tracking);
    g_assert_true(mmap(area_at(&area, 10), PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                       area.region.fd, 10 * PAGE) == area_at(&area, 10));
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "mapped anew", 10);
    g_assert_false(tracking.tracker.ops->arm(tracking.tracker.opaque, 0, 0, PER_HUGE, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_SYSTEM);
    g_assert_nonnull(strstr(error->message, "'memfd'"));
}

/* --- Kernels that cannot ----------------------------------------------------------------------- */

#define LOAD(field) \
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, field))
#define UNLESS(value, skip) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(value), 0, skip)
#define RETURN(value)       BPF_STMT(BPF_RET | BPF_K, (uint32_t)(value))

static void filter_calls(struct sock_filter *filter, unsigned short len)
{
    struct sock_fprog program = {.len = len, .filter = filter};

    g_assert_cmpint(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), ==, 0);
    g_assert_cmpint(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), ==, 0);
}

static void forbid_userfaultfd(void)
{
    struct sock_filter filter[] = {
        LOAD(nr),
        UNLESS(SYS_userfaultfd, 1),
        RETURN(SECCOMP_RET_ERRNO | EPERM),
        RETURN(SECCOMP_RET_ALLOW),
    };

    filter_calls(filter, G_N_ELEMENTS(filter));
}

/* As on a kernel that does not know it. */
static void forbid_ioctl(uint64_t request, int error)
{
    struct sock_filter filter[] = {
        LOAD(nr),
        UNLESS(SYS_ioctl, 3),
        LOAD(args[1]),
        UNLESS(request, 1),
        RETURN(SECCOMP_RET_ERRNO | (unsigned)error),
        RETURN(SECCOMP_RET_ALLOW),
    };

    filter_calls(filter, G_N_ELEMENTS(filter));
}

static void assert_unsupported(const char *what, const char *remedy)
{
    g_autofree char *why = ferry_pagemap_unsupported();
    g_autoptr(GError) error = NULL;
    FerryRegions regions = {0};

    g_assert_nonnull(why);
    g_test_message("%s", why);
    g_assert_nonnull(strstr(why, what));
    g_assert_nonnull(strstr(why, remedy));
    g_assert_null(ferry_pagemap_new(&regions, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_SYSTEM);
    g_assert_nonnull(strstr(error->message, why));
}

static void without_userfaultfd(void)
{
    forbid_userfaultfd();
    if (geteuid() == 0) {
        /* Nobody in particular may not open the device either. */
        g_assert_cmpint(setresuid(65534, 65534, 65534), ==, 0);
    }
    assert_unsupported("userfaultfd is not to be had", "make /dev/userfaultfd accessible");
}

static void with_the_device(void)
{
    g_autofree char *why = NULL;

    forbid_userfaultfd();
    why = ferry_pagemap_unsupported();
    g_assert_cmpstr(why, ==, NULL);
}

static void without_wp_async(void)
{
    /* UFFDIO_API, which this test has no other use for */
    forbid_ioctl(0xc018aa3f, EINVAL);
    assert_unsupported("UFFD_FEATURE_WP_ASYNC", "Linux 6.7");
}

static void without_pagemap_scan(void)
{
    forbid_ioctl(FERRY_PAGEMAP_SCAN, ENOTTY);
    assert_unsupported("PAGEMAP_SCAN", "Linux 6.7");
}

/* Runs in a process of its own, as what is forbidden stays forbidden. */
static void test_elsewhere(gconstpointer data)
{
    void (*const *fn)(void) = data;

    if (!is_supported()) {
        return;
    }
    if (g_test_subprocess()) {
        (*fn)();
        return;
    }
    if (*fn == with_the_device && access("/dev/userfaultfd", R_OK | W_OK) != 0) {
        g_test_skip("no access to /dev/userfaultfd");
        return;
    }
    g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_INHERIT_STDERR);
    g_test_trap_assert_passed();
}

static void add_for(const char *name, GTestDataFunc fn, const Kind *kinds, size_t nr)
{
    for (size_t i = 0; i < nr; i++) {
        g_autofree char *path = g_strdup_printf("/pagemap/%s/%s", name, kind_names[kinds[i]]);

        g_test_add_data_func(path, GUINT_TO_POINTER(kinds[i]), fn);
    }
}

#define ADD_FOR(name, fn, ...) \
    add_for(name, fn, (const Kind[]){__VA_ARGS__}, G_N_ELEMENTS(((const Kind[]){__VA_ARGS__})))

int main(int argc, char **argv)
{
    static void (*const elsewhere[])(void) = {
        without_userfaultfd,
        with_the_device,
        without_wp_async,
        without_pagemap_scan,
    };

    g_test_init(&argc, &argv, NULL);
    if (sysconf(_SC_PAGESIZE) != PAGE) {
        g_test_message("written for 4 KiB pages");
        return 77;
    }
    ADD_FOR("exact", test_exact, SMALL, THP, MEMFD, MEMFD_UNTOUCHED, HUGETLB, HUGETLB_SHARED,
            FILE_PRIVATE, FILE_SHARED);
    ADD_FOR("kernel-writes", test_kernel_writes, SMALL, THP, MEMFD, HUGETLB, HUGETLB_SHARED);
    ADD_FOR("found-again", test_found_again, SMALL, MEMFD);
    g_test_add_func("/pagemap/reset-reports", test_reset_reports);
    g_test_add_func("/pagemap/arm-again", test_arm_again);
    g_test_add_func("/pagemap/shapes", test_shapes);
    g_test_add_func("/pagemap/untouched/small", test_untouched);
    g_test_add_func("/pagemap/untouched/memfd", test_untouched_shared);
    ADD_FOR("entries-gone", test_entries_gone, MEMFD, FILE_SHARED);
    g_test_add_func("/pagemap/dropped", test_dropped);
    ADD_FOR("swapped", test_swapped, SMALL, MEMFD);
    ADD_FOR("race", test_race, SMALL, THP, MEMFD);
    g_test_add_func("/pagemap/race/control", test_race_control);
    ADD_FOR("stop", test_stop, SMALL, THP, MEMFD, HUGETLB);
    g_test_add_func("/pagemap/refused", test_refused);
    g_test_add_func("/pagemap/mapped-over", test_mapped_over);
    g_test_add_data_func("/pagemap/without/userfaultfd", &elsewhere[0], test_elsewhere);
    g_test_add_data_func("/pagemap/without/system-call", &elsewhere[1], test_elsewhere);
    g_test_add_data_func("/pagemap/without/wp-async", &elsewhere[2], test_elsewhere);
    g_test_add_data_func("/pagemap/without/pagemap-scan", &elsewhere[3], test_elsewhere);
    return g_test_run();
}
