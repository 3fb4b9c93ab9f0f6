/*
 * The backlog and the tracker that reads page tables, in every order: a guest that writes, the driver's harvest,
 * and a sender that has pages reset and reads them.
 *
 * The timelines are at the top of pagemap.c, and in backlog-rounds.c and backlog.c: what is found is reset
 * before it is read, however soon that is.  The kernel is made here, of three pages: each is protected or not, and
 * has a content.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "steps.h"

#include <string.h>

#include "accel/pagemap.h"
#include "accel/write-protect.h"
#include "migration/source/backlog.h"

#define NR_PAGES 3

/* After so many, a round's sets are the same once more. */
#define ROUNDS (FERRY_WRITTEN_SETS * FERRY_HOT_ROUNDS)

/* --- The kernel ----------------------------------------------------------------------------------- */

typedef struct Page {
    bool written; /* since it was protected: it is not protected any more */
    unsigned content;
} Page;

static Page pages[NR_PAGES];

struct FerryWriteProtect {
    int none;
};

FerryWriteProtect *ferry_write_protect_new(GError **errp)
{
    return g_new0(FerryWriteProtect, 1);
}

void ferry_write_protect_free(FerryWriteProtect *protect)
{
    g_free(protect);
}

char *ferry_write_protect_unsupported(void)
{
    return NULL;
}

bool ferry_write_protect_register(FerryWriteProtect *protect, const FerryRegion *region,
                                  GError **errp)
{
    return true;
}

void ferry_write_protect_unregister(FerryWriteProtect *protect, const FerryRegion *region)
{
}

bool ferry_write_protect_find(FerryWriteProtect *protect, const FerryRegion *region,
                              uint64_t first_page, uint64_t nr_pages, FerryPagesFn visit,
                              void *opaque, GError **errp)
{
    for (uint64_t page = first_page; page < MIN(first_page + nr_pages, NR_PAGES); page++) {
        steps_at(&pages[page], false);
        if (pages[page].written) {
            visit(opaque, page, 1);
        }
    }
    return true;
}

bool ferry_write_protect_take(FerryWriteProtect *protect, const FerryRegion *region,
                              uint64_t first_page, uint64_t nr_pages, FerryPagesFn visit,
                              void *opaque, GError **errp)
{
    for (uint64_t page = first_page; page < MIN(first_page + nr_pages, NR_PAGES); page++) {
        bool written;

        steps_at(&pages[page], true);
        written = pages[page].written;
        pages[page].written = false;
        if (written) {
            visit(opaque, page, 1);
        }
    }
    return true;
}

static void visit_nothing(void *opaque, uint64_t first, uint64_t nr_pages)
{
}

bool ferry_write_protect_all(FerryWriteProtect *protect, const FerryRegion *region,
                             uint64_t first_page, uint64_t nr_pages, GError **errp)
{
    return ferry_write_protect_take(protect, region, first_page, nr_pages, visit_nothing, NULL,
                                    errp);
}

/* A store: if the page is protected, a fault takes that off first, and the store is tried again. */
static void write_page(unsigned page)
{
    for (;;) {
        steps_at(&pages[page], true);
        if (pages[page].written) {
            pages[page].content++;
            return;
        }
        pages[page].written = true;
    }
}

/* --- The source ------------------------------------------------------------------------------------ */

static FerryPagemap *pagemap;
static FerryTracker tracker;
static FerryBacklog *backlog;
static unsigned copies[NR_PAGES], nr_rounds;

/* What was written before. */
static enum {
    NOTHING,
    FOUND,   /* page 0, which was found in an earlier round, and waits to be sent */
    WRITTEN, /* the others as well, which nobody knows yet */
    BEFORE
} before;

static void harvest(bool last)
{
    g_assert_true(tracker.ops->harvest(tracker.opaque, last, NULL));
}

static void drop_queued(void)
{
    uint64_t taken[FERRY_GRANULE_WORDS];
    int nr = ferry_backlog_take(backlog, 0, 0, taken, NULL);

    g_assert_cmpint(nr, >=, 0);
    ferry_backlog_sent(backlog, (unsigned)nr);
}

static void begin_rounds(unsigned nr)
{
    for (unsigned i = 0; i < nr; i++) {
        ferry_backlog_begin_round(backlog);
    }
    nr_rounds += nr;
}

