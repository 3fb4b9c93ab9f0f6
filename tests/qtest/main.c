/*
 * Ferry's tests with pairs of QEMUs, on libqtest: no guest code runs, memory is written and compared
 * from here.
 *
 * Each case runs in a process of its own, so that one that crashes or hangs takes no other with it;
 * QEMUs die with the process that started them. The case has a directory of its own, with what its
 * QEMUs wrote to their standard error; a case fails also when a sanitizer has written there.
 *
 * Environment: QTEST_QEMU_BINARY and QTEST_QEMU_IMG as for QEMU's own tests; FERRY_STOCK_QEMU names
 * Debian's own QEMU 10.0, or FERRY_ROOT the checkout whose scripts/fetch-stock knows.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <ftw.h>

#include "case.h"

/* A whole case, with both its migrations. */
#define CASE_SECONDS 100

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

/* Show a log of the case, all of it or what a sanitizer wrote. Returns whether there was any. */
static bool show_log(const char *path, bool only_sanitizer)
{
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    bool seen = !only_sanitizer;

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return false;
    }
    lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line; line++) {
        seen |= strstr(*line, "Sanitizer") || strstr(*line, "runtime error:");
        if (seen && **line) {
            g_test_message("%s: %s", strrchr(path, '/') + 1, *line);
        }
    }
    return seen;
}

static bool show_logs(const char *path, bool only_sanitizer)
{
    GDir *dir = g_dir_open(path, 0, NULL);
    const char *name;
    bool seen = false;

    while ((name = g_dir_read_name(dir))) {
        if (g_str_has_suffix(name, ".log")) {
            g_autofree char *log = g_build_filename(path, name, NULL);

            seen |= show_log(log, only_sanitizer);
        }
    }
    g_dir_close(dir);
    return seen;
}

/* A skip in the process of a case is nothing that its parent hears of. */
void case_skip(const char *reason)
{
    g_autofree char *path = in_dir("{dir}/skipped");

    g_assert_true(g_file_set_contents(path, reason, -1, NULL));
}

static void show_skip(const char *dir)
{
    g_autofree char *path = g_build_filename(dir, "skipped", NULL);
    g_autofree char *reason = NULL;

    if (g_file_get_contents(path, &reason, NULL, NULL)) {
        g_test_skip(reason);
    }
}

static void run(gconstpointer data)
{
    const Case *c = data;
    const char *reason;
    g_autofree char *dir = NULL;
    gint64 began = g_get_monotonic_time();

    if (g_test_subprocess()) {
        case_run(c);
        return;
    }
    reason = c->cannot ? c->cannot() : NULL;
    if (reason) {
        g_test_skip(reason);
        return;
    }
    dir = g_dir_make_tmp("ferry-qtest-XXXXXX", NULL);
    g_assert_nonnull(dir);
    g_setenv("FERRY_TEST_DIR", dir, TRUE);
    g_test_trap_subprocess(NULL, CASE_SECONDS * G_USEC_PER_SEC, G_TEST_SUBPROCESS_INHERIT_STDERR);
    if (g_test_trap_reached_timeout()) {
        g_test_message("took longer than %d s", CASE_SECONDS);
        g_test_fail();
    } else if (!g_test_trap_has_passed()) {
        g_test_fail();
    }
    if (g_test_failed()) {
        show_logs(dir, false);
    } else if (show_logs(dir, true)) {
        g_test_fail();
    } else {
        show_skip(dir);
    }
    g_test_message("%s took %.1f s", c->name,
                   (double)(g_get_monotonic_time() - began) / G_USEC_PER_SEC);
    nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

void cases_add(const Case *cases, size_t nr_cases)
{
    for (size_t i = 0; i < nr_cases; i++) {
        g_autofree char *path = g_strdup_printf("/ferry/%s", cases[i].name);

        g_test_add_data_func(path, &cases[i], run);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add_transport_cases();
    add_phase_cases();
    add_postcopy_cases();
    add_recovery_cases();
    add_blocked_cases();
    add_refusal_cases();
    add_fallback_cases();
    add_handshake_cases();
    add_network_cases();
    add_opening_cases();
    add_parameter_cases();
    add_reason_cases();
    add_report_cases();
    add_descriptor_cases();
    add_device_cases();
    add_ending_cases();
    add_kind_cases();
    add_marks_cases();
    add_storm_cases();
    add_story_cases();
    add_stranger_cases();
    add_tls_cases();
    add_tracker_cases();
    add_write_cases();
    add_ring_cases();
    return g_test_run();
}
