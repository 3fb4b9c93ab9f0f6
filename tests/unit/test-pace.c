/*
 * Pacing: never faster than allowed, and nobody left waiting
 *
 * Time is only ever checked from below: a slow machine makes these tests slow, not wrong. A
 * waiter that is not woken when it should be would wait for weeks, so the runner's time limit
 * is the check.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/wire/pace.h"

#define MIB        (UINT64_C(1) << 20)
#define NR_THREADS 4

typedef struct {
    FerryPace *pace;
    uint64_t take_bytes;
    uint64_t budget_bytes; /* shared, counts down */
    int nr_waiting;
    int nr_taken;
    int nr_refused;
} Shared;

static void assert_elapsed_s(int64_t start_us, double at_least_s)
{
    double elapsed_s = (double)(g_get_monotonic_time() - start_us) / G_USEC_PER_SEC;

    g_test_message("%.3f s, at least %.3f s expected", elapsed_s, at_least_s);
    g_assert_cmpfloat(elapsed_s, >=, at_least_s);
}

static void test_unlimited(void)
{
    g_autoptr(FerryPace) pace = ferry_pace_new();

    for (int i = 0; i < 1000; i++) {
        g_assert_true(ferry_pace_take(pace, UINT64_C(1) << 40));
    }
    /* Beyond any network is unlimited too. */
    ferry_pace_set_rate(pace, UINT64_MAX);
    for (int i = 0; i < 1000; i++) {
        g_assert_true(ferry_pace_take(pace, UINT64_C(1) << 40));
    }
    ferry_pace_free(NULL);
}

static void test_first_goes_at_once(void)
{
    g_autoptr(FerryPace) pace = ferry_pace_new();

    /* 2 MiB at one byte a second is 24 days, for whoever comes next. */
    ferry_pace_set_rate(pace, 1);
    g_assert_true(ferry_pace_take(pace, 2 * MIB));
    ferry_pace_interrupt(pace);
    g_assert_false(ferry_pace_take(pace, 1));
}

static void test_rate(void)
{
    g_autoptr(FerryPace) pace = ferry_pace_new();
    const uint64_t rate = 64 * MIB;
    const uint64_t total = 16 * MIB;
    int64_t start_us = g_get_monotonic_time();

    ferry_pace_set_rate(pace, rate);
    for (uint64_t sent = 0; sent < total; sent += 64 * 1024) {
        g_assert_true(ferry_pace_take(pace, 64 * 1024));
    }
    assert_elapsed_s(start_us, (double)(total - 64 * 1024) / (double)rate - 0.030);
}

/* Time spent idle must not be saved up beyond the allowed burst. */
static void test_idle_is_not_saved(void)
{
    g_autoptr(FerryPace) pace = ferry_pace_new();
    const uint64_t rate = 64 * MIB;
    int64_t start_us;

    ferry_pace_set_rate(pace, rate);
    g_usleep(300 * 1000);
    start_us = g_get_monotonic_time();
    for (int i = 0; i < 256; i++) {
        g_assert_true(ferry_pace_take(pace, 64 * 1024));
    }
    assert_elapsed_s(start_us, (double)(255 * 64 * 1024) / (double)rate - 0.030);
}

static void test_rate_changes(void)
{
    g_autoptr(FerryPace) pace = ferry_pace_new();
    int64_t start_us = g_get_monotonic_time();

    /* 2 MiB at each of three rates. */
    for (uint64_t rate = 32 * MIB; rate >= 8 * MIB; rate /= 2) {
        ferry_pace_set_rate(pace, rate);
        for (int i = 0; i < 32; i++) {
            g_assert_true(ferry_pace_take(pace, 64 * 1024));
        }
    }
    assert_elapsed_s(start_us, 2.0 / 32 + 2.0 / 16 + 2.0 / 8 - 0.030 - 1.0 / 16 / 8);
}

static gpointer drain_thread(gpointer opaque)
{
    Shared *shared = opaque;

    for (;;) {
        uint64_t left =
            __atomic_fetch_sub(&shared->budget_bytes, shared->take_bytes, __ATOMIC_RELAXED);

        if (left == 0 || left > UINT64_MAX / 2) {
            return NULL;
        }
        g_assert_true(ferry_pace_take(shared->pace, shared->take_bytes));
    }
}

static void test_shared(void)
{
    g_autoptr(FerryPace) pace = ferry_pace_new();
    const uint64_t rate = 64 * MIB;
    const uint64_t total = 16 * MIB;
    Shared shared = {.pace = pace, .take_bytes = 32 * 1024, .budget_bytes = total};
    GThread *threads[NR_THREADS];
    int64_t start_us = g_get_monotonic_time();

    ferry_pace_set_rate(pace, rate);
    for (int i = 0; i < NR_THREADS; i++) {
        threads[i] = g_thread_new("drain", drain_thread, &shared);
    }
    for (int i = 0; i < NR_THREADS; i++) {
        g_thread_join(threads[i]);
    }
    assert_elapsed_s(start_us, (double)(total - 32 * 1024) / (double)rate - 0.030);
}

