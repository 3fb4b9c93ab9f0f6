/*
 * Finding touched memory, on real memory: shared memory by its file
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/memory/zero.h"
#include "scan-area.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void test_shared(void)
{
    g_autoptr(FerryScanner) scanner = ferry_scanner_new();
    g_auto(Area) area = area_shared(1000 * PAGE, 7 * PAGE);
    g_autofree char *expected = picture_of(1000, NOTHING);

    assert_picture(scanner, &area.target, 0, expected);
    for (size_t page = 3; page < 900; page += (size_t)g_test_rand_int_range(1, 5)) {
        expected[page] = DATA;
    }
    area_touch(&area, expected);
    assert_picture(scanner, &area.target, 0, expected);
    for (int i = 0; i < 200; i++) {
        uint64_t first = (uint64_t)g_test_rand_int_range(0, 1000);
        uint64_t nr = (uint64_t)g_test_rand_int_range(0, (gint32)(1001 - first));
        g_autofree char *part = g_strndup(expected + first, nr);

        assert_picture(scanner, &area.target, first, part);
    }

    /* Written by somebody else, without a page table entry of ours. */
    expected[950] = DATA;
    g_assert_cmpint(pwrite(area.target.fd, "x", 1, (7 + 950) * PAGE + 5), ==, 1);
    assert_picture(scanner, &area.target, 0, expected);

    /* Punched out again. */
    memset(expected + 100, NOTHING, 500);
    g_assert_cmpint(fallocate(area.target.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                              (7 + 100) * PAGE, 500 * PAGE),
                    ==, 0);
    assert_picture(scanner, &area.target, 0, expected);
}

static void test_shared_dense(void)
{
    g_autoptr(FerryScanner) scanner = ferry_scanner_new();
    g_auto(Area) area = area_shared(64 * PAGE, 0);
    g_autofree char *full = picture_of(64, DATA);

    memset(area.target.host, 1, 64 * PAGE);
    assert_picture(scanner, &area.target, 0, full);
    assert_picture(scanner, &area.target, 10, full + 10);
    assert_picture(scanner, &area.target, 0, "DDD");
}

static void test_shared_discard(void)
{
    g_autoptr(FerryScanner) scanner = ferry_scanner_new();
    g_auto(Area) area = area_shared(16 * PAGE, 2 * PAGE);
    g_autoptr(GError) error = NULL;
    const uint64_t from = 4 * PAGE + 8;
    const uint64_t to = 10 * PAGE + 8;

    memset(area_at(&area, 2), 0xee, 12 * PAGE);
    g_assert_true(ferry_scan_discard_populated(scanner, &area.target, from, to - from, &error));
    assert_picture(scanner, &area.target, 0, "..DDD.....DDDD..");
    g_assert_true(ferry_is_zero((char *)area.target.host + from, to - from));
    g_assert_cmpint(((char *)area.target.host)[from - 1], ==, (char)0xee);
    g_assert_cmpint(((char *)area.target.host)[to], ==, (char)0xee);
}

/* What cannot be scanned is looked at, which allocates none of it. */
static void test_shared_unscanned(void)
{
    g_autoptr(FerryScanner) scanner = ferry_scanner_new();
    g_auto(Area) area = area_shared(8 * PAGE, 0);
    g_autoptr(GError) error = NULL;
    FerryScanTarget target = area.target;
    struct stat st;

    target.method = FERRY_SCAN_ALL;
    memset(area_at(&area, 2), 0xee, PAGE);
    g_assert_true(ferry_scan_discard_populated(scanner, &target, 0, 8 * PAGE, &error));
    g_assert_no_error(error);
    g_assert_cmpint(fstat(target.fd, &st), ==, 0);
    g_assert_cmpint(st.st_blocks * 512, ==, PAGE);
    g_assert_true(ferry_is_zero(target.host, 8 * PAGE));
}

