/*
 * Pages that a tracker reports of its own accord: when a dirty ring is full, or when another tracker takes over.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "fake-machine.h"

/* The driver arms another chunk only when fewer pages than what this sends in 20 ms wait: some 500. */
#define RATE (UINT64_C(100) << 20)

#define CHUNK_BYTES (FERRY_CHUNK_PAGES * FERRY_PAGE_BYTES)

/* More than that, in words of 64 pages. */
#define LATE_WORDS 64

static const FakeRegion three_chunks[] = {
    {.id = "pc.ram", .nr_pages = 3 * FERRY_CHUNK_PAGES, .touched_pages = 6000},
    {0},
};

static struct {
    FerryTrackerOps ops;
    FakePair *pair;
    unsigned nr_checks;
} late;

/* Once, when the senders have nothing to do and sleep, and chunks are left to be armed. */
static bool report_late(void *opaque, GError **errp)
{
    FakeMachine *machine = opaque;

    if (++late.nr_checks == 3) {
        while (ferry_source_remaining_bytes(late.pair->source) % CHUNK_BYTES) {
            g_usleep(1000);
        }
        g_usleep(20 * 1000);
        /* In whichever chunk is armed. */
        for (uint64_t word = 0; word < 3 * FERRY_CHUNK_PAGES / 64; word++) {
            if (word % (FERRY_CHUNK_PAGES / 64) < LATE_WORDS) {
                machine->client.report(machine->client.opaque, 0, word, UINT64_MAX);
            }
        }
        g_assert_false(ferry_source_first_pass_done(late.pair->source));
    }
    return true;
}

static void test_first_pass(void)
{
    FakePair *pair = fake_pair_new_ordered(three_chunks, three_chunks, 2);
    FerryTracker tracker = fake_machine_tracker(pair->from, true);
    gint64 deadline = g_get_monotonic_time() + 60 * G_USEC_PER_SEC;
    g_autoptr(GError) error = NULL;

    late.ops = *tracker.ops;
    late.ops.check = report_late;
    late.pair = pair;
    tracker.ops = &late.ops;
    fake_pair_set_tracker(pair, &tracker);
    ferry_source_set_bandwidth(pair->source, RATE);
    g_assert_true(ferry_source_connect(pair->source, &error));
    while (!ferry_source_may_harvest(pair->source)) {
        g_assert_true(ferry_source_step(pair->source, 20, &error));
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
    }
    g_assert_cmpuint(late.nr_checks, >, 3);
    fake_pair_free(pair);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/late-reports/first-pass", test_first_pass);
    return g_test_run();
}