static gpointer take_one_thread(gpointer opaque)
{
    Shared *shared = opaque;

    g_atomic_int_inc(&shared->nr_waiting);
    if (ferry_pace_take(shared->pace, shared->take_bytes)) {
        g_atomic_int_inc(&shared->nr_taken);
    } else {
        g_atomic_int_inc(&shared->nr_refused);
    }
    return NULL;
}

/* Threads that would wait for weeks, and most probably do wait by the time this returns. */
static void waiters_start(Shared *shared, GThread **threads)
{
    shared->take_bytes = 2 * MIB;
    ferry_pace_set_rate(shared->pace, 1);
    g_assert_true(ferry_pace_take(shared->pace, 2 * MIB));
    for (int i = 0; i < NR_THREADS; i++) {
        threads[i] = g_thread_new("waiter", take_one_thread, shared);
    }
    while (g_atomic_int_get(&shared->nr_waiting) < NR_THREADS) {
        g_thread_yield();
    }
    g_usleep(50 * 1000);
    g_assert_cmpint(g_atomic_int_get(&shared->nr_taken), ==, 0);
    g_assert_cmpint(g_atomic_int_get(&shared->nr_refused), ==, 0);
}

static void waiters_join(GThread **threads)
{
    for (int i = 0; i < NR_THREADS; i++) {
        g_thread_join(threads[i]);
    }
}

static void test_unlimited_wakes(void)
{
    g_autoptr(FerryPace) pace = ferry_pace_new();
    Shared shared = {.pace = pace};
    GThread *threads[NR_THREADS];

    waiters_start(&shared, threads);
    /* Back to a crawl before any waiter can have looked: they must be let go all the same. */
    ferry_pace_set_rate(pace, 0);
    ferry_pace_set_rate(pace, 1);
    waiters_join(threads);
    g_assert_cmpint(shared.nr_taken, ==, NR_THREADS);
}

static void test_raise_wakes(void)
{
    g_autoptr(FerryPace) pace = ferry_pace_new();
    Shared shared = {.pace = pace};
    GThread *threads[NR_THREADS];

    waiters_start(&shared, threads);
    ferry_pace_set_rate(pace, 256 * MIB);
    waiters_join(threads);
    g_assert_cmpint(shared.nr_taken, ==, NR_THREADS);
}

static void test_interrupt(void)
{
    g_autoptr(FerryPace) pace = ferry_pace_new();
    Shared shared = {.pace = pace};
    GThread *threads[NR_THREADS];

    waiters_start(&shared, threads);
    /* Resumed before any waiter can have looked: they must leave all the same. */
    ferry_pace_interrupt(pace);
    ferry_pace_resume(pace);
    waiters_join(threads);
    g_assert_cmpint(shared.nr_refused, ==, NR_THREADS);

    /* The claims of those that left are void. */
    g_assert_true(ferry_pace_take(pace, 2 * MIB));

    ferry_pace_interrupt(pace);
    ferry_pace_set_rate(pace, 0);
    g_assert_false(ferry_pace_take(pace, 1));
    ferry_pace_resume(pace);
    g_assert_true(ferry_pace_take(pace, 1));
}

/* Everything at once, for ThreadSanitizer's eyes and for lost wake-ups. */
static void test_storm(void)
{
    g_autoptr(FerryPace) pace = ferry_pace_new();
    Shared shared = {.pace = pace, .take_bytes = 64 * 1024, .budget_bytes = 64 * MIB};
    GThread *threads[NR_THREADS];

    ferry_pace_set_rate(pace, 1);
    for (int i = 0; i < NR_THREADS; i++) {
        threads[i] = g_thread_new("drain", drain_thread, &shared);
    }
    for (int i = 0; i < 200; i++) {
        ferry_pace_set_rate(pace, (uint64_t)g_test_rand_int_range(0, 64) * MIB);
        g_usleep((gulong)g_test_rand_int_range(0, 500));
    }
    ferry_pace_set_rate(pace, 0);
    waiters_join(threads);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pace/unlimited", test_unlimited);
    g_test_add_func("/pace/first-goes-at-once", test_first_goes_at_once);
    g_test_add_func("/pace/rate", test_rate);
    g_test_add_func("/pace/idle-is-not-saved", test_idle_is_not_saved);
    g_test_add_func("/pace/rate-changes", test_rate_changes);
    g_test_add_func("/pace/shared", test_shared);
    g_test_add_func("/pace/unlimited-wakes", test_unlimited_wakes);
    g_test_add_func("/pace/raise-wakes", test_raise_wakes);
    g_test_add_func("/pace/interrupt", test_interrupt);
    g_test_add_func("/pace/storm", test_storm);
    return g_test_run();
}
