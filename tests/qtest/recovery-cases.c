/*
 * Post-copy whose connections break, and go on after that or not.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qobject/qdict.h"

#include "postcopy.h"

/* As short as it can be: see heartbeat.h. */
#define IMPATIENT "-global ferry.network-timeout=2000"

/* In the order in which the source opens them; further channels for data come before the last. */
enum {
    CHANNEL_MAIN,
    CHANNEL_CONTROL,
    CHANNEL_DATA,
    CHANNEL_FETCH,
};

/* The destination's answer to the question whether it has Ferry: messages of QEMU's return path. */
#define BYTES_OF_PONGS (3 * 8)

/* Both sides are paused, and say so. */
static void expect_pause(Run *run)
{
    g_free(vm_wait_status(run->source, "postcopy-paused"));
    g_free(vm_wait_status(run->destination, "postcopy-paused"));
}

/* Another way to the destination, through another proxy if there was one. */
/* Than @before; returns how much, at the destination. */
static uint64_t expect_more_transferred(Run *run, uint64_t before)
{
    QDict *info = vm_command(run->destination, "query-ferry", NULL);
    uint64_t now = (uint64_t)qdict_get_int(info, "transferred");

    g_assert_cmpuint(now, >=, before);
    qobject_unref(info);
    return now;
}

static void break_and_recover(Run *run, void (*break_it)(Run *run))
{
    uint64_t transferred = 0;

    postcopy_go_over_slowly(run);
    for (unsigned i = 1; i <= 2; i++) {
        break_it(run);
        expect_pause(run);
        transferred = expect_more_transferred(run, transferred);
        /* Again, to the destination: what it holds already is not lost. */
        postcopy_recover(run);
        memory_scribble(run->memory, run->destination, MIB / 4);
        g_assert_cmpuint(postcopy_fetch_stat(run->destination, "recoveries"), ==, i);
        transferred = expect_more_transferred(run, transferred);
    }
}

static void cut_all(Run *run)
{
    proxy_cut_all(run->proxy);
}

