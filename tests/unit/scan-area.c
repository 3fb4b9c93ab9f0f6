/*
 * Real memory to scan, and a picture of what was found in it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "scan-area.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void area_clear(Area *area)
{
    munmap(area->target.host, area->mapped_bytes);
    if (area->target.fd >= 0) {
        close(area->target.fd);
    }
}

Area area_private(uint64_t length_bytes)
{
    Area area = {
        .target =
            {
                .length_bytes = length_bytes,
                .fd = -1,
                .method = FERRY_SCAN_PRIVATE,
                .page_size_bytes = PAGE,
            },
        .mapped_bytes = length_bytes,
    };

    area.target.host = mmap(NULL, length_bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    g_assert_true(area.target.host != MAP_FAILED);
    return area;
}

Area area_private_small(uint64_t length_bytes)
{
    Area area = area_private(length_bytes);

    if (madvise(area.target.host, length_bytes, MADV_NOHUGEPAGE) != 0) {
        g_assert_cmpint(errno, ==, EINVAL); /* no transparent huge pages in this kernel */
    }
    return area;
}

Area area_shared(uint64_t length_bytes, uint64_t fd_offset)
{
    Area area = {
        .target =
            {
                .length_bytes = length_bytes,
                .fd = memfd_create("ferry-test-scan", MFD_CLOEXEC | MFD_ALLOW_SEALING),
                .fd_offset = fd_offset,
                .method = FERRY_SCAN_SHARED,
                .flags = FERRY_REGION_SHARED,
                .page_size_bytes = PAGE,
            },
        .mapped_bytes = length_bytes,
    };

    g_assert_cmpint(area.target.fd, >=, 0);
    g_assert_cmpint(ftruncate(area.target.fd, (off_t)(fd_offset + length_bytes)), ==, 0);
    area.target.host = mmap(NULL, length_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, area.target.fd,
                            (off_t)fd_offset);
    g_assert_true(area.target.host != MAP_FAILED);
    return area;
}

typedef struct {
    GString *picture;
    uint64_t offset_bytes;
    uint64_t end_bytes;
    FerryScanKind last_kind;
    bool any;
} Painter;

static void paint(void *opaque, uint64_t offset_bytes, uint64_t nr_bytes, FerryScanKind kind)
{
    static const char letters[] = {
        [FERRY_SCAN_DATA] = DATA,
        [FERRY_SCAN_ZERO] = ZERO,
        [FERRY_SCAN_SWAPPED] = SWAPPED,
    };
    Painter *painter = opaque;

    g_assert_cmpuint(nr_bytes, >, 0);
    g_assert_cmpuint(offset_bytes, >=, painter->offset_bytes);
    if (painter->any && offset_bytes == painter->offset_bytes) {
        g_assert_cmpint(kind, !=, painter->last_kind); /* else it was not the longest range */
    }
    g_assert_cmpuint(offset_bytes + nr_bytes, <=, painter->end_bytes);
    g_assert_cmpuint(offset_bytes % PAGE + nr_bytes % PAGE, ==, 0);
    for (; painter->offset_bytes < offset_bytes; painter->offset_bytes += PAGE) {
        g_string_append_c(painter->picture, NOTHING);
    }
    for (; painter->offset_bytes < offset_bytes + nr_bytes; painter->offset_bytes += PAGE) {
        g_string_append_c(painter->picture, letters[kind]);
    }
    painter->last_kind = kind;
    painter->any = true;
}

char *scan_picture(const FerryScanner *scanner, const FerryScanTarget *target, uint64_t first_page,
                   uint64_t nr_pages)
{
    Painter painter = {
        .picture = g_string_new(NULL),
        .offset_bytes = first_page * PAGE,
        .end_bytes = (first_page + nr_pages) * PAGE,
    };
    g_autoptr(GError) error = NULL;
    bool ok =
        ferry_scan(scanner, target, first_page * PAGE, nr_pages * PAGE, paint, &painter, &error);

    g_assert_no_error(error);
    g_assert_true(ok);
    for (; painter.offset_bytes < painter.end_bytes; painter.offset_bytes += PAGE) {
        g_string_append_c(painter.picture, NOTHING);
    }
    return g_string_free(painter.picture, FALSE);
}

void assert_picture(const FerryScanner *scanner, const FerryScanTarget *target, uint64_t first_page,
                    const char *expected)
{
    g_autofree char *picture = scan_picture(scanner, target, first_page, strlen(expected));

    g_assert_cmpstr(picture, ==, expected);
}

char *picture_of(size_t nr_pages, char letter)
{
    return g_strnfill(nr_pages, letter);
}

void area_touch(const Area *area, const char *expected)
{
    for (size_t page = 0; expected[page] != '\0'; page++) {
        if (expected[page] == DATA) {
            *area_at(area, page) = 1;
        }
    }
}
