/*
 * The backlog's pages whose content does not matter, in every order: whoever spares or withdraws them, the tracker
 * that reports what is written, the first pass, senders, and rounds that begin meanwhile.
 *
 * The timelines are at the top of backlog-spare.c.  A page is written first, and reported afterwards.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "steps.h"

#include <string.h>

#include "migration/source/backlog.h"

#define NR_PAGES 2

/* After so many, a round's sets are the same once more; and nothing is hot any longer. */
#define ROUNDS (FERRY_WRITTEN_SETS * FERRY_HOT_ROUNDS)

static FerryBacklog *backlog;
static const FerryTrackerClient *client;
static unsigned contents[NR_PAGES], copies[NR_PAGES];
static bool hinted; /* of page 0, what it held at first does not matter */
static unsigned nr_rounds;
static bool is_queued; /* the pages wait to be sent when it begins */

/* --- A tracker, and the source ------------------------------------------------------------------------ */

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
    return true;
}

static const FerryTrackerOps ops = {
    .name = "orders", .start = start, .arm = arm, .reset = reset, .stop = stop};

static void write_page(unsigned page)
{
    steps_at(&contents[page], true);
    contents[page]++;
    client->report(client->opaque, 0, 0, UINT64_C(1) << page);
}

static void send(void)
{
    uint64_t taken[FERRY_GRANULE_WORDS];
    int nr = ferry_backlog_take(backlog, 0, 0, taken, NULL);

    g_assert_cmpint(nr, >=, 0);
    for (unsigned page = 0; page < NR_PAGES; page++) {
        if (taken[0] >> page & 1) {
            steps_at(&contents[page], false);
            copies[page] = contents[page];
        }
    }
    ferry_backlog_sent(backlog, (unsigned)nr);
}

static void begin_rounds(unsigned nr)
{
    for (unsigned i = 0; i < nr; i++) {
        ferry_backlog_begin_round(backlog);
    }
    nr_rounds += nr;
}

static void begin(void)
{
    ferry_backlog_set_guest(backlog, FERRY_GUEST_RUNS);
    ferry_backlog_release_all(backlog);
    send();
    ferry_backlog_unspare_all(backlog);
    begin_rounds(ROUNDS - nr_rounds % ROUNDS);
    memset(copies, 0, sizeof(copies));
    for (unsigned page = 0; page < NR_PAGES; page++) {
        contents[page] = 1;
    }
    hinted = false;
    if (is_queued) {
        ferry_backlog_queue(backlog, 0, 0, NR_PAGES);
    } else {
        memcpy(copies, contents, sizeof(copies));
    }
}

static void end(void)
{
    ferry_backlog_set_guest(backlog, FERRY_GUEST_STOPPED);
    ferry_backlog_release_all(backlog);
    send();
    for (unsigned page = 0; page < NR_PAGES; page++) {
        if (copies[page] != contents[page] && !(page == 0 && hinted && contents[page] == 1)) {
            steps_fail("page %u was written last as %u, and sent last as %u", page, contents[page],
                       copies[page]);
        }
    }
    g_assert_cmpuint(ferry_backlog_unsent(backlog), ==, 0);
}

/* --- Who does what ---------------------------------------------------------------------------------- */

static void write_first(void)
{
    write_page(0);
}

static void write_both(void)
{
    write_page(0);
    write_page(1);
}

static void withdraw(void)
{
    hinted = true;
    ferry_backlog_withdraw(backlog, 0, 0, 1);
}

static void spare(void)
{
    hinted = true;
    ferry_backlog_spare(backlog, 0, 0, 1);
}

static void first_pass(void)
{
    ferry_backlog_queue(backlog, 0, 0, NR_PAGES);
}

static void begin_round(void)
{
    begin_rounds(1);
}

static void round_and_write(void)
{
    begin_rounds(1);
    write_page(0);
}

static void stop_and_write(void)
{
    ferry_backlog_set_guest(backlog, FERRY_GUEST_STOPPED);
    write_page(0);
}

static void begin_queued(void)
{
    is_queued = true;
    begin();
}

static void begin_idle(void)
{
    is_queued = false;
    begin();
}

static void set_up(void)
{
    FerryRegions regions = {.list = g_new0(FerryRegion, 1), .nr = 1};
    const FerryTracker tracker = {.ops = &ops};

    regions.list[0].length_bytes = FERRY_GRANULE_PAGES * FERRY_PAGE_BYTES;
    regions.list[0].page_size_bytes = FERRY_PAGE_BYTES;
    backlog = ferry_backlog_new(&regions, &tracker, false, false);
    g_assert_true(ferry_backlog_start_tracker(backlog, NULL));
    g_assert_true(ferry_backlog_arm(backlog, 0, 0, NULL));
}

int main(int argc, char **argv)
{
    static const StepsCase cases[] = {
        {"withdraw", begin_queued, {withdraw, write_first}, end, 0, 0},
        {"withdraw-round", begin_queued, {withdraw, round_and_write}, end, 0, 0},
        {"withdraw-rounds", begin_queued, {withdraw, write_first, begin_round}, end, 3, 0},
        {"withdraw-stopped", begin_queued, {withdraw, stop_and_write}, end, 0, 0},
        {"withdraw-sent", begin_queued, {withdraw, write_first, send}, end, 3, 0},
        {"spare", begin_idle, {spare, write_first, first_pass}, end, 3, 0},
        {"spare-sent", begin_idle, {spare, write_both, first_pass, send}, end, 0, 1000},
        {"spare-withdraw", begin_queued, {spare, withdraw, write_both, send}, end, 0, 1000},
        {"report", begin_idle, {write_both, write_first, send}, end, 2, 0},
    };
    int status;

    g_test_init(&argc, &argv, NULL);
    set_up();
    steps_add("/backlog/orders", cases, G_N_ELEMENTS(cases), NULL);
    status = g_test_run();
    ferry_backlog_free(backlog);
    return status;
}
