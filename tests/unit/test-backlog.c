/*
 * Copying: what rounds cost in memory, and what is left out once the vCPUs have stopped
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/source/backlog.h"

#define NR_PAGES     (UINT64_C(1) << 24) /* 64 GiB: 512 pages of 4 KiB in a set */
#define STRIDE_PAGES (UINT64_C(1) << 15) /* so many have their bits in 4 KiB */
#define NR_WRITTEN   (NR_PAGES / STRIDE_PAGES)

static bool quiet_start(void *opaque, const FerryTrackerClient *client, GError **errp)
{
    return true;
}

static void quiet_stop(void *opaque)
{
}

static bool quiet_arm(void *opaque, uint32_t region, uint64_t first_page, uint64_t nr_pages,
                      GError **errp)
{
    return true;
}

static bool quiet_harvest(void *opaque, bool last, GError **errp)
{
    return true;
}

static const FerryTrackerOps quiet_ops = {
    .name = "quiet",
    .start = quiet_start,
    .arm = quiet_arm,
    .harvest = quiet_harvest,
    .stop = quiet_stop,
};

/* All armed; the memory is never looked at. */
static FerryCopy *new_copy(void)
{
    FerryRegions regions = {.list = g_new0(FerryRegion, 1), .nr = 1};
    FerryTracker tracker = {.ops = &quiet_ops};
    FerryCopy *copy;

    regions.list[0].length_bytes = NR_PAGES * FERRY_PAGE_BYTES;
    regions.list[0].page_size_bytes = FERRY_PAGE_BYTES;
    copy = ferry_copy_new(&regions, &tracker, false, false);
    copy->may_leave = true;
    for (uint64_t i = 0; i < copy->state[0].nr_chunks; i++) {
        atomic_store(&copy->state[0].chunks[i].armed, true);
    }
    return copy;
}

/* A page in each 4 KiB of a set. */
static void write_all_over(FerryCopy *copy)
{
    for (uint64_t i = 0; i < NR_WRITTEN; i++) {
        copy->client.report(copy->client.opaque, 0, i * STRIDE_PAGES / 64, 1);
    }
}

static void assert_unused(const FerryPageset *set)
{
    /* The hints may have been read. */
    g_assert_cmpuint(ferry_pageset_memory_bytes(set), <, NR_WRITTEN * 4096 / 8);
}

/*
 * What a tracker keeps is known to be missing, whether it was to be sent or not: else it is found out
 * in the blackout.
 */
static void test_kept(void)
{
    FerryCopy *copy = new_copy();
    FerryCopyRegion *state = &copy->state[0];

    ferry_pageset_add(state->pages, 10, 2);
    copy->client.noticed(copy->client.opaque, 0, 0, UINT64_C(1) << 10);
    copy->client.noticed(copy->client.opaque, 0, STRIDE_PAGES / 64, 1);
    g_assert_cmpuint(ferry_pageset_count(state->pages), ==, 1);
    g_assert_cmpuint(ferry_pageset_count(state->kept), ==, 2);
    ferry_copy_set_apart(copy);
    g_assert_cmpuint(ferry_pageset_count(state->base), ==, 3);
    ferry_copy_free(copy);
}

static void test_unused_memory(void)
{
    FerryCopy *copy = new_copy();
    FerryCopyRegion *state = &copy->state[0];

    ferry_copy_begin_round(copy);
    write_all_over(copy);
    g_assert_cmpuint(ferry_pageset_count(state->pages), ==, NR_WRITTEN);
    assert_unused(state->kept);
    assert_unused(state->base);
    assert_unused(state->deferred[0]);
    assert_unused(state->deferred[1]);
    assert_unused(state->written[0]); /* the round before this one's, which is the first */
    assert_unused(state->written[2]); /* the one before that */
    ferry_copy_free(copy);
}

