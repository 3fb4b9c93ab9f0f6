/*
 * How an incoming migration ends that does not go well, and what can be done with the QEMU after that.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"

#include "postcopy.h"

/* How often an ending is tried that is a matter of two threads. */
#define TURNS 8

/* Threads have names that say what they do. */
#define NAMED "-name vm,debug-threads=on"

/* Whether it has a thread of this name. */
static bool has_thread(const Vm *vm, const char *name)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/task", qtest_pid(vm->qts));
    GDir *dir = g_dir_open(path, 0, NULL);
    const char *entry;
    bool found = false;

    g_assert_nonnull(dir);
    while ((entry = g_dir_read_name(dir))) {
        g_autofree char *file = g_strdup_printf("%s/%s/comm", path, entry);
        g_autofree char *text = NULL;

        if (g_file_get_contents(file, &text, NULL, NULL)) {
            found |= g_str_equal(g_strchomp(text), name);
        }
    }
    g_dir_close(dir);
    return found;
}

/* --- Abandoned -------------------------------------------------------------------------------- */

static void save_to_file(Vm *vm, const char *file)
{
    g_autofree char *arguments = g_strdup_printf("{ 'uri': 'file:{dir}/%s' }", file);

    vm_do(vm, "migrate", arguments);
    g_free(vm_wait_status(vm, "completed"));
}

/* "snapshot-save" and "snapshot-load", each a job. */
static void run_snapshot_job(Vm *vm, const char *command)
{
    g_autofree char *arguments = g_strdup_printf(
        "{ 'job-id': '%s', 'tag': 'kept', 'vmstate': 'disk', 'devices': ['disk'] }", command);
    gint64 deadline = g_get_monotonic_time() + VM_PATIENCE_S * G_USEC_PER_SEC;
    bool concluded = false;

    vm_do(vm, command, arguments);
    while (!concluded) {
        QDict *answer = qtest_qmp(vm->qts, "{ 'execute': 'query-jobs' }");
        QDict *job = qobject_to(QDict, qlist_peek(qdict_get_qlist(answer, "return")));

        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
        concluded = g_str_equal(qdict_get_str(job, "status"), "concluded");
        if (concluded && qdict_haskey(job, "error")) {
            g_error("%s: %s", command, qdict_get_str(job, "error"));
        }
        qobject_unref(answer);
        g_usleep(10 * 1000);
    }
    g_free(arguments);
    arguments = g_strdup_printf("{ 'id': '%s' }", command);
    vm_do(vm, "job-dismiss", arguments);
}

/* Nothing is left of the migration: this QEMU can do what any other can whose guest is stopped. */
static void abandon_and_use(Run *run)
{
    Vm *vm = run->destination;
    QDict *info;

    postcopy_lose_source(run);
    g_assert_true(has_thread(vm, "mig/dst/listen"));
    vm_do(vm, "ferry-abandon", NULL);
    g_free(vm_wait_status(vm, "failed"));
    g_assert_false(has_thread(vm, "mig/dst/listen"));
    run_snapshot_job(vm, "snapshot-save");
    vm_do(vm, "dump-guest-memory", "{ 'paging': false, 'protocol': 'file:{dir}/dump' }");
    run_snapshot_job(vm, "snapshot-load");
    save_to_file(vm, "saved");
    info = vm_command(vm, "query-ferry", NULL);
    g_assert_false(qdict_get_bool(info, "active"));
    qobject_unref(info);
    vm_quit(vm);
    exit(0);
}

/* From the moment on in which it says that it has failed. */
static void abandon_and_save_at_once(Run *run)
{
    Vm *vm = run->destination;

    postcopy_lose_source(run);
    vm_do(vm, "ferry-abandon", NULL);
    g_free(vm_wait_status(vm, "failed"));
    save_to_file(vm, "saved");
    vm_quit(vm);
    exit(0);
}

