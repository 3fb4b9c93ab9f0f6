/*
 * The network that the user gives to migrations: see binding.h.
 *
 * These parameters count with Ferry switched off, too: a network that must carry nothing of a migration carries
 * nothing of QEMU's own path, either.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-types-sockets.h"
#include "io/channel-socket.h"
#include <netdb.h>

#include "ferry/glue/binding.h"
#include "ferry/glue/ferry.h"
#include "internal.h"

bool ferry_binding_is_wanted(void)
{
    FerrySettings settings;

    ferry_settings_copy(&settings);
    return *settings.bind_address || *settings.bind_interface;
}

bool ferry_binding_wanted(FerryBinding *binding, Error **errp)
{
    FerrySettings settings;
    GError *error = NULL;

    ferry_settings_copy(&settings);
    if (ferry_binding_parse(binding, settings.bind_address, settings.bind_interface, &error)) {
        return true;
    }
    ferry_propagate_error(errp, error);
    error_prepend(errp, "bind-address: ");
    return false;
}

bool ferry_binding_check(QIOChannel *ioc, Error **errp)
{
    QIOChannelSocket *socket = ferry_underlying_socket(ioc);
    FerryBinding binding;
    GError *error = NULL;

    if (!socket || !ferry_binding_is_wanted() ||
        (socket->localAddr.ss_family != AF_INET && socket->localAddr.ss_family != AF_INET6)) {
        return true;
    }
    if (!ferry_binding_wanted(&binding, errp)) {
        return false;
    }
    if (!ferry_binding_holds(socket->fd, &binding, &error)) {
        ferry_propagate_error(errp, error);
        return false;
    }
    return true;
}

/* As QEMU's options for a socket say: either protocol, or one. */
static int family_of(const InetSocketAddress *inet)
{
    bool ipv4 = inet->has_ipv4 && inet->ipv4, ipv6 = inet->has_ipv6 && inet->ipv6;
    bool no_ipv4 = inet->has_ipv4 && !inet->ipv4, no_ipv6 = inet->has_ipv6 && !inet->ipv6;

    if ((ipv4 && !ipv6) || no_ipv6) {
        return AF_INET;
    }
    return (ipv6 && !ipv4) || no_ipv4 ? AF_INET6 : AF_UNSPEC;
}

struct addrinfo *ferry_binding_resolve(const InetSocketAddress *inet, bool passive,
                                       const FerryBinding *binding, Error **errp)
{
    const int own = binding->address.ss_family;
    struct addrinfo hints = {.ai_flags = passive ? AI_PASSIVE : AI_ADDRCONFIG,
                             .ai_family = family_of(inet),
                             .ai_socktype = SOCK_STREAM};
    struct addrinfo *found;
    int status;

    if (own != AF_UNSPEC && hints.ai_family == AF_UNSPEC) {
        hints.ai_family = own;
    }
    if (own != AF_UNSPEC && hints.ai_family == own) {
        /* This host has that protocol, if only on the loopback, which does not count for the flag. */
        hints.ai_flags &= ~AI_ADDRCONFIG;
    }
    status = getaddrinfo(*inet->host ? inet->host : NULL, inet->port, &hints, &found);
    if (status != 0) {
        error_setg(errp, "no address of '%s' can be used: %s", inet->host, gai_strerror(status));
        return NULL;
    }
    return found;
}
