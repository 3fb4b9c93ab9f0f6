/*
 * How fast a destination takes pages: limits, and what ends a wait
 *
 * A wait that does not end when it should would last for weeks, so the runner's time limit is the check.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/destination/incoming-limit.h"

#define MIB (UINT64_C(1) << 20)

/* Not limited at all. */
static void test_none(void)
{
    FerryIncomingLimit *limit = ferry_incoming_limit_new(0, NULL);

    g_assert_null(limit);
    ferry_incoming_limit_look(limit);
    ferry_incoming_limit_lift(limit, true);
    ferry_incoming_limit_interrupt(limit);
    g_assert_true(ferry_incoming_limit_take(limit, UINT64_MAX));
    ferry_incoming_limit_resume(limit);
    ferry_incoming_limit_free(limit);
}

/* What comes after this one waits for 24 days. */
static FerryIncomingLimit *new_full(void)
{
    FerryIncomingLimit *limit = ferry_incoming_limit_new(1, NULL);

    g_assert_true(ferry_incoming_limit_take(limit, 2 * MIB));
    return limit;
}

static gpointer take(gpointer limit)
{
    return GINT_TO_POINTER(ferry_incoming_limit_take(limit, 1));
}

/* Who waits by then, and who comes later, returns; and when the next connection is there, pages may come again. */
static void test_interrupt(void)
{
    FerryIncomingLimit *limit = new_full();
    GThread *waiter = g_thread_new("waiter", take, limit);

    g_usleep(50 * 1000);
    ferry_incoming_limit_interrupt(limit);
    g_assert_false(GPOINTER_TO_INT(g_thread_join(waiter)));
    for (unsigned i = 0; i < 3; i++) {
        g_assert_false(ferry_incoming_limit_take(limit, 1));
    }
    ferry_incoming_limit_lift(limit, true);
    g_assert_false(ferry_incoming_limit_take(limit, 1));
    ferry_incoming_limit_resume(limit);
    g_assert_true(ferry_incoming_limit_take(limit, UINT64_MAX));
    ferry_incoming_limit_free(limit);
}

/* Nothing waits while the guest stands still, and what comes then is no reason to wait afterwards. */
static void test_lift(void)
{
    FerryIncomingLimit *limit = new_full();
    GThread *waiter = g_thread_new("waiter", take, limit);

    g_usleep(50 * 1000);
    ferry_incoming_limit_lift(limit, true);
    g_assert_true(GPOINTER_TO_INT(g_thread_join(waiter)));
    g_assert_true(ferry_incoming_limit_take(limit, 64 * MIB));
    ferry_incoming_limit_lift(limit, false);
    waiter = g_thread_new("waiter", take, limit);
    ferry_incoming_limit_interrupt(limit);
    g_thread_join(waiter);
    ferry_incoming_limit_free(limit);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/incoming-limit/none", test_none);
    g_test_add_func("/incoming-limit/interrupt", test_interrupt);
    g_test_add_func("/incoming-limit/lift", test_lift);
    return g_test_run();
}
