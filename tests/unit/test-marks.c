/*
 * Marks: what is set on a TCP socket can be read from it, for both families; other sockets are left alone
 *
 * What the packets carry is looked at by tests/net.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/wire/marks.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tcp-pair.h"

static const FerryMarks some = {.dscp = 46, .priority = 5, .congestion = "reno"};

static void assert_marks(int fd, unsigned dscp, unsigned priority, const char *congestion)
{
    FerryMarks marks;

    g_assert_true(ferry_marks_read(fd, &marks));
    g_assert_cmpuint(marks.dscp, ==, dscp);
    g_assert_cmpuint(marks.priority, ==, priority);
    if (congestion) {
        g_assert_cmpstr(marks.congestion, ==, congestion);
    }
}

static void assert_set(int fd, const FerryMarks *marks)
{
    g_autoptr(GError) error = NULL;

    ferry_marks_set(fd, marks, &error);
    g_assert_no_error(error);
}

static int option(int fd, int level, int name)
{
    int value = -1;
    socklen_t nr_bytes = sizeof(value);

    g_assert_cmpint(getsockopt(fd, level, name, &value, &nr_bytes), ==, 0);
    return value;
}

static void check_pair(TcpKind kind, bool ipv6)
{
    TcpPair pair;

    if (!tcp_pair_open(&pair, kind)) {
        g_test_skip("this host has no IPv6");
        return;
    }
    assert_marks(pair.client, 0, 0, NULL);
    assert_set(pair.client, &some);
    assert_set(pair.server, &some);
    assert_marks(pair.client, 46, 5, "reno");
    assert_marks(pair.server, 46, 5, "reno");
    /* What the kernel sends by. */
    g_assert_cmpint(ipv6 ? option(pair.server, IPPROTO_IPV6, IPV6_TCLASS)
                         : option(pair.server, IPPROTO_IP, IP_TOS),
                    ==, 46 << 2);
    tcp_pair_close(&pair);
}

static void test_ipv4(void)
{
    check_pair(TCP_IPV4, false);
}

static void test_ipv6(void)
{
    check_pair(TCP_IPV6, true);
}

/* The server's socket is for IPv6, and what it sends is IPv4. */
static void test_mapped(void)
{
    check_pair(TCP_MAPPED, false);
}

/* The priority that was asked for counts, not the one that the kernel takes from the DSCP. */
static void test_priority_is_last(void)
{
    FerryMarks marks = {.dscp = 46};
    TcpPair pair;

    g_assert_true(tcp_pair_open(&pair, TCP_IPV4));
    assert_set(pair.client, &marks);
    g_assert_cmpint(option(pair.client, SOL_SOCKET, SO_PRIORITY), !=, 1);
    tcp_pair_close(&pair);

    g_assert_true(tcp_pair_open(&pair, TCP_IPV4));
    marks.priority = 1;
    assert_set(pair.client, &marks);
    assert_marks(pair.client, 46, 1, NULL);
    tcp_pair_close(&pair);
}

/* What a listener has, those that it takes have, too, but for the priority.  Nothing is asked for: nothing is set. */
static void test_listener(void)
{
    static const FerryMarks nothing = {0};
    TcpPair pair;
    int more, taken;

    g_assert_true(tcp_pair_open(&pair, TCP_IPV4));
    assert_set(pair.listener, &some);
    more = tcp_pair_dial(&pair);
    taken = accept(pair.listener, NULL, NULL);
    assert_marks(taken, 46, 0, "reno");
    assert_marks(more, 0, 0, NULL);
    assert_set(taken, &nothing);
    assert_marks(taken, 46, 0, "reno");
    close(more);
    close(taken);
    tcp_pair_close(&pair);
}

static void test_other_sockets(void)
{
    FerryMarks marks;
    int pair[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    assert_set(pair[0], &some);
    g_assert_false(ferry_marks_read(pair[0], &marks));
    g_assert_cmpint(option(pair[0], SOL_SOCKET, SO_PRIORITY), ==, 0);
    close(pair[0]);
    close(pair[1]);
    assert_set(-1, &some);
    g_assert_false(ferry_marks_read(-1, &marks));
}

/* What cannot be done is told, and the rest is done. */
static void test_unknown_congestion(void)
{
    static const FerryMarks marks = {.dscp = 10, .priority = 3, .congestion = "ferry-knows-not"};
    g_autoptr(GError) error = NULL;
    TcpPair pair;

    g_assert_true(tcp_pair_open(&pair, TCP_IPV4));
    g_assert_false(ferry_marks_set(pair.client, &marks, &error));
    g_assert_nonnull(strstr(error->message, "'ferry-knows-not'"));
    g_assert_nonnull(strstr(error->message, "reno"));
    assert_marks(pair.client, 10, 3, NULL);
    g_assert_false(ferry_marks_set(pair.client, &marks, NULL));
    tcp_pair_close(&pair);
}

static void test_check(void)
{
    g_autoptr(GError) error = NULL;

    g_assert_true(ferry_marks_check_congestion("reno", &error));
    g_assert_no_error(error);
    g_assert_false(ferry_marks_check_congestion("ferry-knows-not", &error));
    g_assert_nonnull(strstr(error->message, "modprobe"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/marks/ipv4", test_ipv4);
    g_test_add_func("/marks/ipv6", test_ipv6);
    g_test_add_func("/marks/mapped", test_mapped);
    g_test_add_func("/marks/priority-is-last", test_priority_is_last);
    g_test_add_func("/marks/listener", test_listener);
    g_test_add_func("/marks/other-sockets", test_other_sockets);
    g_test_add_func("/marks/unknown-congestion", test_unknown_congestion);
    g_test_add_func("/marks/check", test_check);
    return g_test_run();
}
