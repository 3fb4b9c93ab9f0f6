/*
 * Ways for memory to get to the other side.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <linux/vm_sockets.h>
#include <netinet/tcp.h>
#include <sys/syscall.h>

#include "postcopy.h"

#define VSOCK_PORT 13177

/* A guest with this machine's own CID: the kernel's loopback. */
static const char *no_vsock(void)
{
    struct sockaddr_vm address = {
        .svm_family = AF_VSOCK,
        .svm_cid = VMADDR_CID_ANY,
        .svm_port = VSOCK_PORT,
    };
    struct timeval patience = {.tv_sec = 1};
    int listener = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int client = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const char *reason = NULL;

    if (listener < 0 || client < 0) {
        reason = "this kernel has no vsock";
    } else if (bind(listener, (struct sockaddr *)&address, sizeof(address)) != 0 ||
               listen(listener, 1) != 0) {
        reason = "cannot listen on vsock";
    } else {
        address.svm_cid = VMADDR_CID_LOCAL;
        setsockopt(client, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT_OLD, &patience,
                   sizeof(patience));
        if (connect(client, (struct sockaddr *)&address, sizeof(address)) != 0) {
            reason = "vsock has no loopback here (kernel module vsock_loopback)";
        }
    }
    close(listener);
    close(client);
    return reason;
}

/* --- Sockets of the QEMUs -------------------------------------------------------------------------- */

static const char *no_pidfd(void)
{
    int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    int fd = pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, 0, 0);
    bool can = fd >= 0;

    close(fd);
    close(pidfd);
    return can ? NULL : "this kernel does not show us other processes' descriptors (pidfd_getfd)";
}

/* Whether a connection over TCP sends what is short at once; -1 if @fd is none. */
static int sends_at_once(int fd)
{
    struct sockaddr_storage peer;
    socklen_t length = sizeof(peer), size = sizeof(int);
    int value = 0;

    if (getpeername(fd, (struct sockaddr *)&peer, &length) != 0 ||
        (peer.ss_family != AF_INET && peer.ss_family != AF_INET6)) {
        return -1;
    }
    g_assert_cmpint(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, &size), ==, 0);
    return value != 0;
}

/* How many connections over TCP a QEMU has, none of which waits for acknowledgements. */
static unsigned expect_at_once(const Vm *vm)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fd", qtest_pid(vm->qts));
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    int pidfd = (int)syscall(SYS_pidfd_open, qtest_pid(vm->qts), 0);
    const char *entry;
    unsigned nr = 0;

    g_assert_nonnull(dir);
    g_assert_cmpint(pidfd, >=, 0);
    while ((entry = g_dir_read_name(dir))) {
        int fd = (int)syscall(SYS_pidfd_getfd, pidfd, (int)strtol(entry, NULL, 10), 0);
        int at_once = fd < 0 ? -1 : sends_at_once(fd);

        g_assert_cmpint(at_once, !=, 0);
        nr += at_once > 0;
        close(fd);
    }
    close(pidfd);
    return nr;
}

/* The main connection, control, two for data, one to fetch. */
static void all_send_at_once(Run *run)
{
    g_assert_cmpuint(expect_at_once(run->source), ==, 5);
    g_assert_cmpuint(expect_at_once(run->destination), ==, 5);
}

/* --- Ways ------------------------------------------------------------------------------------------ */

/* Connects to the destination ourselves, and hands the source the socket. */
static void pass_connected_socket(Run *run)
{
    int fd = connect_to(run->uri);

    g_assert_cmpint(fd, >=, 0);
    vm_pass_fd(run->source, fd, "migration");
    close(fd);
}

/* One end for each: these sockets have no address that further channels could be dialled to. */
static void make_socket_pair(Run *run)
{
    int *pair = g_new(int, 2);

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    run->opaque = pair;
}

static void pass_socket_pair(Run *run)
{
    int *pair = run->opaque;

    vm_pass_fd(run->source, pair[0], "migration");
    close(pair[0]);
    g_free(pair);
}

static void listen_on_passed_fd(Run *run)
{
    int *pair = run->opaque;

    vm_pass_fd(run->destination, pair[1], "migration");
    close(pair[1]);
    vm_do(run->destination, "migrate-incoming", "{ 'uri': 'fd:migration' }");
    pass_socket_pair(run);
}

