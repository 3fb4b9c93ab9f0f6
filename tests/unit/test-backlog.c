/*
 * The backlog: what rounds cost in memory, and what is left out once the vCPUs have stopped
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/source/backlog.h"

#include <inttypes.h>
#include <time.h>

#define NR_PAGES     (UINT64_C(1) << 24) /* 64 GiB: 512 pages of 4 KiB in a set */
#define STRIDE_PAGES (UINT64_C(1) << 15) /* so many have their bits in 4 KiB */
#define NR_WRITTEN   (NR_PAGES / STRIDE_PAGES)

/* What the tracker calls. */
static const FerryTrackerClient *client;

static bool quiet_start(void *opaque, const FerryTrackerClient *its_client, GError **errp)
{
    client = its_client;
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
static FerryBacklog *new_backlog(void)
{
    FerryRegions regions = {.list = g_new0(FerryRegion, 1), .nr = 1};
    FerryTracker tracker = {.ops = &quiet_ops};
    FerryBacklog *backlog;

    regions.list[0].length_bytes = NR_PAGES * FERRY_PAGE_BYTES;
    regions.list[0].page_size_bytes = FERRY_PAGE_BYTES;
    backlog = ferry_backlog_new(&regions, &tracker, true, false);
    g_assert_true(ferry_backlog_start_tracker(backlog, NULL));
    for (uint64_t i = 0; i < ferry_backlog_nr_chunks(backlog, 0); i++) {
        g_assert_true(ferry_backlog_arm(backlog, 0, i, NULL));
    }
    return backlog;
}

/* One of the backlog's sets. */
#define SET(name) ferry_backlog_set(backlog, 0, FERRY_BACKLOG_##name)

static FerryBacklogCounts counts(const FerryBacklog *backlog)
{
    FerryBacklogCounts now;

    ferry_backlog_query(backlog, &now);
    return now;
}

/* All that is queued has been sent. */
static void send_all(FerryBacklog *backlog)
{
    uint64_t pages[FERRY_GRANULE_WORDS];

    for (int64_t granule = 0;
         (granule = ferry_backlog_next(backlog, 0, (uint64_t)granule, 0, 1)) >= 0; granule++) {
        int nr_pages = ferry_backlog_take(backlog, 0, (uint64_t)granule, pages, NULL);

        g_assert_cmpint(nr_pages, >=, 0);
        ferry_backlog_sent(backlog, (unsigned)nr_pages);
    }
    g_assert_cmpuint(ferry_backlog_queued(backlog), ==, 0);
}

/* A page in each 4 KiB of a set. */
static void write_all_over(FerryBacklog *backlog)
{
    for (uint64_t i = 0; i < NR_WRITTEN; i++) {
        client->report(client->opaque, 0, i * STRIDE_PAGES / 64, 1);
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
    FerryBacklog *backlog = new_backlog();

    ferry_backlog_queue(backlog, 0, 10, 2);
    client->noticed(client->opaque, 0, 0, UINT64_C(1) << 10);
    client->noticed(client->opaque, 0, STRIDE_PAGES / 64, 1);
    g_assert_cmpuint(ferry_pageset_count(SET(QUEUED)), ==, 1);
    g_assert_cmpuint(ferry_pageset_count(SET(KEPT)), ==, 2);
    ferry_backlog_draft(backlog);
    g_assert_cmpuint(ferry_pageset_count(SET(DRAFT)), ==, 3);
    ferry_backlog_free(backlog);
}

/*
 * A page is noticed once, however long it is kept: also if its chunk is armed, and copied, only after
 * that.
 */
static void test_kept_before_arming(void)
{
    FerryBacklog *backlog = new_backlog();

    ferry_backlog_disarm_all(backlog);
    client->noticed(client->opaque, 0, 0, 3);
    g_assert_true(ferry_backlog_arm(backlog, 0, 0, NULL));
    g_assert_false(client->knows_noticed(client->opaque));
    ferry_backlog_draft(backlog);
    g_assert_true(client->knows_noticed(client->opaque));
    g_assert_cmpuint(ferry_pageset_count(SET(DRAFT)), ==, 2);
    ferry_backlog_free(backlog);

    backlog = new_backlog();
    ferry_backlog_disarm_all(backlog);
    client->noticed(client->opaque, 0, 0, 3);
    client->report(client->opaque, 0, 0, 1);
    client->early(client->opaque, 0, 0, 2);
    g_assert_cmpuint(ferry_pageset_count(SET(KEPT)), ==, 0);
    ferry_backlog_free(backlog);
}

static void test_unused_memory(void)
{
    FerryBacklog *backlog = new_backlog();

    ferry_backlog_begin_round(backlog);
    write_all_over(backlog);
    g_assert_cmpuint(ferry_pageset_count(SET(QUEUED)), ==, NR_WRITTEN);
    assert_unused(SET(KEPT));
    assert_unused(SET(DRAFT));
    assert_unused(SET(DEFERRED));
    assert_unused(SET(DEFERRED + 1));
    assert_unused(SET(WRITTEN));     /* the round before this one's, which is the first */
    assert_unused(SET(WRITTEN + 2)); /* the one before that */
    ferry_backlog_free(backlog);
}

/* What was put off or kept, and is reported, is there no more, whatever the hints say. */
static void test_held_pages_move(void)
{
    FerryBacklog *backlog = new_backlog();

    ferry_backlog_begin_round(backlog);
    client->early(client->opaque, 0, 7, 0xf0);
    g_assert_cmpuint(ferry_pageset_count(SET(DEFERRED + 1)), ==, 4);
    client->noticed(client->opaque, 0, 7, 0xf0);
    client->report(client->opaque, 0, 7, 0x30);
    g_assert_cmpuint(ferry_pageset_get(SET(DEFERRED + 1), 7), ==, 0xc0);
    g_assert_cmpuint(ferry_pageset_get(SET(KEPT), 7), ==, 0xc0);
    g_assert_cmpuint(ferry_pageset_get(SET(QUEUED), 7), ==, 0x30);
    ferry_backlog_free(backlog);
}

/* Written in two rounds in a row, a page is hot; whether or not there was time to forget others. */
static void test_forgotten_rounds(gconstpointer data)
{
    bool in_time = GPOINTER_TO_INT(data);
    static const bool written_in_round[] = {1, 1, 0, 1, 0, 0, 1, 1, 1};
    FerryBacklog *backlog = new_backlog();
    uint64_t nr_hot = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(written_in_round); i++) {
        ferry_backlog_begin_round(backlog);
        if (written_in_round[i]) {
            write_all_over(backlog);
            nr_hot += i > 0 && written_in_round[i - 1] ? NR_WRITTEN : 0;
        }
        g_assert_cmpuint(counts(backlog).deferred_pages, ==, nr_hot);
        while (in_time && !ferry_backlog_forget_some(backlog)) {
        }
        if (in_time) {
            uint64_t nr_known = 0;

            for (unsigned j = 0; j < FERRY_WRITTEN_SETS; j++) {
                nr_known += ferry_pageset_count(SET(WRITTEN + j));
            }
            g_assert_cmpuint(nr_known, ==,
                             NR_WRITTEN *
                                 (written_in_round[i] + (i > 0 && written_in_round[i - 1])));
        }
        ferry_backlog_release_all(backlog);
        send_all(backlog);
    }
    ferry_backlog_free(backlog);
}

/* The stop has no time for what only tells whether a page is hot. */
static void test_stopped_round(void)
{
    FerryBacklog *backlog = new_backlog();
    uint64_t written;

    for (int i = 0; i < 2; i++) {
        ferry_backlog_begin_round(backlog);
        write_all_over(backlog);
    }
    ferry_backlog_release_all(backlog);
    send_all(backlog);

    written = counts(backlog).written_pages;
    ferry_backlog_set_guest(backlog, FERRY_GUEST_STOPPED);
    ferry_backlog_begin_round(backlog);
    g_assert_cmpuint(ferry_pageset_count(SET(WRITTEN + 1)), ==, NR_WRITTEN);
    g_assert_cmpuint(ferry_pageset_count(SET(WRITTEN + 2)), ==, NR_WRITTEN);
    write_all_over(backlog);
    g_assert_cmpuint(counts(backlog).written_pages, ==, written + NR_WRITTEN);
    /* Hot or not, all of it goes. */
    g_assert_cmpuint(ferry_pageset_count(SET(QUEUED)), ==, NR_WRITTEN);
    ferry_backlog_free(backlog);
}

/* Both ends map the region: whatever is noticed of it, the destination is not told that it is missing. */
static void test_same_memory(void)
{
    const uint8_t answers[] = {FERRY_ANSWER_SAME};
    FerryBacklog *backlog = new_backlog();

    ferry_backlog_settle(backlog, answers);
    g_assert_cmpuint(client->noticed(client->opaque, 0, 0, 3), ==, 0);
    ferry_backlog_draft(backlog);
    g_assert_cmpuint(ferry_pageset_count(SET(DRAFT)), ==, 0);
    ferry_backlog_undraft(backlog);
    g_assert_cmpuint(ferry_pageset_count(SET(QUEUED)), ==, 0);
    ferry_backlog_free(backlog);
}

/* --- What is found while it is reset --------------------------------------------------------------- */

static unsigned nr_resets;

/* Another page of the chunk is found meanwhile. */
static bool find_and_reset(void *opaque, uint32_t region, uint64_t first_page, uint64_t nr_pages,
                           GError **errp)
{
    if (nr_resets++ == 0) {
        client->found(client->opaque, 0, 0, 2);
    }
    return true;
}

static const FerryTrackerOps finding_ops = {
    .name = "finding",
    .start = quiet_start,
    .arm = quiet_arm,
    .reset = find_and_reset,
    .harvest = quiet_harvest,
    .stop = quiet_stop,
};

/* Both pages go, and neither is read before a reset that began after it was found. */
static void test_found_meanwhile(void)
{
    const FerryTracker tracker = {.ops = &finding_ops};
    uint64_t pages[FERRY_GRANULE_WORDS];
    FerryBacklog *backlog = new_backlog();

    g_assert_true(ferry_backlog_replace_tracker(backlog, &tracker, NULL));
    nr_resets = 0;
    client->found(client->opaque, 0, 0, 1);
    g_assert_cmpint(ferry_backlog_take(backlog, 0, 0, pages, NULL), ==, 2);
    g_assert_cmpuint(nr_resets, ==, 2);
    ferry_backlog_sent(backlog, 2);
    ferry_backlog_free(backlog);
}

/* Of what was found and not reset, nothing is withdrawn: it can be written without being found again. */
static void test_hint_of_found(void)
{
    const FerryTracker tracker = {.ops = &finding_ops};
    FerryBacklog *backlog = new_backlog();

    g_assert_true(ferry_backlog_replace_tracker(backlog, &tracker, NULL));
    ferry_backlog_begin_round(backlog);
    client->found(client->opaque, 0, 0, 1);
    /* It has been a while. */
    for (unsigned i = 0; i < FERRY_WRITTEN_SETS; i++) {
        ferry_backlog_begin_round(backlog);
    }
    ferry_backlog_withdraw(backlog, 0, 0, 1);
    g_assert_cmpuint(ferry_pageset_count(SET(QUEUED)), ==, 1);
    ferry_backlog_free(backlog);
}

/* A page that waits because it is swapped out need not be sent either, if its content does not matter. */
static void test_hint_of_swapped(void)
{
    FerryBacklog *backlog = new_backlog();

    ferry_backlog_queue_swapped(backlog, 0, 10, 2);
    g_assert_false(ferry_backlog_withdraw(backlog, 0, 10, 1));
    g_assert_cmpuint(ferry_pageset_count(SET(SWAPPED)), ==, 1);
    g_assert_true(ferry_backlog_release_swapped(backlog));
    g_assert_cmpuint(ferry_pageset_get(SET(QUEUED), 0), ==, UINT64_C(1) << 11);
    ferry_backlog_free(backlog);
}

/* --- Drafts ---------------------------------------------------------------------------------------- */

/* What is swapped out is missing like all else, and waits again when the draft is taken back. */
static void test_swapped_in_draft(void)
{
    FerryBacklog *backlog = new_backlog();

    ferry_backlog_queue_swapped(backlog, 0, 10, 2);
    ferry_backlog_queue(backlog, 0, 20, 1);
    ferry_backlog_draft(backlog);
    g_assert_cmpuint(ferry_pageset_count(SET(DRAFT)), ==, 3);
    ferry_backlog_undraft(backlog);
    g_assert_cmpuint(ferry_pageset_count(SET(QUEUED)), ==, 1);
    g_assert_cmpuint(ferry_pageset_count(SET(SWAPPED)), ==, 2);
    ferry_backlog_free(backlog);
}

/* After the stop, only what is not drafted yet is to be said. */
static void test_written_after_draft(void)
{
    FerryBacklog *backlog = new_backlog();

    ferry_backlog_queue(backlog, 0, 0, 1);
    ferry_backlog_draft(backlog);
    ferry_backlog_set_guest(backlog, FERRY_GUEST_STOPPED);
    client->report(client->opaque, 0, 0, 3);
    g_assert_cmpuint(ferry_pageset_get(SET(QUEUED), 0), ==, 2);
    ferry_backlog_free(backlog);
}

/* A page that was reported, and is kept for another write: the harvest of a draft asks for all that is kept. */
static void test_kept_again(void)
{
    FerryBacklog *backlog = new_backlog();
    uint64_t pages[FERRY_GRANULE_WORDS];

    client->noticed(client->opaque, 0, 0, 1);
    client->report(client->opaque, 0, 0, 1);
    g_assert_cmpint(ferry_backlog_take(backlog, 0, 0, pages, NULL), ==, 1);
    ferry_backlog_sent(backlog, 1);
    ferry_backlog_begin_round(backlog);
    g_assert_false(client->knows_noticed(client->opaque));

    ferry_backlog_begin_draft(backlog);
    g_assert_true(client->knows_noticed(client->opaque));
    client->noticed(client->opaque, 0, 0, 1);
    ferry_backlog_draft(backlog);
    g_assert_true(client->knows_noticed(client->opaque));
    g_assert_cmpuint(ferry_pageset_get(SET(DRAFT), 0), ==, 1);
    ferry_backlog_undraft(backlog);
    ferry_backlog_begin_round(backlog);
    g_assert_false(client->knows_noticed(client->opaque));
    ferry_backlog_free(backlog);
}

/* A huge page is missing as a whole. */
static void test_huge_pages_in_draft(void)
{
    const uint64_t unit_pages = 4 * FERRY_GRANULE_PAGES;
    FerryRegions regions = {.list = g_new0(FerryRegion, 1), .nr = 1};
    const FerryTracker tracker = {.ops = &quiet_ops};
    FerryBacklog *backlog;

    regions.list[0].length_bytes = FERRY_CHUNK_PAGES * FERRY_PAGE_BYTES;
    regions.list[0].page_size_bytes = (uint32_t)(unit_pages * FERRY_PAGE_BYTES);
    backlog = ferry_backlog_new(&regions, &tracker, true, false);
    g_assert_true(ferry_backlog_start_tracker(backlog, NULL));
    g_assert_true(ferry_backlog_arm(backlog, 0, 0, NULL));

    ferry_backlog_queue(backlog, 0, unit_pages + 600, 1);
    ferry_backlog_draft(backlog);
    g_assert_cmpuint(ferry_pageset_count(SET(DRAFT)), ==, unit_pages);
    /* Of one that is drafted, and of another one. */
    client->report(client->opaque, 0, unit_pages / 64, 1);
    client->report(client->opaque, 0, 3 * unit_pages / 64, 1);
    ferry_backlog_subtract_draft(backlog);
    g_assert_cmpuint(ferry_pageset_count(SET(QUEUED)), ==, unit_pages);
    g_assert_cmpuint(ferry_pageset_get(SET(QUEUED), 4 * unit_pages / 64 - 1), ==, UINT64_MAX);
    ferry_backlog_free(backlog);
}

static int64_t cpu_us(void)
{
    struct timespec now;

    g_assert_cmpint(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now), ==, 0);
    return now.tv_sec * G_USEC_PER_SEC + now.tv_nsec / 1000;
}

