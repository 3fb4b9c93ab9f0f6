/*
 * Finding touched memory, on real memory: private memory by the pagemap, and what needs none
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/memory/zero.h"
#include "page-out.h"
#include "scan-area.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define GIB (UINT64_C(1) << 30)

static bool can_ioctl(const FerryScanner *scanner)
{
    return g_str_equal(ferry_scanner_method_name(scanner), "pagemap-scan");
}

/* The tests below run with each way of asking; their data is the scanner's flags. */

static void test_private_scattered(gconstpointer data)
{
    g_autoptr(FerryScanner) scanner = ferry_scanner_new_full(GPOINTER_TO_UINT(data));
    const uint64_t nr_pages = 20000;
    g_auto(Area) area = area_private_small(nr_pages * PAGE);
    g_autofree char *expected = picture_of(nr_pages, NOTHING);

    assert_picture(scanner, &area.target, 0, expected);
    /* More ranges than one call returns, and single pages at both ends. */
    for (uint64_t page = 0; page < nr_pages; page += (uint64_t)g_test_rand_int_range(1, 8)) {
        expected[page] = DATA;
    }
    expected[nr_pages - 1] = DATA;
    area_touch(&area, expected);
    assert_picture(scanner, &area.target, 0, expected);

    for (int i = 0; i < 200; i++) {
        uint64_t first = (uint64_t)g_test_rand_int_range(0, (gint32)nr_pages);
        uint64_t nr = (uint64_t)g_test_rand_int_range(0, (gint32)(nr_pages - first + 1));
        g_autofree char *part = g_strndup(expected + first, nr);

        assert_picture(scanner, &area.target, first, part);
    }
}

static void test_private_long_runs(gconstpointer data)
{
    g_autoptr(FerryScanner) scanner = ferry_scanner_new_full(GPOINTER_TO_UINT(data));
    const uint64_t nr_pages = 16384;
    g_auto(Area) area = area_private_small(nr_pages * PAGE);
    g_autofree char *expected = picture_of(nr_pages, NOTHING);

    memset(expected + 1000, DATA, 9000);
    memset(expected + 10001, DATA, 2000);
    area_touch(&area, expected);
    assert_picture(scanner, &area.target, 0, expected);
    assert_picture(scanner, &area.target, 2000, expected + 2000);
}

static void test_private_huge(gconstpointer data)
{
    g_autoptr(FerryScanner) scanner = ferry_scanner_new_full(GPOINTER_TO_UINT(data));
    g_auto(Area) area = area_private(8 * HUGE);
    const uint64_t per_huge = HUGE / PAGE;
    uint64_t first = (HUGE - (uintptr_t)area.target.host % HUGE) % HUGE / PAGE + per_huge;
    g_autofree char *picture = NULL;

    if (madvise(area.target.host, area.mapped_bytes, MADV_HUGEPAGE) != 0) {
        g_test_skip("no transparent huge pages");
        return;
    }
    *area_at(&area, first + 7) = 1;
    picture = scan_picture(scanner, &area.target, first, per_huge);
    g_assert_cmpint(picture[7], ==, DATA);
    /* The kernel need not have had a huge page to give, but never half a one. */
    if (picture[0] == DATA) {
        g_autofree char *whole = picture_of(per_huge, DATA);

        g_assert_cmpstr(picture, ==, whole);
        assert_picture(scanner, &area.target, first + 100, whole + 100);
        g_free(picture);
        picture = scan_picture(scanner, &area.target, first - 3, 6);
        g_assert_cmpstr(picture, ==, "...DDD");
    } else {
        g_test_message("touched a huge page and got a small one");
    }
}

static void test_private_zero_page(gconstpointer data)
{
    g_autoptr(FerryScanner) scanner = ferry_scanner_new_full(GPOINTER_TO_UINT(data));
    g_auto(Area) area = area_private_small(16 * PAGE);

    g_assert_true(ferry_is_zero(area_at(&area, 4), 3 * PAGE));
    *area_at(&area, 5) = 1;
    *area_at(&area, 9) = 1;
    /* Who only reads the entries cannot tell the zero page from another. */
    assert_picture(scanner, &area.target, 0,
                   can_ioctl(scanner) ? "....ZDZ..D......" : "....DDD..D......");
}

