/*
 * QEMU's own connections where the user gives migrations a network: they leave from there.
 *
 * QEMU connects its sockets without saying from where.  So they are connected here, on a thread, as QEMU does it,
 * and handed to QEMU ready.
 *
 * Threads: each connection has one of its own, and nothing else.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/sockets.h"
#include "qapi/clone-visitor.h"
#include "qapi/error.h"
#include "qapi/qapi-visit-sockets.h"
#include "io/channel-socket.h"
#include "io/task.h"
#include <netdb.h>

#include "ferry/glue/binding.h"
#include "ferry/glue/ferry.h"
#include "ferry/glue/marks.h"
#include "../internal.h"

typedef struct Bound {
    FerryBinding binding;
    const InetSocketAddress *inet;
} Bound;

static bool begin(int fd, const Bound *bound, Error **errp)
{
    const int yes = 1;
    GError *error = NULL;

    if (fd < 0) {
        error_setg_errno(errp, errno, "cannot make a socket");
        return false;
    }
    ferry_mark_socket(fd);
    if (!ferry_binding_set_source(fd, &bound->binding, &error)) {
        ferry_propagate_error(errp, error);
        return false;
    }
    if (bound->inet->keep_alive) {
        (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof(yes));
    }
    return true;
}

static const char *what_is_set(const FerryBinding *binding)
{
    if (!binding->interface[0]) {
        return "bind-address";
    }
    return binding->address.ss_family == AF_UNSPEC ? "bind-interface"
                                                   : "bind-address and bind-interface";
}

static bool finish(int fd, const Bound *bound, const struct addrinfo *to, Error **errp)
{
    int status;

    do {
        status = connect(fd, to->ai_addr, to->ai_addrlen);
    } while (status != 0 && errno == EINTR);
    if (status != 0) {
        error_setg_errno(errp, errno, "cannot connect to '%s:%s' from %s", bound->inet->host,
                         bound->inet->port, what_is_set(&bound->binding));
    }
    return status == 0;
}

static int connect_one(const Bound *bound, const struct addrinfo *to, Error **errp)
{
    int protocol = to->ai_protocol, fd;

#ifdef HAVE_IPPROTO_MPTCP
    if (bound->inet->has_mptcp && bound->inet->mptcp) {
        protocol = IPPROTO_MPTCP;
    }
#endif
    fd = qemu_socket(to->ai_family, to->ai_socktype, protocol);
    if (begin(fd, bound, errp) && finish(fd, bound, to, errp)) {
        return fd;
    }
    if (fd >= 0) {
        close(fd);
    }
    return -1;
}

static int connect_any(const Bound *bound, Error **errp)
{
    struct addrinfo *found = ferry_binding_resolve(bound->inet, false, &bound->binding, errp);
    Error *err = NULL;
    int fd = -1;

    for (const struct addrinfo *to = found; to && fd < 0; to = to->ai_next) {
        error_free(err);
        err = NULL;
        fd = connect_one(bound, to, &err);
    }
    if (found) {
        freeaddrinfo(found);
    }
    error_propagate(errp, err);
    return fd;
}

/* A socket that is connected becomes the channel's, as one that was passed does. */
static void connect_run(QIOTask *task, gpointer opaque)
{
    QIOChannelSocket *socket = QIO_CHANNEL_SOCKET(qio_task_get_source(task));
    const SocketAddress *wanted = opaque;
    SocketAddress address = {.type = SOCKET_ADDRESS_TYPE_FD};
    Bound bound = {.inet = &wanted->u.inet};
    g_autofree char *number = NULL;
    Error *err = NULL;
    int fd = ferry_binding_wanted(&bound.binding, &err) ? connect_any(&bound, &err) : -1;

    if (fd >= 0) {
        number = g_strdup_printf("%d", fd);
        address.u.fd.str = number;
        qio_channel_socket_connect_sync(socket, &address, &err);
    }
    qio_task_set_error(task, err);
}

void ferry_outgoing_dial(QIOChannelSocket *socket, SocketAddress *address, QIOTaskFunc told,
                         void *opaque, GDestroyNotify destroy)
{
    if (!ferry_binding_is_wanted() || address->type != SOCKET_ADDRESS_TYPE_INET) {
        qio_channel_socket_connect_async(socket, address, told, opaque, destroy, NULL);
        return;
    }
    qio_task_run_in_thread(qio_task_new(OBJECT(socket), told, opaque, destroy), connect_run,
                           QAPI_CLONE(SocketAddress, address),
                           (GDestroyNotify)qapi_free_SocketAddress, NULL);
}
