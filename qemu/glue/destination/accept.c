/*
 * Taking connections: QEMU's listener, with a rest where one cannot be taken, and a look at where it comes from.
 *
 * QEMU tries again at once, for as long as the connection is there.  Where no file descriptor is left, its main
 * loop does nothing else.
 *
 * Threads: the main thread, or that of a recovery.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/timer.h"
#include "qapi/error.h"
#include "io/channel-socket.h"
#include "io/net-listener.h"

#include "ferry/glue/ferry.h"
#include "ferry/glue/marks.h"
#include "ferry/migration/fault.h"
#include "../internal.h"
#include "allowed.h"

/* Long enough to cost nothing, and much shorter than open-timeout. */
#define REST_MS 100

typedef struct Rest {
    QIONetListener *listener;
    QEMUTimer *timer;
} Rest;

static gboolean take(QIOChannel *ioc, GIOCondition condition, gpointer opaque);

static void drop_watches(QIONetListener *listener)
{
    for (size_t i = 0; i < listener->nsioc; i++) {
        GSource *source = g_steal_pointer(&listener->io_source[i]);

        if (source) {
            g_source_destroy(source);
            g_source_unref(source);
        }
    }
}

static void add_watches(QIONetListener *listener)
{
    for (size_t i = 0; i < listener->nsioc; i++) {
        listener->io_source[i] = qio_channel_add_watch_source(
            QIO_CHANNEL(listener->sioc[i]), G_IO_IN, take, object_ref(OBJECT(listener)),
            (GDestroyNotify)object_unref, listener->context);
    }
}

static void end_rest(void *opaque)
{
    g_autofree Rest *rest = opaque;

    /* Closed, or watched by somebody else meanwhile? */
    if (rest->listener->connected && rest->listener->io_func && !rest->listener->io_source[0]) {
        add_watches(rest->listener);
    }
    object_unref(OBJECT(rest->listener));
    timer_free(rest->timer);
}

static void begin_rest(QIONetListener *listener)
{
    Rest *rest = g_new(Rest, 1);

    rest->listener = QIO_NET_LISTENER(object_ref(OBJECT(listener)));
    rest->timer = timer_new_ms(QEMU_CLOCK_REALTIME, end_rest, rest);
    timer_mod(rest->timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + REST_MS);
    drop_watches(listener);
}

static gboolean take(QIOChannel *ioc, GIOCondition condition, gpointer opaque)
{
    static bool told;
    QIONetListener *listener = opaque;
    QIOChannelSocket *socket;
    Error *err = NULL;

    (void)ferry_fault(FERRY_FAULT_QEMU_ACCEPT, NULL);
    socket = qio_channel_socket_accept(QIO_CHANNEL_SOCKET(ioc), &err);
    if (socket) {
        told = false;
        if (ferry_allows(socket)) {
            ferry_mark_socket(socket->fd);
            listener->io_func(listener, socket, listener->io_data);
        }
        object_unref(OBJECT(socket));
        return G_SOURCE_CONTINUE;
    }
    if (told) {
        error_free(err);
    } else {
        error_prepend(&err, "ferry: a connection waits to be taken: ");
        warn_report_err(err);
        told = true;
    }
    begin_rest(listener);
    return G_SOURCE_CONTINUE;
}

void ferry_watch_listener(QIONetListener *listener)
{
    for (size_t i = 0; i < listener->nsioc; i++) {
        ferry_mark_socket(listener->sioc[i]->fd);
    }
    /* Whatever is set by now: who is refused may be set later on. */
    drop_watches(listener);
    add_watches(listener);
}
