/*
 * Running a case: see case.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"

#include "case.h"

/* Holds a migration for as long as a test can take. */
#define SLOW_BYTES   (512u << 10)
/* Gets through the first pass soon, yet not so fast that there is nothing left to write to. */
#define STEADY_BYTES (16u << 20)

#define FILLED_BYTES   (6 * MIB)
#define SCRIBBLE_BYTES (3 * MIB)

/* The machine has little else than memory, so that it starts fast. */
#define MACHINE "-machine pc-q35-10.0%s -nodefaults"

static uint64_t ram_bytes(const Case *c)
{
    return (c->ram_mib ? c->ram_mib : 32) * MIB;
}

static bool ferry_expected(const Run *run)
{
    return !run->c->fallback && !run->c->destination_fallback && run->c->peers == OURS;
}

Vm *run_start_vm(Run *run, const char *name, bool incoming)
{
    const Case *c = run->c;
    const char *side = !incoming     ? c->source_options
                       : run->second ? c->second_options
                                     : c->destination_options;
    bool stock = c->peers == (incoming ? STOCK_DESTINATION : STOCK_SOURCE);
    bool paused = incoming ? c->destination_paused : c->paused;
    g_autoptr(GString) options = g_string_new(NULL);

    g_string_printf(options, MACHINE,
                    strstr(c->ram ? c->ram : "", "id=ram") ? ",memory-backend=ram" : "");
    g_string_append_printf(options, " -m %" PRIu64 "M", ram_bytes(c) / MIB);
    if (c->ram) {
        g_string_append_printf(options, " %s", c->ram);
    }
    if (c->options) {
        g_string_append_printf(options, " %s", c->options);
    }
    if (side) {
        g_string_append_printf(options, " %s", side);
    }
    if (paused) {
        g_string_append(options, " -S");
    }
    if (incoming) {
        g_string_append(options, " -incoming defer");
    }
    return vm_start(name, stock, options->str);
}

static void set_parameters(Vm *vm, const char *json)
{
    if (json) {
        vm_do(vm, "migrate-set-parameters", json);
    }
}

void run_settings(Run *run, Vm *vm, bool incoming)
{
    const Case *c = run->c;

    vm_set_capabilities(vm, c->capabilities);
    vm_set_capabilities(vm, incoming ? c->destination_capabilities : c->source_capabilities);
    if (!incoming && (c->hold == HOLD_PRE_SWITCHOVER || c->hold == HOLD_HAND_OFF)) {
        vm_set_capabilities(vm,
                            run->second ? "no-pause-before-switchover" : "pause-before-switchover");
    }
    set_parameters(vm, c->parameters);
    set_parameters(vm, incoming ? c->destination_parameters : c->source_parameters);
    if (run->second) {
        vm_set_capabilities(vm, c->second_capabilities);
        set_parameters(vm, incoming ? c->second_destination_parameters : c->second_parameters);
    }
    if (!incoming && c->ferry_parameters) {
        vm_do(vm, "ferry-set-parameters", c->ferry_parameters);
    }
}

/* Where the destination says that it listens. */
char *run_listening_uri(Vm *vm)
{
    QDict *info = vm_command(vm, "query-migrate", NULL);
    QList *addresses = qdict_get_qlist(info, "socket-address");
    QDict *address;
    char *uri;

    g_assert_nonnull(addresses);
    address = qobject_to(QDict, qlist_peek(addresses));
    g_assert_cmpstr(qdict_get_str(address, "type"), ==, "inet");
    uri = g_strdup_printf(strchr(qdict_get_str(address, "host"), ':') ? "tcp:[%s]:%s" : "tcp:%s:%s",
                          qdict_get_str(address, "host"), qdict_get_str(address, "port"));
    qobject_unref(info);
    return uri;
}

