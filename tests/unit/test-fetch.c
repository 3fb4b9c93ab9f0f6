/*
 * Migrations that leave pages missing: the guest runs at the destination, on real memory with a real
 * userfaultfd, while they are fetched.
 *
 * What the guest may see is known: the source's memory does not change after the stop, so a page is
 * what it is there until the guest here has written it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fake-machine.h"
#include "migration/error.h"
#include "migration/wire/heartbeat.h"

#define NR_GUESTS 3

static const FakeRegion small[] = {
    {.id = "pc.ram", .nr_pages = 20000, .touched_pages = 3000},
    {.id = "vga.vram", .nr_pages = 777, .touched_pages = 777, .shared = true},
    {.id = "pc.bios", .nr_pages = 64, .touched_pages = 64},
    {0},
};

static const FakeRegion wide[] = {
    {.id = "pc.ram", .nr_pages = 3 * 32768 + 100, .touched_pages = 30000},
    {.id = "mem.shared", .nr_pages = 40000, .touched_pages = 9000, .shared = true},
    /* Pages of 8 MiB, which come in four parts.  No kernel has them, so none may be there in part. */
    {.id = "mem.huge", .nr_pages = 16384, .touched_pages = 16384, .huge_pages = 2048},
    {0},
};

/* --- The guest at the destination --------------------------------------------------------------- */

/* One vCPU: reads and writes pages of its own, all over memory. */
typedef struct Guest {
    FakePair *pair;
    unsigned number;
    GThread *thread;
    _Atomic bool stop;
    _Atomic bool blind; /* whatever it finds is fine */
    _Atomic uint64_t nr_pages;
    uint64_t *written[FAKE_REGIONS_MAX]; /* what it has written to each page; 0: nothing */
} Guest;

/* Whether a page is what this guest must see. */
static bool is_right(const Guest *guest, uint32_t region, uint64_t page)
{
    const uint64_t *here = fake_machine_page(guest->pair->to, region, page);
    uint64_t written = guest->written[region][page];

    for (size_t i = 0; written && i < FERRY_PAGE_BYTES / sizeof(*here); i += 64) {
        if (here[i] != written + i) {
            return false;
        }
    }
    return written ||
           memcmp(here, fake_machine_page(guest->pair->from, region, page), FERRY_PAGE_BYTES) == 0;
}

static void touch(Guest *guest, uint32_t region, uint64_t page, uint64_t value)
{
    if (!is_right(guest, region, page) && !atomic_load(&guest->blind)) {
        g_error("page %" PRIu64 " of region %u holds %" PRIx64 ", not %" PRIx64
                " (the source's) or %" PRIx64 " (this guest's)",
                page, region, *fake_machine_page(guest->pair->to, region, page),
                *fake_machine_page(guest->pair->from, region, page), guest->written[region][page]);
    }
    if (value) {
        uint64_t *here = fake_machine_page(guest->pair->to, region, page);

        for (size_t i = 0; i < FERRY_PAGE_BYTES / sizeof(*here); i += 64) {
            here[i] = value + i;
        }
        guest->written[region][page] = value;
    }
    atomic_fetch_add(&guest->nr_pages, 1);
}

static gpointer guest_run(gpointer opaque)
{
    Guest *guest = opaque;
    const FerryRegions *regions = &guest->pair->to->regions;
    uint64_t random = 88172645463325252 + guest->number;

    /* Slowly, so that there is something left to break off. */
    while (!atomic_load(&guest->stop)) {
        uint32_t region;
        uint64_t nr_pages;

        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        region = (uint32_t)(random >> 60) % (uint32_t)regions->nr;
        nr_pages = ferry_region_nr_pages(&regions->list[region]);
        /* Its own pages only: what another guest has written is not known to this one. */
        touch(guest, region, (random >> 8) % (nr_pages / NR_GUESTS) * NR_GUESTS + guest->number,
              random & 1 ? random | 1 : 0);
        g_usleep(500);
    }
    return NULL;
}

