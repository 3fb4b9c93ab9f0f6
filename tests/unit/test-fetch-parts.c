/*
 * What a destination does about missing pages, with nobody at the other end, and how long it takes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <stdatomic.h>
#include <string.h>

#include "fake-machine.h"
#include "migration/destination/fetch.h"
#include "migration/error.h"

static const FakeRegion regions[] = {{.id = "pc.ram", .nr_pages = 64}, {0}};

/* How often pages were asked for. */
static _Atomic unsigned nr_wanted;

static void part_want(void *opaque, unsigned index, uint32_t region, uint64_t page)
{
    atomic_fetch_add(&nr_wanted, 1);
}

static void part_complete(void *opaque)
{
    (*(unsigned *)opaque)++;
}

static void part_failed(void *opaque, GError *error)
{
    g_error_free(error);
    *(unsigned *)opaque += 100;
}

static const FerryFetchOps part_ops = {
    .want = part_want,
    .complete = part_complete,
    .failed = part_failed,
};

static FerryFetch *part_new(FakeMachine *machine, unsigned *calls)
{
    g_autoptr(GError) error = NULL;
    FerryFetch *fetch = ferry_fetch_new(&machine->regions, 1, &part_ops, calls, &error);

    g_assert_no_error(error);
    return fetch;
}

static const FerryFrame four_pages = {
    .type = FERRY_FRAME_PAGES,
    .nr_extents = 1,
    .payload_bytes = 4 * FERRY_PAGE_BYTES,
};
static const FerryExtent four_extent = {.first = 0, .nr_pages = 4};

/* A page that somebody touched at the destination, by a monitor for example, is discarded all the same. */
static void test_touched(void)
{
    FakeMachine *machine = fake_machine_new(regions, false);
    g_autofree uint8_t *payload = g_malloc0(4 * FERRY_PAGE_BYTES);
    g_autoptr(GError) error = NULL;
    unsigned calls = 0;
    FerryFetch *fetch = part_new(machine, &calls);

    memset(payload, 7, 4 * FERRY_PAGE_BYTES);
    *fake_machine_page(machine, 0, 2) = 1;
    ferry_pageset_add(ferry_fetch_incoming(fetch)[0], 0, 3);
    g_assert_true(ferry_fetch_draft(fetch, &error));
    *fake_machine_page(machine, 0, 3) = 1;
    ferry_pageset_add(ferry_fetch_incoming(fetch)[0], 3, 1);
    g_assert_true(ferry_fetch_go_live(fetch, &error));
    g_assert_true(ferry_fetch_place(fetch, &four_pages, &four_extent, payload, &error));
    for (uint64_t page = 0; page < 4; page++) {
        g_assert_cmpuint(*fake_machine_page(machine, 0, page), ==, UINT64_C(0x0707070707070707));
    }
    g_assert_cmpuint(calls, ==, 1);
    ferry_fetch_free(fetch);
    fake_machine_free(machine);
}

