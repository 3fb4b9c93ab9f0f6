/*
 * Finding writes in the page tables, on real memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/error.h"
#include "migration/memory/kernel-abi.h"
#include "page-out.h"
#include "tracking.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define GIB (UINT64_C(1) << 30)

/*
 * Have an area, of which so many pages are touched, and all of it armed. False, with the test marked
 * as skipped, where that cannot be had.
 */
static bool start(Tracking *tracking, Area *area, Kind kind, uint64_t nr_pages, uint64_t nr_touched)
{
    if (!tracking_is_supported() || !area_make(area, kind, nr_pages)) {
        return false;
    }
    for (uint64_t page = 0; page < nr_touched; page++) {
        area_touch(area, page);
    }
    tracking_open(tracking, area, 1);
    tracking_arm(tracking);
    return true;
}

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

    if (!tracking_is_supported() || !area_make(&area, kind, nr_pages)) {
        return;
    }
    if (kind != MEMFD_UNTOUCHED) {
        for (uint64_t page = 0; page < nr_pages / 2; page++) {
            area_touch(&area, page);
        }
    }
    if (kind == THP && !(area_categories(&area, 0) & FERRY_PAGE_IS_HUGE)) {
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

            area_touch(&area, page);
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

    if (!start(&tracking, &area, GPOINTER_TO_UINT(data), PER_HUGE, 0)) {
        return;
    }
    area_touch(&area, 9);
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "first", 9);
    area_touch(&area, 300);
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

    if (!start(&tracking, &area, kind, 2 * PER_HUGE, 2 * PER_HUGE)) {
        return;
    }
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

    if (!start(&tracking, &area, SMALL, PER_HUGE, PER_HUGE)) {
        return;
    }
    area_touch(&area, 60);
    area_touch(&area, 70);
    area_touch(&area, 400);
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "the first three", 60, 70, 400);

    /* Between two that are reset at once, and apart from them. */
    area_touch(&area, 65);
    area_touch(&area, 200);
    tracking_reset(&tracking, 0, 0);
    ASSERT_PAGES(tracking.reported[0], "reset on the way", 65);
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "left alone", 200);
    area_touch(&area, 65);
    area_touch(&area, 400);
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "written again", 65, 200, 400);

    /* Nothing was found since: nothing is reset. */
    tracking_reset(&tracking, 0, 0);
    area_touch(&area, 300);
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

    if (!start(&tracking, &area, SMALL, PER_HUGE, 0)) {
        return;
    }
    area_touch(&area, 5);
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "first", 5);
    tracking_arm(&tracking);
    tracking_harvest(&tracking, false);
    assert_nothing(tracking.found[0], "armed again");
    area_touch(&area, 6);
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "a neighbour", 6);
    area_touch(&area, 5);
    area_touch(&area, 7);
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

    if (!tracking_is_supported()) {
        return;
    }
    g_assert_true(area_make(&areas[0], MEMFD, 77));
    g_assert_true(area_make(&areas[1], SMALL, long_pages));
    for (uint64_t page = 0; page < long_pages; page++) {
        area_touch(&areas[1], page);
    }
    tracking_open(&tracking, areas, 2);
    tracking_arm_chunk(&tracking, 0, 0);
    tracking_arm_chunk(&tracking, 1, FERRY_CHUNK_PAGES);
    area_touch(&areas[0], 0);
    area_touch(&areas[0], 76);
    area_touch(&areas[1], 5);
    area_touch(&areas[1], FERRY_CHUNK_PAGES - 1);
    for (uint64_t page = FERRY_CHUNK_PAGES + 1; page < long_pages; page += 2) {
        area_touch(&areas[1], page);
        ferry_pageset_add(expected, page, 1);
    }
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "the short region", 0, 76);
    assert_told(tracking.found[1], expected, "the chunk that is armed");

    tracking_arm_chunk(&tracking, 1, 0);
    area_touch(&areas[1], FERRY_CHUNK_PAGES - 1);
    area_touch(&areas[1], FERRY_CHUNK_PAGES + 2);
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

static uint64_t page_tables_kib(void)
{
    g_autofree char *status = NULL;
    const char *line;

    g_assert_true(g_file_get_contents("/proc/self/status", &status, NULL, NULL));
    line = strstr(status, "VmPTE:");
    g_assert_nonnull(line);
    return g_ascii_strtoull(line + strlen("VmPTE:"), NULL, 10);
}

