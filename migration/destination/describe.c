/*
 * Missing pages in words: see describe.h.
 *
 * Threads: any.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "describe.h"

#include <inttypes.h>

/* Ranges of missing pages that a description names. */
#define DESCRIBED_MAX 8

/* Ranges of pages in @set, as numbers; *@nr counts them. */
static void describe_ranges(FerryPageset *set, uint64_t nr_pages, GString *text, unsigned *nr)
{
    uint64_t first = 0, end = 0;

    for (int64_t granule = ferry_pageset_next(set, 0, 0, 1); granule >= 0 && *nr <= DESCRIBED_MAX;
         granule = ferry_pageset_next(set, (uint64_t)granule + 1, 0, 1)) {
        for (uint64_t page = (uint64_t)granule * FERRY_GRANULE_PAGES;
             page < ((uint64_t)granule + 1) * FERRY_GRANULE_PAGES && page < nr_pages; page++) {
            if (!(ferry_pageset_get(set, page / 64) >> (page % 64) & 1)) {
                continue;
            }
            if (page == end && end) {
                end++;
                continue;
            }
            if (end && (*nr)++ < DESCRIBED_MAX) {
                g_string_append_printf(text, " 0x%" PRIx64 "-0x%" PRIx64, first, end - 1);
            }
            first = page;
            end = page + 1;
        }
    }
    if (end && (*nr)++ < DESCRIBED_MAX) {
        g_string_append_printf(text, " 0x%" PRIx64 "-0x%" PRIx64, first, end - 1);
    }
}

char *ferry_describe_missing(const FerryRegions *regions, FerryPageset *const *missing,
                             uint64_t nr_missing)
{
    GString *text = g_string_new(NULL);

    g_string_append_printf(text, "%" PRIu64 " pages are missing:", nr_missing);
    for (uint32_t i = 0; i < regions->nr; i++) {
        uint64_t count = ferry_pageset_count(missing[i]);
        unsigned nr = 0;

        if (count) {
            g_string_append_printf(text, " %" PRIu64 " of RAM block '%s' (page numbers", count,
                                   regions->list[i].id);
            describe_ranges(missing[i], ferry_region_nr_pages(&regions->list[i]), text, &nr);
            g_string_append(text, nr > DESCRIBED_MAX ? " and more)" : ")");
        }
    }
    return g_string_free(text, FALSE);
}
