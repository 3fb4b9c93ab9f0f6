/*
 * Where Ferry is not to be used, QEMU's own path must do what it always did.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qobject/qdict.h"

#include "postcopy.h"

/* Debian's QEMU has no accelerator for tests. */
#define VCPU "-accel tcg -bios {dir}/halt.bin"

/* Names it in FERRY_STOCK_QEMU, where the environment does not, by asking scripts/fetch-stock. */
static const char *no_stock(void)
{
    static const char *reason;
    g_autofree char *script = NULL;
    g_autofree char *path = NULL;
    int status = -1;

    if (reason || g_getenv("FERRY_STOCK_QEMU")) {
        return reason;
    }
    if (!g_getenv("FERRY_ROOT")) {
        reason = "neither FERRY_STOCK_QEMU nor FERRY_ROOT is set";
        return reason;
    }
    script = g_build_filename(g_getenv("FERRY_ROOT"), "scripts/fetch-stock", NULL);
    if (!g_spawn_command_line_sync(script, &path, NULL, &status, NULL) || status != 0) {
        reason = "scripts/fetch-stock does not get Debian's QEMU";
        return reason;
    }
    g_setenv("FERRY_STOCK_QEMU", g_strstrip(path), TRUE);
    return NULL;
}

/* --- The destination's last word, on QEMU's own path ---------------------------------------------------- */

/* What a QEMU without Ferry says before it: the answers to two PINGs. */
#define BYTES_OF_ECHOES (2 * 8)

/* And before the guest is its own: the answer to the PING that goes before the package. */
#define BYTES_BEFORE_PACKAGE (BYTES_OF_ECHOES + 8)

static void go_through_proxy(Run *run)
{
    g_autofree char *target = g_steal_pointer(&run->uri);

    run->proxy = proxy_new(target);
    run->uri = proxy_uri(run->proxy);
}

static void break_last_word(Run *run)
{
    go_through_proxy(run);
    proxy_halve(run->proxy, 0, BYTES_OF_ECHOES, true);
}

static void keep_last_word(Run *run)
{
    go_through_proxy(run);
    proxy_halve(run->proxy, 0, BYTES_OF_ECHOES, false);
}

/* Nothing of that comes but the answers to what is asked before post-copy. */
static void end_echoes(Run *run)
{
    go_through_proxy(run);
    proxy_end_way_back(run->proxy, BYTES_BEFORE_PACKAGE);
}

/* The guest runs there: it must not here, though all that the source sees is a connection that broke. */
static void expect_guest_there_only(Run *run)
{
    g_autofree char *here = NULL, *there = NULL;

    g_free(vm_wait_status(run->destination, "completed"));
    g_free(vm_wait_status(run->source, "failed completed"));
    here = vm_run_state(run->source);
    there = vm_run_state(run->destination);
    g_assert_cmpstr(there, ==, "running");
    g_assert_cmpstr(here, ==, "postmigrate");
    memory_check(run->memory, run->destination);
}

static void leave(Run *run)
{
    vm_quit(run->source);
    vm_quit(run->destination);
    exit(0);
}

static void expect_doubt(Run *run)
{
    g_autofree char *error = NULL;

    expect_guest_there_only(run);
    error = vm_migration_error(run->source);
    g_assert_nonnull(error);
    g_assert_nonnull(strstr(error, "look at the destination"));
    g_assert_nonnull(strstr(error, "let the guest go on here only if"));
    leave(run);
}

/* In post-copy, where all pages are pushed to a guest that nobody hears of. */
static void expect_one_guest(Run *run)
{
    vm_do(run->source, "migrate-start-postcopy", NULL);
    run_release(run);
    expect_guest_there_only(run);
    leave(run);
}

/* Nobody cancels what has happened. */
static void expect_no_cancel(Run *run)
{
    g_autofree char *refused = NULL;

    g_free(vm_wait_status(run->destination, "completed"));
    refused = vm_command_fails(run->source, "migrate_cancel", NULL);
    g_assert_nonnull(strstr(refused, "cannot cancel"));
}

/* It waits for no word that does not come. */
static void expect_end(Run *run)
{
    expect_no_cancel(run);
    g_free(vm_wait_status(run->source, "completed"));
}

/* It was asked to speak, so its silence is no word: the guest runs there, and nobody here can know. */
static void expect_limit(Run *run)
{
    expect_no_cancel(run);
    expect_doubt(run);
}

/* --- Multifd's channels that nothing gets through ------------------------------------------------------- */

/* Less fits into the buffers on the way of two channels. */
#define MORE_THAN_BUFFERED (64 * MIB)

static void write_much(Run *run)
{
    memory_scribble(run->memory, run->source, MORE_THAN_BUFFERED);
}

/* Whose threads wait for a peer that reads nothing, and QEMU's migration thread for them. */
static void stall_multifd(Run *run)
{
    for (unsigned number = 1; number <= 2; number++) {
        proxy_stall(run->proxy, number);
    }
    vm_set_bandwidth(run->source, 0);
    g_usleep(500 * 1000);
}

