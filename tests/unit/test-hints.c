/*
 * Pages that a guest declares free: they need not be sent until they are written, whatever the order of
 * hint, write, report, arming, copy, harvest and stop.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/error.h"
#include "fake-machine.h"

static const FakeRegion regions[] = {
    {.id = "pc.ram", .nr_pages = 24 * FERRY_CHUNK_PAGES, .touched_pages = 64},
    {0},
};

/* Nothing in the last chunks is touched at first. */
#define IDLE_PAGE    (20 * FERRY_CHUNK_PAGES)
#define NEW_PAGE     (17 * FERRY_CHUNK_PAGES) /* nor here; copied before */
#define NR_HINTED    2048                     /* as Linux hints: 8 MiB in two */
#define TOUCHED_PAGE (4 * FERRY_CHUNK_PAGES + 100)

static FakePair *new_pair(bool ordered)
{
    return ordered ? fake_pair_new_ordered(regions, regions, 2)
                   : fake_pair_new(regions, regions, 2, false);
}

static void connect_pair(FakePair *pair)
{
    g_autoptr(GError) error = NULL;

    g_assert_true(ferry_source_connect(pair->source, &error));
    g_assert_no_error(error);
    g_assert_true(ferry_source_expect_hints(pair->source, &error));
    g_assert_no_error(error);
}

static void finish_round(FakePair *pair)
{
    g_autoptr(GError) error = NULL;

    while (!ferry_source_may_harvest(pair->source)) {
        ferry_source_step(pair->source, 20, &error);
        g_assert_no_error(error);
    }
}

static void harvest(FakePair *pair)
{
    g_autoptr(GError) error = NULL;

    ferry_source_harvest(pair->source, NULL, &error);
    g_assert_no_error(error);
    g_assert_true(ferry_source_expect_hints(pair->source, &error));
    g_assert_no_error(error);
}

static void stop(FakePair *pair)
{
    g_autoptr(GError) error = NULL;

    g_assert_true(ferry_source_stopped(pair->source, 0, &error));
    ferry_source_hand_off(pair->source, &error);
    g_assert_no_error(error);
    g_assert_true(ferry_destination_wait_complete(pair->destination, &error));
}

static uint64_t arrived(const FakePair *pair, uint64_t page)
{
    return *fake_machine_page(pair->to, 0, page);
}

static uint64_t nr_sent(FakePair *pair)
{
    FerryStats stats;
    uint64_t nr;

    ferry_source_query(pair->source, &stats);
    nr = stats.normal_pages;
    ferry_stats_clear(&stats);
    return nr;
}

/* A step of a story.  The page of a write is the first that was hinted, plus @number. */
typedef enum Step {
    END,
    CONNECT, /* and nothing else yet; from here on hints are expected */
    TOUCH,   /* write the pages before the migration */
    HINT,
    WRITE,   /* a page, with a new value; it must arrive */
    ROUND,   /* to the end of the round */
    HARVEST, /* the next round begins */
    EARLY,   /* what was written is reported without being asked for */
    STOP,
} Step;

typedef struct Story {
    const char *name;
    Step steps[16];
} Story;

static const Story stories[] = {
    {"idle-written", {CONNECT, HINT, WRITE, ROUND, HARVEST, ROUND, STOP}},
    {"idle-written-late", {CONNECT, ROUND, HINT, WRITE, HARVEST, ROUND, STOP}},
    {"idle-written-last", {CONNECT, HINT, ROUND, WRITE, STOP}},
    {"idle-reported-first", {CONNECT, HINT, WRITE, EARLY, ROUND, STOP}},
    {"idle-reported-late", {CONNECT, HINT, ROUND, WRITE, EARLY, HARVEST, ROUND, STOP}},
    {"idle-stopped-at-once", {CONNECT, HINT, WRITE, STOP}},
    {"touched-written", {TOUCH, CONNECT, HINT, WRITE, ROUND, HARVEST, ROUND, STOP}},
    {"touched-reported-first", {TOUCH, CONNECT, HINT, WRITE, EARLY, ROUND, STOP}},
    /* The guest uses pages again before anybody has read the hint. */
    {"touched-late", {TOUCH, CONNECT, WRITE, HINT, ROUND, HARVEST, ROUND, STOP}},
    {"touched-late-reported", {TOUCH, CONNECT, WRITE, EARLY, HINT, ROUND, STOP}},
    {"copied-late", {TOUCH, CONNECT, ROUND, WRITE, HINT, HARVEST, ROUND, STOP}},
    {"found-late", {TOUCH, CONNECT, ROUND, WRITE, HARVEST, WRITE, HINT, ROUND, STOP}},
    {"idle-late", {CONNECT, WRITE, HINT, ROUND, STOP}},
    {"touched-hinted-again", {TOUCH, CONNECT, HINT, WRITE, EARLY, HINT, WRITE, ROUND, STOP}},
    {"touched-hinted-twice", {TOUCH, CONNECT, HINT, HINT, WRITE, ROUND, STOP}},
    {"found-then-hinted", {TOUCH, CONNECT, ROUND, WRITE, HARVEST, HINT, WRITE, ROUND, STOP}},
    {"found-and-left",
     {TOUCH, CONNECT, ROUND, WRITE, HARVEST, HINT, WRITE, HARVEST, HINT, WRITE, HARVEST, HINT,
      WRITE, ROUND, STOP}},
    {"reported-then-hinted",
     {TOUCH, CONNECT, ROUND, WRITE, EARLY, HINT, WRITE, HARVEST, ROUND, STOP}},
    {"stopped-in-the-middle", {TOUCH, CONNECT, ROUND, HARVEST, HINT, WRITE, STOP}},
};

