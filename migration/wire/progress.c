/*
 * Progress: see progress.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "progress.h"

#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

/* Milliseconds since the peer's TCP was heard, or -1. */
static gint64 tcp_unheard_ms(int fd)
{
    struct tcp_info info;
    socklen_t nr_bytes = sizeof(info);
    int protocol = 0;
    socklen_t protocol_bytes = sizeof(protocol);

    memset(&info, 0, sizeof(info));
    if (getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &protocol_bytes) < 0 ||
        protocol != IPPROTO_TCP || getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &nr_bytes) < 0) {
        return -1;
    }
    return info.tcpi_last_ack_recv;
}

gint64 ferry_progress_stalled_ms(FerryProgress *progress, int fd, gint64 now_us)
{
    gint64 unheard_ms = tcp_unheard_ms(fd);
    int unsent_bytes;

    if (unheard_ms >= 0) {
        return unheard_ms;
    }
    if (ioctl(fd, SIOCOUTQ, &unsent_bytes) < 0) {
        return -1;
    }
    if (unsent_bytes != progress->unsent_bytes || !progress->moved_us) {
        progress->unsent_bytes = unsent_bytes;
        progress->moved_us = now_us;
    }
    return (now_us - progress->moved_us) / 1000;
}
