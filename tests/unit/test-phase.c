/*
 * The source's phases: which may follow which, and what each means.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <glib.h>

#include "migration/source/phase.h"

/* All that may happen, by name: whoever changes the table changes its meaning. */
static const char *const allowed[] = {
    "opening copying",      "opening failed",      "opening cancelled",   "copying rounds",
    "copying drafted",      "copying stopped",     "copying failed",      "copying cancelled",
    "rounds copying",       "rounds drafted",      "rounds stopped",      "rounds failed",
    "rounds cancelled",     "drafted copying",     "drafted rounds",      "drafted stopped",
    "drafted failed",       "drafted cancelled",   "stopped handed-off",  "stopped failed",
    "stopped cancelled",    "handed-off released", "handed-off fetching", "handed-off failed",
    "handed-off cancelled", "released in-doubt",   "released done",       "fetching paused",
    "fetching done",        "paused resuming",     "paused done",         "resuming fetching",
    "resuming paused",
};

static bool is_allowed(FerrySourcePhase from, FerrySourcePhase to)
{
    g_autofree char *both =
        g_strdup_printf("%s %s", ferry_source_phase_name(from), ferry_source_phase_name(to));

    for (size_t i = 0; i < G_N_ELEMENTS(allowed); i++) {
        if (g_str_equal(both, allowed[i])) {
            return true;
        }
    }
    return false;
}

static void test_transitions(void)
{
    size_t nr = 0;

    for (unsigned from = 0; from < FERRY_SOURCE_PHASES; from++) {
        for (unsigned to = 0; to < FERRY_SOURCE_PHASES; to++) {
            bool may = ferry_source_phase_may_follow(from, to);

            if (may != is_allowed(from, to)) {
                g_error("%s to %s: %s", ferry_source_phase_name(from), ferry_source_phase_name(to),
                        may ? "allowed" : "refused");
            }
            nr += may;
        }
    }
    g_assert_cmpuint(nr, ==, G_N_ELEMENTS(allowed));
}

/* Once the destination was told to run, no way leads to a phase in which this side may. */
static void test_gone_for_good(void)
{
    for (unsigned from = 0; from < FERRY_SOURCE_PHASES; from++) {
        for (unsigned to = 0; to < FERRY_SOURCE_PHASES; to++) {
            if (ferry_source_phase_is_gone(from) && ferry_source_phase_may_follow(from, to)) {
                g_assert_true(ferry_source_phase_is_gone(to));
            }
        }
    }
    g_assert_false(ferry_source_phase_is_gone(FERRY_SOURCE_HANDED_OFF));
    g_assert_true(ferry_source_phase_is_gone(FERRY_SOURCE_FETCHING));
    g_assert_false(ferry_source_phase_is_gone(FERRY_SOURCE_FAILED));
}

static void test_reports(void)
{
    g_assert_cmpint(ferry_source_phase_report(FERRY_SOURCE_OPENING), ==, FERRY_SESSION_CONNECT);
    g_assert_cmpint(ferry_source_phase_report(FERRY_SOURCE_DRAFTED), ==, FERRY_SESSION_ROUNDS);
    g_assert_cmpint(ferry_source_phase_report(FERRY_SOURCE_STOPPED), ==, FERRY_SESSION_HAND_OFF);
    g_assert_cmpint(ferry_source_phase_report(FERRY_SOURCE_RESUMING), ==, FERRY_SESSION_PAUSED);
    g_assert_cmpint(ferry_source_phase_report(FERRY_SOURCE_CANCELLED), ==, FERRY_SESSION_FAILED);
    g_assert_cmpint(ferry_source_phase_report(FERRY_SOURCE_IN_DOUBT), ==, FERRY_SESSION_IN_DOUBT);
    g_assert_true(ferry_source_phase_is_over(FERRY_SOURCE_DONE));
    g_assert_false(ferry_source_phase_is_over(FERRY_SOURCE_PAUSED));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/phase/transitions", test_transitions);
    g_test_add_func("/phase/gone-for-good", test_gone_for_good);
    g_test_add_func("/phase/reports", test_reports);
    return g_test_run();
}
