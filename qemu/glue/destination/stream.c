/*
 * The migration stream at the destination: see stream.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "migration/migration.h"
#include "migration/qemu-file.h"

#include "../internal.h"
#include "stream.h"

static struct {
    GMutex lock;    /* for what follows */
    QIOChannel *io; /* a reference */
} stream;

void ferry_stream_hold(MigrationIncomingState *mis)
{
    g_mutex_lock(&stream.lock);
    if (stream.io) {
        object_unref(OBJECT(stream.io));
    }
    stream.io = mis ? QIO_CHANNEL(object_ref(OBJECT(qemu_file_get_ioc(mis->from_src_file)))) : NULL;
    g_mutex_unlock(&stream.lock);
}

void ferry_stream_break(void)
{
    g_mutex_lock(&stream.lock);
    if (stream.io) {
        qio_channel_shutdown(stream.io, QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
    }
    g_mutex_unlock(&stream.lock);
}
