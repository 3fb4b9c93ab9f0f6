/*
 * Which way a migration tracks what the guest writes: what it reports, and how it is chosen.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"

#include "case.h"

/* --- Reports --------------------------------------------------------------------------------- */

#define NO_KVM_HERE "KVM is not in use"

/* How much memory is armed at once. */
#define CHUNK_BYTES (32 * MIB)

/* How many chunks the guest's memory has, by QEMU's list of RAM blocks, which has two headings. */
static int64_t count_chunks(Vm *vm)
{
    g_autofree char *text = vm_hmp(vm, "info ramblock");
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    int64_t nr = 0;

    for (char **line = lines; *line; line++) {
        uint64_t used;

        if (sscanf(*line, " %*s %*s KiB 0x%*x 0x%" SCNx64, &used) == 1) {
            nr += (int64_t)DIV_ROUND_UP(used, CHUNK_BYTES);
        }
    }
    g_assert_cmpint(nr, >, 0);
    return nr;
}

/* Returns how many chunks were armed so far. */
static int64_t check_arm_times(QDict *info)
{
    QList *bars = qdict_get_qlist(info, "arm-times");
    int64_t longest = qdict_get_int(info, "longest-arm-time");
    int64_t below = 0, nr = 0;
    const QListEntry *entry;

    QLIST_FOREACH_ENTRY (bars, entry) {
        QDict *bar = qobject_to(QDict, qlist_entry_obj(entry));
        int64_t before = below;

        below = qdict_get_int(bar, "below");
        g_assert_cmpint(below, >, before);
        g_assert_cmpint(below & (below - 1), ==, 0);
        g_assert_cmpint(qdict_get_int(bar, "count"), >, 0);
        nr += qdict_get_int(bar, "count");
        if (!qlist_next(entry)) {
            g_assert_cmpint(longest, >=, before);
            g_assert_cmpint(longest, <, below);
        }
    }
    return nr;
}

static void check_source(Run *run)
{
    QDict *info = vm_command(run->source, "query-ferry", NULL);
    QDict *tracker = qdict_get_qdict(info, "tracker");
    int64_t nr_chunks = count_chunks(run->source);
    int64_t nr_armed = check_arm_times(info);
    g_autofree char *text = vm_hmp(run->source, "info ferry");

    g_assert_nonnull(tracker);
    /* What it was called before. */
    g_assert_true(qobject_is_equal(QOBJECT(tracker), qdict_get(info, "trace")));
    g_assert_cmpstr(qdict_get_str(tracker, "mode"), ==, "bitmap");
    g_assert_cmpstr(qdict_get_str(tracker, "reason"), ==, NO_KVM_HERE);
    g_assert_cmpuint(qdict_size(tracker), ==, 2);
    g_assert_cmpint(qdict_get_int(info, "deferred-pages"), >=, 0);
    /* Those that nobody has touched are not. */
    g_assert_cmpint(nr_armed, >=, 1);
    g_assert_cmpint(nr_armed, <=, nr_chunks);
    g_assert_nonnull(strstr(text, "tracker: bitmap (" NO_KVM_HERE ")"));
    g_assert_nonnull(strstr(text, "armed in less than "));
    qobject_unref(info);
}

static void check_destination(Run *run)
{
    QDict *info = vm_command(run->destination, "query-ferry", NULL);
    g_autofree char *text = vm_hmp(run->destination, "info ferry");

    g_assert_true(qdict_haskey(info, "phase"));
    g_assert_false(qdict_haskey(info, "tracker"));
    g_assert_null(strstr(text, "tracker:"));
    qobject_unref(info);
}

static void check_reports_during(Run *run)
{
    check_source(run);
    check_destination(run);
}

static void check_reports_after(Run *run)
{
    check_source(run);
    check_destination(run);
}

/* What was true of an earlier migration is not told of one that does not use Ferry. */
static void expect_no_tracker(Run *run)
{
    QDict *info = vm_command(run->source, "query-ferry", NULL);

    g_assert_false(qdict_haskey(info, "tracker"));
    g_assert_false(qdict_haskey(info, "arm-times"));
    qobject_unref(info);
}