/* Another way to the destination is open already, and somebody comes by it. */
static void abandon_while_recovering(Run *run)
{
    Vm *vm = run->destination;
    g_autofree char *refused = NULL, *uri = NULL;
    int fd;

    postcopy_lose_source(run);
    vm_do(vm, "migrate-recover", "{ 'uri': 'tcp:127.0.0.1:0' }");
    uri = run_listening_uri(vm);
    vm_do(vm, "ferry-abandon", NULL);
    g_free(vm_wait_status(vm, "failed"));
    fd = connect_to(uri);
    g_assert_cmpint(fd, <, 0);
    refused = vm_command_fails(vm, "migrate-recover", "{ 'uri': 'tcp:127.0.0.1:0' }");
    g_assert_nonnull(strstr(refused, "paused"));
    save_to_file(vm, "saved");
    vm_quit(vm);
    exit(0);
}

/* The device state is in, and whether the source lets go of the guest will never be heard: it is dead. */
static void abandon_before_go(Run *run)
{
    Vm *vm = run->destination;

    for (unsigned i = 0; i < proxy_nr_connections(run->proxy); i++) {
        proxy_stall(run->proxy, i);
    }
    vm_thaw(vm);
    vm_wait_ferry_phase(vm, "fetch");
    vm_kill(run->source);
    proxy_cut_all(run->proxy);
    g_free(vm_wait_status(vm, "postcopy-paused"));
    vm_do(vm, "ferry-abandon", NULL);
    g_free(vm_wait_status(vm, "failed"));
    g_assert_false(has_thread(vm, "mig/dst/listen"));
    vm_wait_run_state(vm, "inmigrate");
    /* Nobody waits for it any more. */
    vm_do(vm, "system_reset", NULL);
    vm_quit(vm);
    exit(0);
}

static void prepare_disk(Run *run)
{
    g_autofree char *path = in_dir("{dir}/disk.qcow2");
    const char *argv[] = {
        getenv("QTEST_QEMU_IMG"), "create", "-q", "-f", "qcow2", path, "64M", NULL};
    int status = -1;

    g_assert_nonnull(argv[0]);
    g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_DEFAULT, NULL, NULL, NULL, NULL,
                               &status, NULL));
    g_assert_cmpint(status, ==, 0);
}

/* --- A device that waits for a page that does not come ------------------------------------------- */

/* Where nothing else is. */
#define STORM(clock)                                                                             \
    "-device ferry-storm,id=storm,clock=" clock ",pattern=random,start=125829120,size=33554432," \
    "working-set=32M,rate=20000"

static uint64_t storm_written(Vm *vm)
{
    QDict *answer = qtest_qmp(
        vm->qts, "{ 'execute': 'qom-get', 'arguments': {"
                 "  'path': '/machine/peripheral/storm', 'property': 'pages-written' } }");
    uint64_t nr = (uint64_t)qdict_get_int(answer, "return");

    qobject_unref(answer);
    return nr;
}

/* The guest's clock, which stands still unless it is moved: a storm that goes by it has this much to write. */
#define STEP_NS (INT64_C(100) * 1000 * 1000)

/* So that some of its pages will be missing. */
static void have_it_write(Run *run)
{
    while (storm_written(run->source) < 4096) {
        qtest_clock_step(run->source->qts, STEP_NS);
        g_usleep(10 * 1000);
    }
}

/* The source is gone, and the storm waits for one of its pages. */
static void have_it_wait(Run *run)
{
    Vm *vm = run->destination;
    uint64_t before = 0, now = 1;

    postcopy_lose_source(run);
    while (now != before) {
        before = now;
        qtest_clock_step(vm->qts, STEP_NS);
        g_usleep(200 * 1000);
        now = storm_written(vm);
    }
}

/* Within a second. */
static void stop_soon(Vm *vm)
{
    gint64 began = g_get_monotonic_time();

    vm_do(vm, "stop", NULL);
    g_assert_cmpint(g_get_monotonic_time() - began, <, G_USEC_PER_SEC);
}