/*
 * One page written in each huge page of 1 GiB, just before the stop: to say so is part of the blackout.  It
 * takes 0.1 ms each; if each granule had its page rounded up, it would be 47 ms.
 */
static void test_gigantic_pages_after_draft(void)
{
    const uint64_t unit_pages = 512 * FERRY_GRANULE_PAGES;
    FerryRegions regions = {.list = g_new0(FerryRegion, 1), .nr = 1};
    const FerryTracker tracker = {.ops = &quiet_ops};
    FerryBacklog *backlog;
    int64_t began_us, took_us;

    regions.list[0].length_bytes = NR_PAGES * FERRY_PAGE_BYTES;
    regions.list[0].page_size_bytes = (uint32_t)(unit_pages * FERRY_PAGE_BYTES);
    backlog = ferry_backlog_new(&regions, &tracker, true, false);
    ferry_backlog_draft(backlog);
    for (uint64_t page = 0; page < NR_PAGES; page += unit_pages) {
        ferry_backlog_queue(backlog, 0, page + 700, 1);
    }
    began_us = cpu_us();
    ferry_backlog_subtract_draft(backlog);
    took_us = cpu_us() - began_us;
    g_test_message("%" PRId64 " us for 64 GiB", took_us);
    g_assert_cmpuint(ferry_pageset_count(SET(QUEUED)), ==, NR_PAGES);
    g_assert_cmpint(took_us, <, 500 * 1000);
    ferry_backlog_free(backlog);
}

