/*
 * The migration's own network: bind-address, bind-interface and allow, as far as the loopback can show them.
 *
 * What passes on which cable is looked at by tests/net.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <sys/un.h>

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

static void expect_log(Vm *vm, const char *words)
{
    g_autofree char *log = vm_log(vm);

    if (!strstr(log, words)) {
        g_error("%s does not log '%s' but:\n%s", vm->name, words, log);
    }
}

static void expect_no_migration(Run *run, const char *uri, const char *words)
{
    g_autofree char *arguments = g_strdup_printf("{ 'uri': '%s' }", uri);
    g_autofree char *error = NULL;

    vm_do(run->source, "migrate", arguments);
    g_free(vm_wait_status(run->source, "failed"));
    error = vm_migration_error(run->source);
    g_assert_nonnull(strstr(error, words));
    vm_wait_run_state(run->source, "running");
}

#define WARNING(name) \
    "warning: ferry: Parameter '" name "' is kept, but cannot be used on this host: "

/*
 * What the command line asks for may be another host's: the guest starts all the same, and cannot be migrated until
 * that is set to something else.
 */
static void start_elsewhere(Run *run)
{
    Vm *source = run->source, *destination = run->destination;
    Vm *other = run_start_vm(run, "other-destination", true);
    g_autofree char *error =
        vm_command_fails(other, "migrate-incoming", "{ 'uri': 'tcp:127.0.0.1:0' }");

    g_assert_nonnull(strstr(error, "bind-address: this host does not have the interface that "));
    vm_quit(other);

    expect_log(source,
               WARNING("bind-address") "no interface of this host has the address 192.0.2.1");
    expect_log(source, WARNING("bind-interface") "this host has no network interface 'no-such'");
    expect_log(destination, WARNING("bind-address") "this host does not have the interface that "
                                                    "'fe80::1%no-such' names");
    expect_log(destination, WARNING("congestion-control") "cannot use congestion control ");

    vm_do(destination, "ferry-set-parameters", "{ 'bind-address': '', 'congestion-control': '' }");
    run_listen(run);

    expect_no_migration(run, run->uri, "cannot use network interface 'no-such': ");
    vm_do(source, "ferry-set-parameters", "{ 'bind-interface': '' }");
    expect_no_migration(run, run->uri, "cannot leave from the address 192.0.2.1: ");
    vm_do(source, "ferry-set-parameters", "{ 'bind-address': '' }");
}

/* Nobody listens there, or not on that network: what may be the cause is named. */
static void find_nobody(Run *run)
{
    vm_do(run->source, "ferry-set-parameters", "{ 'bind-address': '127.0.0.9' }");
    expect_no_migration(run, "tcp:127.0.0.1:1",
                        "cannot connect to '127.0.0.1:1' from bind-address: ");
    vm_do(run->source, "ferry-set-parameters", "{ 'bind-interface': 'lo' }");
    expect_no_migration(run, "tcp:127.0.0.1:1",
                        "cannot connect to '127.0.0.1:1' from bind-address and bind-interface: ");
    vm_do(run->source, "ferry-set-parameters", "{ 'bind-address': '' }");
    expect_no_migration(run, "tcp:127.0.0.1:1",
                        "cannot connect to '127.0.0.1:1' from bind-interface: ");
}

/* --- Where it goes ------------------------------------------------------------------------------ */

/* The addresses from which the destination's connections come. */
static void expect_peers(Run *run, const char *address)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/net/tcp", qtest_pid(run->source->qts));
    g_autofree char *text = NULL, *wanted = NULL;
    g_auto(GStrv) lines = NULL;
    const char *port = strrchr(run->uri, ':') + 1;
    unsigned nr = 0;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    /* As the kernel writes it: the source's end of each established connection to that port. */
    wanted = g_strdup_printf(":%04X 01 ", atoi(port));
    lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line; line++) {
        if (strstr(*line, wanted)) {
            g_assert_nonnull(strstr(*line, address));
            nr++;
        }
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

/* --- Where Ferry listens itself --------------------------------------------------------------------- */

/* Each QEMU gets an end: then neither has an address, and Ferry listens on a UNIX socket without a file. */
static void pass_pair(Run *run, const char *name)
{
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), ==, 0);
    vm_pass_fd(run->source, fds[0], name);
    vm_pass_fd(run->destination, fds[1], name);
    close(fds[0]);
    close(fds[1]);
}

static void listen_on_pair(Run *run)
{
    pass_pair(run, "migration");
    vm_do(run->destination, "migrate-incoming", "{ 'uri': 'fd:migration' }");
}