static void guests_start(FakePair *pair, Guest guests[NR_GUESTS])
{
    for (unsigned i = 0; i < NR_GUESTS; i++) {
        Guest *guest = &guests[i];

        *guest = (Guest){.pair = pair, .number = i};
        for (size_t j = 0; j < pair->to->regions.nr; j++) {
            guest->written[j] = g_new0(uint64_t, ferry_region_nr_pages(&pair->to->regions.list[j]));
        }
        guest->thread = g_thread_new("guest", guest_run, guest);
    }
}

static void guests_free(FakePair *pair, Guest guests[NR_GUESTS])
{
    for (unsigned i = 0; i < NR_GUESTS; i++) {
        for (size_t j = 0; j < pair->to->regions.nr; j++) {
            g_free(guests[i].written[j]);
        }
    }
}

/* Stop, and compare all of memory. */
static void guests_finish(FakePair *pair, Guest guests[NR_GUESTS])
{
    for (unsigned i = 0; i < NR_GUESTS; i++) {
        while (atomic_load(&guests[i].nr_pages) == 0) {
            g_usleep(1000);
        }
        atomic_store(&guests[i].stop, true);
        g_thread_join(guests[i].thread);
    }
    for (uint32_t region = 0; region < pair->to->regions.nr; region++) {
        uint64_t nr_pages = ferry_region_nr_pages(&pair->to->regions.list[region]);

        for (uint64_t page = 0; page < nr_pages; page++) {
            g_assert_true(is_right(&guests[page % NR_GUESTS], region, page));
        }
    }
    guests_free(pair, guests);
}

/* --- A migration, step by step ------------------------------------------------------------------- */

typedef struct Case {
    const char *name;
    const FakeRegion *regions;
    unsigned nr_channels, nr_fetch;
    int nr_rounds; /* before pages are left missing; -1: not even the first pass */
    bool busy;
    bool ordered;   /* the tracker is of the kind that feeds */
    bool announced; /* while the guest runs */
    bool retracted; /* announced once before, and taken back */
    bool nothing;   /* all pages have arrived before */
    bool compress;
} Case;

/* To just before the stop. */
static void copy_for_a_while(FakePair *pair, const Case *c)
{
    g_autoptr(GError) error = NULL;

    ferry_source_connect(pair->source, &error);
    g_assert_no_error(error);
    for (int round = 0; round <= c->nr_rounds; round++) {
        do {
            g_assert_true(ferry_source_step(pair->source, 20, &error));
        } while (c->nothing ? !ferry_source_may_harvest(pair->source)
                            : !ferry_source_first_pass_done(pair->source));
        if (round < c->nr_rounds) {
            g_assert_true(ferry_source_harvest(pair->source, NULL, &error));
        }
    }
    if (c->retracted) {
        g_assert_true(ferry_source_draft(pair->source, &error));
        g_assert_true(ferry_source_step(pair->source, 5, &error));
    }
    if (c->announced) {
        ferry_source_draft(pair->source, &error);
        g_assert_no_error(error);
    }
}

/* From the stop until the guest runs at the destination. */
static void switch_over(FakePair *pair, Guest guests[NR_GUESTS])
{
    g_autoptr(GError) error = NULL;

    if (pair->from->workload) {
        fake_machine_stop(pair->from);
    }
    g_assert_true(ferry_source_stopped(pair->source, 0, &error));
    ferry_source_leave(pair->source, &error);
    g_assert_no_error(error);
    g_assert_true(ferry_destination_wait_left(pair->destination, &error));
    g_assert_true(ferry_destination_loaded(pair->destination, NULL));
    ferry_source_wait_loaded(pair->source, &error);
    g_assert_no_error(error);
    g_assert_true(ferry_source_go(pair->source));
    fake_pair_wait(pair, &pair->went);
    ferry_destination_running(pair->destination);
    guests_start(pair, guests);
}

