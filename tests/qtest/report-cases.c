/*
 * What management sees: events, queries, parameters, the human monitor.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "qobject/qnum.h"

#include "postcopy.h"

/* --- Events ---------------------------------------------------------------------------------- */

/* Where an event stands among all of them; it must be there, once. */
static guint place_of(Vm *vm, const char *event)
{
    guint found = G_MAXUINT;

    for (guint i = 0; i < vm->events->len; i++) {
        if (g_str_equal(g_ptr_array_index(vm->events, i), event)) {
            g_assert_cmpuint(found, ==, G_MAXUINT);
            found = i;
        }
    }
    if (found == G_MAXUINT) {
        g_error("%s: no event %s", vm->name, event);
    }
    return found;
}

static void check_events(Run *run)
{
    static const char *const order[] = {"MIGRATION setup", "MIGRATION active", "STOP",
                                        "MIGRATION device", "MIGRATION completed"};
    Vm *source = run->source;
    unsigned last_pass = 0;

    vm_wait_event(source, "MIGRATION completed");
    for (size_t i = 1; i < G_N_ELEMENTS(order); i++) {
        g_assert_cmpuint(place_of(source, order[i - 1]), <, place_of(source, order[i]));
    }
    for (guint i = 0; i < source->events->len; i++) {
        unsigned pass;

        if (sscanf(g_ptr_array_index(source->events, i), "MIGRATION_PASS %u", &pass) == 1) {
            g_assert_cmpuint(pass, >, last_pass);
            g_assert_cmpuint(i, >, place_of(source, "MIGRATION active"));
            g_assert_cmpuint(i, <, place_of(source, "MIGRATION completed"));
            last_pass = pass;
        }
    }
    /* The pass over all of memory, and at least one round. */
    g_assert_cmpuint(last_pass, >=, 2);
    g_assert_cmpuint(vm_count_events(source, "RESUME"), ==, 0);

    g_assert_cmpuint(place_of(run->destination, "MIGRATION active"), <,
                     place_of(run->destination, "MIGRATION completed"));
    g_assert_cmpuint(vm_count_events(run->destination, "RESUME"), ==, 1);
}

/* --- query-migrate --------------------------------------------------------------------------- */

static int64_t ram_number(QDict *info, const char *member)
{
    return qdict_get_int(qdict_get_qdict(info, "ram"), member);
}

static void expect_growth(QDict *now, QDict *before, const char *member)
{
    if (before) {
        g_assert_cmpint(ram_number(now, member), >=, ram_number(before, member));
    }
}

/* It runs at 4 MiB/s for a second: each look must show more than the one before. */
static void watch_numbers(Run *run)
{
    QDict *before = NULL;
    int64_t start;

    vm_set_bandwidth(run->source, 4 * MIB);
    for (int i = 0; i < 20; i++) {
        QDict *now = vm_command(run->source, "query-migrate", NULL);

        g_assert_cmpstr(qdict_get_str(now, "status"), ==, "active");
        expect_growth(now, before, "transferred");
        expect_growth(now, before, "normal");
        expect_growth(now, before, "duplicate");
        expect_growth(now, before, "dirty-sync-count");
        g_assert_cmpint(ram_number(now, "remaining"), >, 0);
        g_assert_cmpint(ram_number(now, "remaining"), <=, ram_number(now, "total"));
        g_assert_cmpint(ram_number(now, "normal-bytes"), ==, ram_number(now, "normal") * 4096);
        g_assert_cmpint(ram_number(now, "page-size"), ==, 4096);
        g_assert_cmpint(ram_number(now, "dirty-sync-count"), >=, 1);
        if (!before) {
            start = ram_number(now, "transferred");
        } else {
            g_assert_cmpint(ram_number(now, "total"), ==, ram_number(before, "total"));
        }
        qobject_unref(before);
        before = now;
        g_usleep(50 * 1000);
    }
    g_assert_cmpint(ram_number(before, "transferred"), >, start + (int64_t)MIB);
    qobject_unref(before);
}