/* After a break, what the destination lacks counts, and nothing else. */
static void test_replaced(void)
{
    FerryPageset *missing = ferry_pageset_new(NR_PAGES);
    FerryBacklog *backlog = new_backlog();

    ferry_backlog_queue(backlog, 0, 10, 2);
    ferry_backlog_queue_swapped(backlog, 0, 30, 2);
    ferry_pageset_add(missing, 20, 1);
    ferry_backlog_replace(backlog, &missing);
    g_assert_cmpuint(ferry_backlog_count(backlog), ==, 1);
    g_assert_cmpuint(ferry_pageset_get(SET(QUEUED), 0), ==, UINT64_C(1) << 20);
    ferry_backlog_free(backlog);
    ferry_pageset_free(missing);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/backlog/kept-before-arming", test_kept_before_arming);
    g_test_add_func("/backlog/kept", test_kept);
    g_test_add_func("/backlog/unused-memory", test_unused_memory);
    g_test_add_func("/backlog/held-pages-move", test_held_pages_move);
    g_test_add_data_func("/backlog/forgotten-rounds/in-time", GINT_TO_POINTER(TRUE),
                         test_forgotten_rounds);
    g_test_add_data_func("/backlog/forgotten-rounds/late", GINT_TO_POINTER(FALSE),
                         test_forgotten_rounds);
    g_test_add_func("/backlog/stopped-round", test_stopped_round);
    g_test_add_func("/backlog/same-memory", test_same_memory);
    g_test_add_func("/backlog/found-meanwhile", test_found_meanwhile);
    g_test_add_func("/backlog/hint/found", test_hint_of_found);
    g_test_add_func("/backlog/hint/swapped", test_hint_of_swapped);
    g_test_add_func("/backlog/draft/swapped", test_swapped_in_draft);
    g_test_add_func("/backlog/draft/written", test_written_after_draft);
    g_test_add_func("/backlog/draft/kept-again", test_kept_again);
    g_test_add_func("/backlog/draft/huge-pages", test_huge_pages_in_draft);
    g_test_add_func("/backlog/draft/gigantic-pages", test_gigantic_pages_after_draft);
    g_test_add_func("/backlog/replaced", test_replaced);
    return g_test_run();
}
