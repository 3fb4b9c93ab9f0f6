/*
 * One QEMU under test: see vm.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <sys/wait.h>
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "qobject/qlist.h"
#include "qapi/error.h"

#include "vm.h"

#define POLL_US 4000

/*
 * All there ever were: a QEMU that a test has killed cannot be handed back to libqtest, which takes
 * its death for a failure.
 */
static GPtrArray *all;

static char *replace(const char *text, const char *what, const char *with)
{
    g_auto(GStrv) parts = g_strsplit(text, what, -1);

    return g_strjoinv(with, parts);
}

static int64_t count_huge_pages(const char *what)
{
    g_autofree char *path =
        g_strdup_printf("/sys/kernel/mm/hugepages/hugepages-2048kB/%s_hugepages", what);
    g_autofree char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) ? atoll(text) : -1;
}

const char *no_huge_pages(void)
{
    int64_t nr_free = count_huge_pages("free");

    if (nr_free < 0) {
        return "this kernel has no huge pages of 2 MiB";
    }
    return nr_free - count_huge_pages("resv") < 48
               ? "fewer than 48 huge pages of 2 MiB are free (tests/lib/resources.py)"
               : NULL;
}

char *in_dir(const char *text)
{
    return replace(text, "{dir}", g_getenv("FERRY_TEST_DIR"));
}

static bool take_event(QTestState *qts, const char *name, QDict *event, void *opaque)
{
    Vm *vm = opaque;
    QDict *data = qdict_get_qdict(event, "data");

    if (strcmp(name, "MIGRATION") == 0) {
        g_ptr_array_add(vm->events, g_strdup_printf("%s %s", name, qdict_get_str(data, "status")));
    } else if (strcmp(name, "MIGRATION_PASS") == 0) {
        g_ptr_array_add(vm->events,
                        g_strdup_printf("%s %" PRId64, name, qdict_get_int(data, "pass")));
    } else {
        g_ptr_array_add(vm->events, g_strdup(name));
    }
    return true;
}

Vm *vm_start(const char *name, bool stock, const char *options)
{
    Vm *vm = g_new0(Vm, 1);
    g_autofree char *raw = NULL;
    g_autofree char *text = NULL;
    g_autofree char *args = NULL;
    g_autoptr(QList) capabilities = qlist_new();

    if (!all) {
        all = g_ptr_array_new();
    }
    g_ptr_array_add(all, vm);
    vm->name = name;
    vm->stock = stock;
    vm->events = g_ptr_array_new_with_free_func(g_free);
    raw = g_strdup_printf("-name {vm} %s 2>{dir}/{vm}.log", options);
    text = replace(raw, "{vm}", name);
    args = in_dir(text);
    qlist_append_str(capabilities, "oob");
    vm->qts = qtest_init_with_env_and_capabilities(stock ? "FERRY_STOCK_QEMU" : NULL, args,
                                                   capabilities, true);
    qtest_qmp_set_event_callback(vm->qts, take_event, vm);
    vm_set_capabilities(vm, "events");
    return vm;
}

void vm_quit(Vm *vm)
{
    g_assert_false(vm->gone);
    vm_thaw(vm);
    vm->gone = true;
    qtest_quit(vm->qts);
}

void vm_freeze(Vm *vm)
{
    g_assert_cmpint(kill(qtest_pid(vm->qts), SIGSTOP), ==, 0);
    vm->stopped = true;
}

void vm_thaw(Vm *vm)
{
    if (vm->stopped) {
        g_assert_cmpint(kill(qtest_pid(vm->qts), SIGCONT), ==, 0);
        vm->stopped = false;
    }
}

void vm_kill(Vm *vm)
{
    pid_t pid = qtest_pid(vm->qts);

    g_assert_false(vm->gone);
    g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
    g_assert_cmpint(RETRY_ON_EINTR(waitpid(pid, NULL, 0)), ==, pid);
    vm->gone = true;
    qtest_remove_abrt_handler(vm->qts);
}