void run_listen(Run *run)
{
    const char *listen = run->c->uri ? run->c->uri : "tcp:127.0.0.1:0";
    g_autofree char *arguments = g_strdup_printf(
        "{ 'uri': '%s'%s }", listen, run->c->destination_stays ? ", 'exit-on-error': false" : "");

    vm_do(run->destination, "migrate-incoming", arguments);
    g_free(run->uri);
    run->uri =
        g_str_has_suffix(listen, ":0") ? run_listening_uri(run->destination) : g_strdup(listen);
}

void run_migrate(Run *run)
{
    const Case *c = run->c;
    g_autofree char *arguments = g_strdup_printf("{ 'uri': '%s' }", c->source_uri ? c->source_uri
                                                                    : c->stored   ? c->uri
                                                                                  : run->uri);

    vm_do(run->source, "migrate", arguments);
}

static void start_destination(Run *run, const char *name)
{
    run->destination = run_start_vm(run, name, true);
    run_settings(run, run->destination, true);
    if (!run->c->stored && !run->c->no_listen) {
        run_listen(run);
    }
}

const char *no_kvm(void)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    if (fd < 0) {
        return "/dev/kvm cannot be used here";
    }
    close(fd);
    return NULL;
}

/* --- Holding it ------------------------------------------------------------------------------ */

static uint64_t transferred(Vm *vm)
{
    QDict *info = vm_command(vm, "query-migrate", NULL);
    QDict *ram = qdict_get_qdict(info, "ram");
    uint64_t nr = ram ? qdict_get_int(ram, "transferred") : 0;

    qobject_unref(info);
    return nr;
}

/* Memory has begun to move, by whichever path. */
static void wait_copy(Run *run)
{
    gint64 deadline = g_get_monotonic_time() + VM_PATIENCE_S * G_USEC_PER_SEC;

    if (ferry_expected(run)) {
        vm_wait_ferry_phase(run->source, "copy");
    }
    g_free(vm_wait_status(run->source, "active"));
    while (transferred(run->source) < 64 * 1024) {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
        g_usleep(2000);
    }
}

/* What was written after the hand-off is no part of the guest. */
static void too_busy(const char *now)
{
    g_error("the migration went on to '%s': is this machine too busy to hold it?", now);
}

/* By QEMU's own path, too. */
static void expect_held(Run *run)
{
    g_autofree char *status = vm_migration_status(run->source);

    if (g_str_equal(status, "completed")) {
        too_busy(status);
    }
}

static void wait_rounds(Run *run)
{
    g_autofree char *now = NULL;

    vm_set_bandwidth(run->source, STEADY_BYTES);
    for (;;) {
        g_autofree char *phase = vm_ferry_phase(run->source);

        /* Never let it run out of pages. */
        memory_scribble(run->memory, run->source, 2 * MIB);
        if (g_str_equal(phase, "rounds")) {
            break;
        }
        g_assert_cmpstr(phase, ==, "copy");
    }
    vm_set_bandwidth(run->source, SLOW_BYTES);
    memory_scribble(run->memory, run->source, SCRIBBLE_BYTES);
    now = vm_ferry_phase(run->source);
    if (!g_str_equal(now, "rounds")) {
        too_busy(now);
    }
}

static void hold_before(Run *run)
{
    if (run->c->proxy || run->c->hold == HOLD_CHANNELS) {
        g_autofree char *target = g_steal_pointer(&run->uri);

        run->proxy = proxy_new(target);
        run->uri = proxy_uri(run->proxy);
        proxy_limit(run->proxy, run->c->hold == HOLD_CHANNELS ? 1 : UINT_MAX);
    }
    if (run->c->hold == HOLD_NOT) {
        return;
    }
    /* Less than a page fits downtime-limit: nothing but a clean memory ends the rounds. */
    set_parameters(run->source, "{ 'avail-switchover-bandwidth': 4096 }");
    vm_set_bandwidth(run->source, SLOW_BYTES);
    if (run->c->hold == HOLD_CONNECT) {
        vm_freeze(run->destination);
    }
}

