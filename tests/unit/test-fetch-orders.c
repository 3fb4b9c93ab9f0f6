/*
 * Fetching, in every order: a guest that touches pages, the thread that answers its faults, threads that place what
 * comes, and the one that goes live.
 *
 * The timeline is in fetch.h.  The kernel is made here, with pages that are there or not: it places a page that is
 * not there, and tells of a thread that touches one, which waits until it is woken.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "steps.h"

#include <inttypes.h>
#include <poll.h>
#include <string.h>

#include "migration/destination/fetch-internal.h"
#include "migration/memory/discard.h"
#include "migration/thread.h"

#define NR_PAGES 3

/* What a page must hold that was touched at the source: 0 is missing at first, 1 may be; 2 is not. */
#define CONTENT(page) ((uint8_t)(10 + (page)))

static uint8_t memory[FERRY_GRANULE_PAGES * FERRY_PAGE_BYTES]; /* an address for each page */

/* --- The kernel ----------------------------------------------------------------------------------- */

typedef struct Page {
    bool is_there;
    uint8_t content;
} Page;

static Page pages[NR_PAGES];
static int waits_for;   /* the guest, for this page; -1: for none */
static bool is_told;    /* whoever reads faults has been told of it */
static bool guest_done; /* it touches nothing any more */

struct FerryUserfault {
    int none;
};

FerryUserfault *ferry_userfault_new(GError **errp)
{
    return g_new0(FerryUserfault, 1);
}

void ferry_userfault_free(FerryUserfault *uffd)
{
    g_free(uffd);
}

bool ferry_userfault_probe(FerryUserfault *uffd, const FerryRegion *region, GError **errp)
{
    return true;
}

bool ferry_userfault_register(FerryUserfault *uffd, const FerryRegion *region, GError **errp)
{
    return true;
}

void ferry_userfault_unregister(FerryUserfault *uffd, const FerryRegion *region)
{
}

int ferry_userfault_fd(const FerryUserfault *uffd)
{
    return -1;
}

size_t ferry_userfault_read(FerryUserfault *uffd, FerryUserfaultEvent *events, size_t max)
{
    if (waits_for < 0 || is_told) {
        return 0;
    }
    is_told = true;
    events[0] = (FerryUserfaultEvent){
        .address = (uintptr_t)memory + (uint64_t)waits_for * FERRY_PAGE_BYTES, .thread = 1};
    return 1;
}

void ferry_userfault_wake(FerryUserfault *uffd, const FerryRegion *region, uint64_t offset_bytes,
                          uint64_t nr_bytes)
{
    uint64_t page = offset_bytes / FERRY_PAGE_BYTES;

    steps_at(&waits_for, true);
    if (waits_for == (int)page) {
        waits_for = -1;
    }
}

FerryPlaceResult ferry_userfault_place(FerryUserfault *uffd, const FerryRegion *region,
                                       uint64_t offset_bytes, const uint8_t *from,
                                       uint64_t nr_bytes, uint64_t *done_bytes, GError **errp)
{
    uint64_t page = offset_bytes / FERRY_PAGE_BYTES;

    *done_bytes = 0;
    g_assert_cmpuint(nr_bytes, ==, FERRY_PAGE_BYTES);
    steps_at(&pages[page], true);
    if (pages[page].is_there) {
        return FERRY_PLACE_PRESENT;
    }
    pages[page] = (Page){.is_there = true, .content = from ? *from : 0};
    *done_bytes = nr_bytes;
    ferry_userfault_wake(uffd, region, offset_bytes, nr_bytes);
    return FERRY_PLACED;
}

/* What is discarded is not there. */
bool ferry_discard_missing(const FerryRegion *region, FerryPageset *incoming, FerryPageset *missing,
                           GMutex *locks, unsigned nr_locks, GError **errp)
{
    uint64_t bits = ferry_pageset_get(incoming, 0);

    steps_lock(&locks[0]);
    ferry_pageset_move(incoming, missing);
    steps_unlock(&locks[0]);
    for (unsigned page = 0; page < NR_PAGES; page++) {
        if (bits >> page & 1) {
            steps_at(&pages[page], true);
            pages[page].is_there = false;
        }
    }
    return true;
}

