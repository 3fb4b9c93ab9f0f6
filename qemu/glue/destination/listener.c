/*
 * Where an incoming migration is awaited: QEMU's listener and Ferry's own, on the network that the user has given
 * to migrations.
 *
 * An interface has to be chosen before a socket listens, which QEMU's own function cannot do.  So where there is
 * such a network, the sockets are made here, and QEMU's listener gets them.
 *
 * Threads: the main thread, or that of a recovery.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/sockets.h"
#include "qapi/clone-visitor.h"
#include "qapi/error.h"
#include "qapi/qapi-visit-sockets.h"
#include "io/channel-socket.h"
#include "io/net-listener.h"
#include <netdb.h>

#include "ferry/glue/binding.h"
#include "ferry/glue/ferry.h"
#include "ferry/glue/marks.h"
#include "ferry/migration/wire/frame.h"
#include "../internal.h"

typedef struct Place {
    FerryBinding binding;
    const InetSocketAddress *inet;
    int backlog;
} Place;

/* --- Addresses ---------------------------------------------------------------------------------- */

static in_port_t *port_of(struct addrinfo *at)
{
    return at->ai_family == AF_INET6 ? &((struct sockaddr_in6 *)at->ai_addr)->sin6_port
                                     : &((struct sockaddr_in *)at->ai_addr)->sin_port;
}

/* Whether @host stands for all of this host's addresses. */
static bool is_any_host(const char *host)
{
    struct in6_addr ipv6;
    struct in_addr ipv4;

    return !*host || (inet_pton(AF_INET, host, &ipv4) == 1 && ipv4.s_addr == INADDR_ANY) ||
           (inet_pton(AF_INET6, host, &ipv6) == 1 && IN6_IS_ADDR_UNSPECIFIED(&ipv6));
}

/* All addresses become the one that is bound to. */
static void settle_host(SocketAddress *address, const FerryBinding *binding)
{
    char text[FERRY_ADDRESS_MAX + 1] = "";

    if (binding->address.ss_family != AF_UNSPEC && is_any_host(address->u.inet.host)) {
        getnameinfo((const struct sockaddr *)&binding->address, binding->address_length, text,
                    sizeof(text), NULL, 0, NI_NUMERICHOST);
        g_free(address->u.inet.host);
        address->u.inet.host = g_strdup(text);
    }
}

/* --- Sockets ------------------------------------------------------------------------------------ */

/* As QEMU does: an IPv6 socket for all addresses takes IPv4 too, unless that is not wanted, or taken. */
static bool bind_at(int fd, const Place *place, const struct addrinfo *at)
{
    const InetSocketAddress *inet = place->inet;
    int only_ipv6 = (inet->has_ipv4 || inet->has_ipv6) &&
                    !(inet->has_ipv4 && inet->ipv4 && inet->has_ipv6 && inet->ipv6);

    do {
        if (at->ai_family == AF_INET6) {
            (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only_ipv6, sizeof(only_ipv6));
        }
        if (bind(fd, at->ai_addr, at->ai_addrlen) == 0) {
            return true;
        }
    } while (at->ai_family == AF_INET6 && errno == EADDRINUSE && only_ipv6++ == 0);
    return false;
}

/* A socket that listens there; -1 if there is none, with *@in_use if its port is another's. */
static int listen_at(const Place *place, const struct addrinfo *at, bool *in_use, Error **errp)
{
    int protocol = at->ai_protocol, fd;
    GError *error = NULL;

#ifdef HAVE_IPPROTO_MPTCP
    if (place->inet->has_mptcp && place->inet->mptcp) {
        protocol = IPPROTO_MPTCP;
    }
#endif
    *in_use = false;
    fd = qemu_socket(at->ai_family, at->ai_socktype, protocol);
    if (fd < 0) {
        error_setg_errno(errp, errno, "cannot make a socket");
        return -1;
    }
    socket_set_fast_reuse(fd);
    ferry_mark_socket(fd);
    if (!ferry_binding_set_interface(fd, &place->binding, &error)) {
        ferry_propagate_error(errp, error);
    } else if (!bind_at(fd, place, at) || listen(fd, place->backlog) != 0) {
        *in_use = errno == EADDRINUSE;
        error_setg_errno(errp, errno, "cannot listen on '%s:%d'", place->inet->host,
                         ntohs(*port_of((struct addrinfo *)at)));
    } else {
        return fd;
    }
    close(fd);
    return -1;
}

/* On the first port of those that the user permits. */
static int listen_on_port(const Place *place, struct addrinfo *at, Error **errp)
{
    unsigned port = ntohs(*port_of(at)), last = place->inet->has_to ? place->inet->to : port;
    Error *err = NULL;
    bool in_use;
    int fd;

    do {
        error_free(err);
        err = NULL;
        *port_of(at) = htons(port);
        fd = listen_at(place, at, &in_use, &err);
    } while (fd < 0 && in_use && port++ < last);
    error_propagate(errp, err);
    return fd;
}

static bool add_socket(QIONetListener *listener, const Place *place, struct addrinfo *at,
                       Error **errp)
{
    QIOChannelSocket *socket;
    int fd;

    if (!ferry_binding_is_at(&place->binding, at->ai_addr)) {
        error_setg(errp, "the migration is to be awaited at '%s', and bind-address is another one",
                   place->inet->host);
        return false;
    }
    fd = listen_on_port(place, at, errp);
    socket = fd < 0 ? NULL : qio_channel_socket_new_fd(fd, errp);
    if (socket) {
        qio_net_listener_add(listener, socket);
        object_unref(OBJECT(socket));
    } else if (fd >= 0) {
        close(fd);
    }
    return socket != NULL;
}

/* As QEMU does: one of several addresses is enough. */
static int listen_bound(QIONetListener *listener, Place *place, const SocketAddress *address,
                        Error **errp)
{
    g_autoptr(SocketAddress) settled = QAPI_CLONE(SocketAddress, address);
    struct addrinfo *found;
    Error *err = NULL;
    bool listens = false;

    settle_host(settled, &place->binding);
    place->inet = &settled->u.inet;
    found = ferry_binding_resolve(place->inet, true, &place->binding, errp);
    for (struct addrinfo *at = found; at; at = at->ai_next) {
        listens |= add_socket(listener, place, at, err ? NULL : &err);
    }
    if (!found) {
        return -1;
    }
    freeaddrinfo(found);
    if (listens) {
        error_free(err);
        return 0;
    }
    error_propagate(errp, err);
    return -1;
}

/* --- What QEMU calls ---------------------------------------------------------------------------- */

int ferry_listen(QIONetListener *listener, SocketAddress *address, int backlog, Error **errp)
{
    Place place = {.backlog = ferry_is_enabled() ? MAX(backlog, FERRY_CHANNELS_MAX) : backlog};

    if (!ferry_binding_is_wanted() || address->type != SOCKET_ADDRESS_TYPE_INET) {
        return qio_net_listener_open_sync(listener, address, place.backlog, errp);
    }
    return ferry_binding_wanted(&place.binding, errp)
               ? listen_bound(listener, &place, address, errp)
               : -1;
}

bool ferry_incoming_may_pass(QIOChannel *ioc, Error **errp)
{
    return ferry_binding_check(ioc, errp);
}