static void test_private_swapped(gconstpointer data)
{
    g_autoptr(FerryScanner) scanner = ferry_scanner_new_full(GPOINTER_TO_UINT(data));
    g_auto(Area) area = area_private_small(64 * PAGE);
    g_autofree char *picture = NULL;

    for (uint64_t page = 8; page < 24; page++) {
        memset(area_at(&area, page), (int)page, PAGE);
    }
    if (!page_out(area_at(&area, 12), 4 * PAGE)) {
        g_test_skip("no MADV_PAGEOUT");
        return;
    }
    picture = scan_picture(scanner, &area.target, 0, 64);
    if (strchr(picture, SWAPPED) == NULL) {
        g_test_skip("the kernel swapped nothing out (no swap space?)");
        return;
    }
    for (uint64_t page = 0; page < 64; page++) {
        if (page < 8 || page >= 24) {
            g_assert_cmpint(picture[page], ==, NOTHING);
        } else if (page < 12 || page >= 16) {
            g_assert_cmpint(picture[page], ==, DATA);
        } else {
            g_assert_cmpint(picture[page], !=, NOTHING);
        }
    }
}

static void test_private_hugetlb(gconstpointer data)
{
    g_autoptr(FerryScanner) scanner = ferry_scanner_new_full(GPOINTER_TO_UINT(data));
    const uint64_t per_huge = HUGE / PAGE;
    g_autofree char *expected = picture_of(3 * per_huge, NOTHING);
    g_autoptr(GError) error = NULL;
    Area area = {
        .target =
            {
                .length_bytes = 3 * HUGE,
                .fd = -1,
                .method = FERRY_SCAN_PRIVATE,
                .page_size_bytes = HUGE,
            },
    };

    area.target.host =
        mmap(NULL, 3 * HUGE, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | (21 << MAP_HUGE_SHIFT), -1, 0);
    if (area.target.host == MAP_FAILED) {
        g_test_skip("no 2 MiB pages reserved (vm.nr_hugepages)");
        return;
    }
    memset(area_at(&area, per_huge), 1, HUGE);
    memset(expected + per_huge, DATA, per_huge);
    assert_picture(scanner, &area.target, 0, expected);
    assert_picture(scanner, &area.target, per_huge + 3, expected + per_huge + 3);
    assert_picture(scanner, &area.target, per_huge - 3, "...DD");

    /* Part of a huge page is cleared in place, a whole one discarded. */
    g_assert_true(
        ferry_scan_discard_populated(scanner, &area.target, HUGE + 5 * PAGE, PAGE, &error));
    g_assert_true(ferry_is_zero(area_at(&area, per_huge + 5), PAGE));
    g_assert_cmpint(*area_at(&area, per_huge + 4), ==, 1);
    assert_picture(scanner, &area.target, 0, expected);
    g_assert_true(ferry_scan_discard_populated(scanner, &area.target, 0, 3 * HUGE, &error));
    memset(expected, NOTHING, 3 * per_huge);
    assert_picture(scanner, &area.target, 0, expected);
    munmap(area.target.host, 3 * HUGE);
}

typedef struct {
    uint64_t nr_ranges;
    uint64_t nr_bytes;
} Total;

static void add_up(void *opaque, uint64_t offset_bytes, uint64_t nr_bytes, FerryScanKind kind)
{
    Total *total = opaque;

    g_assert_cmpint(kind, ==, FERRY_SCAN_DATA);
    total->nr_ranges++;
    total->nr_bytes += nr_bytes;
}

static void test_private_sparse(gconstpointer data)
{
    g_autoptr(FerryScanner) scanner = ferry_scanner_new_full(GPOINTER_TO_UINT(data));
    /* Without the ioctl, 64 GiB means reading 128 MiB of entries: too slow under sanitizers. */
    const uint64_t size_bytes = can_ioctl(scanner) ? 64 * GIB : 4 * GIB;
    g_auto(Area) area = area_private_small(size_bytes);
    const uint64_t step = size_bytes / 64 + PAGE;
    g_autoptr(GError) error = NULL;
    uint64_t nr_touched = 0;
    Total total = {0};
    int64_t start_us;

    for (uint64_t at = 0; at < size_bytes; at += step) {
        ((char *)area.target.host)[at] = 1;
        nr_touched++;
    }
    start_us = g_get_monotonic_time();
    g_assert_true(ferry_scan(scanner, &area.target, 0, size_bytes, add_up, &total, &error));
    g_test_message("%" G_GUINT64_FORMAT " GiB with %" G_GUINT64_FORMAT
                   " pages touched: %" G_GINT64_FORMAT " us",
                   size_bytes / GIB, nr_touched, g_get_monotonic_time() - start_us);
    g_assert_cmpuint(total.nr_ranges, ==, nr_touched);
    g_assert_cmpuint(total.nr_bytes, ==, nr_touched * PAGE);
}

