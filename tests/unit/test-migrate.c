/*
 * Whole migrations of a fake machine, every page compared at the end.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <string.h>
#include <unistd.h>

#include "fake-machine.h"
#include "migration/wire/control.h"
#include "migration/error.h"

static const FakeRegion small[] = {
    {.id = "pc.ram", .nr_pages = 20000, .touched_pages = 3000},
    {.id = "vga.vram", .nr_pages = 777, .touched_pages = 777, .shared = true},
    {.id = "pc.bios", .nr_pages = 64, .touched_pages = 64},
    {0},
};

/* More than two chunks, so that arming and queueing alternate with sending. */
static const FakeRegion wide[] = {
    {.id = "pc.ram", .nr_pages = 5 * 32768 + 100, .touched_pages = 40000},
    {.id = "mem.shared", .nr_pages = 40000, .touched_pages = 9000, .shared = true},
    {0},
};

/* Rounds while the guest runs, then stop and hand off. */
static void migrate(FakePair *pair, unsigned nr_rounds)
{
    g_autoptr(GError) error = NULL;

    g_assert_true(ferry_source_connect(pair->source, &error));
    for (unsigned round = 0; round <= nr_rounds; round++) {
        do {
            ferry_source_step(pair->source, 20, &error);
            g_assert_no_error(error);
        } while (!ferry_source_first_pass_done(pair->source));
        if (round < nr_rounds) {
            ferry_source_harvest(pair->source, NULL, &error);
            g_assert_no_error(error);
        }
    }
    if (pair->from->workload) {
        fake_machine_stop(pair->from);
    }
    g_assert_true(ferry_source_stopped(pair->source, 0, &error));
    g_assert_true(ferry_source_hand_off(pair->source, &error));
    g_assert_true(ferry_destination_wait_complete(pair->destination, &error));
    g_assert_true(ferry_destination_loaded(pair->destination, NULL));
    g_assert_true(ferry_source_wait_loaded(pair->source, &error));
    g_assert_false(pair->went);
    g_assert_true(ferry_source_go(pair->source));
    g_assert_true(ferry_source_wait_taken(pair->source, &error));
    fake_pair_wait(pair, &pair->went);
    ferry_destination_running(pair->destination);
    ferry_destination_send_report(pair->destination);
    g_assert_true(ferry_source_finish(pair->source, 10000));
    g_assert_cmpuint(pair->nr_complete, ==, 1);
}

typedef struct Case {
    const char *name;
    const FakeRegion *regions;
    unsigned nr_channels;
    unsigned nr_rounds;
    bool checksum;
    bool compress;
    bool busy;
    bool ordered; /* the tracker is of the kind that feeds */
} Case;

static void test_migrate(gconstpointer data)
{
    const Case *c = data;
    FakePair *pair = fake_pair_new_full(c->regions, c->regions,
                                        &(FerrySourceConfig){
                                            .nr_channels = c->nr_channels,
                                            .checksum = c->checksum,
                                            .compress = c->compress,
                                        },
                                        c->ordered);
    FerryStats stats;

    if (c->busy) {
        fake_machine_run(pair->from);
    }
    migrate(pair, c->nr_rounds);
    g_assert_cmpuint(fake_machine_compare(pair->from, pair->to), ==, 0);

    ferry_source_query(pair->source, &stats);
    g_assert_cmpint(stats.phase, ==, FERRY_SESSION_DONE);
    g_assert_cmpuint(stats.remaining_bytes, ==, 0);
    g_assert_cmpuint(stats.rounds->len, ==, c->nr_rounds + 2);
    g_assert_cmpuint(stats.channels->len, ==, c->nr_channels + 1);
    fake_check_rounds(&stats);
    g_assert_true(stats.has_report);
    g_assert_cmpuint(stats.report.running_ns, >=, stats.report.loaded_ns);
    g_assert_cmpuint(stats.report.loaded_ns, >=, stats.report.memory_ns);
    g_assert_cmpuint(stats.report.memory_ns, >, 0);
    g_assert_cmpuint(stats.skipped_pages, >, 0);
    if (c->compress) {
        g_assert_cmpuint(stats.sent_bytes, <, stats.normal_pages * FERRY_PAGE_BYTES / 2);
    } else {
        g_assert_cmpuint(stats.sent_bytes, >=, stats.normal_pages * FERRY_PAGE_BYTES);
    }
    if (!c->busy) {
        /* An idle guest: nothing is sent twice, zero and untouched pages not at all. */
        g_assert_cmpuint(stats.normal_pages + stats.zero_pages + stats.skipped_pages, ==,
                         stats.total_bytes / FERRY_PAGE_BYTES);
    }
    ferry_stats_clear(&stats);
    fake_pair_free(pair);
}