/* The destination goes, and the network tells of it on the main connection only. */
static void lose_main(Run *run)
{
    gint64 began = g_get_monotonic_time();

    stall_multifd(run);
    proxy_cut_one(run->proxy, 0);
    g_free(vm_wait_status(run->source, "failed"));
    g_assert_cmpint(g_get_monotonic_time() - began, <, 5 * G_USEC_PER_SEC);
}

/* The same while the last of memory is sent with QEMU's lock: the monitor must not wait for it. */
static void lose_main_at_end(Run *run)
{
    g_free(vm_wait_status(run->source, "pre-switchover"));
    write_much(run);
    proxy_stall(run->proxy, 1);
    proxy_stall(run->proxy, 2);
    qtest_qmp_send(run->source->qts, "{ 'execute': 'migrate-continue',"
                                     "  'arguments': { 'state': 'pre-switchover' } }");
    g_usleep(500 * 1000);
    proxy_cut_one(run->proxy, 0);
    qobject_unref(qtest_qmp_receive(run->source->qts));
    g_free(vm_wait_status(run->source, "failed"));
}

/* The destination waits for one more channel to get as far as the others, and it breaks. */
static void break_at_end(Run *run)
{
    g_free(vm_wait_status(run->source, "pre-switchover"));
    proxy_stall(run->proxy, 1);
    vm_do(run->source, "migrate-continue", "{ 'state': 'pre-switchover' }");
    g_usleep(500 * 1000);
    proxy_cut_one(run->proxy, 1);
    g_free(vm_wait_status(run->source, "failed"));
}

/* To a destination without Ferry, over two channels of multifd's that a proxy relays. */
#define MULTIFD_OWN_PATH(more)                                                               \
    .destination_options = "-global ferry.enabled=off" more,                                 \
    .second_options = "-global ferry.enabled=off", .proxy = true, .capabilities = "multifd", \
    .parameters = "{ 'multifd-channels': 2 }",                                               \
    .fallback = "the destination has no Ferry, or has it switched off",                      \
    .destination_fallback = "switched off with -global ferry.enabled=off"

