/*
 * A pair of TCP sockets: see tcp-pair.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "tcp-pair.h"

#include <sys/socket.h>
#include <unistd.h>

int tcp_pair_dial(const TcpPair *pair)
{
    const struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
        .sin_port = pair->port,
    };
    const struct sockaddr_in6 address6 = {
        .sin6_family = AF_INET6,
        .sin6_addr = IN6ADDR_LOOPBACK_INIT,
        .sin6_port = pair->port,
    };
    int fd = socket(pair->kind == TCP_IPV6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(pair->kind == TCP_IPV6
                        ? connect(fd, (const struct sockaddr *)&address6, sizeof(address6))
                        : connect(fd, (const struct sockaddr *)&address, sizeof(address)),
                    ==, 0);
    return fd;
}

bool tcp_pair_open(TcpPair *pair, TcpKind kind)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 address6 = {.sin6_family = AF_INET6};
    socklen_t nr_bytes = sizeof(address), nr_bytes6 = sizeof(address6);

    *pair = (TcpPair){.kind = kind};
    pair->listener = socket(kind == TCP_IPV4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (pair->listener < 0) {
        return false;
    }
    if (kind == TCP_IPV4) {
        g_assert_cmpint(bind(pair->listener, (struct sockaddr *)&address, nr_bytes), ==, 0);
        g_assert_cmpint(getsockname(pair->listener, (struct sockaddr *)&address, &nr_bytes), ==, 0);
        pair->port = address.sin_port;
    } else {
        address6.sin6_addr = kind == TCP_IPV6 ? in6addr_loopback : in6addr_any;
        if (bind(pair->listener, (struct sockaddr *)&address6, nr_bytes6) != 0) {
            close(pair->listener);
            return false;
        }
        g_assert_cmpint(getsockname(pair->listener, (struct sockaddr *)&address6, &nr_bytes6), ==,
                        0);
        pair->port = address6.sin6_port;
    }
    g_assert_cmpint(listen(pair->listener, 4), ==, 0);
    pair->client = tcp_pair_dial(pair);
    pair->server = accept(pair->listener, NULL, NULL);
    g_assert_cmpint(pair->server, >=, 0);
    return true;
}

void tcp_pair_close(TcpPair *pair)
{
    close(pair->listener);
    close(pair->client);
    close(pair->server);
}