static void stop_waiting_storm(Run *run)
{
    Vm *vm = run->destination;

    have_it_wait(run);
    for (unsigned i = 0; i < 3; i++) {
        stop_soon(vm);
        vm_do(vm, "cont", NULL);
    }
    vm_do(vm, "qom-set",
          "{ 'path': '/machine/peripheral/storm', 'property': 'verify', 'value': true }");
    stop_soon(vm);
    vm_do(vm, "cont", NULL);
    /* And it has no part in ending it, one way or the other. */
    vm_do(vm, "ferry-abandon", "{ 'force': true }");
    g_free(vm_wait_status(vm, "failed"));
    save_to_file(vm, "saved");
    vm_quit(vm);
    exit(0);
}

static void end_waiting_storm(Run *run)
{
    have_it_wait(run);
    g_assert_cmpint(kill(qtest_pid(run->destination->qts), SIGTERM), ==, 0);
    vm_expect_exit(run->destination, 0);
    exit(0);
}

static void timeout_waiting_storm(Run *run)
{
    have_it_wait(run);
    vm_wait_run_state(run->destination, "io-error");
    vm_quit(run->destination);
    exit(0);
}

/* The device goes at once, what is left of it when its page has come. */
static void unplug_waiting_storm(Run *run)
{
    Vm *vm = run->destination;

    have_it_wait(run);
    vm_do(vm, "qom-set",
          "{ 'path': '/machine/peripheral/storm', 'property': 'realized', 'value': false }");
    g_free(vm_command_fails(vm, "qom-set",
                            "{ 'path': '/machine/peripheral/storm',"
                            "  'property': 'realized', 'value': true }"));
    vm_do(vm, "ferry-abandon", "{ 'force': true }");
    g_free(vm_wait_status(vm, "failed"));
    vm_quit(vm);
    exit(0);
}

/* --- In the midst of it ------------------------------------------------------------------------ */

static void expect_refused(Vm *vm, const char *command, const char *arguments)
{
    g_autofree char *error = vm_command_fails(vm, command, arguments);

    if (!strstr(error, "Post-copy still brings this guest's memory")) {
        g_error("%s is refused with '%s'", command, error);
    }
}

/* What is refused leaves no trace: it can be asked for again, and works once it can. */
static void migrate_too_early(Run *run)
{
    Vm *vm = run->destination;
    static const char *const to_file = "{ 'uri': 'file:{dir}/too-early' }";
    g_autofree char *status = NULL;

    postcopy_go_over_slowly(run);
    for (unsigned i = 0; i < 2; i++) {
        expect_refused(vm, "migrate", to_file);
        status = vm_migration_status(vm);
        g_assert_cmpstr(status, ==, "postcopy-active");
        g_clear_pointer(&status, g_free);
    }
    vm_do(run->source, "migrate-pause", NULL);
    g_free(vm_wait_status(vm, "postcopy-paused"));
    expect_refused(vm, "migrate", to_file);
    vm_do(vm, "migrate-recover", "{ 'uri': 'tcp:127.0.0.1:0' }");
    g_free(run->uri);
    run->uri = run_listening_uri(vm);
    {
        g_autofree char *resume = g_strdup_printf("{ 'uri': '%s', 'resume': true }", run->uri);

        g_free(vm_wait_status(run->source, "postcopy-paused"));
        vm_do(run->source, "migrate", resume);
    }
    postcopy_wait(run);
}

static void migrate_on(Run *run)
{
    save_to_file(run->destination, "saved");
}

/* --- The device state does not load ------------------------------------------------------------- */

static void start_postcopy(Run *run)
{
    vm_do(run->source, "migrate-start-postcopy", NULL);
}

static void expect_phase(Vm *vm, const char *phase)
{
    g_autofree char *now = vm_ferry_phase(vm);

    g_assert_cmpstr(now, ==, phase);
}

/* It is told why, stays, and ends in good order when it is asked to. */
static void fail_and_stay(Run *run)
{
    g_autofree char *error = NULL;

    start_postcopy(run);
    run_release(run);
    g_free(vm_wait_status(run->destination, "failed"));
    error = vm_migration_error(run->destination);
    g_assert_nonnull(error);
    g_assert_nonnull(strstr(error, "load of migration failed"));
    g_free(vm_wait_status(run->source, "failed"));
    expect_phase(run->destination, "failed");
    expect_phase(run->source, "failed");
    g_assert_false(has_thread(run->destination, "mig/dst/listen"));
}