static void finish(FakePair *pair, Guest guests[NR_GUESTS])
{
    g_autoptr(GError) error = NULL;

    while (!ferry_source_is_complete(pair->source)) {
        ferry_source_push(pair->source, 100, &error);
        g_assert_no_error(error);
    }
    g_assert_true(ferry_destination_wait_complete(pair->destination, &error));
    ferry_destination_send_report(pair->destination);
    /* No report comes over a channel that was cut after the last page had come. */
    ferry_source_finish(pair->source, 10000);
    guests_finish(pair, guests);
    g_assert_null(pair->damaged);
}

static void test_leave(gconstpointer data)
{
    const Case *c = data;
    FakePair *pair = fake_pair_new_full(c->regions, c->regions,
                                        &(FerrySourceConfig){
                                            .nr_channels = c->nr_channels,
                                            .nr_fetch = c->nr_fetch,
                                            .timeout_ms = 10000,
                                            .compress = c->compress,
                                        },
                                        c->ordered);
    FerryStats stats, there;
    gint64 end_us;
    Guest guests[NR_GUESTS];

    if (c->busy) {
        fake_machine_run(pair->from);
    }
    copy_for_a_while(pair, c);
    if (!c->busy && c->nr_rounds >= 0 && !c->nothing) {
        /* Some must be missing. */
        for (uint64_t page = 0; page < 500; page += 3) {
            fake_machine_write(pair->from, 0, page, page + 1);
        }
    }
    switch_over(pair, guests);
    finish(pair, guests);

    ferry_source_query(pair->source, &stats);
    ferry_destination_query(pair->destination, &there);
    g_assert_cmpint(stats.phase, ==, FERRY_SESSION_DONE);
    g_assert_true(stats.has_report && stats.has_fetch && there.has_fetch);
    g_assert_cmpuint(stats.fetch.handed_pages, >, 0);
    g_assert_cmpuint(stats.fetch.handed_pages, ==, there.fetch.handed_pages);
    g_assert_cmpuint(there.fetch.placed_pages, ==, there.fetch.handed_pages);
    g_assert_cmpuint(there.fetch.missing_pages, ==, 0);
    g_assert_cmpuint(there.fetch.latency.nr, <=, there.fetch.faults);
    end_us = g_get_monotonic_time() + 5 * G_USEC_PER_SEC;
    g_assert_cmpuint(stats.fetch.faults, <=, there.fetch.faults);
    /* What came was counted where it was sent, if only just after that. */
    while (stats.normal_pages < there.normal_pages) {
        g_assert_cmpint(g_get_monotonic_time(), <, end_us);
        ferry_stats_clear(&stats);
        ferry_source_query(pair->source, &stats);
    }
    ferry_stats_clear(&stats);
    ferry_stats_clear(&there);
    fake_pair_free(pair);
}

/* --- Broken connections -------------------------------------------------------------------------- */

static const Case at_once = {.regions = wide, .nr_channels = 2, .nr_fetch = 2, .nr_rounds = -1};

/* Both sides notice, if there is time to, and the source reconnects. */
static void recover(FakePair *pair, unsigned nr_broken)
{
    g_autoptr(GError) error = NULL;

    while (ferry_source_push(pair->source, 50, &error)) {
        if (ferry_source_is_complete(pair->source)) {
            return;
        }
    }
    g_clear_error(&error);
    g_mutex_lock(&pair->lock);
    /* With all pages in, it has nothing to say, but waits for a source that does not know that. */
    while (pair->nr_broken < nr_broken && !ferry_destination_is_complete(pair->destination, NULL)) {
        g_cond_wait_until(&pair->news, &pair->lock, g_get_monotonic_time() + 10000);
    }
    g_mutex_unlock(&pair->lock);
    ferry_source_reconnect(pair->source, FERRY_WIRE_VERSION_MAX, 0xfe44, &error);
    g_assert_no_error(error);
}

/* So slow that there is time to break something. */
static void slow_down(FakePair *pair)
{
    ferry_source_set_bandwidth(pair->source, 8 << 20);
}