/* The oracle must notice a tracker that forgets writes. */
static void test_lossy(void)
{
    for (int ordered = 0; ordered < 2; ordered++) {
        FakePair *pair = ordered ? fake_pair_new_ordered(small, small, 2)
                                 : fake_pair_new(small, small, 2, false);

        g_autoptr(GError) error = NULL;

        pair->from->lossy = true;
        g_assert_true(ferry_source_connect(pair->source, &error));
        while (!ferry_source_may_harvest(pair->source)) {
            g_assert_true(ferry_source_step(pair->source, 20, &error));
        }
        /* Of these, the tracker forgets one in four. */
        for (uint64_t page = 0; page < 100; page++) {
            fake_machine_write(pair->from, 0, page, 7);
        }
        g_assert_true(ferry_source_harvest(pair->source, NULL, &error));
        g_assert_true(ferry_source_stopped(pair->source, 0, &error));
        g_assert_true(ferry_source_hand_off(pair->source, &error));
        g_assert_true(ferry_destination_wait_complete(pair->destination, &error));
        g_assert_cmpuint(fake_machine_compare(pair->from, pair->to), ==, 25);
        fake_pair_free(pair);
    }
}

/* A tracker that fails is replaced, whenever that is, and nothing is lost. */
static void test_tracker_fails(void)
{
    for (unsigned at = 1; at <= 6; at++) {
        FakePair *pair = fake_pair_new_ordered(wide, wide, 3);

        pair->from->fails_at = at;
        fake_machine_run(pair->from);
        migrate(pair, 6);
        g_assert_cmpstr(pair->failed_tracker, ==, "it was told to fail");
        g_assert_cmpuint(fake_machine_compare(pair->from, pair->to), ==, 0);
        fake_pair_free(pair);
    }
}

