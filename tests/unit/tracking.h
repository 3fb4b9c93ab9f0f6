/*
 * The tracker that reads page tables, at work on areas, and what it told
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_TESTS_UNIT_TRACKING_H
#define FERRY_TESTS_UNIT_TRACKING_H

#include "accel/pagemap.h"
#include "area.h"
#include "migration/memory/pageset.h"

#define REGIONS_MAX 4

typedef struct {
    FerryRegions regions;
    FerryPagemap *pagemap;
    FerryTracker tracker;
    FerryTrackerClient client;
    FerryPageset *found[REGIONS_MAX];
    FerryPageset *reported[REGIONS_MAX];
} Tracking;

/* False, with the test marked as skipped, where the kernel has no such tracking. */
bool tracking_is_supported(void);

/* @tracking must stay where it is: the tracker calls it. */
void tracking_open(Tracking *tracking, const Area *areas, size_t nr_areas);
void tracking_clear(Tracking *tracking);

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Tracking, tracking_clear)

/* What the engine would call; none of it may fail. */
void tracking_start(Tracking *tracking);
void tracking_stop(Tracking *tracking);
void tracking_arm_chunk(Tracking *tracking, uint32_t region, uint64_t first);
void tracking_arm(Tracking *tracking);
void tracking_harvest(Tracking *tracking, bool last);
void tracking_reset(Tracking *tracking, uint32_t region, uint64_t page);

/* Compares with what was told since the last time, and forgets that. */
void assert_told(FerryPageset *told, FerryPageset *expected, const char *what);
void assert_nothing(FerryPageset *told, const char *what);
void assert_pages(FerryPageset *told, const char *what, const uint64_t *pages, size_t nr);

#define ASSERT_PAGES(told, what, ...)                         \
    assert_pages(told, what, (const uint64_t[]){__VA_ARGS__}, \
                 G_N_ELEMENTS(((const uint64_t[]){__VA_ARGS__})))

#endif
