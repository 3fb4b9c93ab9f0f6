/*
 * No file descriptor is left, at either end, at any moment: words, or QEMU's own path, and again.
 *
 * A QEMU under test is left so many descriptors, first none, then one more each time, until a migration
 * completes with them.  So each place that wants one has once been the first not to get it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <sys/resource.h>

#include "qobject/qdict.h"

#include "postcopy.h"

/* More than a migration needs. */
#define FDS_MAX 48

/* Longer than any limit on opening, and on a connection that is not taken. */
#define STUCK_MS 6000

/* Let it open @nr more; negative: as many as it likes. */
static void leave_fds(Vm *vm, int nr)
{
    struct rlimit limit = {.rlim_cur = 1024};

    g_assert_cmpint(prlimit(qtest_pid(vm->qts), RLIMIT_NOFILE, NULL, &limit), ==, 0);
    limit.rlim_cur = nr < 0 ? MIN(1024, limit.rlim_max) : 0;
    for (int left = nr; left >= 0; limit.rlim_cur++) {
        g_autofree char *path =
            g_strdup_printf("/proc/%d/fd/%u", qtest_pid(vm->qts), (unsigned)limit.rlim_cur);

        if (!g_file_test(path, G_FILE_TEST_IS_SYMLINK) && left-- == 0) {
            break;
        }
    }
    g_assert_cmpint(prlimit(qtest_pid(vm->qts), RLIMIT_NOFILE, &limit, NULL), ==, 0);
}

/* "completed", "failed", or "" when nothing has come of it in time; has it go over when it can. */
static char *wait_end(Run *run, bool postcopy, int64_t patience_ms)
{
    gint64 end_us = g_get_monotonic_time() + patience_ms * 1000;
    bool told = !postcopy;

    while (g_get_monotonic_time() < end_us) {
        g_autofree char *status = vm_migration_status(run->source);

        if (g_str_equal(status, "completed") || g_str_equal(status, "failed")) {
            return g_steal_pointer(&status);
        }
        if (!told && g_str_equal(status, "active")) {
            vm_do(run->source, "migrate-start-postcopy", NULL);
            told = true;
        }
        g_usleep(4000);
    }
    return g_strdup("");
}

/* A destination that has no migration behind it. */
static void renew_destination(Run *run, int nr)
{
    g_autofree char *name = g_strdup_printf("destination-%d", nr);

    if (!run->destination->gone) {
        vm_kill(run->destination);
    }
    run->destination = run_start_vm(run, g_steal_pointer(&name), true);
    run_settings(run, run->destination, true);
    run_listen(run);
}

/* Both anew, after a migration that has completed. */
static void renew(Run *run, int nr)
{
    g_autofree char *name = g_strdup_printf("source-%d", nr);
    const uint64_t size = run->memory->size;

    vm_kill(run->source);
    renew_destination(run, nr);
    run->source = run_start_vm(run, g_steal_pointer(&name), false);
    memory_free(run->memory);
    run->memory = memory_new(size);
    memory_fill(run->memory, run->source, 2 * MIB);
    run_settings(run, run->source, false);
}

static void expect_words(const char *text)
{
    if (!text || !strstr(text, "Too many open files")) {
        g_error("the reason is '%s'", text ? text : "");
    }
}

/* It is accepted, or refused in words. */
static bool ask_to_migrate(Run *run)
{
    QDict *answer = qtest_qmp(run->source->qts,
                              "{ 'execute': 'migrate', 'arguments': { 'uri': %s } }", run->uri);
    bool accepted = qdict_haskey(answer, "return");

    if (!accepted) {
        expect_words(qdict_get_str(qdict_get_qdict(answer, "error"), "desc"));
    }
    qobject_unref(answer);
    return accepted;
}

static void expect_guest_at_source(Run *run)
{
    vm_wait_run_state(run->source, "running");
    memory_check(run->memory, run->source);
}

/* Prints what came of it; returns whether all of it went through Ferry. */
static bool is_by_ferry(Run *run, int nr, const char *end)
{
    QDict *info = vm_command(run->source, "query-ferry", NULL);
    const char *reason = qdict_get_try_str(info, "reason");
    g_autofree char *error = vm_migration_error(run->source);
    const bool by_ferry = g_str_equal(end, "completed") && !reason;

    g_printerr("%d descriptors: %s; %s; %s\n", nr, *end ? end : "nothing",
               error ? error : "no error", reason ? reason : "Ferry is in use");
    qobject_unref(info);
    return by_ferry;
}

static void expect_all_there(Run *run)
{
    g_free(vm_wait_status(run->destination, "completed"));
    memory_check(run->memory, run->destination);
}

