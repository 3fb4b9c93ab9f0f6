/*
 * Finding writes in the page tables, on real memory that is written and copied meanwhile
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "tracking.h"

#include <stdatomic.h>
#include <unistd.h>

/*
 * Pages of a few granules in three chunks are written without a pause.  Two senders copy those that
 * the tracker tells, as the engine does it: chunk by chunk, resetting before they read.  When all
 * have stopped, each page's copy must be as new as the page, or be in the last report.  For a write
 * that was lost to be noticed, no other may follow: one page after the other is left alone.
 */
#define RACE_CHUNKS     3
#define RACE_PER_CHUNK  (2 * PER_HUGE)
#define RACE_NR         (RACE_CHUNKS * RACE_PER_CHUNK)
#define RACE_SENDERS    2
#define RACE_WRITERS    2
#define RACE_DURATION_S 1.0

typedef struct {
    atomic_uint found_seq;
    atomic_uint reset_seq;
    GMutex lock;
} RaceChunk;

typedef struct {
    Area area;
    Tracking tracking;
    FerryPageset *pages; /* to copy */
    RaceChunk chunks[RACE_CHUNKS];
    atomic_uint_least64_t copies[RACE_NR];
    uint64_t written[RACE_NR];        /* only its writer's */
    atomic_uint_least64_t nr_retired; /* these are written no more, others still are */
    atomic_bool stop_writing;
    atomic_bool stop_sending;
    atomic_uint_least64_t nr_copied;
    atomic_uint_least64_t nr_reported;
    int lose_page; /* what is told of this page goes lost; -1: none */
} Race;

typedef struct {
    Race *race;
    unsigned number;
} RaceThread;

/* Page numbers of the region are sparse; these are those that are written. */
static uint64_t race_page(uint64_t index)
{
    return index / RACE_PER_CHUNK * FERRY_CHUNK_PAGES + index % RACE_PER_CHUNK;
}

static uint64_t race_index(uint64_t page)
{
    return page / FERRY_CHUNK_PAGES * RACE_PER_CHUNK + page % FERRY_CHUNK_PAGES;
}

static void race_add(Race *race, uint64_t word, uint64_t mask)
{
    if (race->lose_page >= 0 && (uint64_t)race->lose_page / 64 == word) {
        mask &= ~(UINT64_C(1) << (race->lose_page % 64));
    }
    ferry_pageset_add_mask(race->pages, word, mask);
}

static void race_found(void *opaque, uint32_t region, uint64_t word, uint64_t mask)
{
    Race *race = opaque;

    atomic_fetch_add(&race->chunks[word * 64 / FERRY_CHUNK_PAGES].found_seq, 1);
    race_add(race, word, mask);
}

static void race_report(void *opaque, uint32_t region, uint64_t word, uint64_t mask)
{
    Race *race = opaque;

    atomic_fetch_add(&race->nr_reported, 1);
    race_add(race, word, mask);
}

static void race_make_readable(Race *race, uint64_t number)
{
    RaceChunk *chunk = &race->chunks[number];

    g_mutex_lock(&chunk->lock);
    unsigned seen = atomic_load(&chunk->found_seq);
    if (atomic_load(&chunk->reset_seq) != seen) {
        tracking_reset(&race->tracking, 0, number * FERRY_CHUNK_PAGES);
        atomic_store(&chunk->reset_seq, seen);
    }
    g_mutex_unlock(&chunk->lock);
}

static void race_copy(Race *race, uint64_t granule)
{
    uint64_t chunk = granule * FERRY_GRANULE_PAGES / FERRY_CHUNK_PAGES;
    uint64_t pages[FERRY_GRANULE_WORDS];

    if (!ferry_pageset_take(race->pages, granule, pages)) {
        return;
    }
    race_make_readable(race, chunk);
    for (unsigned word = 0; word < FERRY_GRANULE_WORDS; word++) {
        for (uint64_t mask = pages[word]; mask; mask &= mask - 1) {
            uint64_t page =
                granule * FERRY_GRANULE_PAGES + word * 64 + (unsigned)__builtin_ctzll(mask);

            atomic_store(&race->copies[race_index(page)], area_look(&race->area, page));
            atomic_fetch_add(&race->nr_copied, 1);
        }
    }
}

static gpointer race_send(gpointer opaque)
{
    const RaceThread *thread = opaque;
    Race *race = thread->race;

    while (!atomic_load(&race->stop_sending)) {
        int64_t granule = -1;

        while ((granule = ferry_pageset_next(race->pages, (uint64_t)(granule + 1), thread->number,
                                             RACE_SENDERS)) >= 0) {
            race_copy(race, (uint64_t)granule);
        }
        g_usleep(100);
    }
    return NULL;
}

static gpointer race_write(gpointer opaque)
{
    const RaceThread *thread = opaque;
    Race *race = thread->race;
    uint32_t seed = thread->number + 1;

    while (!atomic_load(&race->stop_writing)) {
        seed = seed * 1664525 + 1013904223;
        uint64_t retired = atomic_load(&race->nr_retired) / RACE_WRITERS;
        uint64_t index =
            (retired + (seed >> 8) % (RACE_NR / RACE_WRITERS - retired)) * RACE_WRITERS +
            thread->number;

        race->written[index]++;
        area_touch(&race->area, race_page(index));
    }
    return NULL;
}