static bool has_socket(const Vm *vm, const char *inode)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fd", qtest_pid(vm->qts));
    g_autofree char *wanted = g_strdup_printf("socket:[%s]", inode);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *entry;
    bool found = false;

    g_assert_nonnull(dir);
    while (!found && (entry = g_dir_read_name(dir))) {
        g_autofree char *file = g_strdup_printf("%s/%s", path, entry);
        g_autofree char *target = g_file_read_link(file, NULL);

        found = g_strcmp0(target, wanted) == 0;
    }
    return found;
}

/* The name of the socket on which Ferry listens there, to be freed; NULL if there is none. */
static char *own_listener(const Vm *vm)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/net/unix", qtest_pid(vm->qts));
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    char *name = NULL;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line && !name; line++) {
        char flags[9], inode[21], found[109];

        if (sscanf(*line, "%*s %*s %*s %8s %*s %*s %20s @%108s", flags, inode, found) == 3 &&
            g_str_equal(flags, "00010000") && has_socket(vm, inode)) {
            name = g_strdup(found);
        }
    }
    return name;
}

static bool listens_at(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool connected;

    g_assert_cmpuint(g_strlcpy(address.sun_path + 1, name, sizeof(address.sun_path) - 1), <,
                     sizeof(address.sun_path) - 1);
    connected = connect(fd, (const struct sockaddr *)&address,
                        offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name)) == 0;
    close(fd);
    return connected;
}

/* In a pause nobody comes in where the source was: he would be taken for it. */
static void pause_unreachable(Run *run)
{
    g_autofree char *name = own_listener(run->destination);
    g_autofree char *now = NULL;

    g_assert_nonnull(name);
    g_assert_true(listens_at(name));
    postcopy_pause(run);
    g_assert_false(listens_at(name));
    now = own_listener(run->destination);
    g_assert_null(now);
}

/* In the same way, where Ferry listens anew; and then where QEMU listens, and Ferry no more. */
static void resume_elsewhere(Run *run)
{
    g_autofree char *left = NULL;

    postcopy_go_over_slowly(run);
    pause_unreachable(run);
    pass_pair(run, "again");
    vm_do(run->destination, "migrate-recover", "{ 'uri': 'fd:again' }");
    run->uri = g_strdup("fd:again");
    postcopy_resume(run);
    postcopy_wait(run);
    pause_unreachable(run);
    postcopy_recover(run);
    left = own_listener(run->destination);
    g_assert_null(left);
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

static void refuse_one(Run *run, const char *parameters, int64_t nr_refused)
{
    const struct timeval patience = {.tv_sec = 5};
    QDict *info;
    char byte;
    int fd;

    vm_do(run->destination, "ferry-set-parameters", parameters);
    fd = connect_to(run->uri);
    g_assert_cmpint(fd, >=, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    g_assert_true(recv(fd, &byte, 1, 0) == 0 || errno == ECONNRESET);
    close(fd);
    info = vm_command(run->destination, "query-ferry", NULL);
    g_assert_cmpint(qdict_get_int(info, "refused-connections"), ==, nr_refused);
    qobject_unref(info);
}

/* What is set only when the destination listens already counts for all that comes after it. */
static void set_late(Run *run)
{
    g_autofree char *log = NULL;

    refuse_one(run, "{ 'bind-address': '127.0.0.9' }", 1);
    log = vm_log(run->destination);
    g_assert_nonnull(
        strstr(log, "a connection from 127.0.0.1 was refused: the connection's address here "
                    "is 127.0.0.1, and bind-address is another one"));
    refuse_one(run, "{ 'bind-address': '', 'bind-interface': 'lo' }", 2);
    refuse_one(run, "{ 'bind-interface': '', 'allow': '127.0.0.9' }", 3);
    vm_do(run->destination, "ferry-set-parameters",
          "{ 'bind-address': '127.0.0.1', 'allow': '127.0.0.1' }");
}

static const Case cases[] = {
    {
        .name = "network/mistakes",
        .before = refuse_mistakes,
        .hold = HOLD_NOT,
    },
    {
        .name = "network/started-elsewhere",
        .source_options =
            "-global ferry.bind-address=192.0.2.1 -global ferry.bind-interface=no-such",
        .destination_options =
            "-global ferry.bind-address=fe80::1%no-such -global ferry.congestion-control=unheard-of",
        .no_listen = true,
        .before = start_elsewhere,
    },
    {
        .name = "network/nobody",
        .before = find_nobody,
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
        .name = "network/resumed-elsewhere",
        .no_listen = true,
        .before = listen_on_pair,
        .source_uri = "fd:migration",
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = resume_elsewhere,
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
        .name = "network/late",
        .before = set_late,
    },
    {
        .name = "network/late-switched-off",
        .destination_options = "-global ferry.enabled=off",
        .before = set_late,
        .fallback = "the destination has no Ferry, or has it switched off",
        .destination_fallback = "switched off",
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