static void check_numbers(Run *run)
{
    QDict *info = vm_command(run->source, "query-migrate", NULL);
    QDict *ram = qdict_get_qdict(info, "ram");

    g_assert_cmpint(ram_number(info, "remaining"), ==, 0);
    g_assert_cmpint(ram_number(info, "dirty-sync-count"), >=, 2);
    g_assert_cmpint(ram_number(info, "total"), >=, run->memory->size);
    g_assert_cmpint(ram_number(info, "transferred"), >=, ram_number(info, "normal-bytes"));
    g_assert_cmpint(ram_number(info, "normal") + ram_number(info, "duplicate"), >,
                    5 * (int64_t)MIB / 4096);
    g_assert_cmpfloat(qnum_get_double(qobject_to(QNum, qdict_get(ram, "mbps"))), >, 1.0);
    g_assert_cmpint(qdict_get_int(info, "total-time"), >, qdict_get_int(info, "setup-time"));
    g_assert_cmpint(qdict_get_int(info, "total-time"), >, qdict_get_int(info, "downtime"));
    g_assert_cmpint(qdict_get_int(info, "total-time"), >, 1000);
    qobject_unref(info);
}

/* Twice in different places: what is sent in two seconds is what the limit allows, and a burst. */
static void check_bandwidth(Run *run)
{
    QDict *info = vm_command(run->source, "query-migrate", NULL);
    gint64 began = g_get_monotonic_time();
    int64_t sent = ram_number(info, "transferred");
    double seconds;

    qobject_unref(info);
    vm_set_bandwidth(run->source, 2 * MIB);
    g_usleep(1500 * 1000);
    info = vm_command(run->source, "query-migrate", NULL);
    seconds = (double)(g_get_monotonic_time() - began) / G_USEC_PER_SEC;
    sent = ram_number(info, "transferred") - sent;
    g_assert_cmpfloat((double)sent, <, seconds * 2 * MIB + 1.5 * MIB);
    g_assert_cmpint(sent, >, MIB);
    qobject_unref(info);
}

/* --- query-ferry ----------------------------------------------------------------------------- */

static void check_ferry_numbers(Run *run, Vm *vm)
{
    QDict *info = vm_command(vm, "query-ferry", NULL);
    QList *channels = qdict_get_qlist(info, "channels");
    QDict *blackout = qdict_get_qdict(info, "blackout");
    const QListEntry *entry;
    uint64_t bytes = 0;
    int number = -1;

    g_assert_cmpstr(qdict_get_str(info, "phase"), ==, "done");
    g_assert_cmpint(qdict_get_int(info, "total"), >=, run->memory->size);
    g_assert_cmpint(qdict_get_int(info, "remaining"), ==, 0);
    g_assert_cmpint(qdict_get_int(info, "normal-pages"), >, 5 * (int64_t)MIB / 4096);
    g_assert_cmpint(qdict_get_int(info, "elapsed-time"), >, 0);
    QLIST_FOREACH_ENTRY (channels, entry) {
        QDict *channel = qobject_to(QDict, qlist_entry_obj(entry));
        g_autofree char *name =
            number < 0 ? g_strdup("control") : g_strdup_printf("data %d", number);

        g_assert_cmpstr(qdict_get_str(channel, "name"), ==, name);
        g_assert_cmpint(qdict_get_int(channel, "bytes"), >, 0);
        bytes += qdict_get_int(channel, "bytes");
        number++;
    }
    g_assert_cmpint(number, ==, 3);
    g_assert_cmpuint(qdict_get_int(info, "transferred"), ==, bytes);
    g_assert_nonnull(blackout);
    g_assert_cmpint(qdict_get_int(blackout, "memory"), >, 0);
    g_assert_cmpint(qdict_get_int(blackout, "device-state"), >=, qdict_get_int(blackout, "memory"));
    g_assert_cmpint(qdict_get_int(blackout, "running"), >=,
                    qdict_get_int(blackout, "device-state"));
    qobject_unref(info);
}

