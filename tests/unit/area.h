/*
 * Real memory of all kinds, to find writes in
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_TESTS_UNIT_AREA_H
#define FERRY_TESTS_UNIT_AREA_H

#include "migration/memory/region.h"

#define PAGE     4096
#define HUGE     (UINT64_C(2) << 20)
#define PER_HUGE (HUGE / PAGE)

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

typedef struct {
    FerryRegion region;
    void *mapping;
    size_t mapping_bytes;
} Area;

/* False, with the test marked as skipped, where there is no such memory. */
bool area_make(Area *area, Kind kind, uint64_t nr_pages);
void area_clear(Area *area);

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Area, area_clear)

static inline uint8_t *area_at(const Area *area, uint64_t page)
{
    return area->region.host + page * PAGE;
}

/* Write to a page what was not there before. */
void area_touch(const Area *area, uint64_t page);
uint64_t area_look(const Area *area, uint64_t page);

/* What the kernel says of a page. */
uint64_t area_categories(const Area *area, uint64_t page);

/* Register a test "/pagemap/NAME/KIND" for each of these kinds, which is its data. */
void area_add_tests(const char *name, GTestDataFunc fn, const Kind *kinds, size_t nr);

#define AREA_ADD_TESTS(name, fn, ...)                     \
    area_add_tests(name, fn, (const Kind[]){__VA_ARGS__}, \
                   G_N_ELEMENTS(((const Kind[]){__VA_ARGS__})))

#endif