static bool goes_over(const Run *run)
{
    return strstr(run->c->capabilities ?: "", "postcopy-ram");
}

/* The source lacks them. */
static void starve_source(Run *run)
{
    bool done = false;

    for (int nr = 0; !done; nr++) {
        g_autofree char *end = NULL, *error = NULL;

        g_assert_cmpint(nr, <, FDS_MAX);
        leave_fds(run->source, nr);
        if (!ask_to_migrate(run)) {
            leave_fds(run->source, -1);
            expect_guest_at_source(run);
            continue;
        }
        end = wait_end(run, goes_over(run), VM_PATIENCE_S * 1000);
        leave_fds(run->source, -1);
        done = is_by_ferry(run, nr, end);
        if (g_str_equal(end, "completed")) {
            expect_all_there(run);
            if (!done) {
                renew(run, nr);
            }
            continue;
        }
        error = vm_migration_error(run->source);
        expect_words(error);
        expect_guest_at_source(run);
        renew_destination(run, nr);
    }
    vm_quit(run->source);
    vm_quit(run->destination);
    exit(0);
}

static uint64_t cpu_ms(Vm *vm)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", qtest_pid(vm->qts));
    g_autofree char *text = NULL;
    g_auto(GStrv) fields = NULL;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    fields = g_strsplit(strrchr(text, ')') + 2, " ", -1);
    return (g_ascii_strtoull(fields[11], NULL, 10) + g_ascii_strtoull(fields[12], NULL, 10)) *
           1000 / (uint64_t)sysconf(_SC_CLK_TCK);
}

/* It has a connection that it cannot take, and rests meanwhile. */
static void expect_rest(Vm *vm)
{
    uint64_t before = cpu_ms(vm);

    g_usleep(500 * 1000);
    g_assert_cmpuint(cpu_ms(vm) - before, <, 100);
}

/* The destination lacks them. */
static void starve_destination(Run *run)
{
    bool done = false;

    for (int nr = 0; !done; nr++) {
        g_autofree char *end = NULL, *log = NULL;

        g_assert_cmpint(nr, <, FDS_MAX);
        leave_fds(run->destination, nr);
        run_migrate(run);
        if (nr == 0) {
            g_usleep(100 * 1000);
            expect_rest(run->destination);
            leave_fds(run->destination, -1);
        }
        end = wait_end(run, goes_over(run), STUCK_MS);
        done = is_by_ferry(run, nr, end);
        if (!run->destination->gone && qtest_probe_child(run->destination->qts)) {
            leave_fds(run->destination, -1);
        }
        if (g_str_equal(end, "")) {
            /* A connection that could not be taken so far. */
            g_free(end);
            end = wait_end(run, goes_over(run), VM_PATIENCE_S * 1000);
        }
        if (g_str_equal(end, "completed")) {
            expect_all_there(run);
            done &= nr > 0;
            if (!done) {
                renew(run, nr);
            }
            continue;
        }
        g_assert_cmpstr(end, ==, "failed");
        expect_guest_at_source(run);
        log = vm_log(run->destination);
        expect_words(log);
        if (!qtest_probe_child(run->destination->qts)) {
            vm_expect_exit(run->destination, 1);
        }
        renew_destination(run, nr);
    }
    vm_quit(run->source);
    vm_quit(run->destination);
    exit(0);
}

static void prepare_psk(Run *run)
{
    g_autofree char *dir = in_dir("{dir}/tls");
    g_autofree char *file = in_dir("{dir}/tls/keys.psk");

    g_assert_cmpint(g_mkdir_with_parents(dir, 0700), ==, 0);
    g_assert_true(g_file_set_contents(
        file, "qemu:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n", -1, NULL));
}

#define PSK(endpoint) "-object tls-creds-psk,id=tls,dir={dir}/tls,endpoint=" endpoint

static const Case cases[] = {
    {
        .name = "descriptors/source",
        .before = starve_source,
    },
    {
        .name = "descriptors/source-postcopy",
        .capabilities = "postcopy-ram",
        .before = starve_source,
    },
    {
        .name = "descriptors/source-tls",
        .prepare = prepare_psk,
        .source_options = PSK("client"),
        .destination_options = PSK("server"),
        .parameters = "{ 'tls-creds': 'tls' }",
        .before = starve_source,
    },
    {
        .name = "descriptors/destination",
        .before = starve_destination,
    },
    {
        .name = "descriptors/destination-postcopy",
        .capabilities = "postcopy-ram",
        .before = starve_destination,
    },
};

void add_descriptor_cases(void)
{
    cases_add(cases, G_N_ELEMENTS(cases));
}
