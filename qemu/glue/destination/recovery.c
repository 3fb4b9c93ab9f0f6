/*
 * A recovery that does not get on.
 *
 * In it, QEMU here reads a new main channel, and waits for the word that the source is back.  A relay that keeps
 * the channel when the source has gone would have it wait for good, with no way to resume but a person's
 * migrate-pause.  So a recovery has a limit: then the channel is broken, and the migration is paused as before.
 * Which pages are missing is said meanwhile, on Ferry's control channel: as long as that gets on, so does this.
 *
 * Threads: who looks is the thread on which the recovery began: the main one, or the monitor's own after an oob
 * migrate-recover, because then the main one may wait for a page, for as long as the recovery does not get on.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "io/channel.h"
#include "migration/migration.h"

#include "../internal.h"
#include "recovery.h"
#include "session.h"

/* How often it is looked at; before the first look QEMU has begun to recover. */
#define LOOK_MS 250

static struct {
    GMutex lock;      /* for all that follows */
    GSource *timer;   /* while there is one to look at */
    QIOChannel *main; /* the new main channel, or NULL */
    /* Of the thread that took it, and is to take the others. */
    GMainContext *context;
    uint64_t nr_bytes; /* of the control channel that the session is about to go on with */
    int64_t since_ms;  /* no more have come since then */
} recovery;

/* With the lock held. */
static void end(void)
{
    if (recovery.main) {
        object_unref(OBJECT(recovery.main));
        recovery.main = NULL;
        g_source_destroy(recovery.timer);
        g_clear_pointer(&recovery.timer, g_source_unref);
    }
}

/* Whether it is to be looked at again.  With the lock held. */
static bool look_at(void)
{
    uint64_t nr_bytes;

    if (!ferry_incoming_resuming_bytes(&nr_bytes) ||
        qatomic_read(&migration_incoming_get_current()->state) !=
            MIGRATION_STATUS_POSTCOPY_RECOVER) {
        return false;
    }
    if (nr_bytes != recovery.nr_bytes) {
        recovery.nr_bytes = nr_bytes;
        recovery.since_ms = ferry_incoming_clock_ms();
    }
    if (ferry_incoming_clock_ms() - recovery.since_ms <= ferry_incoming_limit_ms()) {
        return true;
    }
    error_report("ferry: the source has not resumed the migration, and said nothing for %" PRId64
                 " ms",
                 ferry_incoming_limit_ms());
    qio_channel_shutdown(recovery.main, QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
    return false;
}

static gboolean look(void *opaque)
{
    g_mutex_lock(&recovery.lock);
    /* Another recovery may have begun before this got the lock. */
    if (g_main_current_source() == recovery.timer && !look_at()) {
        end();
    }
    g_mutex_unlock(&recovery.lock);
    return G_SOURCE_CONTINUE;
}

void ferry_recovery_begin(QIOChannel *main)
{
    g_mutex_lock(&recovery.lock);
    end();
    recovery.main = QIO_CHANNEL(object_ref(OBJECT(main)));
    recovery.context = g_main_context_get_thread_default();
    recovery.nr_bytes = 0;
    recovery.since_ms = ferry_incoming_clock_ms();
    recovery.timer = g_timeout_source_new(LOOK_MS);
    g_source_set_callback(recovery.timer, look, NULL, NULL);
    g_source_attach(recovery.timer, recovery.context);
    g_mutex_unlock(&recovery.lock);
}

GMainContext *ferry_recovery_context(void)
{
    GMainContext *context;

    g_mutex_lock(&recovery.lock);
    context = recovery.context;
    g_mutex_unlock(&recovery.lock);
    return context;
}