/* With the vCPUs stopped it is too late for another tracker: the migration fails. */
static void test_tracker_fails_last(void)
{
    FakePair *pair = fake_pair_new_ordered(small, small, 1);
    g_autoptr(GError) error = NULL;

    pair->from->fails_at = 1;
    g_assert_true(ferry_source_connect(pair->source, &error));
    g_assert_true(ferry_source_stopped(pair->source, 0, &error));
    g_assert_false(ferry_source_hand_off(pair->source, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_TRACKER);
    fake_pair_free(pair);
}

/* One round to its end, with the pages of @hot written right after it began. */
static uint64_t run_round(FakePair *pair, uint64_t nr_hot, uint64_t value)
{
    g_autoptr(GError) error = NULL;
    FerryStats stats;
    uint64_t nr_sent;

    g_assert_true(ferry_source_harvest(pair->source, NULL, &error));
    for (uint64_t page = 0; page < nr_hot; page++) {
        fake_machine_write(pair->from, 0, page * 3, value);
    }
    while (!ferry_source_may_harvest(pair->source)) {
        g_assert_true(ferry_source_step(pair->source, 20, &error));
    }
    ferry_source_query(pair->source, &stats);
    nr_sent = stats.normal_pages;
    ferry_stats_clear(&stats);
    return nr_sent;
}

/*
 * Pages that are written in every round are put off after the second time; once they are left alone
 * for a round they are sent.
 */
static void test_hot_pages(void)
{
    FakePair *pair = fake_pair_new_ordered(small, small, 2);
    g_autoptr(GError) error = NULL;
    FerryStats stats;
    uint64_t sent[9];

    g_assert_true(ferry_source_connect(pair->source, &error));
    while (!ferry_source_may_harvest(pair->source)) {
        g_assert_true(ferry_source_step(pair->source, 20, &error));
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(sent); i++) {
        sent[i] = run_round(pair, i < 6 ? 50 : 0, i + 1);
    }
    /* Written in round 0, found and sent in round 1, found again and again and put off. */
    g_assert_cmpuint(sent[1] - sent[0], ==, 50);
    g_assert_cmpuint(sent[5] - sent[1], ==, 0);
    /* Written for the last time in round 5, found in round 6; left alone and sent in round 7. */
    g_assert_cmpuint(sent[6] - sent[5], ==, 0);
    g_assert_cmpuint(sent[7] - sent[6], ==, 50);
    g_assert_cmpuint(sent[8] - sent[7], ==, 0);

    /* Still put off when the vCPUs stop: sent then. */
    for (unsigned i = 0; i < 3; i++) {
        run_round(pair, 50, 100 + i);
    }
    ferry_source_query(pair->source, &stats);
    g_assert_cmpuint(stats.deferred_pages, >=, 5 * 50);
    g_assert_cmpuint(stats.remaining_bytes, ==, 50 * FERRY_PAGE_BYTES);
    ferry_stats_clear(&stats);
    g_assert_true(ferry_source_stopped(pair->source, 0, &error));
    g_assert_true(ferry_source_hand_off(pair->source, &error));
    g_assert_true(ferry_destination_wait_complete(pair->destination, &error));
    g_assert_cmpuint(fake_machine_compare(pair->from, pair->to), ==, 0);
    fake_pair_free(pair);
}

/* What had to be reset early waits for the next round; nothing of it is lost. */
static void test_early(void)
{
    FakePair *pair = fake_pair_new_ordered(wide, wide, 3);
    g_autoptr(GError) error = NULL;
    uint64_t dirty_pages;
    uint64_t sent[4];

    pair->from->early_words = 1;
    g_assert_true(ferry_source_connect(pair->source, &error));
    while (!ferry_source_may_harvest(pair->source)) {
        g_assert_true(ferry_source_step(pair->source, 20, &error));
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(sent); i++) {
        sent[i] = run_round(pair, i == 0 ? 50 : 0, i + 1);
    }
    /* Written in round 0, found and reported in round 1, sent in round 2. */
    g_assert_cmpuint(sent[1] - sent[0], ==, 0);
    g_assert_cmpuint(sent[2] - sent[1], ==, 50);
    g_assert_cmpuint(sent[3] - sent[2], ==, 0);
    g_assert_true(ferry_source_harvest(pair->source, &dirty_pages, &error));
    g_assert_cmpuint(dirty_pages, ==, 0);
    fake_pair_free(pair);

    pair = fake_pair_new_ordered(wide, wide, 3);
    pair->from->early_words = 3;
    fake_machine_run(pair->from);
    migrate(pair, 6);
    g_assert_cmpuint(fake_machine_compare(pair->from, pair->to), ==, 0);
    fake_pair_free(pair);
}

/* Pages that are left out do not arrive, unless they are written later. */
static const FakeRegion sparse[] = {
    {.id = "pc.ram", .nr_pages = 64 * FERRY_CHUNK_PAGES + 10},
    {.id = "mem.shared", .nr_pages = 16 * FERRY_CHUNK_PAGES, .shared = true},
    {0},
};

static uint64_t nr_armed(FakePair *pair)
{
    FerryStats stats;
    uint64_t nr = 0;

    ferry_source_query(pair->source, &stats);
    for (size_t i = 0; i < FERRY_HISTOGRAM_BUCKETS; i++) {
        nr += stats.arm.counts[i];
    }
    ferry_stats_clear(&stats);
    return nr;
}

/* Chunks that nobody has touched are not armed; what is touched in them later is found all the same. */
static void test_idle_chunks(void)
{
    for (unsigned ordered = 0; ordered < 2; ordered++) {
        FakePair *pair = ordered ? fake_pair_new_ordered(sparse, sparse, 2)
                                 : fake_pair_new(sparse, sparse, 2, false);
        const uint64_t places[] = {20 * FERRY_CHUNK_PAGES + 7, 21 * FERRY_CHUNK_PAGES,
                                   64 * FERRY_CHUNK_PAGES + 8};
        g_autoptr(GError) error = NULL;

        fake_machine_write(pair->from, 0, 5, 1);
        g_assert_true(ferry_source_connect(pair->source, &error));
        while (!ferry_source_may_harvest(pair->source)) {
            g_assert_true(ferry_source_step(pair->source, 20, &error));
        }
        /* A look that took long, on a busy host, may have had a few more armed. */
        g_assert_cmpuint(nr_armed(pair), >=, 1);
        g_assert_cmpuint(nr_armed(pair), <, 40);

        /* Touched, and found; then written again, and reported. */
        for (uint64_t value = 2; value < 4; value++) {
            for (size_t i = 0; i < G_N_ELEMENTS(places); i++) {
                fake_machine_write(pair->from, 0, places[i] + value % 2, value);
                fake_machine_write(pair->from, 0, places[i], value);
            }
            fake_machine_write(pair->from, 1, 3 * FERRY_CHUNK_PAGES, value);
            g_assert_true(ferry_source_harvest(pair->source, NULL, &error));
            while (!ferry_source_may_harvest(pair->source)) {
                g_assert_true(ferry_source_step(pair->source, 20, &error));
            }
        }
        g_assert_cmpuint(nr_armed(pair), >=, 5);

        /* And at the last moment. */
        fake_machine_write(pair->from, 0, 20 * FERRY_CHUNK_PAGES + 8, 4);
        fake_machine_write(pair->from, 0, 40 * FERRY_CHUNK_PAGES, 4);
        fake_machine_write(pair->from, 1, 15 * FERRY_CHUNK_PAGES, 4);
        g_assert_true(ferry_source_stopped(pair->source, 0, &error));
        g_assert_true(ferry_source_hand_off(pair->source, &error));
        g_assert_true(ferry_destination_wait_complete(pair->destination, &error));
        g_assert_cmpuint(fake_machine_compare(pair->from, pair->to), ==, 0);
        fake_pair_free(pair);
    }
}

static void assert_refused(const FakeRegion *from, const FakeRegion *to, const char *words)
{
    FakePair *pair = fake_pair_new(from, to, 2, false);
    g_autoptr(GError) error = NULL;
    FakeMachine *untouched = fake_machine_new(to, true);

    g_assert_false(ferry_source_connect(pair->source, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_REFUSED);
    g_assert_nonnull(strstr(error->message, words));
    g_assert_cmpuint(fake_machine_compare(pair->to, untouched), ==, 0);
    fake_machine_free(untouched);
    fake_pair_free(pair);
}

static void test_regions(void)
{
    const FakeRegion missing[] = {small[0], small[1], {0}};
    FakeRegion shorter[] = {small[0], small[1], small[2], {0}};
    const FakeRegion reordered[] = {small[2], small[0], small[1], {0}};
    FakePair *pair;

    shorter[1].nr_pages = shorter[1].touched_pages = 700;
    assert_refused(small, missing, "'pc.bios' of the source does not exist");
    assert_refused(small, shorter, "'vga.vram' is 3182592 bytes");

    pair = fake_pair_new(small, reordered, 2, false);
    migrate(pair, 1);
    g_assert_cmpint(memcmp(pair->from->regions.list[0].host, pair->to->regions.list[1].host,
                           small[0].nr_pages * FERRY_PAGE_BYTES),
                    ==, 0);
    fake_pair_free(pair);
}

static void test_dial_fails(void)
{
    for (unsigned limit = 1; limit < 4; limit++) {
        FakePair *pair = fake_pair_new(small, small, 4, false);
        g_autoptr(GError) error = NULL;

        pair->dial_limit = limit;
        g_assert_false(ferry_source_connect(pair->source, &error));
        g_assert_false(g_error_matches(error, FERRY_ERROR, FERRY_ERROR_REFUSED));
        g_assert_nonnull(strstr(error->message, "nobody listens"));
        fake_pair_free(pair);
    }
}

static gpointer cancel_later(gpointer opaque)
{
    g_usleep(3000);
    ferry_source_cancel(opaque);
    return NULL;
}

static void test_cancel(void)
{
    for (int i = 0; i < 10; i++) {
        FakePair *pair = fake_pair_new(wide, wide, 3, false);
        g_autoptr(GError) error = NULL;
        GThread *thread;

        ferry_source_set_bandwidth(pair->source, 1 << 20);
        thread = g_thread_new("cancel", cancel_later, pair->source);
        if (ferry_source_connect(pair->source, &error)) {
            while (ferry_source_step(pair->source, 50, &error)) {
            }
        }
        g_assert_error(error, FERRY_ERROR, FERRY_ERROR_CANCELLED);
        g_thread_join(thread);
        fake_pair_free(pair);
    }
}

/* The destination goes away in the middle, with and without a word. */
static void test_destination_dies(void)
{
    const char *const reasons[] = {NULL, "out of memory"};

    for (size_t i = 0; i < G_N_ELEMENTS(reasons); i++) {
        FakePair *pair = fake_pair_new(wide, wide, 2, false);
        g_autoptr(GError) error = NULL;

        ferry_source_set_bandwidth(pair->source, 1 << 20);
        g_assert_true(ferry_source_connect(pair->source, &error));
        g_assert_true(ferry_source_step(pair->source, 10, &error));
        ferry_destination_free(pair->destination, reasons[i]);
        pair->destination = NULL;
        while (ferry_source_step(pair->source, 50, &error)) {
        }
        g_assert_nonnull(error);
        g_assert_true(!reasons[i] || strstr(error->message, reasons[i]));
        fake_pair_free(pair);
    }
}

static void say_hello(int fd, const FerryHello *hello)
{
    g_autoptr(FerryChannel) channel = ferry_channel_new_socket(fd, "stranger");
    g_autoptr(GByteArray) body = ferry_hello_encode(hello);
    uint8_t byte;

    ferry_control_send(channel, FERRY_FRAME_HELLO, 0, body, NULL);
    /* Closed in our face. */
    g_assert_false(ferry_channel_read_all(channel, &byte, 1, NULL));
}

/* Strangers are turned away, said so, and disturb nothing. */
static void test_strangers(void)
{
    FakePair *pair = fake_pair_new(small, small, 2, false);
    int silent = fake_pair_dial(pair);
    int garbage = fake_pair_dial(pair);
    FerryHello hello = {
        .session = 1, .version = FERRY_WIRE_VERSION_MIN, .role = FERRY_ROLE_CONTROL};
    char noise[FERRY_FRAME_BYTES];

    memset(noise, 'x', sizeof(noise));
    g_assert_cmpint(write(garbage, noise, sizeof(noise)), ==, sizeof(noise));
    say_hello(fake_pair_dial(pair), &hello);
    hello = (FerryHello){.session = 0xfe44, .version = 99, .role = FERRY_ROLE_DATA};
    say_hello(fake_pair_dial(pair), &hello);
    hello = (FerryHello){.session = 0xfe44, .version = FERRY_WIRE_VERSION_MIN, .role = 9};
    say_hello(fake_pair_dial(pair), &hello);

    migrate(pair, 1);
    /* A second control channel, when there is one. */
    hello = (FerryHello){
        .session = 0xfe44, .version = FERRY_WIRE_VERSION_MIN, .role = FERRY_ROLE_CONTROL};
    say_hello(fake_pair_dial(pair), &hello);
    g_assert_cmpuint(fake_machine_compare(pair->from, pair->to), ==, 0);
    close(silent);
    close(garbage);
    fake_pair_free(pair);
}

static void test_strangers_are_named(void)
{
    FakePair *pair = fake_pair_new(small, small, 1, false);
    FerryHello hello = {
        .session = 1, .version = FERRY_WIRE_VERSION_MIN, .role = FERRY_ROLE_CONTROL};

    say_hello(fake_pair_dial(pair), &hello);
    g_mutex_lock(&pair->lock);
    g_assert_cmpuint(pair->warnings->len, ==, 1);
    g_assert_nonnull(strstr(pair->warnings->pdata[0], "another session"));
    g_mutex_unlock(&pair->lock);
    fake_pair_free(pair);
}

/* Until a channel has shown that it belongs to the session. */
static void wait_proved(FerryDestination *destination)
{
    for (guint nr = 0; nr == 0;) {
        FerryStats stats;

        g_usleep(1000);
        ferry_destination_query(destination, &stats);
        nr = stats.channels->len;
        ferry_stats_clear(&stats);
    }
}

/* A channel that turns bad after its hello ends the session, and both sides say why. */
static void test_bad_data(void)
{
    FerryHello hello = {
        .session = 0xfe44, .version = FERRY_WIRE_VERSION_MIN, .role = FERRY_ROLE_DATA, .index = 1};
    FakePair *pair = fake_pair_new(small, small, 2, false);
    FerryChannel *bad = ferry_channel_new_socket(fake_pair_dial(pair), "bad");
    g_autoptr(GByteArray) body = ferry_hello_encode(&hello);
    g_autoptr(GError) error = NULL;
    FerryFrame frame = {
        .type = FERRY_FRAME_PAGES,
        .region = 77,
        .nr_extents = 1,
    };
    uint8_t head[FERRY_FRAME_BYTES];

    ferry_frame_encode(&frame, head);
    g_assert_true(ferry_control_send(bad, FERRY_FRAME_HELLO, 0, body, NULL));
    g_assert_true(ferry_channel_write_all(bad, head, sizeof(head), NULL));
    wait_proved(pair->destination);

    if (ferry_source_connect(pair->source, &error)) {
        for (unsigned i = 0; i < 200 && ferry_source_step(pair->source, 50, &error); i++) {
        }
    }
    g_assert_nonnull(error);
    g_assert_false(ferry_destination_wait_complete(pair->destination, NULL));
    ferry_channel_free(bad);
    fake_pair_free(pair);
}

int main(int argc, char **argv)
{
    static const Case cases[] = {
        {.name = "idle/1", .regions = small, .nr_channels = 1},
        {.name = "idle/8", .regions = wide, .nr_channels = 8, .nr_rounds = 1},
        {.name = "idle/checksum", .regions = small, .nr_channels = 3, .checksum = true},
        {.name = "idle/compressed", .regions = small, .nr_channels = 3, .compress = true},
        {.name = "busy/compressed",
         .regions = wide,
         .nr_channels = 2,
         .nr_rounds = 8,
         .compress = true,
         .busy = true,
         .ordered = true},
        {.name = "busy/compressed-checksum",
         .regions = small,
         .nr_channels = 2,
         .nr_rounds = 8,
         .checksum = true,
         .compress = true,
         .busy = true},
        {.name = "busy/1", .regions = wide, .nr_channels = 1, .nr_rounds = 4, .busy = true},
        {.name = "busy/2", .regions = wide, .nr_channels = 2, .nr_rounds = 12, .busy = true},
        {.name = "busy/7", .regions = small, .nr_channels = 7, .nr_rounds = 30, .busy = true},
        {.name = "fed/idle", .regions = wide, .nr_channels = 2, .nr_rounds = 2, .ordered = true},
        {.name = "fed/busy/1",
         .regions = wide,
         .nr_channels = 1,
         .nr_rounds = 8,
         .busy = true,
         .ordered = true},
        {.name = "fed/busy/7",
         .regions = small,
         .nr_channels = 7,
         .nr_rounds = 40,
         .busy = true,
         .ordered = true},
        {.name = "busy/checksum",
         .regions = small,
         .nr_channels = 2,
         .nr_rounds = 8,
         .checksum = true,
         .busy = true},
    };

    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = g_strdup_printf("/migrate/%s", cases[i].name);

        g_test_add_data_func(path, &cases[i], test_migrate);
    }
    g_test_add_func("/migrate/lossy-tracker-is-caught", test_lossy);
    g_test_add_func("/migrate/tracker-fails", test_tracker_fails);
    g_test_add_func("/migrate/tracker-fails-last", test_tracker_fails_last);
    g_test_add_func("/migrate/hot-pages", test_hot_pages);
    g_test_add_func("/migrate/early", test_early);
    g_test_add_func("/migrate/idle-chunks", test_idle_chunks);
    g_test_add_func("/migrate/regions", test_regions);
    g_test_add_func("/migrate/dial-fails", test_dial_fails);
    g_test_add_func("/migrate/cancel", test_cancel);
    g_test_add_func("/migrate/destination-dies", test_destination_dies);
    g_test_add_func("/migrate/strangers", test_strangers);
    g_test_add_func("/migrate/strangers-are-named", test_strangers_are_named);
    g_test_add_func("/migrate/bad-data", test_bad_data);
    return g_test_run();
}
