/*
 * The migration's own network: bind-address, bind-interface and allow, as far as the loopback can show them.
 *
 * What passes on which cable is looked at by tests/net.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qobject/qdict.h"

#include "postcopy.h"

/* --- What is refused when it is set ------------------------------------------------------------- */

static void expect_refusal(Run *run, const char *name, const char *value, const char *words)
{
    g_autofree char *arguments = g_strdup_printf("{ 'dscp': 3, '%s': '%s' }", name, value);
    g_autofree char *line = g_strdup_printf("ferry_set_parameter %s %s", name, value);
    g_autofree char *wanted = g_strdup_printf("Parameter '%s': %s", name, words);
    g_autofree char *error = vm_command_fails(run->source, "ferry-set-parameters", arguments);
    g_autofree char *text = vm_hmp(run->source, line);
    QDict *parameters = vm_command(run->source, "query-ferry-parameters", NULL);

    g_assert_nonnull(strstr(error, wanted));
    g_assert_nonnull(strstr(text, wanted));
    g_assert_cmpstr(qdict_get_str(parameters, name), ==, "");
    g_assert_cmpint(qdict_get_int(parameters, "dscp"), ==, 0);
    qobject_unref(parameters);
}

static void refuse_mistakes(Run *run)
{
    expect_refusal(run, "bind-address", "localhost", "'localhost' is no IP address");
    expect_refusal(run, "bind-address", "192.0.2.1",
                   "no interface of this host has the address 192.0.2.1");
    expect_refusal(run, "bind-interface", "no-such",
                   "this host has no network interface 'no-such'; it has: lo");
    expect_refusal(run, "allow", "10.0.0.1/8", "'10.0.0.1/8' is no subnet: ");
    expect_refusal(run, "allow", "127.0.0.0/8,,::1", "'' is neither a subnet");
}

/* --- Where it goes ------------------------------------------------------------------------------ */

/* The addresses from which the destination's connections come. */
static void expect_peers(Run *run, const char *address)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/net/tcp", qtest_pid(run->source->qts));
    g_autofree char *text = NULL, *wanted = NULL;
    const char *port = strrchr(run->uri, ':') + 1;
    unsigned nr = 0;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    /* As the kernel writes it: the source's end of each established connection to that port. */
    wanted = g_strdup_printf(":%04X 01 ", atoi(port));
    for (const char *at = text; (at = strstr(at, wanted)); at++) {
        const char *line = at;

        while (line > text && line[-1] != '\n') {
            line--;
        }
        g_assert_nonnull(strstr(line, address));
        nr++;
    }
    /* Main, control and data. */
    g_assert_cmpuint(nr, >=, 3);
}

static void expect_bound(Run *run)
{
    expect_peers(run, ": 0900007F:");
}

/* The same after a resume, which makes all connections anew. */
static void expect_resumed(Run *run)
{
    postcopy_go_over_slowly(run);
    postcopy_pause(run);
    vm_do(run->source, "ferry-set-parameters", "{ 'bind-address': '127.0.0.9' }");
    postcopy_recover(run);
    expect_bound(run);
}

/* --- Who is taken ------------------------------------------------------------------------------- */

/* What is not told is counted, and told with what is told next. */
static void flood(Run *run)
{
    g_autofree char *log = NULL;
    QDict *info;
    int64_t deadline_us = g_get_monotonic_time() + 30 * G_USEC_PER_SEC;

    vm_do(run->destination, "ferry-set-parameters", "{ 'allow': '127.0.0.8' }");
    do {
        int fd = connect_to(run->uri);
        char byte;

        g_assert_cmpint(fd, >=, 0);
        g_assert_cmpint(recv(fd, &byte, 1, 0), <=, 0);
        close(fd);
        g_usleep(100000);
        g_free(log);
        log = vm_log(run->destination);
    } while (!strstr(log, "more were refused") && g_get_monotonic_time() < deadline_us);
    g_assert_nonnull(strstr(log, "warning: ferry: before it, "));
    info = vm_command(run->destination, "query-ferry", NULL);
    g_assert_cmpint(qdict_get_int(info, "refused-connections"), >=, 10);
    qobject_unref(info);
    vm_do(run->destination, "ferry-set-parameters", "{ 'allow': '' }");
}

static const Case cases[] = {
    {
        .name = "network/mistakes",
        .before = refuse_mistakes,
        .hold = HOLD_NOT,
    },
    {
        .name = "network/address",
        .ferry_parameters = "{ 'bind-address': '127.0.0.9' }",
        .during = expect_bound,
    },
    {
        .name = "network/address-and-interface",
        .ferry_parameters = "{ 'bind-address': '127.0.0.9', 'bind-interface': 'lo' }",
        .destination_options = "-global ferry.bind-interface=lo -global ferry.allow=127.0.0.9",
        .during = expect_bound,
    },
    {
        .name = "network/resumed",
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = expect_resumed,
        .after = postcopy_expect_fetched,
    },
    {
        .name = "network/unix",
        .uri = "unix:{dir}/migration",
        .ferry_parameters = "{ 'bind-address': '127.0.0.9', 'bind-interface': 'lo' }",
        .destination_options =
            "-global ferry.bind-address=127.0.0.9 -global ferry.allow=10.0.0.0/8",
    },
    {
        .name = "network/not-allowed",
        .destination_options = "-global ferry.allow=10.0.0.0/8,127.0.0.9",
        .second_options = "-global ferry.allow=127.0.0.1",
        .hold = HOLD_NOT,
        .outcome = FAILS,
        .error = HANGS_UP,
        .destination_stays = true,
        .destination_log = "a connection from 127.0.0.1 was refused: allow names no subnet",
    },
    {
        .name = "network/flood",
        .before = flood,
        .hold = HOLD_NOT,
    },
};

void add_network_cases(void)
{
    cases_add(cases, G_N_ELEMENTS(cases));
}
