/*
 * Post-copy: pages are left missing at the destination and fetched.
 *
 * There are no vCPUs: what touches the pages is the test, through qtest, as a device would.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qobject/qdict.h"

#include "postcopy.h"

#define RAM_BACKEND(driver) "-object " driver ",id=ram,size=32M"

static void start_postcopy(Run *run)
{
    vm_do(run->source, "migrate-start-postcopy", NULL);
}

/* The guest writes at the destination while pages come. */
static void go_over_and_write(Run *run)
{
    postcopy_go_over(run);
    memory_scribble(run->memory, run->destination, MIB);
}

/* And somebody had to wait for one. */
static void expect_faults(Run *run)
{
    postcopy_expect_fetched(run);
    g_assert_cmpuint(postcopy_fetch_stat(run->destination, "faults"), >, 0);
    g_assert_cmpuint(postcopy_fetch_stat(run->destination, "count"), >, 0);
    g_assert_cmpuint(postcopy_fetch_stat(run->destination, "max"), >=,
                     postcopy_fetch_stat(run->destination, "p50"));
}

static void expect_blocktime(Run *run)
{
    QDict *info = vm_command(run->destination, "query-migrate", NULL);

    g_assert_true(qdict_haskey(info, "postcopy-blocktime"));
    g_assert_true(qdict_haskey(info, "postcopy-vcpu-blocktime"));
    qobject_unref(info);
}

static const Case cases[] = {
    {
        .name = "postcopy/at-once",
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = go_over_and_write,
        .after = postcopy_expect_fetched,
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
        .after = postcopy_expect_fetched,
    },
    {
        .name = "postcopy/ram-shared",
        .ram = RAM_BACKEND("memory-backend-ram,share=on"),
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = go_over_and_write,
        .after = postcopy_expect_fetched,
    },
    {
        .name = "postcopy/prealloc",
        .ram = RAM_BACKEND("memory-backend-ram,prealloc=on"),
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = go_over_and_write,
        .after = postcopy_expect_fetched,
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
        /* The latter is QEMU's, when the connection breaks before all of the state is written. */
        .error =
            "the destination says: it could not load the state of the guest|Failed to send packaged data",
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
};

void add_postcopy_cases(void)
{
    cases_add(cases, G_N_ELEMENTS(cases));
}