static void test_private_error(gconstpointer data)
{
    g_autoptr(FerryScanner) scanner = ferry_scanner_new_full(GPOINTER_TO_UINT(data));
    g_auto(Area) area = area_private_small(4 * PAGE);
    Total total = {0};
    g_autoptr(GError) error = NULL;

    g_assert_false(ferry_scan(scanner, &area.target, 5 * PAGE, 0, add_up, &total, &error));
    g_assert_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL);
    g_clear_error(&error);
    g_assert_false(
        ferry_scan(scanner, &area.target, PAGE, UINT64_MAX - 100, add_up, &total, &error));
    g_assert_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL);
    g_clear_error(&error);
    g_assert_false(ferry_scan_discard_populated(scanner, &area.target, PAGE, 4 * PAGE, &error));
    g_assert_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL);
    g_assert_cmpuint(total.nr_ranges, ==, 0);
}

/* Several threads, one scanner, the callback changing the memory that it hears about. */

typedef struct {
    const FerryScanner *scanner;
    const Area *area;
    uint64_t first_page;
    uint64_t nr_pages;
    uint64_t nr_seen;
} Part;

static void discard_and_count(void *opaque, uint64_t offset_bytes, uint64_t nr_bytes,
                              FerryScanKind kind)
{
    Part *part = opaque;

    part->nr_seen += nr_bytes / PAGE;
    g_assert_cmpint(
        madvise((char *)part->area->target.host + offset_bytes, nr_bytes, MADV_DONTNEED), ==, 0);
}

static gpointer part_thread(gpointer opaque)
{
    Part *part = opaque;
    g_autoptr(GError) error = NULL;

    g_assert_true(ferry_scan(part->scanner, &part->area->target, part->first_page * PAGE,
                             part->nr_pages * PAGE, discard_and_count, part, &error));
    return NULL;
}

static void test_private_threads(gconstpointer data)
{
    g_autoptr(FerryScanner) scanner = ferry_scanner_new_full(GPOINTER_TO_UINT(data));
    const uint64_t nr_pages = 8192;
    g_auto(Area) area = area_private_small(4 * nr_pages * PAGE);
    g_autofree char *nothing = picture_of(4 * nr_pages, NOTHING);
    GThread *threads[4];
    Part parts[4];

    for (uint64_t page = 0; page < 4 * nr_pages; page += 3) {
        *area_at(&area, page) = 1;
    }
    for (uint64_t i = 0; i < 4; i++) {
        parts[i] = (Part){
            .scanner = scanner, .area = &area, .first_page = i * nr_pages, .nr_pages = nr_pages};
        threads[i] = g_thread_new("part", part_thread, &parts[i]);
    }
    for (int i = 0; i < 4; i++) {
        g_thread_join(threads[i]);
        g_assert_cmpuint(parts[i].nr_seen, >=, nr_pages / 3);
        g_assert_cmpuint(parts[i].nr_seen, <=, nr_pages / 3 + 1);
    }
    assert_picture(scanner, &area.target, 0, nothing);
}

static void test_discard_private(gconstpointer data)
{
    g_autoptr(FerryScanner) scanner = ferry_scanner_new_full(GPOINTER_TO_UINT(data));
    g_auto(Area) area = area_private_small(32 * PAGE);
    g_autoptr(GError) error = NULL;
    const uint64_t from = 5 * PAGE + 100;
    const uint64_t to = 24 * PAGE + 300;

    memset(area_at(&area, 3), 0xee, 10 * PAGE);
    memset(area_at(&area, 20), 0xee, 8 * PAGE);
    g_assert_true(ferry_scan_discard_populated(scanner, &area.target, from, to - from, &error));
    assert_picture(scanner, &area.target, 0, "...DDD..................DDDD....");
    g_assert_true(ferry_is_zero((char *)area.target.host + from, to - from));
    g_assert_cmpint(((char *)area.target.host)[from - 1], ==, (char)0xee);
    g_assert_cmpint(((char *)area.target.host)[to], ==, (char)0xee);
}

static void test_discard_locked(gconstpointer data)
{
    g_autoptr(FerryScanner) scanner = ferry_scanner_new_full(GPOINTER_TO_UINT(data));
    g_auto(Area) area = area_private_small(8 * PAGE);
    g_autoptr(GError) error = NULL;

    memset(area_at(&area, 2), 0xee, 3 * PAGE);
    if (mlock(area_at(&area, 2), 3 * PAGE) != 0) {
        g_test_skip("may not lock memory");
        return;
    }
    g_assert_true(ferry_scan_discard_populated(scanner, &area.target, 0, 8 * PAGE, &error));
    g_assert_true(ferry_is_zero(area.target.host, 8 * PAGE));
}

/* Pages that must stay are cleared where they are: none is given back. */
static void test_discard_keeps_pages(gconstpointer data)
{
    g_autoptr(FerryScanner) scanner = ferry_scanner_new_full(GPOINTER_TO_UINT(data));
    g_auto(Area) area = area_private_small(8 * PAGE);
    g_autoptr(GError) error = NULL;
    unsigned char resident[8];

    memset(area.target.host, 0xee, 8 * PAGE);
    area.target.flags = FERRY_REGION_KEEP_PAGES;
    g_assert_true(ferry_scan_discard_populated(scanner, &area.target, 0, 8 * PAGE, &error));
    g_assert_true(mincore(area.target.host, 8 * PAGE, resident) == 0);
    for (int i = 0; i < 8; i++) {
        g_assert_cmpint(resident[i] & 1, ==, 1);
    }
    g_assert_true(ferry_is_zero(area.target.host, 8 * PAGE));
}