static void hold(Run *run)
{
    switch (run->c->hold) {
    case HOLD_NOT:
        return;
    case HOLD_CONNECT:
        g_free(vm_wait_status(run->source, "setup active"));
        /* Long enough for the source to connect and ask, and wait for an answer. */
        g_usleep(100 * 1000);
        return;
    case HOLD_CHANNELS:
        proxy_wait_connections(run->proxy, 2);
        vm_wait_ferry_phase(run->source, "connect");
        return;
    case HOLD_COPY:
        wait_copy(run);
        memory_scribble(run->memory, run->source, SCRIBBLE_BYTES);
        expect_held(run);
        return;
    case HOLD_ROUNDS:
        wait_copy(run);
        memory_scribble(run->memory, run->source, SCRIBBLE_BYTES);
        wait_rounds(run);
        return;
    case HOLD_PRE_SWITCHOVER:
    case HOLD_HAND_OFF:
        wait_copy(run);
        memory_scribble(run->memory, run->source, SCRIBBLE_BYTES);
        if (run->c->postcopy) {
            /* While pages are missing: a memory that is clean goes over in pre-copy. */
            vm_do(run->source, "migrate-start-postcopy", NULL);
        }
        vm_set_bandwidth(run->source, 0);
        g_free(vm_wait_status(run->source, "pre-switchover"));
        /* Devices may write until the last moment. */
        memory_scribble(run->memory, run->source, SCRIBBLE_BYTES);
        if (run->c->hold == HOLD_HAND_OFF) {
            vm_freeze(run->destination);
            /* No answer yet: QEMU's main lock is held while the rest is sent. */
            qtest_qmp_send(run->source->qts, "{ 'execute': 'migrate-continue',"
                                             "  'arguments': { 'state': 'pre-switchover' } }");
            run->answer_due = true;
            g_usleep(300 * 1000);
        }
        return;
    }
}

/* The destination answers again, or is gone: now the source does. */
static void take_answer(Run *run)
{
    if (run->answer_due) {
        QDict *response = qtest_qmp_receive(run->source->qts);

        g_assert_true(qdict_haskey(response, "return"));
        qobject_unref(response);
        run->answer_due = false;
    }
}

void run_release(Run *run)
{
    vm_thaw(run->destination);
    take_answer(run);
    set_parameters(run->source, "{ 'avail-switchover-bandwidth': 0, 'max-bandwidth': 0, "
                                "'max-postcopy-bandwidth': 0 }");
    if (run->proxy) {
        proxy_limit(run->proxy, UINT_MAX);
    }
    if (run->c->hold == HOLD_PRE_SWITCHOVER && !run->second) {
        vm_do(run->source, "migrate-continue", "{ 'state': 'pre-switchover' }");
    }
}

/* --- What comes of it ------------------------------------------------------------------------ */

static void check_reason(Vm *vm, const char *reason)
{
    QDict *info = vm_command(vm, "query-ferry", NULL);
    const char *text = qdict_get_try_str(info, "reason");

    g_assert_cmpuint(strlen(reason), >, 0);
    if (!text || !strstr(text, reason)) {
        g_error("%s: query-ferry gives as the reason '%s', not '%s'", vm->name, text ? text : "",
                reason);
    }
    g_assert_false(qdict_haskey(info, "phase"));
    g_assert_false(qdict_get_bool(info, "active"));
    qobject_unref(info);
}