static void test_untouched(void)
{
    const uint64_t nr_pages = 64 * GIB / PAGE;
    g_auto(Area) area = {.region.fd = -1};
    g_auto(Tracking) tracking = {0};
    uint64_t before, after;

    if (!tracking_is_supported() || !area_make(&area, SMALL, nr_pages)) {
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

    area_touch(&area, 3);
    area_touch(&area, 2 * FERRY_CHUNK_PAGES - 1);
    area_touch(&area, nr_pages - 1);
    tracking_harvest(&tracking, false);
    g_assert_cmpuint(ferry_pageset_remove(tracking.found[0], nr_pages - 1, 1), ==, 1);
    ASSERT_PAGES(tracking.found[0], "first touched", 3, 2 * FERRY_CHUNK_PAGES - 1);
    /* Only read: need not be told, but once is allowed. */
    g_assert_cmpuint(area_look(&area, 10), ==, 0);
    tracking_harvest(&tracking, false);
    tracking_reset(&tracking, 0, 0);
    ferry_pageset_clear(tracking.found[0]);
    tracking_harvest(&tracking, false);
    g_assert_cmpuint(ferry_pageset_remove(tracking.found[0], nr_pages - 1, 1), ==, 1);
    ASSERT_PAGES(tracking.found[0], "second chunk", 2 * FERRY_CHUNK_PAGES - 1);
    /* The zero page is protected like any other. */
    area_touch(&area, 10);
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

    if (!tracking_is_supported() || !area_make(&area, MEMFD, nr_pages)) {
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
    area_touch(&area, 30000);
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

    if (!start(&tracking, &area, GPOINTER_TO_UINT(data), 2 * PER_HUGE, 20)) {
        return;
    }
    area_touch(&area, 7);
    area_touch(&area, 12);
    g_assert_cmpint(madvise(area_at(&area, 5), 5 * PAGE, MADV_DONTNEED), ==, 0);
    g_assert_false(area_categories(&area, 7) & (FERRY_PAGE_IS_PRESENT | FERRY_PAGE_IS_SWAPPED));
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "an entry gone", 7, 12);
    tracking_reset(&tracking, 0, 0);
    /* Protected pages are so still when they come back. */
    g_assert_cmpuint(area_look(&area, 5) & area_look(&area, 6), >, 0);
    area_touch(&area, 9);
    g_assert_cmpuint(area_look(&area, 7), >, 0);
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "back again", 7, 9);
    tracking_reset(&tracking, 0, 0);
    tracking_harvest(&tracking, true);
    assert_nothing(tracking.reported[0], "settled");
}

/* Discarded and read again, it has another content than it had. */
static void test_discarded(void)
{
    g_auto(Area) area = {.region.fd = -1};
    g_auto(Tracking) tracking = {0};

    if (!tracking_is_supported() || !area_make(&area, SMALL, PER_HUGE)) {
        return;
    }
    area_touch(&area, 8);
    tracking_open(&tracking, &area, 1);
    tracking_arm(&tracking);
    g_assert_cmpint(madvise(area_at(&area, 8), PAGE, MADV_DONTNEED), ==, 0);
    g_assert_cmpuint(area_look(&area, 8), ==, 0);
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "read as zero", 8);
}

static void test_swapped(gconstpointer data)
{
    g_auto(Area) area = {.region.fd = -1};
    g_auto(Tracking) tracking = {0};

    if (!start(&tracking, &area, GPOINTER_TO_UINT(data), PER_HUGE, 64)) {
        return;
    }
    for (uint64_t page = 20; page < 30; page++) {
        area_touch(&area, page);
    }
    if (!page_out(area_at(&area, 16), 8 * PAGE) ||
        (area_categories(&area, 16) & FERRY_PAGE_IS_PRESENT) ||
        (area_categories(&area, 22) & FERRY_PAGE_IS_PRESENT)) {
        g_test_skip("the kernel swapped nothing out (no swap space?)");
        return;
    }
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "some swapped out", 20, 21, 22, 23, 24, 25, 26, 27, 28, 29);
    for (uint64_t page = 16; page < 20; page++) {
        g_assert_cmpuint(area_look(&area, page), ==, 1);
    }
    for (uint64_t page = 20; page < 30; page++) {
        g_assert_cmpuint(area_look(&area, page), ==, 2);
    }
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "swapped in", 20, 21, 22, 23, 24, 25, 26, 27, 28, 29);
    tracking_reset(&tracking, 0, 0);
    tracking_harvest(&tracking, false);
    assert_nothing(tracking.found[0], "reset");
    area_touch(&area, 17);
    area_touch(&area, 22);
    tracking_harvest(&tracking, true);
    ASSERT_PAGES(tracking.reported[0], "written after all that", 17, 22);
}

/* --- The beginning and the end ----------------------------------------------------------------- */