/* What a tracker does that runs short of room. */
static void report_early(FakeMachine *machine)
{
    const FerryTrackerClient *client = &machine->client;

    for (uint64_t word = 0; word < regions[0].nr_pages / 64; word++) {
        uint64_t mask = atomic_load(&machine->dirty[0][word]);

        if (mask) {
            atomic_fetch_and(&machine->dirty[0][word], ~mask);
            atomic_fetch_or(&machine->armed[0][word], mask);
            client->report(client->opaque, 0, word, mask);
        }
    }
}

static void take_step(FakePair *pair, Step step, uint64_t base, uint64_t *value)
{
    switch (step) {
    case CONNECT:
        connect_pair(pair);
        break;
    case TOUCH:
        for (uint64_t i = 0; i < NR_HINTED; i++) {
            fake_machine_write(pair->from, 0, base + i, 1 + i);
        }
        break;
    case HINT:
        ferry_source_hint(pair->source, 0, base, NR_HINTED);
        break;
    case WRITE:
        ++*value;
        for (uint64_t i = 0; i < NR_HINTED; i += 7) {
            fake_machine_write(pair->from, 0, base + i, *value);
        }
        break;
    case ROUND:
        finish_round(pair);
        break;
    case HARVEST:
        harvest(pair);
        break;
    case EARLY:
        report_early(pair->from);
        break;
    case STOP:
        stop(pair);
        break;
    default:
        g_assert_not_reached();
    }
}

/* Every page that was written after a hint arrives as it was written last. */
static void test_story(gconstpointer data)
{
    const Story *story = data;

    for (unsigned ordered = 0; ordered < 2; ordered++) {
        FakePair *pair = new_pair(ordered);
        const uint64_t base = story->steps[0] == TOUCH ? TOUCHED_PAGE : IDLE_PAGE;
        uint64_t value = 1000;

        for (const Step *step = story->steps; *step != END; step++) {
            take_step(pair, *step, base, &value);
        }
        for (uint64_t i = 0; i < NR_HINTED; i += 7) {
            g_assert_cmpuint(arrived(pair, base + i), ==, value);
        }
        fake_pair_free(pair);
    }
}

/* What is not written again is not sent. */
static void test_saves(void)
{
    for (unsigned ordered = 0; ordered < 2; ordered++) {
        FakePair *pair = new_pair(ordered);
        uint64_t value = 1;

        take_step(pair, TOUCH, TOUCHED_PAGE, &value);
        connect_pair(pair);
        take_step(pair, HINT, TOUCHED_PAGE, &value);
        finish_round(pair);
        stop(pair);
        g_assert_cmpuint(nr_sent(pair), <, regions[0].touched_pages + 8);
        g_assert_cmpuint(arrived(pair, TOUCHED_PAGE), ==, 0);
        fake_pair_free(pair);
    }
}

static FakePair *arming_pair;

static gpointer hint_now(gpointer opaque)
{
    ferry_source_hint(arming_pair->source, 0, IDLE_PAGE, NR_HINTED);
    return NULL;
}

/* A balloon's thread, while the driver arms: it must not wait until that is done. */
static void hint_while_arming(FakeMachine *machine, uint64_t first_page)
{
    if (first_page == NEW_PAGE) {
        machine->arming = NULL;
        g_thread_join(g_thread_new("balloon", hint_now, NULL));
    }
}

