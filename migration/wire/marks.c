/*
 * Marks: see marks.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "marks.h"

#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../error.h"

/* Where the kernel says which ones there are, and which it allows everybody. */
#define AVAILABLE_PATH "/proc/sys/net/ipv4/tcp_available_congestion_control"

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

/* The lower bits of that byte are the kernel's own, for ECN. */
#define DSCP_SHIFT 2

static int int_option(int fd, int level, int name)
{
    int value = 0;
    socklen_t nr_bytes = sizeof(value);

    return getsockopt(fd, level, name, &value, &nr_bytes) == 0 ? value : -1;
}

static bool is_tcp(int fd)
{
    int domain = int_option(fd, SOL_SOCKET, SO_DOMAIN);
    int protocol = int_option(fd, SOL_SOCKET, SO_PROTOCOL);

    return (domain == AF_INET || domain == AF_INET6) &&
           (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP);
}

/* Whether what it sends is IPv6; not known before it is connected, if it can send both. */
static bool speaks_ipv6(int fd, bool otherwise)
{
    struct sockaddr_storage peer = {0};
    socklen_t nr_bytes = sizeof(peer);

    if (int_option(fd, SOL_SOCKET, SO_DOMAIN) != AF_INET6) {
        return false;
    }
    if (getpeername(fd, (struct sockaddr *)&peer, &nr_bytes) != 0) {
        return otherwise;
    }
    return peer.ss_family == AF_INET6 &&
           !IN6_IS_ADDR_V4MAPPED(&((const struct sockaddr_in6 *)&peer)->sin6_addr);
}

static void set_error(GError **errp, int error, const char *what, const char *remedy)
{
    if (errp && !*errp) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM, "%s: %s%s", what, g_strerror(error),
                    remedy);
    }
}

static bool set_dscp(int fd, unsigned dscp, GError **errp)
{
    int value = (int)(dscp << DSCP_SHIFT);
    bool ipv6 = speaks_ipv6(fd, true);
    int done, error = 0;

    if (int_option(fd, SOL_SOCKET, SO_DOMAIN) == AF_INET6) {
        done = setsockopt(fd, IPPROTO_IPV6, IPV6_TCLASS, &value, sizeof(value));
        error = done != 0 && ipv6 ? errno : 0;
    }
    done = setsockopt(fd, IPPROTO_IP, IP_TOS, &value, sizeof(value));
    if (done != 0 && !ipv6) {
        error = errno;
    }
    if (error) {
        g_autofree char *what = g_strdup_printf("cannot mark packets with dscp %u", dscp);

        set_error(errp, error, what, "");
    }
    return error == 0;
}

static bool set_congestion(int fd, const char *name, GError **errp)
{
    g_autofree char *what = NULL, *remedy = NULL, *available = NULL;
    int error;

    if (setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, (socklen_t)strlen(name)) == 0) {
        return true;
    }
    error = errno;
    what = g_strdup_printf("cannot use congestion control '%s'", name);
    if (error == EPERM) {
        remedy = g_strdup("; add it to the sysctl net.ipv4.tcp_allowed_congestion_control");
    } else if (g_file_get_contents(AVAILABLE_PATH, &available, NULL, NULL)) {
        remedy = g_strdup_printf("; this host's kernel has: %s (others: modprobe tcp_NAME)",
                                 g_strstrip(available));
    }
    set_error(errp, error, what, remedy ?: "");
    return false;
}

bool ferry_marks_set(int fd, const FerryMarks *wanted, GError **errp)
{
    int priority = (int)wanted->priority;
    g_autoptr(GError) first = NULL;
    bool ok = true;

    if (!is_tcp(fd)) {
        return true;
    }
    if (wanted->dscp) {
        ok = set_dscp(fd, wanted->dscp, &first);
    }
    if (priority && setsockopt(fd, SOL_SOCKET, SO_PRIORITY, &priority, sizeof(priority)) != 0) {
        g_autofree char *what = g_strdup_printf("cannot give packets priority %d", priority);

        set_error(&first, errno, what, "");
        ok = false;
    }
    if (wanted->congestion[0]) {
        ok = set_congestion(fd, wanted->congestion, &first) && ok;
    }
    if (!ok) {
        g_propagate_error(errp, g_steal_pointer(&first));
    }
    return ok;
}

bool ferry_marks_read(int fd, FerryMarks *marks)
{
    socklen_t nr_bytes = FERRY_CONGESTION_MAX + 1;
    int tos;

    *marks = (FerryMarks){0};
    if (!is_tcp(fd)) {
        return false;
    }
    tos = speaks_ipv6(fd, true) ? int_option(fd, IPPROTO_IPV6, IPV6_TCLASS)
                                : int_option(fd, IPPROTO_IP, IP_TOS);
    marks->dscp = (unsigned)MAX(tos, 0) >> DSCP_SHIFT;
    marks->priority = (unsigned)MAX(int_option(fd, SOL_SOCKET, SO_PRIORITY), 0);
    if (getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, marks->congestion, &nr_bytes) != 0) {
        marks->congestion[0] = '\0';
    }
    marks->congestion[FERRY_CONGESTION_MAX] = '\0';
    return true;
}

bool ferry_marks_check_congestion(const char *name, GError **errp)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP);
    bool ok;

    if (fd < 0) {
        fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP);
    }
    if (fd < 0) {
        return true;
    }
    ok = set_congestion(fd, name, errp);
    close(fd);
    return ok;
}