void vm_expect_exit(Vm *vm, int status)
{
    gint64 deadline = g_get_monotonic_time() + VM_PATIENCE_S * G_USEC_PER_SEC;

    vm_thaw(vm);
    while (qtest_probe_child(vm->qts)) {
        if (g_get_monotonic_time() > deadline) {
            g_error("%s should have ended, but has not", vm->name);
        }
        g_usleep(POLL_US);
    }
    vm->gone = true;
    qtest_set_expected_status(vm->qts, status);
    qtest_quit(vm->qts);
}

char *vm_log(const Vm *vm)
{
    g_autofree char *name = g_strdup_printf("{dir}/%s.log", vm->name);
    g_autofree char *path = in_dir(name);
    char *text;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    return text;
}

static QDict *converse(Vm *vm, const char *command, const char *arguments)
{
    g_autofree char *text = in_dir(arguments ? arguments : "{}");
    QObject *object = qobject_from_json(text, &error_abort);

    return qtest_qmp(vm->qts, "{ 'execute': %s, 'arguments': %p }", command, object);
}

QDict *vm_command(Vm *vm, const char *command, const char *arguments)
{
    QDict *response = converse(vm, command, arguments);
    QDict *result;

    if (qdict_haskey(response, "error")) {
        g_error("%s: %s %s fails: %s", vm->name, command, arguments ? arguments : "",
                qdict_get_str(qdict_get_qdict(response, "error"), "desc"));
    }
    result = qdict_get_qdict(response, "return");
    if (result) {
        qobject_ref(result);
    }
    qobject_unref(response);
    return result;
}

void vm_do(Vm *vm, const char *command, const char *arguments)
{
    qobject_unref(vm_command(vm, command, arguments));
}

char *vm_command_fails(Vm *vm, const char *command, const char *arguments)
{
    QDict *response = converse(vm, command, arguments);
    char *text;

    if (!qdict_haskey(response, "error")) {
        g_error("%s: %s %s should fail, but does not", vm->name, command, arguments);
    }
    text = g_strdup(qdict_get_str(qdict_get_qdict(response, "error"), "desc"));
    qobject_unref(response);
    return text;
}

char *vm_hmp(Vm *vm, const char *line)
{
    return qtest_hmp(vm->qts, "%s", line);
}

void vm_pass_fd(Vm *vm, int fd, const char *name)
{
    QDict *response = qtest_qmp_fds(vm->qts, &fd, 1,
                                    "{ 'execute': 'getfd', 'arguments': { 'fdname': %s } }", name);

    g_assert_true(qdict_haskey(response, "return"));
    qobject_unref(response);
}

/* A member of what a query returns, or @otherwise. */
static char *query_text(Vm *vm, const char *query, const char *member, const char *otherwise)
{
    QDict *result = vm_command(vm, query, NULL);
    const char *text = qdict_get_try_str(result, member);
    char *copy = g_strdup(text ? text : otherwise);

    qobject_unref(result);
    return copy;
}

char *vm_run_state(Vm *vm)
{
    return query_text(vm, "query-status", "status", NULL);
}

void vm_wait_run_state(Vm *vm, const char *state)
{
    gint64 end_us = g_get_monotonic_time() + VM_PATIENCE_S * G_USEC_PER_SEC;

    for (;;) {
        g_autofree char *now = vm_run_state(vm);

        if (g_str_equal(now, state)) {
            return;
        }
        if (g_get_monotonic_time() > end_us) {
            g_error("%s is %s, not %s", vm->name, now, state);
        }
        g_usleep(10000);
    }
}

char *vm_migration_status(Vm *vm)
{
    return query_text(vm, "query-migrate", "status", "none");
}

char *vm_migration_error(Vm *vm)
{
    return query_text(vm, "query-migrate", "error-desc", NULL);
}

char *vm_ferry_phase(Vm *vm)
{
    return vm->stock ? g_strdup("none") : query_text(vm, "query-ferry", "phase", "none");
}