/* A hint that comes while the driver is busy counts: the guest does not give it again. */
static void test_while_arming(void)
{
    for (unsigned ordered = 0; ordered < 2; ordered++) {
        FakePair *pair = new_pair(ordered);
        uint64_t value = 1;

        take_step(pair, TOUCH, IDLE_PAGE, &value);
        connect_pair(pair);
        fake_machine_write(pair->from, 0, NEW_PAGE, 1);
        arming_pair = pair;
        pair->from->arming = hint_while_arming;
        finish_round(pair);
        g_assert_null(pair->from->arming);
        stop(pair);
        g_assert_cmpuint(nr_sent(pair), <, regions[0].touched_pages + 8);
        g_assert_cmpuint(arrived(pair, IDLE_PAGE), ==, 0);
        g_assert_cmpuint(arrived(pair, NEW_PAGE), ==, 1);
        fake_pair_free(pair);
    }
}

/* While chunks are armed for hints: one comes that is older than the arming, and the guest uses the pages. */
static void hint_before_arming(FakeMachine *machine, uint64_t first_page)
{
    if (first_page == NEW_PAGE) {
        uint64_t value = 1;

        hint_while_arming(machine, first_page);
        take_step(arming_pair, WRITE, IDLE_PAGE, &value);
    }
}

static void test_older_than_arming(void)
{
    for (unsigned ordered = 0; ordered < 2; ordered++) {
        FakePair *pair = new_pair(ordered);
        uint64_t value = 1;

        fake_machine_write(pair->from, 0, NEW_PAGE, 1);
        take_step(pair, TOUCH, IDLE_PAGE, &value);
        arming_pair = pair;
        pair->from->arming = hint_before_arming;
        connect_pair(pair);
        g_assert_null(pair->from->arming);
        finish_round(pair);
        stop(pair);
        for (uint64_t i = 0; i < NR_HINTED; i++) {
            g_assert_cmpuint(arrived(pair, IDLE_PAGE + i), ==, i % 7 ? 1 + i : 2);
        }
        fake_pair_free(pair);
    }
}

/* A hint that goes on in a chunk where nothing was touched yet: of that chunk it is not believed. */
static void test_over_edge(void)
{
    const uint64_t base = IDLE_PAGE + FERRY_CHUNK_PAGES - NR_HINTED / 2;

    for (unsigned ordered = 0; ordered < 2; ordered++) {
        FakePair *pair = new_pair(ordered);
        uint64_t value = 1;

        fake_machine_write(pair->from, 0, base, 1);
        connect_pair(pair);
        take_step(pair, HINT, base, &value);
        take_step(pair, WRITE, base, &value);
        finish_round(pair);
        stop(pair);
        for (uint64_t i = 0; i < NR_HINTED; i += 7) {
            g_assert_cmpuint(arrived(pair, base + i), ==, value);
        }
        fake_pair_free(pair);
    }
}

/* With the vCPUs stopped, nothing is left out any more. */
static void test_stopped(void)
{
    for (unsigned ordered = 0; ordered < 2; ordered++) {
        FakePair *pair = new_pair(ordered);
        g_autoptr(GError) error = NULL;
        uint64_t value = 1;

        take_step(pair, TOUCH, TOUCHED_PAGE, &value);
        connect_pair(pair);
        g_assert_true(ferry_source_stopped(pair->source, 0, &error));
        take_step(pair, HINT, TOUCHED_PAGE, &value);
        ferry_source_hand_off(pair->source, &error);
        g_assert_no_error(error);
        g_assert_true(ferry_destination_wait_complete(pair->destination, &error));
        for (uint64_t i = 0; i < NR_HINTED; i++) {
            g_assert_cmpuint(arrived(pair, TOUCHED_PAGE + i), ==, 1 + i);
        }
        fake_pair_free(pair);
    }
}

/* A tracker that takes its predecessor's place knows of no writes before that. */
static void test_tracker_replaced(void)
{
    FakePair *pair = new_pair(true);
    uint64_t value = 1;

    pair->from->fails_at = 1;
    take_step(pair, TOUCH, TOUCHED_PAGE, &value);
    connect_pair(pair);
    take_step(pair, HINT, TOUCHED_PAGE, &value);
    take_step(pair, HINT, IDLE_PAGE, &value);
    take_step(pair, WRITE, TOUCHED_PAGE, &value);
    take_step(pair, WRITE, IDLE_PAGE, &value);
    /* The log is lost with the tracker. */
    for (uint64_t word = 0; word < regions[0].nr_pages / 64; word++) {
        atomic_store(&pair->from->dirty[0][word], 0);
    }
    finish_round(pair);
    harvest(pair);
    g_assert_nonnull(pair->failed_tracker);
    finish_round(pair);
    stop(pair);
    g_assert_cmpuint(arrived(pair, TOUCHED_PAGE), ==, value - 1);
    g_assert_cmpuint(arrived(pair, IDLE_PAGE), ==, value);
    fake_pair_free(pair);
}