/* Another migration, first: it is cancelled. */
static void forbid_postcopy(Run *run)
{
    g_autofree char *error = NULL;

    vm_set_bandwidth(run->source, 65536);
    vm_do(run->source, "migrate", "{ 'uri': 'file:{dir}/cancelled' }");
    g_free(vm_wait_status(run->source, "active"));
    error = vm_command_fails(run->source, "migrate-start-postcopy", NULL);
    g_assert_nonnull(strstr(error, "Post-copy needs a destination that answers"));
    vm_do(run->source, "migrate_cancel", NULL);
    g_free(vm_wait_status(run->source, "cancelled"));
    vm_set_bandwidth(run->source, 0);
}

/* As libvirt starts a QEMU. */
#define SANDBOX "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

static const Case cases[] = {
    {
        .name = "transport/tcp",
        .after = run_check_comparison,
    },
    {
        .name = "transport/tcp-rounds",
        .hold = HOLD_ROUNDS,
    },
    {
        .name = "transport/tcp-unheld",
        .hold = HOLD_NOT,
    },
    {
        .name = "transport/tcp6",
        .uri = "tcp:[::1]:0",
    },
    {
        .name = "transport/unix",
        .uri = "unix:{dir}/migration",
        .hold = HOLD_ROUNDS,
    },
    {
        .name = "transport/vsock",
        .cannot = no_vsock,
        .uri = "vsock:1:13177",
    },
    {
        .name = "transport/fd-connected",
        .before = pass_connected_socket,
        .source_uri = "fd:migration",
    },
    {
        .name = "transport/fd-pair",
        .prepare = make_socket_pair,
        .no_listen = true,
        .before = listen_on_passed_fd,
        .source_uri = "fd:migration",
    },
    {
        .name = "transport/exec",
        .uri = "exec:cat {dir}/stream",
        .source_uri = "exec:cat > {dir}/stream",
        .stored = true,
        .fallback = "the transport is not a socket",
        .destination_fallback = "the source has no Ferry",
    },
    {
        .name = "transport/file",
        .uri = "file:{dir}/stream",
        .stored = true,
        .fallback = "the transport is not a socket",
        .destination_fallback = "the source has no Ferry",
    },
    {
        /* Nobody fetches pages from a file: permitted, it just does not happen. */
        .name = "transport/file-postcopy-ram",
        .uri = "file:{dir}/stream",
        .stored = true,
        .capabilities = "postcopy-ram",
        .before = forbid_postcopy,
        .fallback = "the transport is not a socket",
        .destination_fallback = "the source has no Ferry",
    },
    {
        .name = "transport/file-mapped-ram",
        .uri = "file:{dir}/stream",
        .stored = true,
        .capabilities = "mapped-ram",
        .fallback = "the transport is not a socket",
    },
    {
        .name = "channels/1",
        .ferry_parameters = "{ 'channels': 1 }",
        .hold = HOLD_ROUNDS,
        .channels = 1,
    },
    {
        .name = "transport/tcp-at-once",
        .cannot = no_pidfd,
        .capabilities = "postcopy-ram",
        .ferry_parameters = "{ 'channels': 2 }",
        .hold = HOLD_ROUNDS,
        .during = all_send_at_once,
    },
    {
        .name = "channels/2",
        .ferry_parameters = "{ 'channels': 2 }",
        .channels = 2,
    },
    {
        .name = "channels/8",
        .ferry_parameters = "{ 'channels': 8 }",
        .hold = HOLD_ROUNDS,
        .channels = 8,
    },
    {
        .name = "channels/64",
        .ferry_parameters = "{ 'channels': 64 }",
        .channels = 64,
    },
    {
        .name = "channels/command-line",
        .source_options = "-global ferry.channels=3",
        .channels = 3,
    },
    {
        .name = "channels/multifd-4",
        .capabilities = "multifd",
        .parameters = "{ 'multifd-channels': 4 }",
        .hold = HOLD_ROUNDS,
        .channels = 4,
    },
    {
        .name = "channels/multifd-rules",
        .capabilities = "multifd",
        .parameters = "{ 'multifd-channels': 2 }",
        .ferry_parameters = "{ 'channels': 5 }",
        .channels = 2,
    },
    {
        .name = "sandbox/precopy",
        .options = SANDBOX,
        .hold = HOLD_ROUNDS,
    },
    {
        .name = "sandbox/postcopy",
        .options = SANDBOX,
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = postcopy_go_over,
        .after = postcopy_expect_fetched,
    },
    {
        .name = "compressed",
        .ferry_parameters = "{ 'compression': 'zstd' }",
        .hold = HOLD_ROUNDS,
    },
    {
        .name = "checksum",
        .ferry_parameters = "{ 'checksum': true }",
        .hold = HOLD_ROUNDS,
    },
};

void add_transport_cases(void)
{
    cases_add(cases, G_N_ELEMENTS(cases));
}