/* Guest memory is armed, and was copied. */
static void begin(void)
{
    ferry_backlog_release_all(backlog);
    drop_queued();
    for (unsigned page = 0; page < NR_PAGES; page++) {
        pages[page] = (Page){0};
        copies[page] = 0;
    }
    begin_rounds(ROUNDS - nr_rounds % ROUNDS);
    g_assert_true(ferry_backlog_arm(backlog, 0, 0, NULL));
    if (before != NOTHING) {
        write_page(0);
        harvest(false);
    }
    if (before == WRITTEN) {
        write_page(1);
        write_page(2);
    }
}

static void send(void)
{
    uint64_t taken[FERRY_GRANULE_WORDS];
    int nr = ferry_backlog_take(backlog, 0, 0, taken, NULL);

    g_assert_cmpint(nr, >=, 0);
    for (unsigned page = 0; page < NR_PAGES; page++) {
        if (taken[0] >> page & 1) {
            steps_at(&pages[page], false);
            copies[page] = pages[page].content;
        }
    }
    ferry_backlog_sent(backlog, (unsigned)nr);
}

/* The vCPUs have stopped: what was not sent is found now, and what was sent is what it must be. */
static void end(void)
{
    harvest(true);
    ferry_backlog_release_all(backlog);
    send();
    for (unsigned page = 0; page < NR_PAGES; page++) {
        if (copies[page] != pages[page].content) {
            steps_fail("page %u was written %u times, and is known as of %u", page,
                       pages[page].content, copies[page]);
        }
    }
    g_assert_cmpuint(ferry_backlog_unsent(backlog), ==, 0);
}

/* --- Who does what ---------------------------------------------------------------------------------- */

static void write_first(void)
{
    write_page(0);
}

static void write_second(void)
{
    write_page(1);
}

static void write_all(void)
{
    write_page(1);
    write_page(0);
    write_page(2);
}

static void harvest_once(void)
{
    harvest(false);
}

static void next_round(void)
{
    begin_rounds(1);
    harvest(false);
    ferry_backlog_release_cooled(backlog);
}

static void send_twice(void)
{
    send();
    send();
}

/* A page server's, for a page that is asked for: it takes no notice of granules. */
static void send_asked(void)
{
    uint64_t taken;

    taken = ferry_backlog_take_asked(backlog, 0, 0, 1);
    g_assert_true(ferry_backlog_make_readable(backlog, 0, 0, NULL));
    if (taken) {
        steps_at(&pages[0], false);
        copies[0] = pages[0].content;
    }
}

static void test_orders(gconstpointer data)
{
    for (before = NOTHING; before < BEFORE; before++) {
        steps_run(data);
    }
}

static void set_up(void)
{
    FerryRegions regions = {.list = g_new0(FerryRegion, 1), .nr = 1};
    g_autoptr(GError) error = NULL;

    regions.list[0].length_bytes = FERRY_GRANULE_PAGES * FERRY_PAGE_BYTES;
    regions.list[0].page_size_bytes = FERRY_PAGE_BYTES;
    pagemap = ferry_pagemap_new(&regions, &error);
    g_assert_no_error(error);
    tracker = ferry_pagemap_tracker(pagemap);
    backlog = ferry_backlog_new(&regions, &tracker, false, false);
    g_assert_true(ferry_backlog_start_tracker(backlog, NULL));
}

int main(int argc, char **argv)
{
    static const StepsCase cases[] = {
        {"harvest", begin, {write_first, harvest_once}, end, 0, 0},
        {"send", begin, {write_first, send}, end, 0, 0},
        {"harvest-send", begin, {harvest_once, send}, end, 3, 0},
        {"first", begin, {write_first, harvest_once, send}, end, 2, 0},
        {"second", begin, {write_second, harvest_once, send_twice}, end, 3, 0},
        {"asked", begin, {write_first, harvest_once, send_asked}, end, 2, 0},
        {"two-readers", begin, {write_first, send, send_asked}, end, 3, 0},
        {"rounds", begin, {write_all, next_round, send_twice}, end, 0, 500},
        {"two-senders", begin, {write_all, next_round, send_twice, send}, end, 0, 500},
    };
    int status;

    g_test_init(&argc, &argv, NULL);
    set_up();
    steps_add("/tracking/orders", cases, G_N_ELEMENTS(cases), test_orders);
    status = g_test_run();
    ferry_backlog_free(backlog);
    ferry_pagemap_free(pagemap);
    return status;
}