static const Case cases[] = {
    {
        .name = "fallback/last-word-breaks",
        .destination_options = "-global ferry.enabled=off",
        .before = break_last_word,
        .hold = HOLD_NOT,
        .during = expect_doubt,
    },
    {
        .name = "fallback/last-word-breaks/return-path",
        .destination_options = "-global ferry.enabled=off",
        .source_capabilities = "return-path",
        .before = break_last_word,
        .hold = HOLD_NOT,
        .during = expect_doubt,
    },
    {
        .name = "fallback/last-word-breaks/postcopy-ram",
        .destination_options = "-global ferry.enabled=off",
        .capabilities = "postcopy-ram",
        .before = break_last_word,
        .hold = HOLD_NOT,
        .during = expect_doubt,
    },
    {
        .name = "fallback/last-word-breaks/postcopy",
        .destination_options = "-global ferry.enabled=off",
        .capabilities = "postcopy-ram",
        .fallback = "the destination has no Ferry, or has it switched off",
        .before = end_echoes,
        .during = expect_one_guest,
    },
    {
        .name = "fallback/last-word-awaited",
        .source_options = "-global ferry.switchover-timeout=2000",
        .destination_options = "-global ferry.enabled=off",
        .source_capabilities = "return-path",
        .before = keep_last_word,
        .hold = HOLD_NOT,
        .during = expect_limit,
    },
    {
        .name = "fallback/last-word-kept",
        .source_options = "-global ferry.switchover-timeout=2000",
        .destination_options = "-global ferry.enabled=off",
        .fallback = "the destination has no Ferry",
        .destination_fallback = "switched off",
        .before = keep_last_word,
        .hold = HOLD_NOT,
        .during = expect_end,
    },
    {
        .name = "fallback/source-off",
        .source_options = "-global ferry.enabled=off",
        .fallback = "switched off with -global ferry.enabled=off",
        .destination_fallback = "the source has no Ferry, or has it switched off",
    },
    {
        .name = "fallback/destination-off",
        .destination_options = "-global ferry.enabled=off",
        .fallback = "the destination has no Ferry, or has it switched off",
        .destination_fallback = "switched off with -global ferry.enabled=off",
    },
    {
        .name = "fallback/off-by-command",
        .ferry_parameters = "{ 'enabled': false }",
        .fallback = "switched off",
    },
    {
        .name = "fallback/off-multifd",
        .source_options = "-global ferry.enabled=off",
        .capabilities = "multifd",
        .parameters = "{ 'multifd-channels': 4 }",
        .fallback = "switched off",
    },
    {
        .name = "fallback/destination-off-multifd",
        .destination_options = "-global ferry.enabled=off",
        .capabilities = "multifd",
        .parameters = "{ 'multifd-channels': 4 }",
        .fallback = "the destination has no Ferry",
    },
    {
        .name = "fallback/stock-destination",
        .cannot = no_stock,
        .prepare = make_halting_firmware,
        .options = VCPU,
        .peers = STOCK_DESTINATION,
        .fallback = "the destination has no Ferry",
    },
    {
        .name = "fallback/stock-destination-unix",
        .cannot = no_stock,
        .prepare = make_halting_firmware,
        .options = VCPU,
        .peers = STOCK_DESTINATION,
        .uri = "unix:{dir}/migration",
        .fallback = "the destination has no Ferry",
    },
    {
        .name = "fallback/stock-destination-multifd",
        .cannot = no_stock,
        .prepare = make_halting_firmware,
        .options = VCPU,
        .peers = STOCK_DESTINATION,
        .capabilities = "multifd",
        .parameters = "{ 'multifd-channels': 4 }",
        .fallback = "the destination has no Ferry",
    },
    {
        .name = "fallback/stock-destination-return-path",
        .cannot = no_stock,
        .prepare = make_halting_firmware,
        .options = VCPU,
        .peers = STOCK_DESTINATION,
        .capabilities = "return-path",
        .fallback = "the destination has no Ferry",
    },
    {
        .name = "fallback/stock-destination-cancel",
        .cannot = no_stock,
        .prepare = make_halting_firmware,
        .options = VCPU,
        .peers = STOCK_DESTINATION,
        .fallback = "the destination has no Ferry",
        .then = THEN_CANCEL,
    },
    {
        .name = "fallback/stock-destination-dies",
        .cannot = no_stock,
        .prepare = make_halting_firmware,
        .options = VCPU,
        .peers = STOCK_DESTINATION,
        .fallback = "the destination has no Ferry",
        .then = THEN_KILL_DESTINATION,
        .error = HANGS_UP,
    },
    {
        .name = "fallback/stock-source-dies",
        .cannot = no_stock,
        .prepare = make_halting_firmware,
        .options = VCPU,
        .peers = STOCK_SOURCE,
        .destination_fallback = "the source has no Ferry",
        .then = THEN_KILL_SOURCE,
    },
    {
        .name = "fallback/stock-source",
        .cannot = no_stock,
        .prepare = make_halting_firmware,
        .options = VCPU,
        .peers = STOCK_SOURCE,
        .destination_fallback = "the source has no Ferry",
    },
    {
        .name = "fallback/stock-source-return-path",
        .cannot = no_stock,
        .prepare = make_halting_firmware,
        .options = VCPU,
        .peers = STOCK_SOURCE,
        .capabilities = "return-path",
        .destination_fallback = "the source has no Ferry",
    },
    {
        .name = "fallback/stock-source-multifd",
        .cannot = no_stock,
        .prepare = make_halting_firmware,
        .options = VCPU,
        .peers = STOCK_SOURCE,
        .capabilities = "multifd",
        .parameters = "{ 'multifd-channels': 4 }",
        .destination_fallback = "the source has no Ferry",
    },
    {
        .name = "fallback/stock-source-postcopy",
        .cannot = no_stock,
        .prepare = make_halting_firmware,
        .options = VCPU,
        .peers = STOCK_SOURCE,
        .capabilities = "postcopy-ram",
        .destination_fallback = "the source has no Ferry",
        .during = postcopy_go_over,
    },
    {
        .name = "fallback/stock-destination-postcopy",
        .cannot = no_stock,
        .prepare = make_halting_firmware,
        .options = VCPU,
        .peers = STOCK_DESTINATION,
        .capabilities = "postcopy-ram",
        .fallback = "the destination has no Ferry",
        .during = postcopy_go_over,
    },
    {
        .name = "fallback/multifd-stalls-cancel",
        .ram_mib = 160,
        MULTIFD_OWN_PATH(""),
        .before = write_much,
        .during = stall_multifd,
        .then = THEN_CANCEL,
    },
    {
        .name = "fallback/multifd-stalls-lost-at-end",
        .ram_mib = 160,
        MULTIFD_OWN_PATH(" -global ferry.network-timeout=2000"),
        .source_capabilities = "pause-before-switchover",
        .second_capabilities = "no-pause-before-switchover",
        .hold = HOLD_NOT,
        .during = lose_main_at_end,
        .outcome = FAILS,
        .error = HANGS_UP,
    },
    {
        .name = "fallback/multifd-breaks-at-end",
        MULTIFD_OWN_PATH(""),
        .source_capabilities = "pause-before-switchover",
        .second_capabilities = "no-pause-before-switchover",
        .hold = HOLD_NOT,
        .during = break_at_end,
        .outcome = FAILS,
        .error = "Sibling indicated error 1",
        .destination_log = "a multifd channel ended before the migration did",
    },
    {
        .name = "fallback/multifd-stalls-lost",
        .ram_mib = 160,
        MULTIFD_OWN_PATH(""),
        .before = write_much,
        .during = lose_main,
        .outcome = FAILS,
        .error = HANGS_UP,
    },
    {
        .name = "fallback/xbzrle",
        .capabilities = "xbzrle",
        .fallback = "capability xbzrle is set",
    },
    {
        .name = "fallback/multifd-zstd",
        .capabilities = "multifd",
        .parameters = "{ 'multifd-channels': 2, 'multifd-compression': 'zstd' }",
        .fallback = "multifd-compression is set",
    },
};

void add_fallback_cases(void)
{
    cases_add(cases, G_N_ELEMENTS(cases));
}