static bool has_news(void)
{
    return guest_done || (waits_for >= 0 && !is_told);
}

/* A thread that reads faults waits for one, or for the end. */
int steps_poll(struct pollfd *fds, nfds_t nr_fds, int timeout_ms)
{
    steps_wait(has_news);
    fds[0].revents = waits_for >= 0 && !is_told ? POLLIN : 0;
    fds[1].revents = guest_done ? POLLIN : 0;
    return 1;
}

/* It is one of the threads that take turns, and not started here. */
static GThreadFunc fault_run;
static gpointer fault_opaque;

static gpointer nothing_run(gpointer opaque)
{
    return NULL;
}

GThread *ferry_thread_new(const char *name, GThreadFunc run, void *opaque, GError **errp)
{
    fault_run = run;
    fault_opaque = opaque;
    return g_thread_new(name, nothing_run, NULL);
}

static bool is_woken(void)
{
    return waits_for < 0;
}

/* Returns what it reads. */
static uint8_t touch(unsigned page)
{
    for (;;) {
        steps_at(&pages[page], false);
        if (pages[page].is_there) {
            return pages[page].content;
        }
        steps_at(&waits_for, true);
        /* The kernel looks once more, with its lock held: whoever places a page wakes afterwards. */
        if (!pages[page].is_there) {
            is_told = false;
            waits_for = (int)page;
        }
        steps_wait(is_woken);
    }
}

/* --- The destination -------------------------------------------------------------------------------- */

static FerryFetch *fetch;
static FerryRegions regions;
static unsigned nr_complete;
static bool is_wanted[NR_PAGES];
static bool starts_live;

static void on_want(void *opaque, unsigned index, uint32_t region, uint64_t page)
{
    is_wanted[page] = true;
}

static void on_complete(void *opaque)
{
    nr_complete++;
}

static void on_failed(void *opaque, GError *error)
{
    steps_fail("it failed: %s", error ? error->message : "");
}

static const FerryFetchOps ops = {
    .want = on_want, .complete = on_complete, .failed = on_failed, .starved = on_failed};

static void go_live(void)
{
    g_assert_true(ferry_fetch_go_live(fetch, NULL));
}

/* Pages 0 and 1 are missing, whether that is known to be all or not. */
static void begin(void)
{
    /* Not a new one, lest all be somewhere else. */
    ferry_pageset_clear(ferry_fetch_missing(fetch)[0]);
    ferry_waiters_forget(fetch->waiters);
    atomic_store(&fetch->live, false);
    atomic_store(&fetch->nr_missing, 0);
    memset(pages, 0, sizeof(pages));
    memset(is_wanted, 0, sizeof(is_wanted));
    waits_for = -1;
    nr_complete = 0;
    guest_done = false;
    ferry_pageset_add(ferry_fetch_incoming(fetch)[0], 0, 2);
    g_assert_true(ferry_fetch_draft(fetch, NULL));
    if (starts_live) {
        go_live();
    }
}

/* All that was missing is there, as it should be, and that was said once. */
static void end(void)
{
    g_assert_cmpuint(ferry_pageset_count(ferry_fetch_missing(fetch)[0]), ==, 0);
    g_assert_cmpuint(nr_complete, ==, 1);
    for (unsigned page = 0; page < 2; page++) {
        g_assert_true(pages[page].is_there);
        g_assert_cmpuint(pages[page].content, ==, CONTENT(page));
    }
}

/* --- Who does what ---------------------------------------------------------------------------------- */

static void answer_faults(void)
{
    fault_run(fault_opaque);
}