static void test_stop(gconstpointer data)
{
    g_auto(Area) area = {.region.fd = -1};
    g_auto(Tracking) tracking = {0};

    if (!start(&tracking, &area, GPOINTER_TO_UINT(data), 2 * PER_HUGE, PER_HUGE)) {
        return;
    }
    area_touch(&area, 5);
    tracking_harvest(&tracking, false);
    g_assert_cmpuint(ferry_pageset_count(tracking.found[0]), >, 0);
    g_assert_true(area_categories(&area, 0) & FERRY_PAGE_IS_WPALLOWED);
    tracking_stop(&tracking);
    g_assert_false(area_categories(&area, 0) & FERRY_PAGE_IS_WPALLOWED);
    g_assert_false(area_categories(&area, 2 * PER_HUGE - 1) & FERRY_PAGE_IS_WPALLOWED);
    for (uint64_t page = 0; page < PER_HUGE; page++) {
        g_assert_cmpuint(area_look(&area, page), >=, page == 5 ? 2 : 1);
        area_touch(&area, page);
    }

    /* Once more, from scratch. */
    ferry_pageset_clear(tracking.found[0]);
    tracking_start(&tracking);
    g_assert_true(area_categories(&area, 0) & FERRY_PAGE_IS_WPALLOWED);
    tracking_harvest(&tracking, true);
    assert_nothing(tracking.reported[0], "not armed yet");
    tracking_arm(&tracking);
    tracking_harvest(&tracking, true);
    assert_nothing(tracking.reported[0], "not written yet");
    area_touch(&area, 5);
    tracking_harvest(&tracking, true);
    g_assert_true(ferry_pageset_get(tracking.reported[0], 0) & (1 << 5));
}

/* Expects that these cannot be tracked, and that what could be is left alone. */
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

    if (!tracking_is_supported()) {
        return;
    }
    g_assert_true(area_make(&areas[0], SMALL, PER_HUGE));
    area_touch(&areas[0], 0);

    g_assert_true(area_make(&areas[1], SMALL, PER_HUGE));
    areas[1].region.page_size_bytes = UINT32_C(1) << 30;
    assert_refused(areas, 2, "'small'", "1024 MiB large, the limit is 2 MiB");
    g_assert_false(area_categories(&areas[0], 0) & FERRY_PAGE_IS_WPALLOWED);
    area_clear(&areas[1]);

    g_assert_true(area_make(&areas[1], MEMFD, PER_HUGE));
    path = g_strdup_printf("/proc/self/fd/%d", areas[1].region.fd);
    writable = areas[1].region.fd;
    areas[1].region.fd = open(path, O_RDONLY | O_CLOEXEC);
    close(writable);
    g_assert_true(mmap(areas[1].region.host, PER_HUGE * PAGE, PROT_READ, MAP_SHARED | MAP_FIXED,
                       areas[1].region.fd, 0) == areas[1].region.host);
    assert_refused(areas, 2, "'memfd'", "may not be written");
    g_assert_false(area_categories(&areas[0], 0) & FERRY_PAGE_IS_WPALLOWED);
    area_clear(&areas[1]);

    {
        g_auto(Tracking) tracking = {0};

        tracking_open(&tracking, areas, 1);
        assert_refused(areas, 1, "'small'", "end that first");
        /* The one that has it keeps it. */
        g_assert_true(area_categories(&areas[0], 0) & FERRY_PAGE_IS_WPALLOWED);
    }
    area_clear(&areas[0]);
}

/* Part of it is something else now: it counts as written, and cannot be armed. */
static void test_mapped_over(void)
{
    g_auto(Area) area = {.region.fd = -1};
    g_auto(Tracking) tracking = {0};
    g_autoptr(GError) error = NULL;

    if (!start(&tracking, &area, MEMFD, PER_HUGE, 20)) {
        return;
    }
    g_assert_true(mmap(area_at(&area, 10), PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                       area.region.fd, 10 * PAGE) == area_at(&area, 10));
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "mapped anew", 10);
    g_assert_false(tracking.tracker.ops->arm(tracking.tracker.opaque, 0, 0, PER_HUGE, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_SYSTEM);
    g_assert_nonnull(strstr(error->message, "'memfd'"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (sysconf(_SC_PAGESIZE) != PAGE) {
        g_test_message("written for 4 KiB pages");
        return 77;
    }
    AREA_ADD_TESTS("exact", test_exact, SMALL, THP, MEMFD, MEMFD_UNTOUCHED, HUGETLB, HUGETLB_SHARED,
                   FILE_PRIVATE, FILE_SHARED);
    AREA_ADD_TESTS("kernel-writes", test_kernel_writes, SMALL, THP, MEMFD, HUGETLB, HUGETLB_SHARED);
    AREA_ADD_TESTS("found-again", test_found_again, SMALL, MEMFD);
    g_test_add_func("/pagemap/reset-reports", test_reset_reports);
    g_test_add_func("/pagemap/arm-again", test_arm_again);
    g_test_add_func("/pagemap/shapes", test_shapes);
    g_test_add_func("/pagemap/untouched/small", test_untouched);
    g_test_add_func("/pagemap/untouched/memfd", test_untouched_shared);
    AREA_ADD_TESTS("entries-gone", test_entries_gone, MEMFD, FILE_SHARED);
    g_test_add_func("/pagemap/discarded", test_discarded);
    AREA_ADD_TESTS("swapped", test_swapped, SMALL, MEMFD);
    AREA_ADD_TESTS("stop", test_stop, SMALL, THP, MEMFD, HUGETLB);
    g_test_add_func("/pagemap/refused", test_refused);
    g_test_add_func("/pagemap/mapped-over", test_mapped_over);
    return g_test_run();
}
