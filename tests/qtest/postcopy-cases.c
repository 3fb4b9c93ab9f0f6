/*
 * Post-copy: pages are left missing at the destination and fetched, and connections break meanwhile.
 *
 * There are no vCPUs: what touches the pages is the test, through qtest, as a device would.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"

#include "case.h"

/* Keeps post-copy going for as long as a test can take. */
#define SLOW_PUSH "{ 'max-postcopy-bandwidth': 131072 }"

#define RAM_BACKEND(driver) "-object " driver ",id=ram,size=32M"

/* As short as it can be: see heartbeat.h. */
#define IMPATIENT "-global ferry.network-timeout=2000"

/* In the order in which the source opens them; further channels for data come before the last. */
enum {
    LINE_MAIN,
    LINE_CONTROL,
    LINE_DATA,
    LINE_FETCH,
    NR_LINES,
};

/* --- Going over ---------------------------------------------------------------------------------- */

void postcopy_go_over(Run *run)
{
    vm_do(run->source, "migrate-start-postcopy", NULL);
    g_free(vm_wait_status(run->source, "postcopy-active completed"));
    g_free(vm_wait_status(run->destination, "postcopy-active completed"));
}

static void start_postcopy(Run *run)
{
    vm_do(run->source, "migrate-start-postcopy", NULL);
}

/* The same, and the guest writes at the destination while pages come. */
static void go_over_and_write(Run *run)
{
    postcopy_go_over(run);
    memory_scribble(run->memory, run->destination, MIB);
}

static uint64_t fetch_stat(Vm *vm, const char *name)
{
    QDict *info = vm_command(vm, "query-ferry", NULL);
    uint64_t value = (uint64_t)qdict_get_int(qdict_get_qdict(info, "fetch"), name);

    qobject_unref(info);
    return value;
}

/* Pages were missing, and are no more. */
static void expect_fetched(Run *run)
{
    g_assert_cmpuint(fetch_stat(run->destination, "handed-pages"), >, 0);
    g_assert_cmpuint(fetch_stat(run->destination, "missing-pages"), ==, 0);
    g_assert_cmpuint(fetch_stat(run->destination, "placed-pages"), ==,
                     fetch_stat(run->destination, "handed-pages"));
    g_assert_cmpuint(fetch_stat(run->source, "handed-pages"), ==,
                     fetch_stat(run->destination, "handed-pages"));
}

/* And somebody had to wait for one. */
static void expect_faults(Run *run)
{
    expect_fetched(run);
    g_assert_cmpuint(fetch_stat(run->destination, "faults"), >, 0);
    g_assert_cmpuint(fetch_stat(run->destination, "count"), >, 0);
    g_assert_cmpuint(fetch_stat(run->destination, "max"), >=, fetch_stat(run->destination, "p50"));
}

static void expect_blocktime(Run *run)
{
    QDict *info = vm_command(run->destination, "query-migrate", NULL);

    g_assert_true(qdict_haskey(info, "postcopy-blocktime"));
    g_assert_true(qdict_haskey(info, "postcopy-vcpu-blocktime"));
    qobject_unref(info);
}

void postcopy_wait(Run *run)
{
    g_free(vm_wait_status(run->source, "postcopy-active completed"));
    g_free(vm_wait_status(run->destination, "postcopy-active completed"));
}

static const char *no_huge_pages(void)
{
    g_autofree char *nr = NULL;

    if (!g_file_get_contents("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", &nr, NULL,
                             NULL)) {
        return "this kernel has no huge pages of 2 MiB";
    }
    /* Two machines of 32 MiB, a third one for the second migration. */
    if (atoi(nr) < 48) {
        if (!g_file_set_contents_full("/proc/sys/vm/nr_hugepages", "64", -1,
                                      G_FILE_SET_CONTENTS_NONE, 0644, NULL)) {
            return "huge pages cannot be reserved (vm.nr_hugepages)";
        }
    }
    return NULL;
}

/* --- Broken connections --------------------------------------------------------------------------- */

/* Both sides are paused, and say so. */
static void expect_pause(Run *run)
{
    g_free(vm_wait_status(run->source, "postcopy-paused"));
    g_free(vm_wait_status(run->destination, "postcopy-paused"));
}

