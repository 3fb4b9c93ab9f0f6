/*
 * Marks: DSCP, priority and congestion control of every TCP connection of a migration, at the end that sets them.
 *
 * What query-ferry says is compared with what is asked for, and so are all TCP sockets that the QEMU has, of which
 * the test gets copies.  What then travels is looked at by tests/net.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <netinet/in.h>
#include <sys/pidfd.h>
#include "qobject/qdict.h"
#include "qobject/qlist.h"

#include "postcopy.h"

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

/* What both ends are told; they differ, as each marks only what it sends. */
#define AT_SOURCE      "{ 'dscp': 46, 'socket-priority': 5, 'congestion-control': 'reno' }"
#define AT_DESTINATION "-global ferry.dscp=10 -global ferry.socket-priority=1"

typedef struct Wanted {
    int dscp, priority;
    const char *congestion; /* NULL: whatever there is */
} Wanted;

static const Wanted at_source = {46, 5, "reno"}, at_destination = {10, 1, NULL},
                    nowhere = {0, 0, NULL};

/* --- What query-ferry says --------------------------------------------------------------------- */

static void expect_socket(QDict *owner, const char *name, const Wanted *wanted)
{
    QDict *socket = qdict_get_qdict(owner, name);

    g_assert_nonnull(socket);
    g_assert_cmpint(qdict_get_int(socket, "dscp"), ==, wanted->dscp);
    g_assert_cmpint(qdict_get_int(socket, "socket-priority"), ==, wanted->priority);
    if (wanted->congestion) {
        g_assert_cmpstr(qdict_get_str(socket, "congestion-control"), ==, wanted->congestion);
    }
}

static void expect_query(Vm *vm, const Wanted *wanted, bool has_session)
{
    QDict *info = vm_command(vm, "query-ferry", NULL);
    QList *channels = qdict_get_qlist(info, "channels");
    const QListEntry *e;

    expect_socket(info, "main", wanted);
    g_assert(has_session == (channels != NULL));
    if (channels) {
        /* Control, and data. */
        g_assert_cmpuint(qlist_size(channels), >=, 2);
        QLIST_FOREACH_ENTRY (channels, e) {
            expect_socket(qobject_to(QDict, qlist_entry_obj(e)), "socket", wanted);
        }
    }
    qobject_unref(info);
}

/* --- What its sockets have ---------------------------------------------------------------------- */

static int option(int fd, int level, int name)
{
    int value = -1;
    socklen_t nr_bytes = sizeof(value);

    return getsockopt(fd, level, name, &value, &nr_bytes) == 0 ? value : -1;
}

static bool is_tcp(int fd)
{
    int protocol = option(fd, SOL_SOCKET, SO_PROTOCOL), domain = option(fd, SOL_SOCKET, SO_DOMAIN);

    return (domain == AF_INET || domain == AF_INET6) &&
           (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP);
}

static void expect_fd(int fd, const Wanted *wanted)
{
    bool listens = option(fd, SOL_SOCKET, SO_ACCEPTCONN) == 1;
    char congestion[16] = "";
    socklen_t nr_bytes = sizeof(congestion);

    g_assert_cmpint(option(fd, IPPROTO_IP, IP_TOS) >> 2, ==, wanted->dscp);
    if (option(fd, SOL_SOCKET, SO_DOMAIN) == AF_INET6) {
        g_assert_cmpint(option(fd, IPPROTO_IPV6, IPV6_TCLASS) >> 2, ==, wanted->dscp);
    }
    g_assert_cmpint(option(fd, SOL_SOCKET, SO_PRIORITY), ==, wanted->priority);
    g_assert_cmpint(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, congestion, &nr_bytes), ==, 0);
    if (wanted->congestion && !listens) {
        g_assert_cmpstr(congestion, ==, wanted->congestion);
    }
}

/* Every TCP socket; returns how many there are. */
static unsigned expect_fds(Vm *vm, const Wanted *wanted)
{
    pid_t pid = qtest_pid(vm->qts);
    g_autofree char *path = g_strdup_printf("/proc/%d/fd", pid);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    int process = pidfd_open(pid, 0);
    unsigned nr = 0;
    const char *name;

    g_assert_nonnull(dir);
    g_assert_cmpint(process, >=, 0);
    while ((name = g_dir_read_name(dir))) {
        int fd = pidfd_getfd(process, atoi(name), 0);

        if (fd >= 0 && is_tcp(fd)) {
            expect_fd(fd, wanted);
            nr++;
        }
        if (fd >= 0) {
            close(fd);
        }
    }
    close(process);
    return nr;
}

