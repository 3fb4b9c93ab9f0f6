/*
 * Sizes: see sizes.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "sizes.h"

#include <inttypes.h>

/* Greater than this is a jumbo frame. */
#define PLAIN_MTU 1500u

/*
 * TCP sends no more at once than half of the window that it has seen so far, which on a young connection may be
 * 64 KiB.  What is as large as this is no sign of frames that are too small.
 */
#define LARGE_MSS 16384u

#define IPV4_TCP_HEADERS 40u
#define IPV6_TCP_HEADERS 60u
/* Options take from what a packet carries; 40 bytes at most, all of which MPTCP may need. */
#define OPTIONS_MAX      40u

#define MB 1000000

char *ferry_sizes_judge_frames(const FerryPath *path)
{
    unsigned headers = path->is_ipv6 ? IPV6_TCP_HEADERS : IPV4_TCP_HEADERS;

    if (path->interface_mtu_bytes <= PLAIN_MTU) {
        return NULL;
    }
    if (path->mtu_bytes && path->mtu_bytes < path->interface_mtu_bytes) {
        return g_strdup_printf(
            "interface '%s' has an MTU of %u bytes, but the path to the destination only %u: "
            "jumbo frames do not get through; give all switches and routers on the way that MTU",
            path->interface, path->interface_mtu_bytes, path->mtu_bytes);
    }
    if (path->mss_bytes && path->mss_bytes < LARGE_MSS &&
        path->mss_bytes + headers + OPTIONS_MAX < path->interface_mtu_bytes) {
        return g_strdup_printf(
            "interface '%s' has an MTU of %u bytes, but the destination takes no more than %u "
            "in a packet: jumbo frames are not used; give the destination's interface that MTU",
            path->interface, path->interface_mtu_bytes, path->mss_bytes);
    }
    return NULL;
}

char *ferry_sizes_judge_buffers(const FerryPath *path)
{
    bool here = path->send_limit_bytes &&
                (!path->window_limit_bytes || path->send_limit_bytes < path->window_limit_bytes);
    uint64_t limit = here ? path->send_limit_bytes : path->window_limit_bytes;
    double total, needed;

    if (!limit || !path->min_rtt_us || !path->nr_channels || !path->max_bytes_per_second) {
        return NULL;
    }
    total = (double)limit * 1e6 / (double)path->min_rtt_us * path->nr_channels;
    if (total >= (double)path->max_bytes_per_second) {
        return NULL;
    }
    needed =
        (double)path->max_bytes_per_second * (double)path->min_rtt_us / 1e6 / path->nr_channels;
    return g_strdup_printf(
        "at a round trip of %" PRIu64 " us the data channels (%u) carry no more than %.1f MB/s of "
        "the %.1f MB/s that are allowed (max-bandwidth): the last number of the sysctl net.ipv4.%s has "
        "to be at least %.0f at the %s, or there have to be more channels",
        path->min_rtt_us, path->nr_channels, total / MB, (double)path->max_bytes_per_second / MB,
        here ? "tcp_wmem" : "tcp_rmem", needed, here ? "source" : "destination");
}