static void check_ferry(Run *run)
{
    QDict *source = vm_command(run->source, "query-ferry", NULL);
    QDict *destination = vm_command(run->destination, "query-ferry", NULL);
    int64_t total_pages = qdict_get_int(source, "total") / 4096;
    QList *rounds = qdict_get_qlist(source, "rounds");
    const QListEntry *entry;
    int64_t pages = 0, zero_pages = 0;
    unsigned number = 0;

    check_ferry_numbers(run, run->source);
    check_ferry_numbers(run, run->destination);
    g_assert_cmpint(qdict_get_int(source, "normal-pages"), ==,
                    qdict_get_int(destination, "normal-pages"));
    g_assert_cmpint(qdict_get_int(source, "zero-pages"), ==,
                    qdict_get_int(destination, "zero-pages"));
    g_assert_cmpint(qdict_get_int(source, "total"), ==, qdict_get_int(destination, "total"));
    /* Most of it was never touched; no page gets lost from the account. */
    g_assert_cmpint(qdict_get_int(source, "skipped-pages"), >, total_pages / 10);
    g_assert_cmpint(qdict_get_int(source, "normal-pages") + qdict_get_int(source, "zero-pages") +
                        qdict_get_int(source, "skipped-pages"),
                    >=, total_pages);

    g_assert_cmpuint(qlist_size(rounds), >=, 3);
    QLIST_FOREACH_ENTRY (rounds, entry) {
        QDict *round = qobject_to(QDict, qlist_entry_obj(entry));

        if (number++ == 0) {
            g_assert_cmpint(qdict_get_int(round, "dirty-pages"), ==, 0);
        }
        pages += qdict_get_int(round, "pages");
        zero_pages += qdict_get_int(round, "zero-pages");
    }
    g_assert_cmpint(pages, ==, qdict_get_int(source, "normal-pages"));
    g_assert_cmpint(zero_pages, ==, qdict_get_int(source, "zero-pages"));
    g_assert_cmpuint(qlist_size(qdict_get_qlist(destination, "rounds")), ==, 0);
    qobject_unref(source);
    qobject_unref(destination);
}

static void expect_nothing_yet(Run *run)
{
    Vm *both[] = {run->source, run->destination};

    for (size_t i = 0; i < G_N_ELEMENTS(both); i++) {
        QDict *info = vm_command(both[i], "query-ferry", NULL);

        g_assert_false(qdict_get_bool(info, "active"));
        /* And which Ferry this is. */
        g_assert_nonnull(qdict_get_try_str(info, "release"));
        g_assert_cmpuint(qdict_size(info), ==, 2);
        qobject_unref(info);
    }
}

static void expect_active(Run *run)
{
    QDict *info = vm_command(run->source, "query-ferry", NULL);

    g_assert_true(qdict_get_bool(info, "active"));
    g_assert_cmpint(qdict_get_int(info, "remaining"), >, 0);
    g_assert_false(qdict_haskey(info, "reason"));
    g_assert_false(qdict_haskey(info, "blackout"));
    qobject_unref(info);
    info = vm_command(run->destination, "query-ferry", NULL);
    g_assert_true(qdict_get_bool(info, "active"));
    qobject_unref(info);
}

/* --- The human monitor ----------------------------------------------------------------------- */

static void expect_text(Vm *vm, const char *line, const char *const *words)
{
    g_autofree char *text = vm_hmp(vm, line);

    for (; *words; words++) {
        if (!strstr(text, *words)) {
            g_error("%s: '%s' does not show '%s' but:\n%s", vm->name, line, *words, text);
        }
    }
}