/* At both ends, where main and control channel and data channels are open, at least. */
static void expect_all(Run *run)
{
    expect_query(run->source, &at_source, true);
    expect_query(run->destination, &at_destination, true);
    g_assert_cmpuint(expect_fds(run->source, &at_source), >=, 3);
    g_assert_cmpuint(expect_fds(run->destination, &at_destination), >=, 3);
}

/* It is remembered when the migration is over. */
static void expect_remembered(Run *run)
{
    QDict *info = vm_command(run->source, "query-ferry", NULL);
    QDict *path = qdict_get_qdict(info, "path");

    expect_query(run->source, &at_source, true);
    expect_query(run->destination, &at_destination, true);
    g_assert_nonnull(path);
    g_assert_cmpint(qdict_get_int(path, "mtu"), >=, 1280);
    g_assert_cmpint(qdict_get_int(path, "mss"), >=, 500);
    g_assert_cmpint(qdict_get_int(path, "rtt"), >, 0);
    g_assert_cmpint(qdict_get_int(path, "min-rtt"), <=, qdict_get_int(path, "rtt"));
    /* Whatever the loopback has for frames is nobody's mistake. */
    g_assert_false(qdict_haskey(path, "interface"));
    g_assert_false(qdict_haskey(path, "interface-mtu"));
    qobject_unref(info);

    info = vm_command(run->destination, "query-ferry", NULL);
    g_assert_false(qdict_haskey(info, "path"));
    qobject_unref(info);
}

static void expect_words(Run *run)
{
    g_autofree char *words = vm_hmp(run->source, "info ferry");

    g_assert_nonnull(
        strstr(words, "socket main: dscp 46, priority 5, congestion control reno\r\n"));
    g_assert_nonnull(
        strstr(words, "socket control: dscp 46, priority 5, congestion control reno\r\n"));
    g_assert_nonnull(strstr(words, "path: mtu "));
    expect_remembered(run);
}

/* --- Ways to the destination -------------------------------------------------------------------- */

/* It listens for IPv6, and takes IPv4 as well. */
static void dial_ipv4(Run *run)
{
    g_autofree char *uri = g_steal_pointer(&run->uri);
    const char *port = strrchr(uri, ':');

    g_assert_nonnull(port);
    run->uri = g_strdup_printf("tcp:127.0.0.1%s", port);
}

static void pass_connected_socket(Run *run)
{
    int fd = connect_to(run->uri);

    g_assert_cmpint(fd, >=, 0);
    vm_pass_fd(run->source, fd, "migration");
    close(fd);
}

static void expect_no_marks(Vm *vm)
{
    QDict *info = vm_command(vm, "query-ferry", NULL);
    QList *channels = qdict_get_qlist(info, "channels");
    g_autofree char *log = vm_log(vm);
    const QListEntry *e;

    g_assert_false(qdict_haskey(info, "main"));
    g_assert_false(qdict_haskey(info, "path"));
    QLIST_FOREACH_ENTRY (channels, e) {
        g_assert_false(qdict_haskey(qobject_to(QDict, qlist_entry_obj(e)), "socket"));
    }
    g_assert_null(strstr(log, "cannot"));
    qobject_unref(info);
}

static void expect_nothing(Run *run)
{
    expect_no_marks(run->source);
    expect_no_marks(run->destination);
}

/* --- QEMU's own path ----------------------------------------------------------------------------- */

/* The main connection and multifd's. */
static void expect_own_path(Run *run)
{
    expect_query(run->source, &at_source, false);
    g_assert_cmpuint(expect_fds(run->source, &at_source), >=, 5);
    g_assert_cmpuint(expect_fds(run->destination, &nowhere), >=, 5);
}

static void expect_switched_off(Run *run)
{
    g_assert_cmpuint(expect_fds(run->source, &nowhere), >=, 1);
}

/* --- Post-copy ---------------------------------------------------------------------------------- */

static void expect_resumed(Run *run)
{
    postcopy_go_over_slowly(run);
    postcopy_pause(run);
    /* What is set now counts for what is opened from now on. */
    vm_do(run->source, "ferry-set-parameters", AT_SOURCE);
    postcopy_recover(run);
    expect_all(run);
}

/* --- What cannot be ------------------------------------------------------------------------------ */

static void refuse_unknown(Run *run)
{
    g_autofree char *error = vm_command_fails(run->source, "ferry-set-parameters",
                                              "{ 'dscp': 3, 'congestion-control': 'unheard-of' }");
    g_autofree char *words =
        vm_hmp(run->source, "ferry_set_parameter congestion-control unheard-of");
    QDict *parameters = vm_command(run->source, "query-ferry-parameters", NULL);

    g_assert_nonnull(strstr(error, "Parameter 'congestion-control': cannot use congestion control "
                                   "'unheard-of'"));
    g_assert_nonnull(strstr(error, "modprobe"));
    g_assert_nonnull(strstr(words, error));
    g_assert_cmpstr(qdict_get_str(parameters, "congestion-control"), ==, "");
    g_assert_cmpint(qdict_get_int(parameters, "dscp"), ==, 0);
    qobject_unref(parameters);

    /* Back to what the system has. */
    g_free(vm_hmp(run->source, "ferry_set_parameter congestion-control reno"));
    g_free(vm_hmp(run->source, "ferry_set_parameter congestion-control \"\""));
    parameters = vm_command(run->source, "query-ferry-parameters", NULL);
    g_assert_cmpstr(qdict_get_str(parameters, "congestion-control"), ==, "");
    qobject_unref(parameters);
}

