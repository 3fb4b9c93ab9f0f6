/*
 * Real memory to scan, and a picture of what was found in it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_TESTS_UNIT_SCAN_AREA_H
#define FERRY_TESTS_UNIT_SCAN_AREA_H

#include "migration/memory/empty.h"

#define PAGE 4096
#define HUGE (UINT64_C(2) << 20)

/* What a page is expected to be, one character a page, as scan_picture() draws it. */
#define NOTHING '.'
#define DATA    'D'
#define ZERO    'Z'
#define SWAPPED 'S'

typedef struct {
    FerryScanTarget target;
    size_t mapped_bytes; /* 0 when not ours to unmap */
} Area;

void area_clear(Area *area);

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Area, area_clear)

static inline char *area_at(const Area *area, uint64_t page)
{
    return (char *)area->target.host + page * PAGE;
}

Area area_private(uint64_t length_bytes);

/* Anonymous memory in which a page touched is one page, whatever the system's settings are. */
Area area_private_small(uint64_t length_bytes);
Area area_shared(uint64_t length_bytes, uint64_t fd_offset);

/* Write to the pages that are DATA in this picture. */
void area_touch(const Area *area, const char *expected);

/* One letter, so many times; to be freed. */
char *picture_of(size_t nr_pages, char letter);

/* A string with one character for each page of the range. */
char *scan_picture(const FerryScanner *scanner, const FerryScanTarget *target, uint64_t first_page,
                   uint64_t nr_pages);
void assert_picture(const FerryScanner *scanner, const FerryScanTarget *target, uint64_t first_page,
                    const char *expected);

#endif