#define EXPECT_TEXT(vm, line, ...) expect_text(vm, line, (const char *const[]){__VA_ARGS__, NULL})

static void check_hmp_before(Run *run)
{
    EXPECT_TEXT(run->source, "info ferry", "active: no");
    EXPECT_TEXT(run->destination, "info ferry", "active: no");
}

static void check_hmp_during(Run *run)
{
    EXPECT_TEXT(run->source, "info ferry", "active: yes", "phase: copy", "channel data 0:");
    EXPECT_TEXT(run->source, "info migrate", "active", "remaining ram:");
    EXPECT_TEXT(run->destination, "info ferry", "active: yes", "channel control:");
}

static void check_hmp_after(Run *run)
{
    EXPECT_TEXT(run->source, "info ferry", "active: no", "phase: done", "round 1:", "blackout:");
    EXPECT_TEXT(run->source, "info migrate", "completed", "downtime:", "duplicate:");
    EXPECT_TEXT(run->destination, "info ferry", "active: no", "phase: done", "blackout:");
}

/* --- Rounds and leaks ------------------------------------------------------------------------ */

/* Without any blackout allowed it is still not all of memory that goes in it. */
static void check_short_blackout(Run *run)
{
    QDict *info = vm_command(run->source, "query-ferry", NULL);
    QList *rounds = qdict_get_qlist(info, "rounds");
    QListEntry *last = QTAILQ_LAST(&rounds->head);

    g_assert_cmpint(qdict_get_int(qobject_to(QDict, last->value), "pages"), <, 64);
    qobject_unref(info);
}

static void migrate_back_and_forth(Run *run)
{
    static const char *const names[] = {"second", "third", "fourth", "fifth"};

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        run_turn(run, names[i]);
        memory_scribble(run->memory, run->source, MIB);
        run_migrate(run);
        run_expect_completion(run);
    }
}

/* One attempt that ends badly: cancelled, or with a destination that dies. */
static void fail_once(Run *run, unsigned number, bool cancel)
{
    g_autofree char *name = g_strdup_printf("victim-%u", number);
    Vm *vm = run_start_vm(run, name, true);

    run->destination = vm;
    run_settings(run, vm, true);
    run_listen(run);
    run_migrate(run);
    vm_wait_ferry_phase(run->source, "copy");
    if (cancel) {
        vm_do(run->source, "migrate_cancel", NULL);
        g_free(vm_wait_status(run->source, "cancelled"));
        vm_expect_exit(vm, 1);
    } else {
        vm_kill(vm);
        g_free(vm_wait_status(run->source, "failed"));
    }
}

static void fail_ten_times(Run *run)
{
    Vm *destination = run->destination;
    g_autofree char *uri = g_strdup(run->uri);
    unsigned nr_before = 0;

    vm_set_bandwidth(run->source, 256 << 10);
    for (unsigned i = 0; i < 11; i++) {
        fail_once(run, i, i % 2);
        /* The first one may leave something behind that is kept for the next. */
        if (i == 0) {
            g_usleep(100 * 1000);
            nr_before = vm_count_fds(run->source);
        }
    }
    g_usleep(100 * 1000);
    g_assert_cmpuint(vm_count_fds(run->source), ==, nr_before);
    run->destination = destination;
    g_free(run->uri);
    run->uri = g_steal_pointer(&uri);
}

/* --- What is known at which side ----------------------------------------------------------------- */

/* Each of @names is there, or none; they are separated by spaces. */
static void expect_members(QDict *dict, const char *names, bool there)
{
    g_auto(GStrv) list = g_strsplit(names, " ", -1);

    for (char **name = list; *name; name++) {
        if (qdict_haskey(dict, *name) != there) {
            g_error("'%s' is %s", *name, there ? "missing" : "there");
        }
    }
}

#define OF_THE_SOURCE      "skipped-pages deferred-pages arm-times longest-arm-time tracker"
#define OF_THE_DESTINATION "zero-faults placed-pages duplicate-pages count"
#define OF_FAULTS          "p50 p90 p99 p999 max"