static void test_cut(gconstpointer data)
{
    int which = GPOINTER_TO_INT(data);
    FakePair *pair = fake_pair_new_fetching(wide, wide, 2, 2, 10000, false);
    FerryStats there;
    Guest guests[NR_GUESTS];

    copy_for_a_while(pair, &at_once);
    switch_over(pair, guests);
    for (unsigned i = 1; i <= 3; i++) {
        slow_down(pair);
        g_usleep(100000);
        if (which < 0) {
            fake_pair_cut(pair);
        } else {
            relay_cut(fake_pair_relay(pair, (unsigned)which));
        }
        recover(pair, i);
    }
    ferry_source_set_bandwidth(pair->source, 0);
    finish(pair, guests);
    ferry_destination_query(pair->destination, &there);
    g_assert_cmpuint(there.fetch.nr_recoveries, >, 0);
    ferry_stats_clear(&there);
    fake_pair_free(pair);
}

/* One channel lets nothing through any more, but does not break. */
static void test_hang(gconstpointer data)
{
    unsigned which = GPOINTER_TO_UINT(data);
    FakePair *pair = fake_pair_new_fetching(wide, wide, 2, 2, FERRY_NETWORK_TIMEOUT_MIN_MS, false);
    Guest guests[NR_GUESTS];

    copy_for_a_while(pair, &at_once);
    switch_over(pair, guests);
    slow_down(pair);
    g_usleep(100000);
    relay_stall(fake_pair_relay(pair, which), true);
    recover(pair, 1);
    ferry_source_set_bandwidth(pair->source, 0);
    finish(pair, guests);
    fake_pair_free(pair);
}

