/*
 * QEMU's own connection: see stream.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"

#include "stream.h"

void ferry_stream_hold(FerryStream *stream, QIOChannel *io)
{
    QIOChannel *old;

    g_mutex_lock(&stream->lock);
    old = stream->io;
    stream->io = io ? QIO_CHANNEL(object_ref(OBJECT(io))) : NULL;
    g_mutex_unlock(&stream->lock);
    if (old) {
        object_unref(OBJECT(old));
    }
}

void ferry_stream_break(FerryStream *stream)
{
    g_mutex_lock(&stream->lock);
    if (stream->io) {
        qio_channel_shutdown(stream->io, QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
    }
    g_mutex_unlock(&stream->lock);
}
