/*
 * A QIOChannel, plain or TLS, behind the engine's channel.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <netinet/tcp.h>
#include "io/channel-socket.h"
#include "io/channel-tls.h"
#include "migration/migration.h"

#include "ferry/migration/error.h"
#include "internal.h"

static void set_error(GError **errp, Error *err)
{
    g_set_error_literal(errp, FERRY_ERROR, FERRY_ERROR_IO, error_get_pretty(err));
    error_free(err);
}

static ssize_t ioc_readv(void *opaque, const struct iovec *iov, int nr_iov, GError **errp)
{
    QIOChannel *ioc = opaque;
    Error *err = NULL;
    ssize_t done;

    while ((done = qio_channel_readv(ioc, iov, nr_iov, &err)) == QIO_CHANNEL_ERR_BLOCK) {
        qio_channel_wait(ioc, G_IO_IN);
    }
    if (done < 0) {
        set_error(errp, err);
    }
    return done;
}

static ssize_t ioc_writev(void *opaque, const struct iovec *iov, int nr_iov, GError **errp)
{
    QIOChannel *ioc = opaque;
    Error *err = NULL;
    ssize_t done;

    while ((done = qio_channel_writev(ioc, iov, nr_iov, &err)) == QIO_CHANNEL_ERR_BLOCK) {
        qio_channel_wait(ioc, G_IO_OUT);
    }
    if (done < 0) {
        set_error(errp, err);
    }
    return done;
}

static int ioc_fd(void *opaque)
{
    QIOChannelSocket *socket = ferry_underlying_socket(opaque);

    return socket ? socket->fd : -1;
}

static void ioc_shutdown(void *opaque)
{
    qio_channel_shutdown(opaque, QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
}

static void ioc_destroy(void *opaque)
{
    object_unref(OBJECT(opaque));
}

FerryChannel *ferry_channel_new_ioc(QIOChannel *ioc, const char *name)
{
    static const FerryChannelOps ops = {
        .readv = ioc_readv,
        .writev = ioc_writev,
        .fd = ioc_fd,
        .shutdown = ioc_shutdown,
        .destroy = ioc_destroy,
    };

    qio_channel_set_delay(ioc, false);
    object_ref(OBJECT(ioc));
    return ferry_channel_new(&ops, ioc, name);
}

QIOChannelSocket *ferry_underlying_socket(QIOChannel *ioc)
{
    if (object_dynamic_cast(OBJECT(ioc), TYPE_QIO_CHANNEL_TLS)) {
        ioc = QIO_CHANNEL_TLS(ioc)->master;
    }
    return (QIOChannelSocket *)object_dynamic_cast(OBJECT(ioc), TYPE_QIO_CHANNEL_SOCKET);
}

void ferry_watch_channel(QIOChannel *ioc, unsigned more_ms)
{
    const QIOChannelSocket *socket = ferry_underlying_socket(ioc);
    const unsigned timeout_ms = ferry_settings()->network_timeout_ms;
    const struct {
        int level, name, value;
    } options[] = {
        {SOL_SOCKET, SO_KEEPALIVE, 1},
        /* Three probes, each of which has a sixth of the time, after half of it. */
        {IPPROTO_TCP, TCP_KEEPIDLE, MAX((int)timeout_ms / 2000, 1)},
        {IPPROTO_TCP, TCP_KEEPINTVL, MAX((int)timeout_ms / 6000, 1)},
        {IPPROTO_TCP, TCP_KEEPCNT, 3},
        {IPPROTO_TCP, TCP_USER_TIMEOUT, (int)(timeout_ms + more_ms)},
    };

    for (size_t i = 0; socket && i < G_N_ELEMENTS(options); i++) {
        /* On a UNIX socket the kernel says no, and nothing can get lost there. */
        (void)setsockopt(socket->fd, options[i].level, options[i].name, &options[i].value,
                         sizeof(options[i].value));
    }
}

void ferry_set_migration_error(MigrationState *s, const GError *why)
{
    Error *err = NULL;

    error_setg(&err, "%s", why->message);
    migrate_set_error(s, err);
    error_free(err);
}

void ferry_propagate_error(Error **errp, GError *error)
{
    error_setg(errp, "%s", error->message);
    g_error_free(error);
}
