/*
 * Sizes: which paths are warned of, and what the kernel tells of one
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/source/sizes.h"
#include "migration/wire/marks.h"
#include "migration/wire/path.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tcp-pair.h"

/* Ethernet with jumbo frames at both ends, 10 Gb/s wanted. */
static const FerryPath good = {
    .mtu_bytes = 9000,
    .interface_mtu_bytes = 9000,
    .interface = "eth7",
    .mss_bytes = 8948,
    .rtt_us = 300,
    .min_rtt_us = 200,
    .send_limit_bytes = 4194304,
    .window_limit_bytes = 65535 << 7,
    .nr_channels = 2,
    .max_bytes_per_second = 1250000000,
};

/* NULL: nothing is wrong. */
static void expect(char *text, const char *words, const char *more)
{
    g_autofree char *warning = text;

    if (!words) {
        g_assert_cmpstr(warning, ==, NULL);
        return;
    }
    g_assert_nonnull(warning);
    g_test_message("%s", warning);
    g_assert_nonnull(strstr(warning, words));
    g_assert_nonnull(strstr(warning, more));
}

static void test_frames(void)
{
    FerryPath path = good;

    expect(ferry_sizes_judge_frames(&path), NULL, NULL);
    /* The destination's interface has 1500. */
    path.mss_bytes = 1448;
    expect(ferry_sizes_judge_frames(&path), "no more than 1448 in a packet", "'eth7'");
    /* A router on the way has. */
    path.mtu_bytes = 1500;
    expect(ferry_sizes_judge_frames(&path), "only 1500", "9000");
    /* Nobody has set up anything. */
    path.interface_mtu_bytes = 1500;
    expect(ferry_sizes_judge_frames(&path), NULL, NULL);
    /* It is not known what begins here, or it is the loopback. */
    path.interface_mtu_bytes = 0;
    expect(ferry_sizes_judge_frames(&path), NULL, NULL);
}

/* What options and the headers of IPv6 take is no smaller frame. */
static void test_frames_with_options(void)
{
    FerryPath path = good;

    path.mss_bytes = 9000 - 40 - 40;
    expect(ferry_sizes_judge_frames(&path), NULL, NULL);
    path.mss_bytes--;
    expect(ferry_sizes_judge_frames(&path), "in a packet", "9000");
    path.is_ipv6 = true;
    path.mss_bytes = 9000 - 60 - 40;
    expect(ferry_sizes_judge_frames(&path), NULL, NULL);
    /* TCP begins with less than a packet may carry where that is very much. */
    path.interface_mtu_bytes = path.mtu_bytes = 65520;
    path.mss_bytes = 32741;
    expect(ferry_sizes_judge_frames(&path), NULL, NULL);
    path.mss_bytes = 0;
    expect(ferry_sizes_judge_frames(&path), NULL, NULL);
}

static void test_buffers(void)
{
    FerryPath path = good;

    expect(ferry_sizes_judge_buffers(&path), NULL, NULL);
    /* 4 MiB each in 10 ms: 839 MB/s of the two. */
    path.min_rtt_us = 10000;
    expect(ferry_sizes_judge_buffers(&path), "838.9 MB/s of the 1250.0 MB/s", "at the source");
    /* Three get there. */
    path.nr_channels = 3;
    expect(ferry_sizes_judge_buffers(&path), NULL, NULL);
    /* The destination's window is smaller. */
    path.window_limit_bytes = 65535;
    expect(ferry_sizes_judge_buffers(&path), "tcp_rmem", "4166667 at the destination");
    path.send_limit_bytes = 0;
    expect(ferry_sizes_judge_buffers(&path), "tcp_rmem", "at the destination");
    path.window_limit_bytes = 0;
    expect(ferry_sizes_judge_buffers(&path), NULL, NULL);
}

/* Nothing is said where something is not known. */
static void test_buffers_unknown(void)
{
    FerryPath path = good;

    path.min_rtt_us = 10000;
    path.max_bytes_per_second = 0;
    expect(ferry_sizes_judge_buffers(&path), NULL, NULL);
    path = good;
    path.min_rtt_us = 0;
    path.send_limit_bytes = 1;
    expect(ferry_sizes_judge_buffers(&path), NULL, NULL);
    path = good;
    path.min_rtt_us = 10000;
    path.nr_channels = 0;
    expect(ferry_sizes_judge_buffers(&path), NULL, NULL);
}

static void check_path(TcpKind kind, bool is_ipv6)
{
    static const FerryMarks marks = {.dscp = 46};
    FerryPath path = {0}, now = {0};
    TcpPair pair;

    if (!tcp_pair_open(&pair, kind)) {
        g_test_skip("this host has no IPv6");
        return;
    }
    g_assert_true(ferry_path_find(pair.server, &path));
    g_assert_true(path.is_ipv6 == is_ipv6);
    g_assert_cmpuint(path.mtu_bytes, >, 1000);
    g_assert_cmpuint(path.mss_bytes, >, 500);
    g_assert_cmpuint(path.rtt_us, >, 0);
    g_assert_cmpuint(path.min_rtt_us, >, 0);
    g_assert_cmpuint(path.min_rtt_us, <, 10000000);
    g_assert_cmpuint(path.send_limit_bytes, >=, 4096);
    g_assert_cmpuint(path.window_limit_bytes, >=, 65535);
    /* The loopback is no interface that anybody sets up. */
    g_assert_cmpuint(path.interface_mtu_bytes, ==, 0);
    g_assert_cmpstr(path.interface, ==, "");
    /* To mark a socket makes the kernel forget its route. */
    g_assert_true(ferry_marks_set(pair.client, &marks, NULL));
    g_assert_true(ferry_path_look(pair.client, &now));
    g_assert_cmpuint(now.mtu_bytes, ==, path.mtu_bytes);
    tcp_pair_close(&pair);
}

static void test_path(void)
{
    check_path(TCP_IPV4, false);
}

static void test_path_ipv6(void)
{
    check_path(TCP_IPV6, true);
}

static void test_path_mapped(void)
{
    check_path(TCP_MAPPED, false);
}

static void test_no_path(void)
{
    FerryPath path = {0};
    int pair[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    g_assert_false(ferry_path_find(pair[0], &path));
    g_assert_false(ferry_path_look(-1, &path));
    close(pair[0]);
    close(pair[1]);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/sizes/frames", test_frames);
    g_test_add_func("/sizes/frames-with-options", test_frames_with_options);
    g_test_add_func("/sizes/buffers", test_buffers);
    g_test_add_func("/sizes/buffers-unknown", test_buffers_unknown);
    g_test_add_func("/sizes/path", test_path);
    g_test_add_func("/sizes/path-ipv6", test_path_ipv6);
    g_test_add_func("/sizes/path-mapped", test_path_mapped);
    g_test_add_func("/sizes/no-path", test_no_path);
    return g_test_run();
}