static void place(unsigned page)
{
    const FerryFrame frame = {.type = FERRY_FRAME_PAGES, .first_page = 0, .nr_extents = 1};
    const FerryExtent extent = {.first = page, .nr_pages = 1};
    const uint8_t payload = CONTENT(page);

    g_assert_true(ferry_fetch_place(fetch, &frame, &extent, &payload, NULL));
}

static void place_both(void)
{
    place(1);
    place(0);
}

static void place_other(void)
{
    place(1);
}

static bool is_page_wanted(void)
{
    return is_wanted[0] || guest_done;
}

/* The source: it sends page 0 when it is asked for it, or when nobody will ask any more. */
static void answer_page(void)
{
    steps_wait(is_page_wanted);
    place(0);
}

static void expect(unsigned page, uint8_t content)
{
    uint8_t read = touch(page);

    if (read != content) {
        steps_fail("the guest reads %u from page %u", read, page);
    }
}

static void touch_missing(void)
{
    expect(0, CONTENT(0));
    guest_done = true;
}

static void touch_untouched(void)
{
    expect(2, 0);
    guest_done = true;
}

static void touch_all(void)
{
    expect(2, 0);
    expect(1, CONTENT(1));
    expect(0, CONTENT(0));
    guest_done = true;
}

static void go_live_and_place_other(void)
{
    go_live();
    place(1);
}

/* Its content, or zero as long as it was not handed off. */
static void touch_early(void)
{
    uint8_t read = touch(2);

    if (read != 0 && read != CONTENT(2)) {
        steps_fail("it reads %u from page 2", read);
    }
    guest_done = true;
}

/* Page 2 was written at the source after the draft, for the first time. */
static void hand_off_more(void)
{
    ferry_pageset_add(ferry_fetch_incoming(fetch)[0], 2, 1);
    go_live();
    place(2);
    place_both();
    if (pages[2].content != CONTENT(2)) {
        steps_fail("page 2 holds %u", pages[2].content);
    }
}

static void begin_live(void)
{
    starts_live = true;
    begin();
}

static void begin_early(void)
{
    starts_live = false;
    begin();
}

int main(int argc, char **argv)
{
    static const StepsCase cases[] = {
        /* What comes by itself, and is touched. */
        {"touched", begin_live, {touch_missing, answer_faults, place_both}, end, 2, 0},
        {"untouched", begin_live, {touch_untouched, answer_faults, place_both}, end, 2, 0},
        /* The same page comes twice, over two channels. */
        {"twice", begin_live, {place_both, place_both}, end, 3, 0},
        {"touched-twice",
         begin_live,
         {touch_missing, answer_faults, place_both, place_both},
         end,
         0,
         3000},
        /* It comes when it is asked for. */
        {"asked", begin_live, {touch_missing, answer_faults, answer_page, place_other}, end, 2, 0},
        /* It may be asked for when all that is missing is known. */
        {"live",
         begin_early,
         {touch_missing, answer_faults, answer_page, go_live_and_place_other},
         end,
         2,
         0},
        {"handed-off", begin_early, {touch_early, answer_faults, hand_off_more}, end, 2, 0},
        {"all", begin_live, {touch_all, answer_faults, answer_page, place_both}, end, 0, 3000},
    };
    int status;

    g_test_init(&argc, &argv, NULL);
    regions = (FerryRegions){.list = g_new0(FerryRegion, 1), .nr = 1};
    regions.list[0] = (FerryRegion){
        .host = memory, .length_bytes = sizeof(memory), .page_size_bytes = FERRY_PAGE_BYTES};
    g_strlcpy(regions.list[0].id, "ram", sizeof(regions.list[0].id));
    fetch = ferry_fetch_new(&regions, 1, &ops, NULL, NULL);
    g_assert_nonnull(fetch);
    steps_add("/fetch/orders", cases, G_N_ELEMENTS(cases), NULL);
    status = g_test_run();
    ferry_fetch_free(fetch);
    g_free(regions.list);
    return status;
}
