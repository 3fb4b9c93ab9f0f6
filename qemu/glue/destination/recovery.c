/*
 * A recovery that does not get on.
 *
 * In it, QEMU here reads a new main channel, and waits for the word that the source is back.  A relay that keeps
 * the channel when the source has gone would have it wait for good, with no way to resume but a person's
 * migrate-pause.  So a recovery has a limit: then the channel is broken, and the migration is paused as before.
 * Which pages are missing is said meanwhile, on Ferry's control channel: as long as that gets on, so does this.
 *
 * Threads: the main thread looks.  A recovery begins there, or on the monitor's own thread after an oob
 * migrate-recover.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/timer.h"
#include "io/channel.h"
#include "migration/migration.h"

#include "../internal.h"
#include "recovery.h"
#include "session.h"

/* How often it is looked at; before the first look QEMU has begun to recover. */
#define LOOK_MS 250

static struct {
    GMutex lock; /* for all that follows */
    QEMUTimer *timer;
    QIOChannel *main; /* the new main channel, or NULL */
    /* Of the thread that took it, and is to take the others. */
    GMainContext *context;
    uint64_t nr_bytes; /* of the control channel that the session is about to go on with */
    int64_t since_ms;  /* no more have come since then */
} recovery;

static void end(void)
{
    if (recovery.main) {
        object_unref(OBJECT(recovery.main));
        recovery.main = NULL;
    }
}

/* Whether it is to be looked at again.  With the lock held. */
static bool look_at(void)
{
    FerryDestination *destination = ferry_incoming_destination();
    uint64_t nr_bytes;

    if (!destination ||
        migration_incoming_get_current()->state != MIGRATION_STATUS_POSTCOPY_RECOVER) {
        return false;
    }
    nr_bytes = ferry_destination_resuming_bytes(destination);
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

static void look(void *opaque)
{
    g_mutex_lock(&recovery.lock);
    if (recovery.main && look_at()) {
        timer_mod(recovery.timer, ferry_incoming_clock_ms() + LOOK_MS);
    } else {
        end();
    }
    g_mutex_unlock(&recovery.lock);
}

void ferry_recovery_begin(QIOChannel *main)
{
    g_mutex_lock(&recovery.lock);
    end();
    recovery.main = QIO_CHANNEL(object_ref(OBJECT(main)));
    recovery.context = g_main_context_get_thread_default();
    recovery.nr_bytes = 0;
    recovery.since_ms = ferry_incoming_clock_ms();
    if (!recovery.timer) {
        recovery.timer = timer_new_ms(QEMU_CLOCK_REALTIME, look, NULL);
    }
    timer_mod(recovery.timer, ferry_incoming_clock_ms() + LOOK_MS);
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