/* Returns how many pages ended with an old copy. */
static unsigned race_run(Race *race)
{
    RaceThread threads[RACE_SENDERS + RACE_WRITERS];
    GThread *running[RACE_SENDERS + RACE_WRITERS];
    g_autoptr(GTimer) timer = NULL;
    const uint64_t nr_retiring = RACE_NR - 64;
    unsigned nr_old = 0, nr_harvests = 0;

    for (unsigned i = 0; i < RACE_CHUNKS; i++) {
        g_mutex_init(&race->chunks[i].lock);
    }
    race->pages = ferry_pageset_new(RACE_CHUNKS * FERRY_CHUNK_PAGES);
    tracking_open(&race->tracking, &race->area, 1);
    tracking_stop(&race->tracking);
    race->tracking.client =
        (FerryTrackerClient){.report = race_report, .found = race_found, .opaque = race};
    tracking_start(&race->tracking);
    for (unsigned i = 0; i < RACE_WRITERS; i++) {
        threads[i] = (RaceThread){.race = race, .number = i};
        running[i] = g_thread_new("write", race_write, &threads[i]);
    }
    tracking_arm(&race->tracking);
    for (uint64_t i = 0; i < RACE_NR; i++) {
        atomic_store(&race->copies[i], area_look(&race->area, race_page(i)));
    }
    for (unsigned i = 0; i < RACE_SENDERS; i++) {
        threads[RACE_WRITERS + i] = (RaceThread){.race = race, .number = i};
        running[RACE_WRITERS + i] = g_thread_new("send", race_send, &threads[RACE_WRITERS + i]);
    }
    timer = g_timer_new();
    for (double past = 0; past < RACE_DURATION_S; past = g_timer_elapsed(timer, NULL)) {
        atomic_store(&race->nr_retired, (uint64_t)(past / RACE_DURATION_S * (double)nr_retiring));
        tracking_harvest(&race->tracking, false);
        nr_harvests++;
    }
    atomic_store(&race->stop_writing, true);
    for (unsigned i = 0; i < RACE_WRITERS; i++) {
        g_thread_join(running[i]);
    }
    atomic_store(&race->stop_sending, true);
    for (unsigned i = 0; i < RACE_SENDERS; i++) {
        g_thread_join(running[RACE_WRITERS + i]);
    }
    g_test_message("%u harvests, %" G_GUINT64_FORMAT " pages copied, %" G_GUINT64_FORMAT
                   " words reported by resets",
                   nr_harvests, atomic_load(&race->nr_copied), atomic_load(&race->nr_reported));
    g_assert_cmpuint(nr_harvests, >, 3);
    g_assert_cmpuint(atomic_load(&race->nr_copied), >, RACE_NR);

    tracking_harvest(&race->tracking, true);
    for (uint64_t granule = 0; granule < RACE_CHUNKS * FERRY_CHUNK_PAGES / FERRY_GRANULE_PAGES;
         granule++) {
        race_copy(race, granule);
    }
    for (uint64_t i = 0; i < RACE_NR; i++) {
        g_assert_cmpuint(area_look(&race->area, race_page(i)), ==, race->written[i]);
        nr_old += atomic_load(&race->copies[i]) != race->written[i];
    }
    tracking_clear(&race->tracking);
    ferry_pageset_free(race->pages);
    area_clear(&race->area);
    for (unsigned i = 0; i < RACE_CHUNKS; i++) {
        g_mutex_clear(&race->chunks[i].lock);
    }
    return nr_old;
}

static bool race_area(Race *race, Kind kind)
{
    return tracking_is_supported() && area_make(&race->area, kind, RACE_CHUNKS * FERRY_CHUNK_PAGES);
}

static void test_race(gconstpointer data)
{
    g_autofree Race *race = g_new0(Race, 1);

    race->lose_page = -1;
    if (race_area(race, GPOINTER_TO_UINT(data))) {
        g_assert_cmpuint(race_run(race), ==, 0);
    }
}

/* The race finds it out when what is told of a single page goes lost. */
static void test_race_control(void)
{
    g_autofree Race *race = g_new0(Race, 1);

    race->lose_page = FERRY_CHUNK_PAGES + 100;
    if (race_area(race, SMALL)) {
        g_assert_cmpuint(race_run(race), ==, 1);
    }
}

/* --- Without luck ----------------------------------------------------------------------------------- */

/* As soon as a page is told, it is reset, and would be read. */
static void reset_at_once(void *opaque, uint32_t region, uint64_t word, uint64_t mask)
{
    Tracking *tracking = opaque;

    ferry_pageset_add_mask(tracking->found[region], word, mask);
    tracking_reset(tracking, region, word * 64);
}

/* However soon that is, what is written after it is found. */
static void test_at_once(void)
{
    g_auto(Area) area = {.region.fd = -1};
    g_auto(Tracking) tracking = {0};

    if (!tracking_is_supported()) {
        return;
    }
    g_assert_true(area_make(&area, SMALL, PER_HUGE));
    for (uint64_t page = 0; page < PER_HUGE; page++) {
        area_touch(&area, page);
    }
    tracking_open(&tracking, &area, 1);
    tracking_arm(&tracking);
    tracking.client.found = reset_at_once;
    area_touch(&area, 60);
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "told", 60);
    area_touch(&area, 60);
    tracking_reset(&tracking, 0, 0);
    tracking_harvest(&tracking, false);
    ASSERT_PAGES(tracking.found[0], "written again", 60);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (sysconf(_SC_PAGESIZE) != PAGE) {
        g_test_message("written for 4 KiB pages");
        return 77;
    }
    AREA_ADD_TESTS("race", test_race, SMALL, THP, MEMFD);
    g_test_add_func("/pagemap/race/control", test_race_control);
    g_test_add_func("/pagemap/race/at-once", test_at_once);
    return g_test_run();
}