/* What was put off or kept, and is reported, is there no more, whatever the hints say. */
static void test_held_pages_move(void)
{
    FerryCopy *copy = new_copy();
    FerryCopyRegion *state = &copy->state[0];

    ferry_copy_begin_round(copy);
    copy->client.early(copy->client.opaque, 0, 7, 0xf0);
    g_assert_cmpuint(ferry_pageset_count(state->deferred[1]), ==, 4);
    ferry_pageset_add_mask(state->kept, 7, 0xf0);
    copy->client.report(copy->client.opaque, 0, 7, 0x30);
    g_assert_cmpuint(ferry_pageset_get(state->deferred[1], 7), ==, 0xc0);
    g_assert_cmpuint(ferry_pageset_get(state->kept, 7), ==, 0xc0);
    g_assert_cmpuint(ferry_pageset_get(state->pages, 7), ==, 0x30);
    ferry_copy_free(copy);
}

/* Written in two rounds in a row, a page is hot; whether or not there was time to forget others. */
static void test_forgotten_rounds(gconstpointer data)
{
    bool in_time = GPOINTER_TO_INT(data);
    static const bool written_in_round[] = {1, 1, 0, 1, 0, 0, 1, 1, 1};
    FerryCopy *copy = new_copy();
    FerryCopyRegion *state = &copy->state[0];
    uint64_t nr_hot = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(written_in_round); i++) {
        ferry_copy_begin_round(copy);
        if (written_in_round[i]) {
            write_all_over(copy);
            nr_hot += i > 0 && written_in_round[i - 1] ? NR_WRITTEN : 0;
        }
        g_assert_cmpuint(atomic_load(&copy->deferred_pages), ==, nr_hot);
        while (in_time && !ferry_copy_forget_some(copy)) {
        }
        if (in_time) {
            uint64_t nr_known = 0;

            for (unsigned j = 0; j < FERRY_WRITTEN_SETS; j++) {
                nr_known += ferry_pageset_count(state->written[j]);
            }
            g_assert_cmpuint(nr_known, ==,
                             NR_WRITTEN *
                                 (written_in_round[i] + (i > 0 && written_in_round[i - 1])));
        }
        ferry_copy_release_all(copy);
        ferry_pageset_clear(state->pages);
    }
    ferry_copy_free(copy);
}

/* The stop has no time for what only tells whether a page is hot. */
static void test_stopped_round(void)
{
    FerryCopy *copy = new_copy();
    FerryCopyRegion *state = &copy->state[0];
    uint64_t written;

    for (int i = 0; i < 2; i++) {
        ferry_copy_begin_round(copy);
        write_all_over(copy);
    }
    ferry_copy_release_all(copy);
    ferry_pageset_clear(state->pages);

    written = atomic_load(&copy->written_pages);
    atomic_store(&copy->stopped, true);
    ferry_copy_begin_round(copy);
    g_assert_cmpuint(ferry_pageset_count(state->written[1]), ==, NR_WRITTEN);
    g_assert_cmpuint(ferry_pageset_count(state->written[2]), ==, NR_WRITTEN);
    write_all_over(copy);
    g_assert_cmpuint(atomic_load(&copy->written_pages), ==, written + NR_WRITTEN);
    /* Hot or not, all of it goes. */
    g_assert_cmpuint(ferry_pageset_count(state->pages), ==, NR_WRITTEN);
    ferry_copy_free(copy);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/copy/kept", test_kept);
    g_test_add_func("/copy/unused-memory", test_unused_memory);
    g_test_add_func("/copy/held-pages-move", test_held_pages_move);
    g_test_add_data_func("/copy/forgotten-rounds/in-time", GINT_TO_POINTER(TRUE),
                         test_forgotten_rounds);
    g_test_add_data_func("/copy/forgotten-rounds/late", GINT_TO_POINTER(FALSE),
                         test_forgotten_rounds);
    g_test_add_func("/copy/stopped-round", test_stopped_round);
    return g_test_run();
}
