/*
 * How often files are asked where their data ends: the kernel goes over all of it, page by page
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/memory/holes.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "migration/memory/empty.h"
#include "migration/memory/zero.h"
#include "migration/wire/pages-frame.h"

#define NR_CHUNKS 4
#define NR_PAGES  (NR_CHUNKS * FERRY_CHUNK_PAGES)
#define NR_BYTES  (NR_PAGES * FERRY_PAGE_BYTES)

#define NR_GRANULES (NR_PAGES / FERRY_GRANULE_PAGES)

/* How often SEEK_HOLE may be asked for, of what has one end. */
#define FEW 2

static unsigned nr_seek_hole, nr_seek_data;

/* In place of the C library's. */
off_t lseek(int fd, off_t offset, int whence)
{
    nr_seek_hole += whence == SEEK_HOLE;
    nr_seek_data += whence == SEEK_DATA;
    return (off_t)syscall(SYS_lseek, fd, offset, whence);
}

static FerryRegion make_full(void)
{
    FerryRegion region = {
        .id = "ram",
        .length_bytes = NR_BYTES,
        .page_size_bytes = FERRY_PAGE_BYTES,
        .flags = FERRY_REGION_SHARED,
        .fd = memfd_create("ferry-test-holes", MFD_CLOEXEC),
        .scan = FERRY_SCAN_SHARED,
    };

    g_assert_cmpint(region.fd, >=, 0);
    g_assert_cmpint(ftruncate(region.fd, NR_BYTES), ==, 0);
    region.host = mmap(NULL, NR_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, region.fd, 0);
    g_assert_true(region.host != MAP_FAILED);
    for (uint64_t page = 0; page < NR_PAGES; page++) {
        region.host[page * FERRY_PAGE_BYTES] = 'x';
    }
    nr_seek_hole = nr_seek_data = 0;
    return region;
}

static void drop(FerryRegion *region)
{
    munmap(region->host, NR_BYTES);
    close(region->fd);
}

static void punch(const FerryRegion *region, uint64_t first_page, uint64_t nr_pages)
{
    g_assert_cmpint(fallocate(region->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                              (off_t)(first_page * FERRY_PAGE_BYTES),
                              (off_t)(nr_pages * FERRY_PAGE_BYTES)),
                    ==, 0);
}

static void add_bytes(void *opaque, uint64_t offset_bytes, uint64_t nr_bytes, FerryScanKind kind)
{
    *(uint64_t *)opaque += nr_bytes;
}

static uint64_t scan_chunk(const FerryScanner *scanner, const FerryRegion *region, uint64_t chunk)
{
    const FerryScanTarget target = ferry_region_scan_target(region);
    const uint64_t nr_bytes = FERRY_CHUNK_PAGES * FERRY_PAGE_BYTES;
    uint64_t data_bytes = 0;

    g_assert_true(
        ferry_scan(scanner, &target, chunk * nr_bytes, nr_bytes, add_bytes, &data_bytes, NULL));
    return data_bytes;
}

/* Two files by turns, as heat and copying do, which are at different places. */
static void test_scanned(void)
{
    g_autoptr(FerryScanner) scanner = ferry_scanner_new();
    FerryRegion a = make_full(), b = make_full();

    for (uint64_t i = 0; i < NR_CHUNKS; i++) {
        g_assert_cmpuint(scan_chunk(scanner, &a, i), ==, FERRY_CHUNK_PAGES * FERRY_PAGE_BYTES);
        g_assert_cmpuint(scan_chunk(scanner, &b, i), ==, FERRY_CHUNK_PAGES * FERRY_PAGE_BYTES);
    }
    g_assert_cmpuint(nr_seek_hole, <=, 2 * FEW);
    g_assert_cmpuint(nr_seek_data, <=, 2 * NR_CHUNKS);
    drop(&a);
    drop(&b);
}