/* The tests below do not depend on the pagemap. */

static void test_no_pagemap(void)
{
    g_autoptr(FerryScanner) scanner = ferry_scanner_new_full(FERRY_SCANNER_NO_PAGEMAP);
    g_auto(Area) area = area_private_small(8 * PAGE);
    g_autoptr(GError) error = NULL;

    g_assert_cmpstr(ferry_scanner_method_name(scanner), ==, "none");
    assert_picture(scanner, &area.target, 0, "DDDDDDDD");
    assert_picture(scanner, &area.target, 2, "DDD");
    memset(area_at(&area, 0), 1, 8 * PAGE);
    g_assert_true(ferry_scan_discard_populated(scanner, &area.target, PAGE, 2 * PAGE, &error));
    g_assert_true(ferry_is_zero(area_at(&area, 1), 2 * PAGE));
    g_assert_cmpint(*area_at(&area, 0), ==, 1);
    g_assert_cmpint(*area_at(&area, 3), ==, 1);
}

static void test_method_names(void)
{
    g_autoptr(FerryScanner) any = ferry_scanner_new();
    g_autoptr(FerryScanner) reading = ferry_scanner_new_full(FERRY_SCANNER_NO_IOCTL);

    g_test_message("this kernel: %s", ferry_scanner_method_name(any));
    g_assert_cmpstr(ferry_scanner_method_name(reading), ==, "pagemap-read");
    ferry_scanner_free(NULL);
}

static void test_all(void)
{
    g_autoptr(FerryScanner) scanner = ferry_scanner_new();
    g_auto(Area) area = area_private_small(8 * PAGE);
    g_autoptr(GError) error = NULL;

    area.target.method = FERRY_SCAN_ALL;
    assert_picture(scanner, &area.target, 1, "DDDDDDD");
    memset(area_at(&area, 2), 0xee, 3 * PAGE);
    g_assert_true(
        ferry_scan_discard_populated(scanner, &area.target, 2 * PAGE + 1, 3 * PAGE - 2, &error));
    g_assert_true(ferry_is_zero(area_at(&area, 2) + 1, 3 * PAGE - 2));
    g_assert_cmpint(*area_at(&area, 2), ==, (char)0xee);
    g_assert_cmpint(*(area_at(&area, 5) - 1), ==, (char)0xee);

    /* What was zero was not written: it still is the zero page or nothing. */
    area.target.method = FERRY_SCAN_PRIVATE;
    g_assert_true(ferry_scan_discard_populated(scanner, &area.target, 0, 8 * PAGE, &error));
    area.target.method = FERRY_SCAN_ALL;
    g_assert_true(ferry_scan_discard_populated(scanner, &area.target, 0, 8 * PAGE, &error));
    area.target.method = FERRY_SCAN_PRIVATE;
    if (can_ioctl(scanner)) {
        assert_picture(scanner, &area.target, 0, "ZZZZZZZZ");
    }
}

static void add_pagemap_tests(const char *how, FerryScannerFlags flags)
{
    static const struct {
        const char *name;
        GTestDataFunc fn;
    } tests[] = {
        {"scattered", test_private_scattered},
        {"long-runs", test_private_long_runs},
        {"huge", test_private_huge},
        {"zero-page", test_private_zero_page},
        {"swapped", test_private_swapped},
        {"hugetlb", test_private_hugetlb},
        {"sparse", test_private_sparse},
        {"error", test_private_error},
        {"threads", test_private_threads},
        {"discard", test_discard_private},
        {"discard-locked", test_discard_locked},
        {"discard-keeps-pages", test_discard_keeps_pages},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(tests); i++) {
        g_autofree char *path = g_strdup_printf("/scan/%s/%s", how, tests[i].name);

        g_test_add_data_func(path, GUINT_TO_POINTER(flags), tests[i].fn);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (sysconf(_SC_PAGESIZE) != PAGE) {
        g_test_message("written for 4 KiB pages");
        return 77;
    }
    g_test_add_func("/scan/method-names", test_method_names);
    add_pagemap_tests("best", FERRY_SCANNER_DEFAULT);
    add_pagemap_tests("read", FERRY_SCANNER_NO_IOCTL);
    g_test_add_func("/scan/no-pagemap", test_no_pagemap);
    g_test_add_func("/scan/all", test_all);
    return g_test_run();
}