static void expect_members_in_rounds(Run *run)
{
    QDict *source = vm_command(run->source, "query-ferry", NULL);
    QDict *destination = vm_command(run->destination, "query-ferry", NULL);

    expect_members(source, OF_THE_SOURCE " remaining", true);
    expect_members(destination, OF_THE_SOURCE " remaining blackout fetch", false);
    g_assert_cmpstr(qdict_get_str(destination, "phase"), ==, "rounds");
    qobject_unref(source);
    qobject_unref(destination);
}

static void expect_members_after(Run *run)
{
    QDict *destination = vm_command(run->destination, "query-ferry", NULL);
    int64_t elapsed = qdict_get_int(destination, "elapsed-time");

    expect_members(destination, "remaining blackout", true);
    expect_members(destination, OF_THE_SOURCE, false);
    qobject_unref(destination);
    /* It is over. */
    g_usleep(50 * 1000);
    destination = vm_command(run->destination, "query-ferry", NULL);
    g_assert_cmpint(qdict_get_int(destination, "elapsed-time"), ==, elapsed);
    qobject_unref(destination);
}

static void expect_members_in_fetch(Run *run)
{
    QDict *source, *destination;

    postcopy_go_over_slowly(run);
    source = vm_command(run->source, "query-ferry", NULL);
    expect_members(qdict_get_qdict(source, "fetch"), OF_THE_DESTINATION " " OF_FAULTS, false);
    qobject_unref(source);
    memory_scribble(run->memory, run->destination, MIB / 4);
    source = vm_command(run->source, "query-ferry", NULL);
    destination = vm_command(run->destination, "query-ferry", NULL);
    expect_members(qdict_get_qdict(source, "fetch"), OF_THE_DESTINATION " " OF_FAULTS, false);
    expect_members(qdict_get_qdict(destination, "fetch"), OF_THE_DESTINATION " " OF_FAULTS, true);
    expect_members(destination, "remaining", true);
    g_assert_cmpint(qdict_get_int(qdict_get_qdict(destination, "fetch"), "max"), >, 0);
    qobject_unref(source);
    qobject_unref(destination);
}

static const Case cases[] = {
    {
        .name = "report/events",
        .hold = HOLD_ROUNDS,
        .after = check_events,
    },
    {
        .name = "report/query-migrate",
        .during = watch_numbers,
        .after = check_numbers,
    },
    {
        .name = "report/query-ferry",
        .before = expect_nothing_yet,
        .ferry_parameters = "{ 'channels': 3 }",
        .during = expect_active,
        .hold = HOLD_ROUNDS,
        .channels = 3,
        .after = check_ferry,
    },
    {
        .name = "report/members-precopy",
        .hold = HOLD_ROUNDS,
        .during = expect_members_in_rounds,
        .after = expect_members_after,
    },
    {
        .name = "report/members-postcopy",
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = expect_members_in_fetch,
    },
    {
        .name = "report/hmp",
        .before = check_hmp_before,
        .during = check_hmp_during,
        .after = check_hmp_after,
    },
    {
        .name = "settings/max-bandwidth",
        .during = check_bandwidth,
    },
    {
        .name = "settings/no-downtime",
        .parameters = "{ 'downtime-limit': 0 }",
        .after = check_short_blackout,
    },
    {
        .name = "settings/return-path",
        .capabilities = "return-path",
    },
    {
        .name = "settings/switchover-ack",
        .capabilities = "return-path switchover-ack",
    },
    {
        .name = "again/back-and-forth",
        .hold = HOLD_NOT,
        .after = migrate_back_and_forth,
    },
    {
        .name = "again/after-many-failures",
        .before = fail_ten_times,
    },
};

void add_report_cases(void)
{
    cases_add(cases, G_N_ELEMENTS(cases));
}
