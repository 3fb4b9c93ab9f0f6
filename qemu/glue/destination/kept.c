/*
 * Multifd channels that QEMU has no place for.
 *
 * A source may open more than QEMU has channels here, which with Ferry is no matter.  But QEMU at the source would take
 * it for a failure if one of them broke, so they stay open until the migration is over.
 *
 * Threads: any that takes connections, or ends the migration.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "io/channel.h"

#include "kept.h"

/* QEMU has no more multifd channels. */
#define KEPT_MAX 255

static GMutex lock;     /* for what follows */
static GPtrArray *kept; /* of QIOChannel, with a reference */

static void close_kept(gpointer ioc)
{
    qio_channel_shutdown(ioc, QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
    object_unref(OBJECT(ioc));
}

void ferry_kept_add(QIOChannel *ioc)
{
    g_mutex_lock(&lock);
    if (!kept) {
        kept = g_ptr_array_new_with_free_func(close_kept);
    }
    if (kept->len < KEPT_MAX) {
        g_ptr_array_add(kept, object_ref(OBJECT(ioc)));
    } else {
        qio_channel_shutdown(ioc, QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
    }
    g_mutex_unlock(&lock);
}

void ferry_kept_drop(void)
{
    g_mutex_lock(&lock);
    g_clear_pointer(&kept, g_ptr_array_unref);
    g_mutex_unlock(&lock);
}