/* If a missing page is there all the same, that is found out. */
static void test_damaged(void)
{
    FakeMachine *machine = fake_machine_new(regions, false);
    g_autofree uint8_t *payload = g_malloc0(4 * FERRY_PAGE_BYTES);
    g_autoptr(GError) error = NULL;
    unsigned calls = 0;
    FerryFetch *fetch = part_new(machine, &calls);

    ferry_pageset_add(ferry_fetch_incoming(fetch)[0], 0, 2);
    g_assert_true(ferry_fetch_go_live(fetch, &error));
    /* Not missing: it is filled at once. Then it is said to be, which is too late. */
    g_assert_cmpuint(*fake_machine_page(machine, 0, 2), ==, 0);
    ferry_pageset_add(ferry_fetch_missing(fetch)[0], 2, 2);
    g_assert_false(ferry_fetch_place(fetch, &four_pages, &four_extent, payload, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_SYSTEM);
    g_assert_nonnull(strstr(error->message, "page 0x2 of RAM block 'pc.ram'"));
    g_assert_cmpuint(calls, >=, 100);
    g_assert_cmpuint(ferry_pageset_count(ferry_fetch_missing(fetch)[0]), ==, 2);
    ferry_fetch_free(fetch);
    fake_machine_free(machine);
}

/* Many ranges at once: however many of them the kernel takes in one call, all are discarded. */
static void test_ranges(void)
{
    FakeMachine *machine = fake_machine_new(regions, false);
    FerryFrame frame = {.type = FERRY_FRAME_PAGES};
    FerryExtent extents[32];
    g_autoptr(GError) error = NULL;
    unsigned calls = 0;
    FerryFetch *fetch = part_new(machine, &calls);

    for (uint32_t page = 0; page < 64; page += 2) {
        *fake_machine_page(machine, 0, page) = 1;
        ferry_pageset_add(ferry_fetch_incoming(fetch)[0], page, 1);
        extents[frame.nr_extents++] = (FerryExtent){.first = page, .nr_pages = 1, .zero = true};
    }
    g_assert_true(ferry_fetch_go_live(fetch, &error));
    ferry_fetch_place(fetch, &frame, extents, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(calls, ==, 1);
    for (uint64_t page = 0; page < 64; page++) {
        g_assert_cmpuint(*fake_machine_page(machine, 0, page), ==, 0);
    }
    ferry_fetch_free(fetch);
    fake_machine_free(machine);
}

static gpointer touch_page(gpointer opaque)
{
    return GSIZE_TO_POINTER(*fake_machine_page(opaque, 0, 1));
}

/* Who touches a page between the draft and the hand-off waits for it; or finds it as it was. */
static void test_early_fault(gconstpointer data)
{
    bool forget = GPOINTER_TO_INT(data);
    FakeMachine *machine = fake_machine_new(regions, false);
    g_autofree uint8_t *payload = g_malloc0(4 * FERRY_PAGE_BYTES);
    g_autoptr(GError) error = NULL;
    unsigned calls = 0;
    FerryFetch *fetch = part_new(machine, &calls);
    GThread *toucher;

    memset(payload, 7, 4 * FERRY_PAGE_BYTES);
    atomic_store(&nr_wanted, 0);
    ferry_pageset_add(ferry_fetch_incoming(fetch)[0], 0, 4);
    g_assert_true(ferry_fetch_draft(fetch, &error));
    toucher = g_thread_new("toucher", touch_page, machine);
    /* Until it waits. */
    for (FerryFetchStats stats = {0}; stats.faults == 0;) {
        g_autoptr(GArray) vcpus = g_array_new(FALSE, FALSE, sizeof(uint64_t));

        ferry_fetch_query(fetch, &stats, vcpus);
        g_usleep(1000);
    }
    /* Nobody could answer yet. */
    g_assert_cmpuint(nr_wanted, ==, 0);
    if (forget) {
        ferry_fetch_forget(fetch);
        g_assert_cmpuint(GPOINTER_TO_SIZE(g_thread_join(toucher)), ==, 0);
        g_assert_cmpuint(ferry_pageset_count(ferry_fetch_missing(fetch)[0]), ==, 0);
    } else {
        g_assert_true(ferry_fetch_go_live(fetch, &error));
        g_assert_cmpuint(nr_wanted, ==, 1);
        g_assert_true(ferry_fetch_place(fetch, &four_pages, &four_extent, payload, &error));
        g_assert_cmpuint(GPOINTER_TO_SIZE(g_thread_join(toucher)), ==,
                         UINT64_C(0x0707070707070707));
    }
    ferry_fetch_free(fetch);
    fake_machine_free(machine);
}

/* --- Huge pages ------------------------------------------------------------------------------------ */

/* Two regions with pages of 8 MiB, which come in four parts.  No kernel has them: see test-fetch. */
#define NR_PARTS 4
static const FakeRegion huge_regions[] = {
    {.id = "pc.ram",
     .nr_pages = NR_PARTS * FERRY_GRANULE_PAGES,
     .huge_pages = NR_PARTS * FERRY_GRANULE_PAGES},
    {.id = "pc.dimm",
     .nr_pages = NR_PARTS * FERRY_GRANULE_PAGES,
     .huge_pages = NR_PARTS * FERRY_GRANULE_PAGES},
    {0},
};

static uint64_t nr_missing(FerryFetch *fetch)
{
    g_autoptr(GArray) vcpus = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    FerryFetchStats stats;

    ferry_fetch_query(fetch, &stats, vcpus);
    return stats.missing_pages;
}

/* @nr_pages of a part, all zero. */
static bool place_part(FerryFetch *fetch, uint16_t region, uint64_t part, uint32_t nr_pages,
                       GError **errp)
{
    const FerryFrame frame = {
        .type = FERRY_FRAME_PAGES,
        .region = region,
        .nr_extents = 1,
        .first_page = part * FERRY_GRANULE_PAGES,
    };
    const FerryExtent extent = {.nr_pages = nr_pages, .zero = true};

    return ferry_fetch_place(fetch, &frame, &extent, NULL, errp);
}

/* A huge page is placed when all of its parts have come: not one of them twice, nor one of another region's. */
static void test_gathered(void)
{
    FakeMachine *machine = fake_machine_new(huge_regions, false);
    g_autoptr(GError) error = NULL;
    unsigned calls = 0;
    FerryFetch *fetch = part_new(machine, &calls);
    uint64_t unit_pages = NR_PARTS * FERRY_GRANULE_PAGES;

    for (int i = 0; i < 2; i++) {
        ferry_pageset_add(ferry_fetch_incoming(fetch)[i], 0, unit_pages);
    }
    g_assert_true(ferry_fetch_go_live(fetch, &error));
    /* Half a part is none. */
    g_assert_false(place_part(fetch, 0, 0, FERRY_GRANULE_PAGES / 2, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_PROTOCOL);
    g_clear_error(&error);
    for (uint64_t part = 0; part < NR_PARTS - 1; part++) {
        g_assert_true(place_part(fetch, 0, part, FERRY_GRANULE_PAGES, &error));
        g_assert_true(place_part(fetch, 0, part, FERRY_GRANULE_PAGES, &error));
    }
    g_assert_cmpuint(nr_missing(fetch), ==, 2 * unit_pages);
    g_assert_true(place_part(fetch, 1, NR_PARTS - 1, FERRY_GRANULE_PAGES, &error));
    g_assert_cmpuint(nr_missing(fetch), ==, 2 * unit_pages);
    g_assert_true(place_part(fetch, 0, NR_PARTS - 1, FERRY_GRANULE_PAGES, &error));
    g_assert_cmpuint(nr_missing(fetch), ==, unit_pages);
    for (uint64_t part = 0; part < NR_PARTS - 1; part++) {
        g_assert_true(place_part(fetch, 1, part, FERRY_GRANULE_PAGES, &error));
    }
    g_assert_cmpuint(nr_missing(fetch), ==, 0);
    g_assert_cmpuint(calls, ==, 1);
    ferry_fetch_free(fetch);
    fake_machine_free(machine);
}

static void test_latency(void)
{
    FerryLatency latency = {0};

    g_assert_cmpuint(ferry_latency_percentile(&latency, 50000), ==, 0);
    for (unsigned us = 1; us <= 1000; us++) {
        ferry_latency_add(&latency, us * 1000);
    }
    for (unsigned percent = 1; percent <= 100; percent++) {
        uint64_t exact = percent * 10000;
        uint64_t found = ferry_latency_percentile(&latency, percent * 1000);

        g_assert_cmpuint(found, >=, exact);
        g_assert_cmpuint(found, <=, exact + exact / 8 + 1000);
    }
    ferry_latency_add(&latency, UINT64_C(1) << 62);
    g_assert_cmpuint(ferry_latency_percentile(&latency, 100000), <=, UINT64_C(1) << 62);
    g_assert_cmpuint(latency.max_ns, ==, UINT64_C(1) << 62);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/fetch/touched", test_touched);
    g_test_add_func("/fetch/damaged", test_damaged);
    g_test_add_func("/fetch/ranges", test_ranges);
    g_test_add_data_func("/fetch/early/live", GINT_TO_POINTER(FALSE), test_early_fault);
    g_test_add_data_func("/fetch/early/forgotten", GINT_TO_POINTER(TRUE), test_early_fault);
    g_test_add_func("/fetch/gathered", test_gathered);
    g_test_add_func("/fetch/latency", test_latency);
    return g_test_run();
}