/* The connection breaks again while it is being resumed, after ever more bytes. */
static void test_cut_resuming(void)
{
    FakePair *pair = fake_pair_new_fetching(wide, wide, 2, 2, 10000, false);
    g_autoptr(GError) error = NULL;
    Guest guests[NR_GUESTS];
    unsigned nr_failed = 0;

    copy_for_a_while(pair, &at_once);
    switch_over(pair, guests);
    slow_down(pair);
    g_usleep(100000);
    fake_pair_cut(pair);
    while (ferry_source_push(pair->source, 50, &error)) {
    }
    g_clear_error(&error);
    for (unsigned limit = 1; limit < 5000; limit *= 2) {
        pair->cut_after = limit;
        if (ferry_source_reconnect(pair->source, FERRY_WIRE_VERSION_MAX, 0xfe44, &error)) {
            fake_pair_cut(pair);
            while (ferry_source_push(pair->source, 50, &error)) {
            }
        } else {
            nr_failed++;
        }
        g_clear_error(&error);
    }
    g_assert_cmpuint(nr_failed, >, 5);
    pair->cut_after = 0;
    g_assert_false(ferry_source_reconnect(pair->source, FERRY_WIRE_VERSION_MAX, 0xbad, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_REFUSED);
    g_clear_error(&error);
    ferry_source_reconnect(pair->source, FERRY_WIRE_VERSION_MAX, 0xfe44, &error);
    g_assert_no_error(error);
    ferry_source_set_bandwidth(pair->source, 0);
    finish(pair, guests);
    fake_pair_free(pair);
}

/* The source does not come back: who waits for a page goes on, and nothing can be resumed. */
static void test_abandon(void)
{
    FakePair *pair = fake_pair_new_fetching(wide, wide, 1, 1, 10000, false);
    g_autoptr(GError) error = NULL;
    Guest guests[NR_GUESTS];
    FerryStats there;

    copy_for_a_while(pair, &at_once);
    switch_over(pair, guests);
    slow_down(pair);
    g_usleep(100000);
    g_assert_false(ferry_destination_abandon(pair->destination, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_REFUSED);
    g_clear_error(&error);

    fake_pair_cut(pair);
    while (ferry_source_push(pair->source, 50, &error)) {
    }
    g_clear_error(&error);
    g_mutex_lock(&pair->lock);
    while (!pair->nr_broken) {
        g_cond_wait(&pair->news, &pair->lock);
    }
    g_mutex_unlock(&pair->lock);
    /* They wait for what does not come.  That they go on is seen by their ending. */
    for (unsigned i = 0; i < NR_GUESTS; i++) {
        atomic_store(&guests[i].blind, true);
        atomic_store(&guests[i].stop, true);
    }
    g_assert_true(ferry_destination_abandon(pair->destination, &error));
    g_assert_no_error(error);
    for (unsigned i = 0; i < NR_GUESTS; i++) {
        g_thread_join(guests[i].thread);
    }
    guests_free(pair, guests);
    g_assert_false(ferry_destination_abandon(pair->destination, NULL));
    ferry_destination_query(pair->destination, &there);
    g_assert_cmpint(there.phase, ==, FERRY_SESSION_FAILED);
    g_assert_cmpuint(there.fetch.missing_pages, >, 0);
    ferry_stats_clear(&there);
    g_assert_false(ferry_source_reconnect(pair->source, FERRY_WIRE_VERSION_MAX, 0xfe44, &error));
    g_assert_nonnull(error);
    fake_pair_free(pair);
}

/* The destination cannot load the guest: it is still the source's. */
static void test_load_fails(void)
{
    FakePair *pair = fake_pair_new_fetching(small, small, 2, 1, 10000, false);
    g_autoptr(GError) error = NULL;
    FerryStats stats;

    copy_for_a_while(pair, &at_once);
    g_assert_true(ferry_source_stopped(pair->source, 0, &error));
    g_assert_true(ferry_source_leave(pair->source, &error));
    g_assert_true(ferry_destination_wait_left(pair->destination, &error));
    ferry_destination_free(pair->destination, "no such device");
    pair->destination = NULL;
    g_assert_false(ferry_source_wait_loaded(pair->source, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_REFUSED);
    g_assert_nonnull(strstr(error->message, "no such device"));
    g_assert_false(pair->went);
    ferry_source_query(pair->source, &stats);
    g_assert_cmpint(stats.phase, ==, FERRY_SESSION_FAILED);
    ferry_stats_clear(&stats);
    fake_pair_free(pair);
}

int main(int argc, char **argv)
{
    static const Case cases[] = {
        {"idle", small, 1, 1, 0, .announced = true},
        {"nothing", small, 2, 1, 1, .announced = true, .nothing = true},
        {"busy", wide, 3, 2, 2, .busy = true, .announced = true},
        {"ordered", wide, 2, 1, 2, .busy = true, .ordered = true, .announced = true},
        {"unannounced", wide, 2, 1, 1, .busy = true},
        {"retracted", wide, 2, 1, 1, .busy = true, .announced = true, .retracted = true},
        {"retracted-ordered", wide, 2, 1, 1, .busy = true, .ordered = true, .announced = true,
         .retracted = true},
        {"at-once", wide, 2, 2, -1, .busy = true},
        {"compressed", wide, 2, 2, -1, .busy = true, .compress = true},
        {"at-once-announced", wide, 8, 3, -1, .busy = true, .ordered = true, .announced = true},
    };

    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = g_strdup_printf("/fetch/leave/%s", cases[i].name);

        g_test_add_data_func(path, &cases[i], test_leave);
    }
    g_test_add_data_func("/fetch/cut/all", GINT_TO_POINTER(-1), test_cut);
    g_test_add_data_func("/fetch/cut/control", GINT_TO_POINTER(0), test_cut);
    g_test_add_data_func("/fetch/cut/data", GINT_TO_POINTER(1), test_cut);
    g_test_add_data_func("/fetch/cut/fetch", GINT_TO_POINTER(3), test_cut);
    g_test_add_data_func("/fetch/hang/control", GUINT_TO_POINTER(0), test_hang);
    g_test_add_data_func("/fetch/hang/data", GUINT_TO_POINTER(2), test_hang);
    g_test_add_data_func("/fetch/hang/fetch", GUINT_TO_POINTER(4), test_hang);
    g_test_add_func("/fetch/cut/resuming", test_cut_resuming);
    g_test_add_func("/fetch/abandon", test_abandon);
    g_test_add_func("/fetch/load-fails", test_load_fails);
    return g_test_run();
}
