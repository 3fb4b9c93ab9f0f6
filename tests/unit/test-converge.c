/*
 * Decisions about rounds and throttling.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <glib.h>

#include "migration/source/converge.h"

#define MIB (UINT64_C(1) << 20)

/* How many harvests below the limit it takes to switch, with the given pages left each time. */
static unsigned rounds_until_switch(const uint64_t *pending, unsigned nr, uint64_t limit)
{
    FerryConverge converge = {0};

    for (unsigned i = 0; i < nr; i++) {
        ferry_converge_note(&converge, pending[i], limit);
        if (pending[i] <= limit && !ferry_converge_wants_round(&converge, pending[i])) {
            return i + 1;
        }
    }
    return 0;
}

static void test_small_rest_switches_at_once(void)
{
    const uint64_t pending[] = {FERRY_CONVERGE_SMALL_BYTES};

    g_assert_cmpuint(rounds_until_switch(pending, 1, 100 * MIB), ==, 1);
}

static void test_goes_on_while_it_gains(void)
{
    const uint64_t pending[] = {80 * MIB, 40 * MIB, 20 * MIB, 10 * MIB, 0};

    g_assert_cmpuint(rounds_until_switch(pending, 5, 100 * MIB), ==, 5);
}

static void test_gives_up_without_gain(void)
{
    const uint64_t pending[] = {80 * MIB, 79 * MIB, 81 * MIB, 80 * MIB};

    g_assert_cmpuint(rounds_until_switch(pending, 4, 100 * MIB), ==, 1 + FERRY_CONVERGE_PATIENCE);
}

static void test_over_the_limit_does_not_count(void)
{
    const uint64_t pending[] = {500 * MIB, 400 * MIB, 400 * MIB, 90 * MIB, 90 * MIB, 90 * MIB};

    g_assert_cmpuint(rounds_until_switch(pending, 6, 100 * MIB), ==, 6);
}

static void test_never_forever(void)
{
    uint64_t pending[FERRY_CONVERGE_ROUNDS_MAX + 1];

    for (unsigned i = 0; i < G_N_ELEMENTS(pending); i++) {
        pending[i] = (UINT64_C(1) << 40) >> i;
    }
    g_assert_cmpuint(rounds_until_switch(pending, G_N_ELEMENTS(pending), UINT64_MAX), ==,
                     FERRY_CONVERGE_ROUNDS_MAX);
}

static void test_throttle(void)
{
    const FerryThrottleParams params = {
        .trigger_percent = 50, .initial_percent = 20, .increment_percent = 10, .max_percent = 95};
    FerryThrottle throttle = {0};
    unsigned percent = 0;

    /* A round within the threshold changes nothing; the first bad one is forgiven. */
    g_assert_cmpuint(ferry_throttle_next(&throttle, &params, 1000, 500, 0), ==, 0);
    g_assert_cmpuint(ferry_throttle_next(&throttle, &params, 1000, 900, 0), ==, 0);
    percent = ferry_throttle_next(&throttle, &params, 1000, 900, 0);
    g_assert_cmpuint(percent, ==, 20);
    for (int i = 0; i < 40; i++) {
        unsigned next = ferry_throttle_next(&throttle, &params, 1000, 900, percent);

        percent = next ? next : percent;
    }
    g_assert_cmpuint(percent, ==, 95);
}

static void test_throttle_tailslow(void)
{
    const FerryThrottleParams params = {.trigger_percent = 50,
                                        .initial_percent = 20,
                                        .increment_percent = 10,
                                        .max_percent = 99,
                                        .tailslow = true};
    FerryThrottle throttle = {.nr_bad = 1};

    /* Just over the threshold: a small step does. */
    g_assert_cmpuint(ferry_throttle_next(&throttle, &params, 1000, 510, 50), ==, 51);
    /* Far over it: no more than the increment. */
    throttle.nr_bad = 1;
    g_assert_cmpuint(ferry_throttle_next(&throttle, &params, 1000, 5000, 50), ==, 60);
}

static void test_wire_cost(void)
{
    const uint64_t mib = 1024 * 1024;
    FerryWireCost cost = {0};

    /* Nothing is known: each byte counts. */
    g_assert_cmpuint(ferry_wire_cost_of(&cost, 10 * mib), ==, 10 * mib);
    /* Too few pages say nothing. */
    ferry_wire_cost_note(&cost, FERRY_WIRE_COST_LEAST_BYTES - 4096, 100);
    g_assert_cmpuint(ferry_wire_cost_of(&cost, 10 * mib), ==, 10 * mib);
    ferry_wire_cost_note(&cost, 8 * mib, 2 * mib);
    g_assert_cmpuint(ferry_wire_cost_of(&cost, 10 * mib), ==, 10 * mib / 4);
    /* Headers and beats cost nothing that pages could be said to. */
    ferry_wire_cost_note(&cost, 100 * mib, 101 * mib);
    g_assert_cmpuint(ferry_wire_cost_of(&cost, 104 * mib), ==, 101 * mib);
    /* Later rounds count more, and it is never less than a part. */
    for (unsigned i = 0; i < 40; i++) {
        ferry_wire_cost_note(&cost, 100 * mib, 0);
    }
    g_assert_cmpuint(ferry_wire_cost_of(&cost, 2560 * mib), <=, 11 * mib);
    g_assert_cmpuint(ferry_wire_cost_of(&cost, 2560 * mib), >=, 10 * mib);
    /* Nothing is nothing, and something is something. */
    g_assert_cmpuint(ferry_wire_cost_of(&cost, 0), ==, 0);
    g_assert_cmpuint(ferry_wire_cost_of(&cost, 1), ==, 1);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/converge/small-rest-switches-at-once", test_small_rest_switches_at_once);
    g_test_add_func("/converge/goes-on-while-it-gains", test_goes_on_while_it_gains);
    g_test_add_func("/converge/gives-up-without-gain", test_gives_up_without_gain);
    g_test_add_func("/converge/over-the-limit-does-not-count", test_over_the_limit_does_not_count);
    g_test_add_func("/converge/never-forever", test_never_forever);
    g_test_add_func("/converge/throttle", test_throttle);
    g_test_add_func("/converge/throttle-tailslow", test_throttle_tailslow);
    g_test_add_func("/converge/wire-cost", test_wire_cost);
    return g_test_run();
}