/* --- Parameters ------------------------------------------------------------------------------ */

static void expect_parameter(Vm *vm, const char *tracker)
{
    QDict *parameters = vm_command(vm, "query-ferry-parameters", NULL);

    g_assert_cmpstr(qdict_get_str(parameters, "tracker"), ==, tracker);
    g_assert_cmpstr(qdict_get_str(parameters, "trace"), ==, tracker);
    g_assert_cmpint(qdict_get_int(parameters, "channels"), ==, 0);
    qobject_unref(parameters);
}

static void check_parameters(Run *run)
{
    static const char *const values[] = {"kvm-ring", "bitmap", "auto", "pagemap"};
    g_autofree char *error = NULL;

    expect_parameter(run->destination, "auto");
    expect_parameter(run->source, "pagemap");
    for (size_t i = 0; i < G_N_ELEMENTS(values); i++) {
        /* `trace` is what it was called before. */
        g_autofree char *arguments =
            g_strdup_printf("{ '%s': '%s' }", i % 2 ? "trace" : "tracker", values[i]);

        vm_do(run->source, "ferry-set-parameters", arguments);
        expect_parameter(run->source, values[i]);
    }
    vm_do(run->source, "ferry-set-parameters", "{}");
    error = vm_command_fails(run->source, "ferry-set-parameters",
                             "{ 'channels': 3, 'tracker': 'sideways' }");
    g_assert_nonnull(strstr(error, "'tracker' expects"));
    g_assert_nonnull(strstr(error, "kvm-ring"));
    expect_parameter(run->source, "pagemap");
}

/* A QEMU with this option ends at once, and says why. */
static void expect_no_start(const char *option, const char *const *words)
{
    const char *argv[] = {getenv("QTEST_QEMU_BINARY"),
                          "-nodefaults",
                          "-machine",
                          "none",
                          "-display",
                          "none",
                          "-global",
                          option,
                          NULL};
    g_autofree char *text = NULL;
    int status = 0;

    g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_STDOUT_TO_DEV_NULL, NULL, NULL,
                               NULL, &text, &status, NULL));
    g_assert_true(WIFEXITED(status));
    g_assert_cmpint(WEXITSTATUS(status), ==, 1);
    for (; *words; words++) {
        if (!strstr(text, *words)) {
            g_error("-global %s: '%s', without '%s'", option, text, *words);
        }
    }
}

static void check_command_line(Run *run)
{
    expect_no_start("ferry.tracker=sideways",
                    (const char *const[]){"ferry.tracker", "sideways", NULL});
    expect_parameter(run->source, "bitmap");
}

static const Case cases[] = {
    {
        /* Five chunks of RAM, and one for each of the smaller blocks. */
        .name = "tracker/report",
        .ram_mib = 160,
        .hold = HOLD_ROUNDS,
        .during = check_reports_during,
        .tracker = "bitmap",
        .tracker_reason = NO_KVM_HERE,
        .after = check_reports_after,
    },
    {
        .name = "tracker/parameters",
        .source_options = "-global ferry.tracker=pagemap",
        .before = check_parameters,
        .tracker = "pagemap",
        .tracker_reason = "ferry.tracker says so",
    },
    {
        .name = "tracker/command-line",
        .source_options = "-global ferry.trace=bitmap",
        .before = check_command_line,
        .tracker = "bitmap",
        .tracker_reason = "ferry.tracker says so",
    },
    {
        .name = "tracker/no-rings",
        .ferry_parameters = "{ 'tracker': 'kvm-ring' }",
        .fallback = "ferry.tracker is kvm-ring, but KVM's dirty rings are not in use",
        .after = expect_no_tracker,
    },
    {
        .name = "tracker/kvm-rings-off-but-wanted",
        .cannot = no_kvm,
        .options = "-accel kvm,dirty-ring-size=0",
        .paused = true,
        .ferry_parameters = "{ 'tracker': 'kvm-ring' }",
        .fallback = "ferry.tracker is kvm-ring, but KVM's dirty rings are not in use",
        .after = expect_no_tracker,
    },
};

void add_tracker_cases(void)
{
    cases_add(cases, G_N_ELEMENTS(cases));
}
