/*
 * A listener on the loopback, and a connection to it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_TEST_TCP_PAIR_H
#define FERRY_TEST_TCP_PAIR_H

#include <glib.h>
#include <netinet/in.h>
#include <stdbool.h>

typedef enum {
    TCP_IPV4,
    TCP_IPV6,
    TCP_MAPPED, /* a listener for both, and a connection from IPv4 */
} TcpKind;

typedef struct TcpPair {
    TcpKind kind;
    in_port_t port;
    int listener, client, server;
} TcpPair;

/* False if there is no IPv6 here. */
bool tcp_pair_open(TcpPair *pair, TcpKind kind);

/* One more connection to the listener; the caller's to close. */
int tcp_pair_dial(const TcpPair *pair);

void tcp_pair_close(TcpPair *pair);

#endif
