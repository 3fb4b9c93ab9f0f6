/*
 * The source when things break at an awkward moment: with a draft, before LOADED.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "fake-machine.h"

static const FakeRegion small[] = {
    {.id = "pc.ram", .nr_pages = 20000, .touched_pages = 3000},
    {0},
};

static FakePair *copied_pair(void)
{
    FakePair *pair = fake_pair_new_fetching(small, small, 2, 1, 10000, true);
    g_autoptr(GError) error = NULL;

    ferry_source_connect(pair->source, &error);
    g_assert_no_error(error);
    while (!ferry_source_may_harvest(pair->source)) {
        g_assert_true(ferry_source_step(pair->source, 20, &error));
    }
    return pair;
}

static void finish(FakePair *pair)
{
    g_autoptr(GError) error = NULL;

    g_assert_true(ferry_source_wait_loaded(pair->source, &error));
    g_assert_true(ferry_source_go(pair->source));
    while (!ferry_source_is_complete(pair->source)) {
        ferry_source_push(pair->source, 100, &error);
        g_assert_no_error(error);
    }
    g_assert_true(ferry_destination_wait_complete(pair->destination, &error));
}

/*
 * There is a draft, a round is over (its fence was reached with the draft's), and the tracker fails at the
 * harvest.  Another one begins anew, with a first pass; the hand-off must not go without it.
 */
static void test_tracker_fails_while_drafted(void)
{
    FakePair *pair = copied_pair();
    g_autoptr(GError) error = NULL;

    pair->from->fails_at = 2;
    g_assert_true(ferry_source_draft(pair->source, &error));
    g_assert_true(ferry_source_may_harvest(pair->source));
    g_assert_true(ferry_source_harvest(pair->source, NULL, &error));
    g_assert_nonnull(pair->failed_tracker);
    fake_machine_write(pair->from, 0, 77, 7777);

    g_assert_true(ferry_source_stopped(pair->source, 0, &error));
    ferry_source_leave(pair->source, &error);
    g_assert_no_error(error);
    g_assert_true(ferry_destination_wait_left(pair->destination, &error));
    g_assert_true(ferry_destination_loaded(pair->destination, NULL));
    finish(pair);
    g_assert_cmpuint(fake_machine_compare(pair->from, pair->to), ==, 0);
    fake_pair_free(pair);
}

/* Loading the device state needs the only page that is missing: it has come before LOADED. */
static void test_last_page_before_loaded(void)
{
    FakePair *pair = copied_pair();
    g_autoptr(GError) error = NULL;
    volatile uint64_t *page;

    g_assert_true(ferry_source_stopped(pair->source, 0, &error));
    ferry_source_leave(pair->source, &error);
    g_assert_no_error(error);
    g_assert_true(ferry_destination_wait_left(pair->destination, &error));
    page = fake_machine_page(pair->to, 0, 0);
    (void)*page; /* waits until it has come */
    g_usleep(100000);
    g_assert_true(ferry_destination_loaded(pair->destination, NULL));
    finish(pair);
    g_assert_cmpuint(fake_machine_compare(pair->from, pair->to), ==, 0);
    fake_pair_free(pair);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/breaks/tracker-fails-while-drafted", test_tracker_fails_while_drafted);
    g_test_add_func("/breaks/last-page-before-loaded", test_last_page_before_loaded);
    return g_test_run();
}