static void check_used(Run *run, Vm *vm)
{
    QDict *info = vm_command(vm, "query-ferry", NULL);
    const char *reason = qdict_get_try_str(info, "reason");
    size_t nr_data = 0;

    if (reason || !qdict_haskey(info, "phase")) {
        g_error("%s: Ferry is not in use: %s", vm->name, reason ? reason : "no reason given");
    }
    g_assert_cmpint(qdict_get_int(info, "version"), ==, 4);
    for (const QListEntry *e = qlist_first(qdict_get_qlist(info, "channels")); e;
         e = qlist_next(e)) {
        const char *name = qdict_get_str(qobject_to(QDict, qlist_entry_obj(e)), "name");

        nr_data += g_str_has_prefix(name, "data ");
    }
    if (!run->c->postcopy || vm == run->source) {
        g_assert_cmpuint(nr_data, >=, 1);
    }
    if (run->c->channels && nr_data) {
        g_assert_cmpuint(nr_data, ==, run->c->channels);
    }
    g_assert_cmpint(qdict_haskey(info, "fetch"), ==, run->c->postcopy);
    qobject_unref(info);
}

static void check_tracker(Run *run)
{
    QDict *info = vm_command(run->source, "query-ferry", NULL);
    QDict *tracker = qdict_get_qdict(info, "tracker");
    const char *reason = qdict_get_str(tracker, "reason");

    g_assert_cmpstr(qdict_get_str(tracker, "mode"), ==, run->c->tracker);
    if (!strstr(reason, run->c->tracker_reason)) {
        g_error("the tracker is %s because '%s', not '%s'", run->c->tracker, reason,
                run->c->tracker_reason);
    }
    qobject_unref(info);
}

void run_check_ferry(Run *run)
{
    const Case *c = run->c;

    if (c->peers != STOCK_SOURCE) {
        if (c->fallback) {
            check_reason(run->source, c->fallback);
        } else {
            check_used(run, run->source);
        }
        if (c->tracker) {
            check_tracker(run);
        }
    }
    if (c->peers != STOCK_DESTINATION) {
        if (c->destination_fallback) {
            check_reason(run->destination, c->destination_fallback);
        } else if (!c->fallback) {
            check_used(run, run->destination);
        }
    }
}

void run_expect_completion(Run *run)
{
    const Case *c = run->c;
    g_autofree char *state = NULL;

    g_free(vm_wait_status(run->source, "completed"));
    g_free(vm_wait_status(run->destination, "completed"));
    if (!c->paused && !c->destination_paused) {
        vm_wait_event(run->destination, "RESUME");
    }
    state = vm_run_state(run->destination);
    g_assert_cmpstr(state, ==,
                    c->paused               ? "prelaunch"
                    : c->destination_paused ? "paused"
                                            : "running");
    run_check_ferry(run);
    if (c->guest_writes) {
        memory_take(run->memory, run->source);
    }
    memory_check(run->memory, run->destination);
}

void run_check_comparison(Run *run)
{
    uint64_t address = run->memory->size - 12345;

    qtest_writeb(run->destination->qts, address, run->memory->bytes[address] ^ 0x10);
    g_assert_cmpuint(memory_count_differences(run->memory, run->destination), ==, 1);
    qtest_writeb(run->destination->qts, address, run->memory->bytes[address]);
}

void run_second(Run *run)
{
    /* The migration has failed a moment before. */
    vm_wait_run_state(run->source, run->c->paused ? "prelaunch" : "running");
    memory_check(run->memory, run->source);
    run->second = true;
    run_settings(run, run->source, false);
    start_destination(run, "second-destination");
    memory_scribble(run->memory, run->source, MIB / 2);
    run_release(run);
    run_migrate(run);
    run_expect_completion(run);
}

void run_turn(Run *run, const char *name)
{
    vm_quit(run->source);
    run->source = run->destination;
    run_settings(run, run->source, false);
    start_destination(run, name);
}

/* Whether @text has one of the case's words for it. */
static bool is_expected(const Case *c, const char *text)
{
    g_auto(GStrv) words = g_strsplit(c->error, "|", -1);
    bool expected = false;

    for (char **word = words; *word; word++) {
        g_assert_cmpuint(strlen(*word), >, 0);
        expected |= text && strstr(text, *word);
    }
    return expected;
}

