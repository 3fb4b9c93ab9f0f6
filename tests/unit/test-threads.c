/*
 * A host that has no thread to give, at any moment of a session.
 *
 * This program's g_thread_try_new stands in for GLib's: the engine starts all its threads by it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <string.h>

#include "fake-machine.h"

static const FakeRegion small[] = {
    {.id = "pc.ram", .nr_pages = 20000, .touched_pages = 3000},
    {0},
};

/* How many more there are; and how many were asked for. */
static _Atomic int threads_left = G_MAXINT;
static _Atomic int nr_threads;

GThread *g_thread_try_new(const char *name, GThreadFunc func, gpointer data, GError **error)
{
    nr_threads++;
    if (threads_left-- <= 0) {
        threads_left = 0;
        g_set_error_literal(error, G_THREAD_ERROR, G_THREAD_ERROR_AGAIN, "there is none");
        return NULL;
    }
    return g_thread_new(name, func, data);
}

/* As far as it goes; true if the destination has the guest. */
static bool go_over(FakePair *pair, GError **errp)
{
    if (!ferry_source_connect(pair->source, errp)) {
        return false;
    }
    while (!ferry_source_may_harvest(pair->source)) {
        if (!ferry_source_step(pair->source, 20, errp)) {
            return false;
        }
    }
    if (!ferry_source_draft(pair->source, errp) || !ferry_source_stopped(pair->source, 0, errp) ||
        !ferry_source_leave(pair->source, errp)) {
        return false;
    }
    return ferry_destination_wait_left(pair->destination, errp) &&
           ferry_destination_loaded(pair->destination, errp) &&
           ferry_source_wait_loaded(pair->source, errp) &&
           (ferry_source_go(pair->source) || ferry_source_fail(pair->source, errp));
}

static bool mentions_threads(const FakePair *pair, const GError *error)
{
    g_autoptr(GError) there = NULL;

    if (error && strstr(error->message, "cannot be started: there is none")) {
        return true;
    }
    /* A destination that lacks them while the session is opened leaves the source QEMU's own path. */
    if (!ferry_destination_is_complete(pair->destination, &there) && there &&
        strstr(there->message, "cannot be started: there is none")) {
        return true;
    }
    for (guint i = 0; i < pair->warnings->len; i++) {
        if (strstr(g_ptr_array_index(pair->warnings, i), "cannot be started: there is none")) {
            return true;
        }
    }
    return false;
}

/* Whichever thread is the first that cannot be had: the session fails before GO, and one side says why. */
static void test_none_left(void)
{
    bool went = false;
    int nr;

    for (nr = 0; !went; nr++) {
        FakePair *pair = fake_pair_new_fetching(small, small, 2, 1, 2000, true);
        g_autoptr(GError) error = NULL;

        g_assert_cmpint(nr, <, 100);
        threads_left = nr;
        nr_threads = 0;
        went = go_over(pair, &error);
        threads_left = G_MAXINT;
        if (went) {
            g_assert_cmpint(nr, ==, nr_threads);
            while (!ferry_source_is_complete(pair->source)) {
                g_assert_true(ferry_source_push(pair->source, 100, &error));
            }
            g_assert_cmpuint(fake_machine_compare(pair->from, pair->to), ==, 0);
        } else {
            g_assert_false(pair->went);
            if (!mentions_threads(pair, error)) {
                g_error("with %d threads: %s", nr, error ? error->message : "no error");
            }
        }
        fake_pair_free(pair);
    }
    /* Control, two senders, a server and two of a heartbeat on one side; on the other, two for faults more. */
    g_assert_cmpint(nr, >, 10);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/threads/none-left", test_none_left);
    return g_test_run();
}