static const char *no_mptcp(void)
{
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_MPTCP);
    int value = 0;
    bool refuses = fd >= 0 && setsockopt(fd, IPPROTO_IPV6, IPV6_TCLASS, &value, sizeof(value)) != 0;

    if (fd < 0) {
        return "this host has no MPTCP over IPv6 (sysctl net.mptcp.enabled)";
    }
    close(fd);
    return refuses ? NULL : "this kernel marks MPTCP over IPv6";
}

static void listen_with_mptcp(Run *run)
{
    g_autofree char *uri = NULL;

    vm_do(run->destination, "migrate-incoming", "{ 'uri': 'tcp:[::1]:0,mptcp=on' }");
    uri = run_listening_uri(run->destination);
    run->uri = g_strdup_printf("%s,mptcp=on", uri);
}

/* The kernel does not mark these packets.  That is told, once, and the migration gets on. */
static void expect_warning(Run *run)
{
    static const char *const words = "warning: ferry: cannot mark packets with dscp 46: ";
    g_autofree char *log = vm_log(run->source);
    const char *first = strstr(log, words);
    QDict *info = vm_command(run->source, "query-ferry", NULL);

    g_assert_nonnull(first);
    g_assert_null(strstr(first + 1, words));
    g_assert_cmpint(qdict_get_int(qdict_get_qdict(info, "main"), "dscp"), ==, 0);
    g_assert_cmpstr(qdict_get_str(qdict_get_qdict(info, "main"), "congestion-control"), ==, "reno");
    qobject_unref(info);
}

static const Case cases[] = {
    {
        .name = "marks/tcp",
        .ferry_parameters = AT_SOURCE,
        .destination_options = AT_DESTINATION,
        .during = expect_all,
        .after = expect_words,
    },
    {
        .name = "marks/tcp6",
        .uri = "tcp:[::1]:0",
        .ferry_parameters = AT_SOURCE,
        .destination_options = AT_DESTINATION,
        .during = expect_all,
        .after = expect_remembered,
    },
    {
        .name = "marks/ipv4-mapped",
        .uri = "tcp:[::]:0",
        .ferry_parameters = AT_SOURCE,
        .destination_options = AT_DESTINATION,
        .before = dial_ipv4,
        .during = expect_all,
        .after = expect_remembered,
    },
    {
        .name = "marks/fd",
        .ferry_parameters = AT_SOURCE,
        .destination_options = AT_DESTINATION,
        .before = pass_connected_socket,
        .source_uri = "fd:migration",
        .during = expect_all,
    },
    {
        .name = "marks/multifd",
        .capabilities = "multifd",
        .parameters = "{ 'multifd-channels': 4 }",
        .ferry_parameters = AT_SOURCE,
        .destination_options = AT_DESTINATION,
        .during = expect_all,
    },
    {
        .name = "marks/unix",
        .uri = "unix:{dir}/migration",
        .ferry_parameters = AT_SOURCE,
        .destination_options = AT_DESTINATION,
        .after = expect_nothing,
    },
    {
        .name = "marks/own-path",
        .capabilities = "multifd",
        .parameters = "{ 'multifd-channels': 4 }",
        .ferry_parameters = AT_SOURCE,
        .destination_options = "-global ferry.enabled=off " AT_DESTINATION,
        .fallback = "the destination has no Ferry",
        .during = expect_own_path,
    },
    {
        .name = "marks/switched-off",
        .source_options = "-global ferry.enabled=off -global ferry.dscp=46",
        .fallback = "switched off",
        .during = expect_switched_off,
    },
    {
        .name = "marks/resumed",
        .destination_options = AT_DESTINATION,
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = expect_resumed,
        .after = postcopy_expect_fetched,
    },
    {
        .name = "marks/unknown",
        .before = refuse_unknown,
        .hold = HOLD_NOT,
    },
    {
        .name = "marks/mptcp6",
        .cannot = no_mptcp,
        .no_listen = true,
        .ferry_parameters = AT_SOURCE,
        .before = listen_with_mptcp,
        .during = expect_warning,
    },
};

void add_marks_cases(void)
{
    cases_add(cases, G_N_ELEMENTS(cases));
}