/* Where lseek() would find no data although there is some. */
static void test_shared_without_holes(void)
{
    g_autoptr(FerryScanner) scanner = ferry_scanner_new();
    g_auto(Area) area = area_shared(8 * PAGE, 0);
    g_autoptr(GError) error = NULL;
    FerryScanTarget target = area.target;

    /* A device has no size. */
    target.fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
    g_assert_cmpint(target.fd, >=, 0);
    assert_picture(scanner, &target, 0, "DDDDDDDD");
    memset(area_at(&area, 2), 0xee, PAGE);
    g_assert_true(ferry_scan_discard_populated(scanner, &target, 0, 8 * PAGE, &error));
    g_assert_true(ferry_is_zero(target.host, 8 * PAGE));
    close(target.fd);

    /* A file that is shorter than the mapping. */
    target = area.target;
    g_assert_cmpint(ftruncate(target.fd, 4 * PAGE), ==, 0);
    assert_picture(scanner, &target, 0, "DDDDDDDD");
}

static void test_shared_hugetlb(void)
{
    g_autoptr(FerryScanner) scanner = ferry_scanner_new();
    const uint64_t per_huge = HUGE / PAGE;
    g_autofree char *picture = NULL;
    g_autoptr(GError) error = NULL;
    FerryScanTarget target = {
        .length_bytes = 2 * HUGE,
        .fd = memfd_create("ferry-test-scan", MFD_CLOEXEC | MFD_HUGETLB | (21 << MAP_HUGE_SHIFT)),
        .method = FERRY_SCAN_SHARED,
        .flags = FERRY_REGION_SHARED,
        .page_size_bytes = HUGE,
    };

    target.host = MAP_FAILED;
    if (target.fd >= 0 && ftruncate(target.fd, 2 * HUGE) == 0) {
        target.host = mmap(NULL, 2 * HUGE, PROT_READ | PROT_WRITE, MAP_SHARED, target.fd, 0);
    }
    if (target.host == MAP_FAILED) {
        g_test_skip("no 2 MiB pages reserved (vm.nr_hugepages)");
    } else {
        memset((char *)target.host + HUGE, 1, HUGE);
        /* Whether the holes of hugetlb files are known depends on the kernel; the data must be. */
        picture = scan_picture(scanner, &target, 0, 2 * per_huge);
        for (uint64_t page = per_huge; page < 2 * per_huge; page++) {
            g_assert_cmpint(picture[page], ==, DATA);
        }
        g_assert_true(ferry_scan_discard_populated(scanner, &target, 0, 2 * HUGE, &error));
        g_assert_true(ferry_is_zero(target.host, 2 * HUGE));
        munmap(target.host, 2 * HUGE);
    }
    if (target.fd >= 0) {
        close(target.fd);
    }
}

static void test_shared_error(void)
{
    g_autoptr(FerryScanner) scanner = ferry_scanner_new();
    g_auto(Area) area = area_shared(8 * PAGE, 0);
    FerryScanTarget target = area.target;
    g_autoptr(GError) error = NULL;

    *area_at(&area, 3) = 1;
    /* Sealed against change: neither discarded nor silently left alone. */
    g_assert_cmpint(munmap(area.target.host, area.mapped_bytes), ==, 0);
    g_assert_cmpint(fcntl(target.fd, F_ADD_SEALS, F_SEAL_WRITE), ==, 0);
    target.host = mmap(NULL, target.length_bytes, PROT_READ, MAP_SHARED, target.fd, 0);
    g_assert_true(target.host != MAP_FAILED);
    area.target.host = target.host;
    assert_picture(scanner, &target, 0, "...D....");
    g_assert_false(ferry_scan_discard_populated(scanner, &target, 0, 8 * PAGE, &error));
    g_assert_error(error, G_FILE_ERROR, G_FILE_ERROR_PERM);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (sysconf(_SC_PAGESIZE) != PAGE) {
        g_test_message("written for 4 KiB pages");
        return 77;
    }
    g_test_add_func("/scan/shared/scattered", test_shared);
    g_test_add_func("/scan/shared/dense", test_shared_dense);
    g_test_add_func("/scan/shared/discard", test_shared_discard);
    g_test_add_func("/scan/shared/unscanned", test_shared_unscanned);
    g_test_add_func("/scan/shared/without-holes", test_shared_without_holes);
    g_test_add_func("/scan/shared/hugetlb", test_shared_hugetlb);
    g_test_add_func("/scan/shared/error", test_shared_error);
    return g_test_run();
}
