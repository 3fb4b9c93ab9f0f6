/*
 * Where the source's connections go, and where they leave: see target.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/sockets.h"
#include "qapi/error.h"
#include "io/channel-socket.h"
#include "migration/migration.h"
#include "migration/qemu-file.h"
#include <sys/un.h>

#include "ferry/migration/wire/binding.h"
#include "ferry/migration/wire/frame.h"
#include "../internal.h"
#include "peer.h"
#include "target.h"

/* The destination's own listener gets a port from the kernel, which gives none below this. */
#define PORT_MIN 1024

static void target_unix(FerryTarget *target, const char *path, bool abstract, bool tight)
{
    struct sockaddr_un *un = (struct sockaddr_un *)&target->address;
    size_t room = sizeof(un->sun_path) - abstract, length = MIN(strlen(path), room);

    *target = (FerryTarget){.length = sizeof(*un)};
    un->sun_family = AF_UNIX;
    memcpy(un->sun_path + abstract, path, length);
    if (abstract && tight) {
        target->length = offsetof(struct sockaddr_un, sun_path) + 1 + length;
    }
}

/* Whether both ends of a connection are on the same host, by their addresses. */
static bool is_this_host(const QIOChannelSocket *socket)
{
    const struct sockaddr_storage *local = &socket->localAddr, *remote = &socket->remoteAddr;

    if (remote->ss_family == AF_INET) {
        const struct in_addr *here = &((const struct sockaddr_in *)local)->sin_addr;
        const struct in_addr *there = &((const struct sockaddr_in *)remote)->sin_addr;

        return ntohl(there->s_addr) >> 24 == IN_LOOPBACKNET || here->s_addr == there->s_addr;
    } else {
        const struct in6_addr *here = &((const struct sockaddr_in6 *)local)->sin6_addr;
        const struct in6_addr *there = &((const struct sockaddr_in6 *)remote)->sin6_addr;

        return IN6_IS_ADDR_LOOPBACK(there) || IN6_ARE_ADDR_EQUAL(here, there) ||
               (IN6_IS_ADDR_V4MAPPED(there) && there->s6_addr[12] == IN_LOOPBACKNET);
    }
}

/*
 * The destination names a port of its own at the address to which the main channel goes.  Through a tunnel
 * that address is this host's, or a gateway's, and the port somebody else's: a destination must not choose
 * whom this QEMU talks to.  Names of UNIX sockets are Ferry's own.
 */
static bool target_place(FerryTarget *target, const QIOChannelSocket *socket, uint32_t number,
                         Error **errp)
{
    g_autofree char *name = g_strdup_printf(FERRY_ABSTRACT_NAME, number);

    switch (target->address.ss_family) {
    case AF_UNIX:
        target_unix(target, name, true, true);
        return true;
    case AF_INET:
    case AF_INET6:
        if (number < PORT_MIN || number > UINT16_MAX || is_this_host(socket)) {
            break;
        }
        if (target->address.ss_family == AF_INET) {
            ((struct sockaddr_in *)&target->address)->sin_port = htons(number);
        } else {
            ((struct sockaddr_in6 *)&target->address)->sin6_port = htons(number);
        }
        return true;
    default:
        break;
    }
    error_setg(errp,
               "the destination, which was handed a connected socket, asks for connections to "
               "port %u of this host or of a service there: they are not made",
               number);
    return false;
}

/* Ferry's channels leave where the main channel does, and not where the routing table says at the moment. */
static void target_local(FerryTarget *target, const QIOChannelSocket *socket)
{
    socklen_t nr_bytes = sizeof(target->interface);

    target->local = socket->localAddr;
    if (target->local.ss_family == AF_INET) {
        ((struct sockaddr_in *)&target->local)->sin_port = 0;
    } else if (target->local.ss_family == AF_INET6) {
        ((struct sockaddr_in6 *)&target->local)->sin6_port = 0;
    } else {
        return;
    }
    target->local_length = socket->localAddrLen;
    if (getsockopt(socket->fd, SOL_SOCKET, SO_BINDTOIFINDEX, &target->interface, &nr_bytes) != 0) {
        target->interface = 0;
    }
}

bool ferry_find_target(MigrationState *s, FerryTarget *target, Error **errp)
{
    QIOChannelSocket *socket = ferry_underlying_socket(qemu_file_get_ioc(s->to_dst_file));
    const UnixSocketAddress *path;
    uint32_t number;

    if (!socket) {
        error_setg(errp, "the migration's own connection is not a socket");
        return false;
    }
    if (socket->remoteAddr.ss_family != AF_UNIX && !ferry_binding_is_here(socket->fd)) {
        error_setg(errp,
                   "the migration's own connection was made in another network namespace, and "
                   "Ferry's channels would not be");
        return false;
    }
    path = ferry_peer_path(socket);
    *target = (FerryTarget){.address = socket->remoteAddr, .length = socket->remoteAddrLen};
    target_local(target, socket);
    if (ferry_peer_listens(&number)) {
        return target_place(target, socket, number, errp);
    }
    if (path) {
        target_unix(target, path->path, path->has_abstract && path->abstract,
                    !path->has_tight || path->tight);
    }
    return true;
}