/* Another way to the destination, through another proxy if there was one. */
static void recover(Run *run)
{
    g_autofree char *arguments = NULL;

    vm_do(run->destination, "migrate-recover", "{ 'uri': 'tcp:127.0.0.1:0' }");
    g_free(run->uri);
    run->uri = run_listening_uri(run->destination);
    if (run->proxy) {
        run->proxy = proxy_new(run->uri);
        g_free(run->uri);
        run->uri = proxy_uri(run->proxy);
    }
    arguments = g_strdup_printf("{ 'uri': '%s', 'resume': true }", run->uri);
    vm_do(run->source, "migrate", arguments);
    g_free(vm_wait_status(run->source, "postcopy-active completed"));
    g_free(vm_wait_status(run->destination, "postcopy-active completed"));
}

static void go_over_slowly(Run *run)
{
    vm_do(run->source, "migrate-set-parameters", SLOW_PUSH);
    postcopy_go_over(run);
}

static void break_and_recover(Run *run, void (*break_it)(Run *run))
{
    go_over_slowly(run);
    for (unsigned i = 1; i <= 2; i++) {
        break_it(run);
        expect_pause(run);
        /* Again, to the destination: what it holds already is not lost. */
        recover(run);
        memory_scribble(run->memory, run->destination, MIB / 4);
        g_assert_cmpuint(fetch_stat(run->destination, "recoveries"), ==, i);
    }
}

static void cut_all(Run *run)
{
    proxy_cut_all(run->proxy);
}

