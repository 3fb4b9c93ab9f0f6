/*
 * Path: see path.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "path.h"

#include <ifaddrs.h>
#include <linux/tcp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

/* Least, first and greatest size of a send buffer, in bytes. */
#define SEND_SIZES_PATH "/proc/sys/net/ipv4/tcp_wmem"

/* A window without its scale. */
#define WINDOW_MAX 65535u

/* --- The interface ------------------------------------------------------------------------------ */

/* Both as IPv6, where IPv4 is mapped. */
static bool same_address(const struct sockaddr *a, const struct sockaddr_storage *b)
{
    const struct sockaddr_in *b4 = (const struct sockaddr_in *)b;
    const struct sockaddr_in6 *b6 = (const struct sockaddr_in6 *)b;

    if (a->sa_family == AF_INET && b->ss_family == AF_INET) {
        return ((const struct sockaddr_in *)a)->sin_addr.s_addr == b4->sin_addr.s_addr;
    }
    if (a->sa_family == AF_INET && b->ss_family == AF_INET6) {
        return IN6_IS_ADDR_V4MAPPED(&b6->sin6_addr) &&
               memcmp(&b6->sin6_addr.s6_addr[12], &((const struct sockaddr_in *)a)->sin_addr, 4) ==
                   0;
    }
    return a->sa_family == AF_INET6 && b->ss_family == AF_INET6 &&
           IN6_ARE_ADDR_EQUAL(&((const struct sockaddr_in6 *)a)->sin6_addr, &b6->sin6_addr);
}

/* The interface that has the local address, unless it is the loopback: that has frames of its own. */
static void find_interface(int fd, FerryPath *path)
{
    struct sockaddr_storage local = {0};
    socklen_t nr_bytes = sizeof(local);
    struct ifaddrs *all = NULL;
    struct ifreq request = {0};

    if (getsockname(fd, (struct sockaddr *)&local, &nr_bytes) != 0 || getifaddrs(&all) != 0) {
        return;
    }
    for (const struct ifaddrs *one = all; one; one = one->ifa_next) {
        if (one->ifa_addr && !(one->ifa_flags & IFF_LOOPBACK) &&
            same_address(one->ifa_addr, &local)) {
            g_strlcpy(request.ifr_name, one->ifa_name, sizeof(request.ifr_name));
            break;
        }
    }
    freeifaddrs(all);
    if (request.ifr_name[0] && ioctl(fd, SIOCGIFMTU, &request) == 0 && request.ifr_mtu > 0) {
        path->interface_mtu_bytes = (unsigned)request.ifr_mtu;
        g_strlcpy(path->interface, request.ifr_name, sizeof(path->interface));
    }
}

/* --- The rest ----------------------------------------------------------------------------------- */

static uint64_t send_limit_bytes(void)
{
    g_autofree char *text = NULL;
    unsigned long long most = 0;

    if (!g_file_get_contents(SEND_SIZES_PATH, &text, NULL, NULL) ||
        sscanf(text, "%*u %*u %llu", &most) != 1) {
        return 0;
    }
    return most;
}

/* The kernel forgets the route when a socket is marked, until the next packet: then TCP's own notion of it counts. */
static unsigned path_mtu(int fd, const struct tcp_info *info)
{
    int mtu = 0;
    socklen_t nr_bytes = sizeof(mtu);

    if (getsockopt(fd, IPPROTO_IP, IP_MTU, &mtu, &nr_bytes) != 0 &&
        getsockopt(fd, IPPROTO_IPV6, IPV6_MTU, &mtu, &nr_bytes) != 0) {
        return info->tcpi_pmtu;
    }
    return (unsigned)MAX(mtu, 0);
}

bool ferry_path_look(int fd, FerryPath *path)
{
    struct tcp_info info;
    socklen_t nr_bytes = sizeof(info);
    int domain = 0;
    socklen_t domain_bytes = sizeof(domain);

    memset(&info, 0, sizeof(info));
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &domain_bytes) != 0 ||
        (domain != AF_INET && domain != AF_INET6) ||
        getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &nr_bytes) != 0) {
        return false;
    }
    path->mtu_bytes = path_mtu(fd, &info);
    path->mss_bytes = info.tcpi_snd_mss;
    path->rtt_us = info.tcpi_rtt;
    /* Nothing measured yet is the greatest number; kernels before 4.6 do not tell. */
    path->min_rtt_us = info.tcpi_min_rtt != UINT32_MAX ? info.tcpi_min_rtt : 0;
    path->window_limit_bytes = (uint64_t)WINDOW_MAX
                               << (info.tcpi_options & TCPI_OPT_WSCALE ? info.tcpi_snd_wscale : 0);
    return true;
}

bool ferry_path_find(int fd, FerryPath *path)
{
    struct sockaddr_storage peer = {0};
    socklen_t nr_bytes = sizeof(peer);

    if (!ferry_path_look(fd, path)) {
        return false;
    }
    path->is_ipv6 = getpeername(fd, (struct sockaddr *)&peer, &nr_bytes) == 0 &&
                    peer.ss_family == AF_INET6 &&
                    !IN6_IS_ADDR_V4MAPPED(&((const struct sockaddr_in6 *)&peer)->sin6_addr);
    path->send_limit_bytes = send_limit_bytes();
    find_interface(fd, path);
    return true;
}