/* What was punched since is left alone where a scan begins with it, and what came since is found. */
static void test_changed(void)
{
    g_autoptr(FerryScanner) scanner = ferry_scanner_new();
    FerryRegion region = make_full();
    const uint64_t chunk_bytes = FERRY_CHUNK_PAGES * FERRY_PAGE_BYTES;

    punch(&region, 2 * FERRY_CHUNK_PAGES, 2 * FERRY_CHUNK_PAGES);
    g_assert_cmpuint(scan_chunk(scanner, &region, 0), ==, chunk_bytes);
    punch(&region, FERRY_CHUNK_PAGES, 7);
    g_assert_cmpuint(scan_chunk(scanner, &region, 1), ==, chunk_bytes - 7 * FERRY_PAGE_BYTES);
    region.host[NR_BYTES - 1] = 'x';
    g_assert_cmpuint(scan_chunk(scanner, &region, 3), ==, FERRY_PAGE_BYTES);
    memset(region.host + 2 * chunk_bytes, 'x', 2 * chunk_bytes);
    g_assert_cmpuint(scan_chunk(scanner, &region, 2), ==, chunk_bytes);
    drop(&region);
}

/* Each sender has every so manyth granule. */
static void test_framed(void)
{
    FerryRegion region = make_full();
    FerryPagesFrame frames[2] = {0};
    uint64_t all[FERRY_GRANULE_WORDS];

    memset(all, 0xff, sizeof(all));
    region.flags |= FERRY_REGION_IN_FULL | FERRY_REGION_HOLES_KNOWN;
    ferry_pages_frame_init(&frames[0], false, false);
    ferry_pages_frame_init(&frames[1], false, false);
    for (uint64_t granule = 0; granule < NR_GRANULES; granule++) {
        FerryPagesFrame *frame = &frames[granule % 2];

        ferry_pages_frame_build(frame, &region, 0, granule, all);
        g_assert_cmpuint(frame->content_bytes, ==, FERRY_GRANULE_PAGES * FERRY_PAGE_BYTES);
    }
    g_assert_cmpuint(nr_seek_hole, <=, 2 * FEW);
    g_assert_cmpuint(nr_seek_data, <=, NR_GRANULES);
    ferry_pages_frame_clear(&frames[0]);
    ferry_pages_frame_clear(&frames[1]);
    drop(&region);
}

/* Zero pages that come for a full file, from its end to its beginning or the other way. */
static void test_cleared(gconstpointer data)
{
    const bool from_end = GPOINTER_TO_INT(data);
    g_autoptr(FerryScanner) scanner = ferry_scanner_new();
    FerryRegion region = make_full();
    const FerryScanTarget target = ferry_region_scan_target(&region);

    for (uint64_t i = 0; i < NR_GRANULES; i++) {
        uint64_t granule = from_end ? NR_GRANULES - 1 - i : i;
        uint64_t at = granule * FERRY_GRANULE_PAGES * FERRY_PAGE_BYTES;

        g_assert_true(
            ferry_scan_discard_populated(scanner, &target, at, 16 * FERRY_PAGE_BYTES, NULL));
        g_assert_true(ferry_is_zero(region.host + at, 16 * FERRY_PAGE_BYTES));
        g_assert_cmpint(region.host[at + 16 * FERRY_PAGE_BYTES], ==, 'x');
    }
    /* From the end, each has an end of its own; it is near. */
    g_assert_cmpuint(nr_seek_hole, <=, from_end ? NR_GRANULES : FEW);
    g_assert_cmpuint(nr_seek_data, <=, 2 * NR_GRANULES);
    drop(&region);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/holes/scanned", test_scanned);
    g_test_add_func("/holes/changed", test_changed);
    g_test_add_func("/holes/framed", test_framed);
    g_test_add_data_func("/holes/cleared", GINT_TO_POINTER(false), test_cleared);
    g_test_add_data_func("/holes/cleared-from-end", GINT_TO_POINTER(true), test_cleared);
    return g_test_run();
}