/* Both threads of the destination have a reason to end the process: one does. */
static void fail_again_and_again(Run *run)
{
    for (unsigned i = 0; i < TURNS; i++) {
        g_autofree char *name = g_strdup_printf("destination-%u", i);

        start_postcopy(run);
        run_release(run);
        g_free(vm_wait_status(run->source, "failed"));
        vm_expect_exit(run->destination, 1);
        if (i + 1 < TURNS) {
            run->destination = run_start_vm(run, g_steal_pointer(&name), true);
            run_settings(run, run->destination, true);
            run_listen(run);
            run_migrate(run);
            g_free(vm_wait_status(run->source, "active"));
        }
    }
}

/* --- Ferry's own reasons ---------------------------------------------------------------------- */

/* The control channel: magic of the next frame's header. */
static void damage_control(Run *run)
{
    proxy_damage(run->proxy, 1, 0);
    run_release(run);
}

static void damage_and_ask(Run *run)
{
    g_autofree char *error = NULL;

    damage_control(run);
    g_free(vm_wait_status(run->destination, "failed"));
    error = vm_migration_error(run->destination);
    if (!error || !strstr(error, "not a Ferry frame") || strstr(error, "Input/output")) {
        g_error("the destination says '%s'", error ? error : "nothing");
    }
}

static const Case cases[] = {
    {
        .name = "ending/abandon",
        .prepare = prepare_disk,
        .options =
            NAMED " -blockdev "
                  "driver=qcow2,node-name=disk,file.driver=file,file.filename={dir}/disk.qcow2,"
                  "file.locking=off",
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = abandon_and_use,
    },
    {
        .name = "ending/abandon-at-once",
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = abandon_and_save_at_once,
    },
    {
        .name = "ending/abandon-before-go",
        .proxy = true,
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .hold = HOLD_HAND_OFF,
        .during = abandon_before_go,
    },
    {
        .name = "ending/abandon-recovering",
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = abandon_while_recovering,
    },
#define WAITING_STORM(what, storm_options, then)                                                   \
    {                                                                                              \
        .name = "ending/storm-" what, .ram_mib = 160, .options = storm_options, .storm = true,     \
        .before = have_it_write, .capabilities = "postcopy-ram", .postcopy = true, .during = then, \
    }
    WAITING_STORM("stop", STORM("host"), stop_waiting_storm),
    /* What is due by the guest's clock is written before a stop: but not if it waits for a page. */
    WAITING_STORM("stop-due", STORM("virtual"), stop_waiting_storm),
    WAITING_STORM("end", STORM("host"), end_waiting_storm),
    WAITING_STORM("timeout", STORM("host") " -global ferry.recovery-timeout=1",
                  timeout_waiting_storm),
    WAITING_STORM("unplug", STORM("host"), unplug_waiting_storm),
    {
        .name = "ending/migrate-too-early",
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = migrate_too_early,
        .after = migrate_on,
    },
    {
        .name = "ending/missing-device-stays",
        .options = NAMED,
        .source_options = "-device virtio-rng-pci",
        .second_options = "-device virtio-rng-pci",
        .capabilities = "postcopy-ram",
        .hold = HOLD_ROUNDS,
        .during = fail_and_stay,
        .outcome = FAILS,
        .destination_stays = true,
        .error =
            "the destination says: it could not load the state of the guest|Failed to send packaged data",
    },
    {
        .name = "ending/missing-device-ends",
        .source_options = "-device virtio-rng-pci",
        .second_options = "-device virtio-rng-pci",
        .capabilities = "postcopy-ram",
        .hold = HOLD_ROUNDS,
        .during = fail_again_and_again,
        .outcome = FAILS,
        .error =
            "the destination says: it could not load the state of the guest|Failed to send packaged data",
    },
    {
        .name = "ending/words",
        .proxy = true,
        .during = damage_and_ask,
        .outcome = FAILS,
        .destination_stays = true,
        .error = "not a Ferry frame",
    },
};

void add_ending_cases(void)
{
    cases_add(cases, G_N_ELEMENTS(cases));
}