#define CUT(line, number)                     \
    static void cut_##line(Run *run)          \
    {                                         \
        proxy_cut_one(run->proxy, number);    \
    }                                         \
    static void break_##line(Run *run)        \
    {                                         \
        break_and_recover(run, cut_##line);   \
    }                                         \
    static void stall_##line(Run *run)        \
    {                                         \
        proxy_stall(run->proxy, number);      \
    }                                         \
    static void hang_##line(Run *run)         \
    {                                         \
        break_and_recover(run, stall_##line); \
    }

CUT(main, LINE_MAIN)
CUT(control, LINE_CONTROL)
CUT(data, LINE_DATA)
CUT(fetch, LINE_FETCH)

static void break_all(Run *run)
{
    break_and_recover(run, cut_all);
}

static void damage_control(Run *run)
{
    proxy_damage(run->proxy, LINE_CONTROL, 0);
}

static void damage_data(Run *run)
{
    proxy_damage(run->proxy, LINE_DATA, 1);
}

static void break_damaged_control(Run *run)
{
    break_and_recover(run, damage_control);
}

static void break_damaged_data(Run *run)
{
    break_and_recover(run, damage_data);
}

static void pause_source(Run *run)
{
    vm_do(run->source, "migrate-pause", NULL);
}

static void pause_destination(Run *run)
{
    vm_do(run->destination, "migrate-pause", NULL);
}

static void break_by_pause_source(Run *run)
{
    break_and_recover(run, pause_source);
}

static void break_by_pause_destination(Run *run)
{
    break_and_recover(run, pause_destination);
}

/* The way that is to be resumed leads nowhere: both sides are paused as before. */
static void fail_to_recover(Run *run)
{
    static const unsigned limits[] = {1, 2, 3};

    go_over_slowly(run);
    cut_all(run);
    expect_pause(run);
    for (size_t i = 0; i < G_N_ELEMENTS(limits); i++) {
        g_autofree char *arguments = NULL;

        vm_do(run->destination, "migrate-recover", "{ 'uri': 'tcp:127.0.0.1:0' }");
        g_free(run->uri);
        run->uri = run_listening_uri(run->destination);
        run->proxy = proxy_new(run->uri);
        g_free(run->uri);
        run->uri = proxy_uri(run->proxy);
        /* So many connections get through; then all of them break. */
        proxy_limit(run->proxy, limits[i]);
        arguments = g_strdup_printf("{ 'uri': '%s', 'resume': true }", run->uri);
        vm_do(run->source, "migrate", arguments);
        proxy_wait_connections(run->proxy, limits[i]);
        g_usleep(100 * 1000);
        proxy_cut(run->proxy);
        expect_pause(run);
    }
    recover(run);
}

/* The source stays away for a while: the guest is stopped meanwhile. */
static void stay_away(Run *run)
{
    go_over_slowly(run);
    cut_all(run);
    expect_pause(run);
    vm_wait_run_state(run->destination, "io-error");
    recover(run);
    vm_wait_run_state(run->destination, "running");
    memory_scribble(run->memory, run->destination, MIB / 4);
}

/* Nobody comes back: the destination tells what is missing, stops, and can be looked at. */
static void lose_source(Run *run)
{
    Vm *vm = run->destination;
    g_autofree char *log = NULL, *error = NULL, *too_early = NULL, *again = NULL;
    QDict *info;

    too_early = vm_command_fails(vm, "ferry-abandon", NULL);
    go_over_slowly(run);
    vm_kill(run->source);
    g_free(vm_wait_status(vm, "postcopy-paused"));
    vm_wait_run_state(vm, "io-error");
    log = vm_log(vm);
    g_assert_nonnull(strstr(log, "pages are missing: "));
    g_assert_nonnull(strstr(log, "of RAM block "));
    info = vm_command(vm, "query-ferry", NULL);
    g_assert_cmpstr(qdict_get_str(info, "phase"), ==, "paused");
    g_assert_cmpint(qdict_get_int(qdict_get_qdict(info, "fetch"), "missing-pages"), >, 0);
    qobject_unref(info);

    vm_do(vm, "ferry-abandon", NULL);
    vm_wait_run_state(vm, "internal-error");
    g_free(vm_wait_status(vm, "failed"));
    info = vm_command(vm, "query-ferry", NULL);
    g_assert_cmpstr(qdict_get_str(info, "phase"), ==, "failed");
    g_assert_false(qdict_get_bool(info, "active"));
    qobject_unref(info);
    /* All of it. */
    vm_do(vm, "pmemsave", "{ 'val': 0, 'size': 33554432, 'filename': '{dir}/memory' }");
    error = vm_command_fails(vm, "cont", NULL);
    g_assert_nonnull(strstr(error, "Reset"));
    again = vm_command_fails(vm, "ferry-abandon", NULL);
    g_assert_cmpstr(again, ==, too_early);
    vm_quit(vm);
    exit(0);
}

/* The same while the main loop itself waits for a page, which only oob commands get past. */
static void lose_source_blocked(Run *run)
{
    Vm *vm = run->destination;

    go_over_slowly(run);
    vm_kill(run->source);
    g_free(vm_wait_status(vm, "postcopy-paused"));
    qtest_qmp_send_raw(vm->qts, "{ 'execute': 'pmemsave', 'id': 'save', 'arguments': { 'val': 0,"
                                "  'size': 33554432, 'filename': '/dev/null' } }");
    g_usleep(200 * 1000);
    qtest_qmp_send_raw(vm->qts, "{ 'exec-oob': 'ferry-abandon', 'id': 'abandon' }");
    for (unsigned nr = 0; nr < 2;) {
        QDict *answer = qtest_qmp_receive(vm->qts);

        g_assert_false(qdict_haskey(answer, "error"));
        nr += qdict_haskey(answer, "return");
        qobject_unref(answer);
    }
    vm_wait_run_state(vm, "internal-error");
    vm_quit(vm);
    exit(0);
}

static const Case cases[] = {
    {
        .name = "postcopy/at-once",
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = go_over_and_write,
        .after = expect_fetched,
    },
    {
        .name = "postcopy/rounds",
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .hold = HOLD_ROUNDS,
        .during = go_over_and_write,
        .after = run_check_comparison,
    },
    {
        .name = "postcopy/slow",
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .parameters = SLOW_PUSH,
        .during = go_over_and_write,
        .after = expect_faults,
    },
    {
        .name = "postcopy/unix",
        .uri = "unix:{dir}/migration",
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = go_over_and_write,
    },
    {
        .name = "postcopy/preempt",
        .capabilities = "postcopy-ram postcopy-preempt",
        .postcopy = true,
        .during = go_over_and_write,
    },
    {
        .name = "postcopy/blocktime",
        .capabilities = "postcopy-ram postcopy-blocktime",
        .postcopy = true,
        .during = go_over_and_write,
        .after = expect_blocktime,
    },
    {
        .name = "postcopy/channels-4",
        .capabilities = "postcopy-ram",
        .ferry_parameters = "{ 'channels': 4 }",
        .channels = 4,
        .postcopy = true,
        .during = go_over_and_write,
    },
    {
        .name = "postcopy/channels-8",
        .capabilities = "postcopy-ram",
        .ferry_parameters = "{ 'channels': 8, 'checksum': true }",
        .channels = 8,
        .postcopy = true,
        .hold = HOLD_ROUNDS,
        .during = go_over_and_write,
    },
    {
        /* Stock QEMU has no post-copy with multifd. */
        .name = "postcopy/multifd",
        .capabilities = "postcopy-ram multifd",
        .parameters = "{ 'multifd-channels': 3 }",
        .channels = 3,
        .postcopy = true,
        .hold = HOLD_ROUNDS,
        .during = go_over_and_write,
    },
    {
        .name = "postcopy/multifd-stock-path",
        .capabilities = "postcopy-ram multifd release-ram",
        .second_capabilities = "no-release-ram",
        .hold = HOLD_NOT,
        .outcome = FAILS,
        .error = "needs Ferry, which is not in use: capability release-ram is set",
    },
    {
        .name = "postcopy/compressed",
        .ferry_parameters = "{ 'channels': 4, 'compression': 'zstd' }",
        .capabilities = "postcopy-ram",
        .channels = 4,
        .parameters = SLOW_PUSH,
        .postcopy = true,
        .during = go_over_and_write,
        .after = expect_faults,
    },
    {
        .name = "postcopy/switchover-postcopy",
        .options = "-global ferry.switchover=postcopy -accel tcg -bios {dir}/write.bin",
        .prepare = make_writing_firmware,
        .capabilities = "postcopy-ram",
        /* Not one page fits into that downtime: pre-copy ends only if the guest writes nothing. */
        .parameters = "{ 'max-bandwidth': 3145728, 'downtime-limit': 1 }",
        .postcopy = true,
        .guest_writes = true,
        .destination_paused = true,
        .hold = HOLD_NOT,
        .during = postcopy_wait,
    },
    {
        .name = "postcopy/memfd-shared",
        .ram = RAM_BACKEND("memory-backend-memfd,share=on"),
        .capabilities = "postcopy-ram",
        .parameters = SLOW_PUSH,
        .postcopy = true,
        .during = go_over_and_write,
        .after = expect_faults,
    },
    {
        .name = "postcopy/memfd-private",
        .ram = RAM_BACKEND("memory-backend-memfd,share=off"),
        .capabilities = "postcopy-ram",
        .parameters = SLOW_PUSH,
        .postcopy = true,
        .during = go_over_and_write,
        .after = expect_faults,
    },
    {
        .name = "postcopy/file-shared",
        .ram = RAM_BACKEND("memory-backend-file,share=on,mem-path=/dev/shm/ferry-qtest-{vm}.ram"),
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = go_over_and_write,
        .after = expect_fetched,
    },
    {
        .name = "postcopy/ram-shared",
        .ram = RAM_BACKEND("memory-backend-ram,share=on"),
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = go_over_and_write,
        .after = expect_fetched,
    },
    {
        .name = "postcopy/prealloc",
        .ram = RAM_BACKEND("memory-backend-ram,prealloc=on"),
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = go_over_and_write,
        .after = expect_fetched,
    },
    {
        .name = "postcopy/hugetlb-shared",
        .cannot = no_huge_pages,
        .ram = RAM_BACKEND("memory-backend-memfd,hugetlb=on,hugetlbsize=2M,share=on"),
        .capabilities = "postcopy-ram",
        .parameters = SLOW_PUSH,
        .postcopy = true,
        .during = go_over_and_write,
        .after = expect_faults,
    },
    {
        .name = "postcopy/hugetlb-private",
        .cannot = no_huge_pages,
        .ram = RAM_BACKEND("memory-backend-memfd,hugetlb=on,hugetlbsize=2M,share=off"),
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .hold = HOLD_ROUNDS,
        .during = go_over_and_write,
    },
    {
        /* Found out when the guest has stopped, and before it could run elsewhere: it goes on here. */
        .name = "postcopy/missing-device",
        .source_options = "-device virtio-rng-pci",
        .second_options = "-device virtio-rng-pci",
        .capabilities = "postcopy-ram",
        .hold = HOLD_ROUNDS,
        .during = start_postcopy,
        .outcome = FAILS,
        .error = "the destination",
        /* QEMU's own words, when the connection breaks before all of the state is written. */
        .or_error = "Failed to send packaged data",
    },
    {
        /* It is permitted, but not used. */
        .name = "postcopy/not-started",
        .capabilities = "postcopy-ram",
        .hold = HOLD_ROUNDS,
    },
    {
        .name = "postcopy/cancel",
        .capabilities = "postcopy-ram",
        .hold = HOLD_ROUNDS,
        .then = THEN_CANCEL,
    },
    {
        .name = "postcopy/paused-guest",
        .paused = true,
        .capabilities = "postcopy-ram",
    },
    {
        .name = "postcopy/switched-off",
        .options = "-global ferry.enabled=off",
        .capabilities = "postcopy-ram",
        .fallback = "switched off",
        .during = postcopy_go_over,
    },
    {
        .name = "postcopy/recover/all",
        .proxy = true,
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = break_all,
        .after = expect_fetched,
    },
    {
        .name = "postcopy/recover/multifd",
        .proxy = true,
        .capabilities = "postcopy-ram multifd",
        .postcopy = true,
        .during = break_all,
        .after = expect_fetched,
    },
    {
        .name = "postcopy/recover/main",
        .proxy = true,
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = break_main,
    },
    {
        .name = "postcopy/recover/control",
        .proxy = true,
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = break_control,
    },
    {
        .name = "postcopy/recover/data",
        .proxy = true,
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = break_data,
    },
    {
        .name = "postcopy/recover/fetch",
        .proxy = true,
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = break_fetch,
    },
    {
        .name = "postcopy/recover/preempt",
        .proxy = true,
        .capabilities = "postcopy-ram postcopy-preempt",
        .postcopy = true,
        .during = break_all,
    },
    {
        .name = "postcopy/recover/hang-main",
        .options = IMPATIENT,
        .proxy = true,
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = hang_main,
    },
    {
        .name = "postcopy/recover/hang-control",
        .options = IMPATIENT,
        .proxy = true,
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = hang_control,
    },
    {
        .name = "postcopy/recover/hang-data",
        .options = IMPATIENT,
        .proxy = true,
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = hang_data,
    },
    {
        .name = "postcopy/recover/hang-fetch",
        .options = IMPATIENT,
        .proxy = true,
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = hang_fetch,
    },
    {
        .name = "postcopy/recover/damaged-control",
        .proxy = true,
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = break_damaged_control,
    },
    {
        .name = "postcopy/recover/damaged-data",
        .proxy = true,
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = break_damaged_data,
    },
    {
        .name = "postcopy/recover/pause-source",
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = break_by_pause_source,
    },
    {
        .name = "postcopy/recover/pause-destination",
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = break_by_pause_destination,
    },
    {
        .name = "postcopy/recover/fails",
        .proxy = true,
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = fail_to_recover,
    },
    {
        .name = "postcopy/recover/stay-away",
        .options = "-global ferry.recovery-timeout=1",
        .proxy = true,
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = stay_away,
    },
    {
        .name = "postcopy/lose-source/abandon",
        .options = "-global ferry.recovery-timeout=1",
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = lose_source,
    },
    {
        .name = "postcopy/lose-source/blocked",
        .options = "-global ferry.recovery-timeout=0",
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = lose_source_blocked,
    },
};

void add_postcopy_cases(void)
{
    cases_add(cases, G_N_ELEMENTS(cases));
}