typedef struct Busy {
    FakePair *pair;
    _Atomic bool quit;
    unsigned seed;
} Busy;

/* A guest that hints at pages and then takes them back, as quickly as it can. */
static gpointer hint_and_write(gpointer opaque)
{
    Busy *busy = opaque;
    uint64_t value = 5;
    unsigned random = busy->seed;

    while (!atomic_load(&busy->quit)) {
        uint64_t page;

        random = random * 1103515245 + 12345;
        page = (random >> 8) % (regions[0].nr_pages / NR_HINTED) * NR_HINTED;
        ferry_source_hint(busy->pair->source, 0, page, NR_HINTED);
        for (uint64_t i = 0; i < NR_HINTED; i++) {
            fake_machine_write(busy->pair->from, 0, page + i, ++value);
        }
    }
    return NULL;
}

/* All at once: as every page that is hinted at is written right after that, all must arrive. */
static void test_races(void)
{
    for (unsigned i = 0; i < 6; i++) {
        FakePair *pair = new_pair(i % 2);
        Busy busy = {.pair = pair, .seed = i};
        GThread *thread;

        connect_pair(pair);
        thread = g_thread_new("guest", hint_and_write, &busy);
        for (unsigned round = 0; round < 4; round++) {
            finish_round(pair);
            harvest(pair);
        }
        atomic_store(&busy.quit, true);
        g_thread_join(thread);
        stop(pair);
        g_assert_cmpuint(fake_machine_compare(pair->from, pair->to), ==, 0);
        fake_pair_free(pair);
    }
}

/* --- Cancelled ---------------------------------------------------------------------------------- */

/* As many as armed at once would be seen. */
#define NR_CHUNKS 64

static const FakeRegion many[] = {
    {.id = "pc.ram", .nr_pages = NR_CHUNKS * FERRY_CHUNK_PAGES, .touched_pages = 0},
    {0},
};

/* A tracker whose arming takes until somebody has cancelled. */
typedef struct Slow {
    FakePair *pair;
    FerryTracker tracker; /* the one that it stands for */
    _Atomic unsigned nr_armed;
    _Atomic bool cancelled;
} Slow;

static Slow *slow;

static bool arm_slowly(void *opaque, uint32_t region, uint64_t first_page, uint64_t nr_pages,
                       GError **errp)
{
    atomic_fetch_add(&slow->nr_armed, 1);
    while (!atomic_load(&slow->cancelled)) {
        g_usleep(1000);
    }
    return slow->tracker.ops->arm(opaque, region, first_page, nr_pages, errp);
}

static gpointer cancel_when_armed(gpointer opaque)
{
    while (!atomic_load(&slow->nr_armed)) {
        g_usleep(1000);
    }
    ferry_source_cancel(slow->pair->source);
    atomic_store(&slow->cancelled, true);
    return NULL;
}

/* All memory is armed ahead of its copy; not once somebody has cancelled. */
static void test_cancel(void)
{
    g_autoptr(GError) error = NULL;
    Slow this = {.pair = fake_pair_new_ordered(many, many, 2)};
    FerryTracker tracker = fake_machine_tracker(this.pair->from, true);
    FerryTrackerOps ops = *tracker.ops;
    GThread *thread;

    slow = &this;
    this.tracker = tracker;
    ops.arm = arm_slowly;
    tracker.ops = &ops;
    fake_pair_set_tracker(this.pair, &tracker);
    for (uint64_t i = 0; i < NR_CHUNKS; i++) {
        fake_machine_write(this.pair->from, 0, i * FERRY_CHUNK_PAGES, 1);
    }
    g_assert_true(ferry_source_connect(this.pair->source, &error));
    thread = g_thread_new("cancel", cancel_when_armed, NULL);
    g_assert_false(ferry_source_expect_hints(this.pair->source, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_CANCELLED);
    g_assert_cmpuint(atomic_load(&this.nr_armed), <, NR_CHUNKS / 2);
    g_thread_join(thread);
    fake_pair_free(this.pair);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(stories); i++) {
        g_autofree char *path = g_strconcat("/hints/", stories[i].name, NULL);

        g_test_add_data_func(path, &stories[i], test_story);
    }
    g_test_add_func("/hints/saves", test_saves);
    g_test_add_func("/hints/while-arming", test_while_arming);
    g_test_add_func("/hints/older-than-arming", test_older_than_arming);
    g_test_add_func("/hints/over-edge", test_over_edge);
    g_test_add_func("/hints/stopped", test_stopped);
    g_test_add_func("/hints/tracker-replaced", test_tracker_replaced);
    g_test_add_func("/hints/races", test_races);
    g_test_add_func("/hints/cancel", test_cancel);
    return g_test_run();
}
