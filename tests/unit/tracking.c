/*
 * The tracker that reads page tables, at work on areas, and what it told
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "tracking.h"

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

void tracking_start(Tracking *tracking)
{
    g_autoptr(GError) error = NULL;

    tracking->tracker.ops->start(tracking->tracker.opaque, &tracking->client, &error);
    g_assert_no_error(error);
}

void tracking_stop(Tracking *tracking)
{
    tracking->tracker.ops->stop(tracking->tracker.opaque);
}

void tracking_arm_chunk(Tracking *tracking, uint32_t region, uint64_t first)
{
    uint64_t nr_pages = ferry_region_nr_pages(&tracking->regions.list[region]) - first;
    g_autoptr(GError) error = NULL;

    tracking->tracker.ops->arm(tracking->tracker.opaque, region, first,
                               MIN(nr_pages, FERRY_CHUNK_PAGES), &error);
    g_assert_no_error(error);
}

void tracking_arm(Tracking *tracking)
{
    for (uint32_t i = 0; i < tracking->regions.nr; i++) {
        uint64_t nr_pages = ferry_region_nr_pages(&tracking->regions.list[i]);

        for (uint64_t first = 0; first < nr_pages; first += FERRY_CHUNK_PAGES) {
            tracking_arm_chunk(tracking, i, first);
        }
    }
}

void tracking_harvest(Tracking *tracking, bool last)
{
    g_autoptr(GError) error = NULL;

    tracking->tracker.ops->harvest(tracking->tracker.opaque, last, &error);
    g_assert_no_error(error);
}

void tracking_reset(Tracking *tracking, uint32_t region, uint64_t page)
{
    uint64_t first = page - page % FERRY_CHUNK_PAGES;
    uint64_t nr_pages = ferry_region_nr_pages(&tracking->regions.list[region]) - first;
    g_autoptr(GError) error = NULL;

    tracking->tracker.ops->reset(tracking->tracker.opaque, region, first,
                                 MIN(nr_pages, FERRY_CHUNK_PAGES), &error);
    g_assert_no_error(error);
}

void tracking_clear(Tracking *tracking)
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

bool tracking_is_supported(void)
{
    g_autofree char *why = ferry_pagemap_unsupported();

    if (why) {
        g_test_skip(why);
    }
    return why == NULL;
}

void tracking_open(Tracking *tracking, const Area *areas, size_t nr_areas)
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

void assert_told(FerryPageset *told, FerryPageset *expected, const char *what)
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

void assert_nothing(FerryPageset *told, const char *what)
{
    g_autoptr(FerryPageset) nothing = ferry_pageset_new(4 * FERRY_CHUNK_PAGES);

    assert_told(told, nothing, what);
}

void assert_pages(FerryPageset *told, const char *what, const uint64_t *pages, size_t nr)
{
    g_autoptr(FerryPageset) expected = ferry_pageset_new(4 * FERRY_CHUNK_PAGES);

    for (size_t i = 0; i < nr; i++) {
        ferry_pageset_add(expected, pages[i], 1);
    }
    assert_told(told, expected, what);
}