#define CUT(channel, number)                     \
    static void cut_##channel(Run *run)          \
    {                                            \
        proxy_cut_one(run->proxy, number);       \
    }                                            \
    static void break_##channel(Run *run)        \
    {                                            \
        break_and_recover(run, cut_##channel);   \
    }                                            \
    static void stall_##channel(Run *run)        \
    {                                            \
        proxy_stall(run->proxy, number);         \
    }                                            \
    static void hang_##channel(Run *run)         \
    {                                            \
        break_and_recover(run, stall_##channel); \
    }

CUT(main, CHANNEL_MAIN)
CUT(control, CHANNEL_CONTROL)
CUT(data, CHANNEL_DATA)
CUT(fetch, CHANNEL_FETCH)

static void break_all(Run *run)
{
    break_and_recover(run, cut_all);
}

static void damage_control(Run *run)
{
    proxy_damage(run->proxy, CHANNEL_CONTROL, 0);
}

static void damage_data(Run *run)
{
    proxy_damage(run->proxy, CHANNEL_DATA, 1);
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

/* It says that a person wanted it, and nothing of a connection that was lost. */
static void expect_paused_by_user(Vm *vm, const char *side)
{
    g_autofree char *log = vm_log(vm);
    g_autofree char *by_user =
        g_strdup_printf("ferry_paused %s: the user has paused the migration (migrate-pause)", side);

    g_assert_nonnull(strstr(log, by_user));
    g_assert_null(strstr(log, "lost the connection"));
}

static void break_by_pause_source(Run *run)
{
    break_and_recover(run, pause_source);
    expect_paused_by_user(run->source, "source");
}

static void break_by_pause_destination(Run *run)
{
    break_and_recover(run, pause_destination);
    expect_paused_by_user(run->destination, "destination");
}

/* The guest is the destination's: to cancel would lose it.  Who tries is told what can be done. */
static void expect_no_cancel(Run *run)
{
    g_autofree char *why = vm_command_fails(run->source, "migrate_cancel", NULL);

    g_assert_nonnull(
        strstr(why, "was told to run the guest, cannot cancel: resume the migration;"));
}

/* The way that is to be resumed leads nowhere: both sides are paused as before. */
static void fail_to_recover(Run *run)
{
    static const unsigned limits[] = {1, 2, 3};

    postcopy_go_over_slowly(run);
    cut_all(run);
    expect_pause(run);
    expect_no_cancel(run);
    for (size_t i = 0; i < G_N_ELEMENTS(limits); i++) {
        postcopy_listen_again(run);
        /* So many connections get through; then all of them break. */
        proxy_limit(run->proxy, limits[i]);
        postcopy_resume(run);
        proxy_wait_connections(run->proxy, limits[i]);
        g_usleep(100 * 1000);
        proxy_cut(run->proxy);
        expect_pause(run);
    }
    postcopy_recover(run);
}

/* A relay that keeps what it has taken, and says nothing: main channel, or what the source opens next. */
static void hang_in_recovery(Run *run)
{
    static const unsigned stalls[] = {0, 1, 2, 3};
    g_autofree char *log = NULL;

    postcopy_go_over_slowly(run);
    cut_all(run);
    expect_pause(run);
    for (size_t i = 0; i < G_N_ELEMENTS(stalls); i++) {
        postcopy_listen_again(run);
        proxy_stall_from(run->proxy, stalls[i]);
        postcopy_resume(run);
        proxy_wait_connections(run->proxy, stalls[i] + 1);
        expect_pause(run);
    }
    /* All that is said until the destination's last word, which is that it goes on, and is kept. */
    postcopy_listen_again(run);
    proxy_halve_first(run->proxy, BYTES_OF_PONGS);
    postcopy_resume(run);
    proxy_wait_connections(run->proxy, 4);
    expect_pause(run);
    log = vm_log(run->source);
    g_assert_nonnull(
        strstr(log, "cannot resume: the destination has not said in time that it goes on"));
    postcopy_recover(run);
}

/* Into a command that says nothing: Ferry can neither find its peer by it, nor break it. */
static void resume_over_command(Run *run)
{
    g_autofree char *error = NULL;

    postcopy_go_over_slowly(run);
    cut_all(run);
    expect_pause(run);
    vm_do(run->source, "migrate", "{ 'uri': 'exec:cat > /dev/null', 'resume': true }");
    g_free(vm_wait_status(run->source, "postcopy-paused"));
    error = vm_migration_error(run->source);
    g_assert_nonnull(strstr(error ?: "", "is resumed over a socket"));
    postcopy_recover(run);
}

/* The source stays away for a while: the guest is stopped meanwhile. */
static void stay_away(Run *run)
{
    postcopy_go_over_slowly(run);
    cut_all(run);
    expect_pause(run);
    vm_wait_run_state(run->destination, "io-error");
    postcopy_recover(run);
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
    postcopy_lose_source(run);
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

/* Nothing takes a thread of TCG's from its waiting for a page: such a guest is left as it is. */
static void lose_source_of_tcg(Run *run)
{
    Vm *vm = run->destination;
    g_autofree char *state = NULL;

    postcopy_lose_source(run);
    for (bool told = false; !told;) {
        g_autofree char *log = vm_log(vm);

        told = strstr(log, "the guest goes on until it needs a page that is missing");
        g_usleep(50 * 1000);
    }
    state = vm_run_state(vm);
    g_assert_cmpstr(state, ==, "running");
    vm_do(vm, "ferry-abandon", NULL);
    g_free(vm_wait_status(vm, "failed"));
    vm_quit(vm);
    exit(0);
}

/* The same while the main loop itself waits for a page, which only oob commands get past. */
static void lose_source_blocked(Run *run)
{
    Vm *vm = run->destination;
    g_autoptr(QDict) refusal = NULL;

    postcopy_lose_source(run);
    qtest_qmp_send_raw(vm->qts, "{ 'execute': 'pmemsave', 'id': 'save', 'arguments': { 'val': 0,"
                                "  'size': 33554432, 'filename': '/dev/null' } }");
    g_usleep(200 * 1000);
    qtest_qmp_send_raw(vm->qts, "{ 'exec-oob': 'ferry-abandon', 'id': 'refused', "
                                "  'arguments': { 'force': false } }");
    refusal = qtest_qmp_receive(vm->qts);
    g_assert_nonnull(strstr(qdict_get_str(qdict_get_qdict(refusal, "error"), "desc"),
                            "A device waits for a missing page"));
    qtest_qmp_send_raw(vm->qts, "{ 'exec-oob': 'ferry-abandon', 'id': 'abandon', "
                                "  'arguments': { 'force': true } }");
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

/*
 * QEMU's stream broke, and the destination, which is frozen, has not noticed: the source serves on.  It is told to
 * end meanwhile, and does so in good order.
 */
static void end_source_without_stream(Run *run)
{
    postcopy_go_over_slowly(run);
    vm_freeze(run->destination);
    proxy_cut_one(run->proxy, CHANNEL_MAIN);
    g_usleep(500 * 1000);
    vm_quit(run->source);
    vm_kill(run->destination);
    exit(0);
}

/* A DIMM's, above the hole that ends at 4 GiB. */
static void write_dimm(Run *run)
{
    for (uint64_t offset = 0; offset < 32 * MIB; offset += MIB / 4) {
        qtest_writeq(run->source->qts, 4 * GIB + offset, offset + 1);
    }
}

/* The guest gives it back, by the registers of ACPI, with pages missing. */
static void unplug_dimm(Run *run)
{
    Vm *vm = run->destination;

    postcopy_go_over_slowly(run);
    postcopy_pause(run);
    qtest_outl(vm->qts, 0xa00, 0);
    qtest_outb(vm->qts, 0xa14, 8);
    vm_wait_event(vm, "DEVICE_DELETED");
    vm_do(vm, "object-del", "{ 'id': 'dimm' }");
    postcopy_recover(run);
}

static const Case cases[] = {
    {
        .name = "postcopy/recover/all",
        .proxy = true,
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = break_all,
        .after = postcopy_expect_fetched,
    },
    {
        .name = "postcopy/recover/multifd",
        .proxy = true,
        .capabilities = "postcopy-ram multifd",
        .postcopy = true,
        .during = break_all,
        .after = postcopy_expect_fetched,
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
        .options = "-trace ferry_paused",
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = break_by_pause_source,
    },
    {
        .name = "postcopy/recover/pause-destination",
        .options = "-trace ferry_paused",
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = break_by_pause_destination,
    },
    {
        .name = "postcopy/recover/unplugged",
        .options = "-m 32M,slots=1,maxmem=1G -object memory-backend-ram,id=dimm,size=32M "
                   "-device pc-dimm,memdev=dimm,id=slot,addr=4294967296",
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .before = write_dimm,
        .during = unplug_dimm,
    },
    {
        .name = "postcopy/recover/fails",
        .proxy = true,
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = fail_to_recover,
    },
    {
        .name = "postcopy/recover/hangs",
        .source_options = IMPATIENT " -global ferry.open-timeout=1000",
        .destination_options = "-global ferry.network-timeout=5000 -global ferry.open-timeout=1000",
        .proxy = true,
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = hang_in_recovery,
    },
    {
        .name = "postcopy/recover/command",
        .proxy = true,
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = resume_over_command,
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
        .name = "postcopy/end-source-without-stream",
        .proxy = true,
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = end_source_without_stream,
    },
    {
        .name = "postcopy/lose-source/abandon",
        .options = "-global ferry.recovery-timeout=1",
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = lose_source,
    },
    {
        .name = "postcopy/lose-source/tcg",
        .prepare = make_halting_firmware,
        .options = "-accel tcg -bios {dir}/halt.bin -global ferry.recovery-timeout=1",
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = lose_source_of_tcg,
    },
    {
        .name = "postcopy/lose-source/blocked",
        .options = "-global ferry.recovery-timeout=0",
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = lose_source_blocked,
    },
};

void add_recovery_cases(void)
{
    cases_add(cases, G_N_ELEMENTS(cases));
}
