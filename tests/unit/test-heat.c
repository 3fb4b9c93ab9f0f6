/*
 * Guessing which chunks are written, on real memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/source/heat.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "migration/source/backlog.h"

/* One page in so many is looked at. */
#define STRETCH_PAGES UINT64_C(16)

typedef struct {
    FerryRegions regions;
    FerryScanner *scanner;
    FerryHeat *heat;
} Bed;

static Bed *bed_new(uint64_t nr_pages)
{
    Bed *bed = g_new0(Bed, 1);
    FerryRegion *region = g_new0(FerryRegion, 1);

    *region = (FerryRegion){
        .id = "ram",
        .length_bytes = nr_pages * FERRY_PAGE_BYTES,
        .page_size_bytes = FERRY_PAGE_BYTES,
        .fd = -1,
        .scan = FERRY_SCAN_PRIVATE,
    };
    region->host = mmap(NULL, region->length_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    g_assert_true(region->host != MAP_FAILED);
    g_assert_cmpint(madvise(region->host, region->length_bytes, MADV_NOHUGEPAGE), ==, 0);
    bed->regions = (FerryRegions){.list = region, .nr = 1};
    bed->scanner = ferry_scanner_new();
    bed->heat = ferry_heat_new(&bed->regions, bed->scanner);
    return bed;
}

static void bed_free(Bed *bed)
{
    ferry_heat_free(bed->heat);
    ferry_scanner_free(bed->scanner);
    munmap(bed->regions.list[0].host, bed->regions.list[0].length_bytes);
    ferry_regions_clear(&bed->regions);
    g_free(bed);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(Bed, bed_free)

static void write_pages(const Bed *bed, uint64_t first, uint64_t nr, uint64_t value)
{
    for (uint64_t page = first; page < first + nr; page++) {
        /* Its last word: all of a page must be looked at. */
        memcpy(bed->regions.list[0].host + (page + 1) * FERRY_PAGE_BYTES - sizeof(value), &value,
               sizeof(value));
    }
}

static void look(const Bed *bed, uint64_t chunk)
{
    GError *error = NULL;

    g_assert_true(ferry_heat_look(bed->heat, 0, chunk, STRETCH_PAGES, &error));
    g_assert_no_error(error);
}

static unsigned nr_resident(const Bed *bed)
{
    const FerryRegion *region = &bed->regions.list[0];
    uint64_t nr_pages = ferry_region_nr_pages(region);
    g_autofree unsigned char *resident = g_malloc(nr_pages);
    unsigned nr = 0;

    g_assert_cmpint(mincore(region->host, region->length_bytes, resident), ==, 0);
    for (uint64_t i = 0; i < nr_pages; i++) {
        nr += resident[i] & 1;
    }
    return nr;
}

static void test_changes(void)
{
    g_autoptr(Bed) bed = bed_new(3 * FERRY_CHUNK_PAGES);

    write_pages(bed, 0, 3 * FERRY_CHUNK_PAGES, 1);
    for (uint64_t chunk = 0; chunk < 3; chunk++) {
        look(bed, chunk);
    }
    /* One chunk is written all over, one a quarter of it, one not at all. */
    write_pages(bed, FERRY_CHUNK_PAGES, FERRY_CHUNK_PAGES, 2);
    for (uint64_t page = 0; page < FERRY_CHUNK_PAGES; page += 4 * STRETCH_PAGES) {
        write_pages(bed, 2 * FERRY_CHUNK_PAGES + page + 3 * STRETCH_PAGES, STRETCH_PAGES, 2);
    }
    g_assert_cmpuint(ferry_heat_changed(bed->heat, 0, 0), ==, 0);
    g_assert_cmpuint(ferry_heat_changed(bed->heat, 0, 1), ==, FERRY_HEAT_MAX);
    g_assert_cmpuint(ferry_heat_changed(bed->heat, 0, 2), ==, FERRY_HEAT_MAX / 4);
    /* It may be asked again, until it forgets. */
    g_assert_cmpuint(ferry_heat_changed(bed->heat, 0, 1), ==, FERRY_HEAT_MAX);
    g_assert_true(ferry_heat_knows(bed->heat, 0, 1));
    ferry_heat_forget(bed->heat, 0, 1);
    g_assert_cmpuint(ferry_heat_changed(bed->heat, 0, 1), ==, 0);
    g_assert_false(ferry_heat_knows(bed->heat, 0, 1));
    g_assert_cmpuint(ferry_heat_data_bytes(bed->heat), ==,
                     3 * FERRY_CHUNK_PAGES * FERRY_PAGE_BYTES);
}

static void test_looks_again(void)
{
    g_autoptr(Bed) bed = bed_new(FERRY_CHUNK_PAGES);

    write_pages(bed, 0, FERRY_CHUNK_PAGES, 1);
    look(bed, 0);
    write_pages(bed, 0, FERRY_CHUNK_PAGES, 2);
    look(bed, 0);
    g_assert_cmpuint(ferry_heat_changed(bed->heat, 0, 0), ==, 0);
}

/* What nobody touched is not read, and does not come into being. */
static void test_untouched(void)
{
    g_autoptr(Bed) bed = bed_new(2 * FERRY_CHUNK_PAGES);

    look(bed, 0);
    look(bed, 1);
    g_assert_cmpuint(nr_resident(bed), ==, 0);
    write_pages(bed, 0, 2 * FERRY_CHUNK_PAGES, 1);
    g_assert_cmpuint(ferry_heat_changed(bed->heat, 0, 0), ==, 0);
}

/* Touched in patches: those are what is looked at. */
static void test_patches(void)
{
    g_autoptr(Bed) bed = bed_new(FERRY_CHUNK_PAGES);
    unsigned before;

    for (uint64_t page = 0; page < FERRY_CHUNK_PAGES; page += 1024) {
        write_pages(bed, page, 512, 1);
    }
    before = nr_resident(bed);
    look(bed, 0);
    g_assert_cmpuint(nr_resident(bed), ==, before);
    for (uint64_t page = 0; page < FERRY_CHUNK_PAGES; page += 1024) {
        write_pages(bed, page, 512, 2);
    }
    g_assert_cmpuint(ferry_heat_changed(bed->heat, 0, 0), ==, FERRY_HEAT_MAX);
}

/* A region that ends in the middle of a chunk. */
static void test_short(void)
{
    g_autoptr(Bed) bed = bed_new(FERRY_CHUNK_PAGES + 777);

    write_pages(bed, 0, FERRY_CHUNK_PAGES + 777, 1);
    look(bed, 1);
    write_pages(bed, FERRY_CHUNK_PAGES, 777, 2);
    g_assert_cmpuint(ferry_heat_changed(bed->heat, 0, 1), ==, FERRY_HEAT_MAX);
}

/* One page of those looked at, the last one: the more are looked at, the less it counts. */
static void test_few(void)
{
    g_autoptr(Bed) bed = bed_new(FERRY_CHUNK_PAGES);
    const uint64_t last = FERRY_CHUNK_PAGES - STRETCH_PAGES;

    write_pages(bed, 0, FERRY_CHUNK_PAGES, 1);
    look(bed, 0);
    write_pages(bed, last, STRETCH_PAGES, 2);
    g_assert_cmpuint(ferry_heat_changed(bed->heat, 0, 0), ==,
                     FERRY_HEAT_MAX * STRETCH_PAGES / FERRY_CHUNK_PAGES);
}

/* A file that is sent in full has its holes still after a look: to read one would allocate it. */
static void test_sent_in_full(void)
{
    const uint64_t nr_bytes = FERRY_CHUNK_PAGES * FERRY_PAGE_BYTES;
    const uint8_t answers[] = {FERRY_ANSWER_IN_FULL};
    FerryRegions regions = {.list = g_new0(FerryRegion, 1), .nr = 1};
    g_autoptr(FerryScanner) scanner = ferry_scanner_new();
    g_autoptr(FerryHeat) heat = NULL;
    g_autoptr(GError) error = NULL;
    FerryBacklog *backlog;
    struct stat st;
    uint8_t *host;
    int fd = memfd_create("ferry-test-heat", MFD_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, (off_t)nr_bytes), ==, 0);
    host = mmap(NULL, nr_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    g_assert_true(host != MAP_FAILED);
    host[5 * FERRY_PAGE_BYTES] = 'x';
    regions.list[0] = (FerryRegion){
        .id = "nv",
        .host = host,
        .length_bytes = nr_bytes,
        .page_size_bytes = FERRY_PAGE_BYTES,
        .flags = FERRY_REGION_SHARED | FERRY_REGION_FOREIGN,
        .fd = fd,
        .scan = FERRY_SCAN_SHARED,
    };
    backlog = ferry_backlog_new(&regions, &(FerryTracker){0}, false, false);
    ferry_backlog_settle(backlog, answers);
    heat = ferry_heat_new(ferry_backlog_regions(backlog), scanner);
    g_assert_true(ferry_heat_look(heat, 0, 0, 1, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(ferry_heat_data_bytes(heat), ==, FERRY_PAGE_BYTES);
    g_assert_cmpuint(ferry_heat_changed(heat, 0, 0), ==, 0);
    g_assert_cmpint(fstat(fd, &st), ==, 0);
    g_assert_cmpuint((uint64_t)st.st_blocks * 512, ==, FERRY_PAGE_BYTES);
    ferry_backlog_free(backlog);
    munmap(host, nr_bytes);
    close(fd);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/heat/changes", test_changes);
    g_test_add_func("/heat/looks-again", test_looks_again);
    g_test_add_func("/heat/untouched", test_untouched);
    g_test_add_func("/heat/patches", test_patches);
    g_test_add_func("/heat/short", test_short);
    g_test_add_func("/heat/few", test_few);
    g_test_add_func("/heat/sent-in-full", test_sent_in_full);
    return g_test_run();
}