char *vm_wait_status(Vm *vm, const char *statuses)
{
    g_auto(GStrv) wanted = g_strsplit(statuses, " ", -1);
    gint64 deadline = g_get_monotonic_time() + VM_PATIENCE_S * G_USEC_PER_SEC;

    for (;;) {
        g_autofree char *status = vm_migration_status(vm);

        if (g_strv_contains((const char *const *)wanted, status)) {
            return g_steal_pointer(&status);
        }
        if (g_get_monotonic_time() > deadline || g_str_equal(status, "failed") ||
            g_str_equal(status, "completed") || g_str_equal(status, "cancelled")) {
            g_autofree char *error = vm_migration_error(vm);

            g_error("%s: the migration is %s, not %s (%s)", vm->name, status, statuses,
                    error ? error : "no error");
        }
        g_usleep(POLL_US);
    }
}

void vm_wait_ferry_phase(Vm *vm, const char *wanted)
{
    gint64 deadline = g_get_monotonic_time() + VM_PATIENCE_S * G_USEC_PER_SEC;

    for (;;) {
        g_autofree char *phase = vm_ferry_phase(vm);
        g_autofree char *status = NULL;

        if (g_str_equal(phase, wanted)) {
            return;
        }
        status = vm_migration_status(vm);
        if (g_get_monotonic_time() > deadline || g_str_equal(status, "failed") ||
            g_str_equal(status, "completed") || g_str_equal(status, "cancelled")) {
            g_error("%s: Ferry's phase is %s (migration %s), not %s", vm->name, phase, status,
                    wanted);
        }
        g_usleep(POLL_US);
    }
}

void vm_set_capabilities(Vm *vm, const char *names)
{
    g_auto(GStrv) list = g_strsplit(names ? names : "", " ", -1);
    QList *capabilities = qlist_new();
    QDict *response;

    for (char **name = list; *name; name++) {
        bool off = g_str_has_prefix(*name, "no-");
        QDict *capability;

        if (**name == '\0') {
            continue;
        }
        capability = qdict_new();
        qdict_put_str(capability, "capability", off ? *name + 3 : *name);
        qdict_put_bool(capability, "state", !off);
        qlist_append(capabilities, capability);
    }
    response = qtest_qmp(vm->qts,
                         "{ 'execute': 'migrate-set-capabilities',"
                         "  'arguments': { 'capabilities': %p } }",
                         capabilities);
    if (qdict_haskey(response, "error")) {
        g_error("%s: capabilities %s: %s", vm->name, names,
                qdict_get_str(qdict_get_qdict(response, "error"), "desc"));
    }
    qobject_unref(response);
}

void vm_write_pci(Vm *vm, unsigned slot, unsigned offset, uint32_t value)
{
    qtest_outl(vm->qts, 0xcf8, 0x80000000 | slot << 11 | offset);
    qtest_outl(vm->qts, 0xcfc, value);
}

void vm_set_bandwidth(Vm *vm, uint64_t bytes)
{
    g_autofree char *text = g_strdup_printf("{ 'max-bandwidth': %" PRIu64 " }", bytes);

    vm_do(vm, "migrate-set-parameters", text);
}

unsigned vm_count_events(Vm *vm, const char *event)
{
    unsigned nr = 0;

    /* Events that have come but were not read yet come before an answer. */
    g_free(vm_run_state(vm));
    for (guint i = 0; i < vm->events->len; i++) {
        nr += g_str_equal(g_ptr_array_index(vm->events, i), event);
    }
    return nr;
}

void vm_wait_event(Vm *vm, const char *event)
{
    gint64 deadline = g_get_monotonic_time() + VM_PATIENCE_S * G_USEC_PER_SEC;

    while (vm_count_events(vm, event) == 0) {
        if (g_get_monotonic_time() > deadline) {
            g_error("%s: event %s does not come", vm->name, event);
        }
        g_usleep(POLL_US);
    }
}

unsigned vm_count_fds(const Vm *vm)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fd", qtest_pid(vm->qts));
    GDir *dir = g_dir_open(path, 0, NULL);
    unsigned nr = 0;

    g_assert_nonnull(dir);
    while (g_dir_read_name(dir)) {
        nr++;
    }
    g_dir_close(dir);
    return nr;
}