static void expect_failure(Run *run)
{
    const Case *c = run->c;
    g_autofree char *error = NULL;

    g_free(vm_wait_status(run->source, "failed"));
    error = vm_migration_error(run->source);
    if (!is_expected(c, error)) {
        g_error("error-desc is '%s', without '%s'", error ? error : "", c->error);
    }
    g_printerr("error-desc: %s\n", error);
    if (c->destination_stays) {
        vm_quit(run->destination);
    } else if (!run->destination->gone) {
        vm_expect_exit(run->destination, 1);
    }
    if (c->destination_log) {
        g_autofree char *log = vm_log(run->destination);

        if (!strstr(log, c->destination_log)) {
            g_error("the destination does not log '%s' but:\n%s", c->destination_log, log);
        }
    }
}

static void cancel(Run *run)
{
    gint64 began = g_get_monotonic_time();

    vm_do(run->source, "migrate_cancel", NULL);
    g_free(vm_wait_status(run->source, "cancelled"));
    g_assert_cmpint(g_get_monotonic_time() - began, <, 5 * G_USEC_PER_SEC);
    vm_expect_exit(run->destination, 1);
}

static void finish(Run *run)
{
    const Case *c = run->c;

    switch (c->then) {
    case THEN_GO_ON:
        run_release(run);
        break;
    case THEN_CANCEL:
        cancel(run);
        run_second(run);
        return;
    case THEN_KILL_DESTINATION:
        vm_kill(run->destination);
        if (run->proxy) {
            proxy_cut(run->proxy);
        }
        if (c->hold == HOLD_PRE_SWITCHOVER) {
            /* Whoever asked for the pause ends it, as always. */
            vm_do(run->source, "migrate-continue", "{ 'state': 'pre-switchover' }");
        }
        break;
    case THEN_KILL_SOURCE:
        vm_kill(run->source);
        vm_expect_exit(run->destination, 1);
        return;
    case THEN_CUT:
        proxy_cut(run->proxy);
        break;
    }
    take_answer(run);
    if (c->outcome == FAILS || c->then == THEN_KILL_DESTINATION || c->then == THEN_CUT) {
        expect_failure(run);
        run_second(run);
    } else {
        run_expect_completion(run);
    }
}

static void run_refused(Run *run)
{
    g_autofree char *arguments =
        g_strdup_printf("{ 'uri': '%s' }", run->c->source_uri ? run->c->source_uri : run->uri);
    g_autofree char *error = vm_command_fails(run->source, "migrate", arguments);

    if (!is_expected(run->c, error)) {
        g_error("migrate fails with '%s', without '%s'", error, run->c->error);
    }
    vm_quit(run->destination);
    run_second(run);
}

static void run_stored(Run *run)
{
    g_free(vm_wait_status(run->source, "completed"));
    start_destination(run, "destination");
    run_listen(run);
    run_expect_completion(run);
}

void case_run(const Case *c)
{
    Run run = {.c = c, .memory = memory_new(ram_bytes(c))};

    if (c->storm) {
        run.memory->others_start = STORM_START;
        run.memory->others_end = STORM_START + STORM_BYTES;
    }
    if (c->prepare) {
        c->prepare(&run);
    }
    if (!c->stored) {
        start_destination(&run, "destination");
    }
    run.source = run_start_vm(&run, "source", false);
    memory_fill(run.memory, run.source, FILLED_BYTES);
    run_settings(&run, run.source, false);
    if (c->before) {
        c->before(&run);
    }
    if (c->outcome == IS_REFUSED) {
        run_refused(&run);
    } else if (c->stored) {
        run_migrate(&run);
        run_stored(&run);
    } else {
        hold_before(&run);
        run_migrate(&run);
        hold(&run);
        if (c->during) {
            c->during(&run);
        }
        finish(&run);
    }
    if (c->then != THEN_KILL_SOURCE) {
        if (c->after) {
            c->after(&run);
        }
        vm_quit(run.source);
        vm_quit(run.destination);
    }
    memory_free(run.memory);
    g_free(run.uri);
}
