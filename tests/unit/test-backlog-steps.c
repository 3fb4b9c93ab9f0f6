/*
 * The backlog, one step at a time: what the tracker or a sender does while somebody is between two steps.
 *
 * What puts pages into sets and takes them out is compiled here once more, with a stop before each page that
 * is taken out, and after each that is put in.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/memory/pageset.h"

static unsigned add_and_stop(FerryPageset *set, uint64_t word, uint64_t mask);
static uint64_t stop_and_remove(FerryPageset *set, uint64_t word, uint64_t mask);

#define ferry_pageset_add_mask    add_and_stop
#define ferry_pageset_remove_mask stop_and_remove
#include "migration/source/backlog-rounds.c"
#include "migration/source/backlog-spare.c"
#undef ferry_pageset_add_mask
#undef ferry_pageset_remove_mask

/* Once, after pages were put in, or before they are taken out. */
static void (*after_add)(void), (*before_remove)(void);

static void stop_for(void (**what)(void))
{
    void (*act)(void) = *what;

    if (act) {
        *what = NULL;
        act();
    }
}

static unsigned add_and_stop(FerryPageset *set, uint64_t word, uint64_t mask)
{
    unsigned nr = ferry_pageset_add_mask(set, word, mask);

    stop_for(&after_add);
    return nr;
}

static uint64_t stop_and_remove(FerryPageset *set, uint64_t word, uint64_t mask)
{
    stop_for(&before_remove);
    return ferry_pageset_remove_mask(set, word, mask);
}

/* --- A backlog ------------------------------------------------------------------------------------- */

static FerryBacklog *backlog;
static const FerryTrackerClient *client;
static unsigned nr_resets, nr_taken;

static bool start(void *opaque, const FerryTrackerClient *its_client, GError **errp)
{
    client = its_client;
    return true;
}

static void stop(void *opaque)
{
}

static bool arm(void *opaque, uint32_t region, uint64_t first_page, uint64_t nr_pages,
                GError **errp)
{
    return true;
}

static bool reset(void *opaque, uint32_t region, uint64_t first_page, uint64_t nr_pages,
                  GError **errp)
{
    nr_resets++;
    return true;
}

static const FerryTrackerOps ops = {
    .name = "steps", .start = start, .arm = arm, .reset = reset, .stop = stop};

/* One chunk, armed. */
static void set_up(void)
{
    FerryRegions regions = {.list = g_new0(FerryRegion, 1), .nr = 1};
    const FerryTracker tracker = {.ops = &ops};

    regions.list[0].length_bytes = FERRY_CHUNK_PAGES * FERRY_PAGE_BYTES;
    regions.list[0].page_size_bytes = FERRY_PAGE_BYTES;
    backlog = ferry_backlog_new(&regions, &tracker, false, false);
    g_assert_true(ferry_backlog_start_tracker(backlog, NULL));
    g_assert_true(ferry_backlog_arm(backlog, 0, 0, NULL));
    nr_resets = nr_taken = 0;
}

static void take_first_granule(void)
{
    uint64_t pages[FERRY_GRANULE_WORDS];
    int nr = ferry_backlog_take(backlog, 0, 0, pages, NULL);

    g_assert_cmpint(nr, >=, 0);
    ferry_backlog_sent(backlog, (unsigned)nr);
    nr_taken += (unsigned)nr;
}

static void take_if_queued(void)
{
    if (ferry_backlog_queued(backlog) == 0) {
        /* Not yet: it was only noted as written. */
        after_add = take_if_queued;
        return;
    }
    take_first_granule();
    g_assert_cmpuint(nr_taken, ==, 1);
    g_assert_cmpuint(nr_resets, >=, 1);
}

/* Whoever takes a page that was found resets it first, however soon that is. */
static void test_found(void)
{
    set_up();
    after_add = take_if_queued;
    client->found(client->opaque, 0, 0, 1);
    g_assert_null(after_add);
    g_assert_cmpuint(nr_taken, ==, 1);
    ferry_backlog_free(backlog);
}

static void write_it(void)
{
    client->report(client->opaque, 0, 0, 1);
}

static void write_it_in_next_round(void)
{
    ferry_backlog_begin_round(backlog);
    write_it();
}

static void stop_and_write_it(void)
{
    ferry_backlog_set_guest(backlog, FERRY_GUEST_STOPPED);
    write_it();
}

static void find_it(void)
{
    client->found(client->opaque, 0, 0, 1);
}

/* A page is hinted at, and written before it is withdrawn: it goes. */
static void test_withdrawn(gconstpointer data)
{
    void (*const *act)(void) = data;

    set_up();
    ferry_backlog_queue(backlog, 0, 0, 2);
    before_remove = *act;
    ferry_backlog_withdraw(backlog, 0, 0, 1);
    g_assert_null(before_remove);
    take_first_granule();
    g_assert_cmpuint(nr_taken, ==, 2);
    ferry_backlog_free(backlog);
}

/* And if it is not written, it does not. */
static void test_saved(void)
{
    set_up();
    ferry_backlog_queue(backlog, 0, 0, 2);
    g_assert_false(ferry_backlog_withdraw(backlog, 0, 0, 1));
    take_first_granule();
    g_assert_cmpuint(nr_taken, ==, 1);
    ferry_backlog_free(backlog);
}

int main(int argc, char **argv)
{
    static void (*const acts[])(void) = {write_it, write_it_in_next_round, stop_and_write_it,
                                         find_it};
    static const char *const names[] = {"written", "next-round", "stopped", "found"};

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/backlog-steps/found", test_found);
    for (size_t i = 0; i < G_N_ELEMENTS(acts); i++) {
        g_autofree char *path = g_strdup_printf("/backlog-steps/withdrawn/%s", names[i]);

        g_test_add_data_func(path, &acts[i], test_withdrawn);
    }
    g_test_add_func("/backlog-steps/saved", test_saved);
    return g_test_run();
}
