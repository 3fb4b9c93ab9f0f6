/*
 * One `migrate` after another: connections that come too late, and the end of the last migration.
 *
 * QEMU calls a migration cancelled, or failed, before all of it is gone.  What is left may be a connection
 * still being made, or a thread.  Neither may meet the next migration.
 *
 * Threads: the main thread, but for what says otherwise.  `side` and `ending` are under their locks.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "io/channel-tls.h"
#include "qapi/error.h"
#include "migration/migration.h"
#include "migration/misc.h"
#include "migration/qemu-file.h"
#include "migration/tls.h"

#include "ferry/glue/ferry.h"
#include "../internal.h"
#include "peer.h"

/* For how long the next migration waits until the last one is gone: as long as a monitor may. */
#define ENDING_MS 1000

/*
 * The socket that the migration waits for: to be connected, or to have shaken hands.  The task that does
 * so keeps it, and tells its outcome, so the pointer is good until then; no other socket can have it.
 */
static QIOChannel *awaited;

/* The TLS handshake of the main channel that is under way, which its task keeps; and its limit. */
static struct {
    QIOChannel *ioc;
    QEMUTimer *timer;
    bool given_up; /* the last one */
} handshake;

/* Multifd's channels: those whose TLS handshake is under way, and those that carry pages. */
static struct {
    QEMUTimer *timer; /* the main thread's */
    GMutex lock;
    GPtrArray *shaking, *open; /* of QIOChannel, with a reference */
    bool given_up;             /* one was, in this migration; atomic */
} side;

static bool had_error; /* when it was cancelled: the migration has a reason of its own */

static struct {
    GMutex lock;
    GCond over;
    QEMUBHFunc *cleanup; /* what is still to be done for a thread that has ended; or NULL */
} ending;

/* --- Connections ------------------------------------------------------------------------------ */

void ferry_outgoing_connecting(QIOChannel *ioc)
{
    awaited = ioc;
    qatomic_set(&side.given_up, false);
}

/* It fails at once, and with it the connection. */
static void give_up_handshake(void *opaque)
{
    handshake.given_up = true;
    qio_channel_shutdown(handshake.ioc, QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
}

static void forget_handshake(void)
{
    handshake.ioc = NULL;
    if (handshake.timer) {
        timer_del(handshake.timer);
    }
}

void ferry_outgoing_handshake(QIOChannel *ioc)
{
    handshake.given_up = false;
    if (!ferry_is_enabled()) {
        return;
    }
    qio_channel_set_blocking(ioc, false, NULL);
    if (!handshake.timer) {
        handshake.timer = timer_new_ms(QEMU_CLOCK_REALTIME, give_up_handshake, NULL);
    }
    handshake.ioc = ioc;
    timer_mod(handshake.timer,
              qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + ferry_settings()->network_timeout_ms);
}

void ferry_outgoing_handshake_over(QIOChannel *ioc)
{
    if (ioc == handshake.ioc) {
        forget_handshake();
    }
    qio_channel_set_blocking(ioc, true, NULL);
}

void ferry_blame_network_timeout(Error **err)
{
    error_prepend(err, "the destination took longer than network-timeout (%u ms): ",
                  ferry_settings()->network_timeout_ms);
}

void ferry_outgoing_handshake_failed(Error **err)
{
    if (handshake.given_up) {
        ferry_blame_network_timeout(err);
    }
}

void ferry_outgoing_side_failed(Error **err)
{
    if (qatomic_read(&side.given_up)) {
        ferry_blame_network_timeout(err);
    }
}

/* Under its lock. */
static void break_all(const GPtrArray *channels)
{
    for (guint i = 0; channels && i < channels->len; i++) {
        qio_channel_shutdown(g_ptr_array_index(channels, i), QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
    }
}

void ferry_outgoing_break_side(void)
{
    g_mutex_lock(&side.lock);
    break_all(side.shaking);
    break_all(side.open);
    g_mutex_unlock(&side.lock);
}

static void give_up_side_handshakes(void *opaque)
{
    g_mutex_lock(&side.lock);
    qatomic_set(&side.given_up, side.shaking->len > 0);
    break_all(side.shaking);
    g_mutex_unlock(&side.lock);
}

static void add_side(GPtrArray **list, QIOChannel *ioc)
{
    g_mutex_lock(&side.lock);
    if (!*list) {
        *list = g_ptr_array_new_with_free_func(object_unref);
    }
    g_ptr_array_add(*list, object_ref(ioc));
    g_mutex_unlock(&side.lock);
    if (qatomic_read(&migrate_get_current()->state) == MIGRATION_STATUS_CANCELLING ||
        migrate_has_error(migrate_get_current())) {
        /* It was being connected when that was ended, or the return path broke. */
        ferry_outgoing_break_side();
    }
}

void ferry_outgoing_side_handshake(QIOChannel *ioc)
{
    if (!ferry_is_enabled()) {
        return;
    }
    if (!side.timer) {
        side.timer = timer_new_ms(QEMU_CLOCK_REALTIME, give_up_side_handshakes, NULL);
    }
    timer_mod(side.timer,
              qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + ferry_settings()->network_timeout_ms);
    add_side(&side.shaking, ioc);
}

void ferry_outgoing_side_handshake_over(const void *ioc)
{
    g_mutex_lock(&side.lock);
    if (side.shaking) {
        g_ptr_array_remove(side.shaking, (gpointer)ioc);
    }
    g_mutex_unlock(&side.lock);
}

void ferry_outgoing_side_open(QIOChannel *ioc)
{
    add_side(&side.open, ioc);
}

bool ferry_outgoing_says_goodbye(void)
{
    MigrationState *s = migrate_get_current();

    return !migration_has_failed(s) && s->state != MIGRATION_STATUS_CANCELLING;
}

void ferry_outgoing_side_over(void)
{
    if (!ferry_outgoing_says_goodbye()) {
        ferry_outgoing_break_side();
    }
    g_mutex_lock(&side.lock);
    g_clear_pointer(&side.open, g_ptr_array_unref);
    g_mutex_unlock(&side.lock);
}

bool ferry_outgoing_is_late(QIOChannel *ioc)
{
    bool tls = object_dynamic_cast(OBJECT(ioc), TYPE_QIO_CHANNEL_TLS);
    QIOChannel *base = tls ? QIO_CHANNEL_TLS(ioc)->master : ioc;
    bool was_dialled = g_str_equal(base->name ?: "", FERRY_MAIN_CHANNEL_NAME);

    if (base != awaited && (tls || was_dialled)) {
        return true;
    }
    /* What was handed over comes while the command runs. */
    awaited = !tls && migrate_channel_requires_tls_upgrade(ioc) ? base : NULL;
    return false;
}

bool ferry_outgoing_abandon(void)
{
    if (!awaited) {
        return false;
    }
    /* A handshake ends at once; a connect() goes on, and its connection is closed when it is there. */
    qio_channel_shutdown(awaited, QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
    awaited = NULL;
    forget_handshake();
    return true;
}

/* --- Cancelling ------------------------------------------------------------------------------- */

void ferry_outgoing_note_cancel(MigrationState *s)
{
    if (s->state != MIGRATION_STATUS_CANCELLING) {
        had_error = migrate_has_error(s);
    }
}

void ferry_outgoing_cancelled(MigrationState *s)
{
    QEMU_LOCK_GUARD(&s->error_mutex);
    if (!had_error) {
        error_free(s->error);
        s->error = NULL;
    }
}

/* --- The end of the last migration ------------------------------------------------------------ */

/* Main thread: do what is to be done, unless it has been. */
static void clean_up(MigrationState *s)
{
    QEMUBHFunc *cleanup;

    g_mutex_lock(&ending.lock);
    cleanup = g_steal_pointer(&ending.cleanup);
    g_mutex_unlock(&ending.lock);
    if (cleanup) {
        cleanup(s);
    }
}

static void clean_up_bh(void *opaque)
{
    clean_up(opaque);
}

void ferry_outgoing_over(void (*cleanup)(void *opaque), MigrationState *s)
{
    g_mutex_lock(&ending.lock);
    ending.cleanup = cleanup;
    g_cond_broadcast(&ending.over);
    g_mutex_unlock(&ending.lock);
    migration_bh_schedule(clean_up_bh, s);
}

/* Nobody wants the rest of a migration that failed: end what its threads may be blocked in. */
static void break_stream(MigrationState *s)
{
    if (s->state != MIGRATION_STATUS_FAILED) {
        return;
    }
    ferry_outgoing_break_side();
    QEMU_LOCK_GUARD(&s->qemu_file_lock);
    if (s->to_dst_file) {
        qemu_file_shutdown(s->to_dst_file);
    }
}

bool ferry_outgoing_wait_over(Error **errp)
{
    MigrationState *s = migrate_get_current();
    gint64 deadline = g_get_monotonic_time() + ENDING_MS * 1000;
    bool over;

    if (migration_is_running() || !s->migration_thread_running) {
        return true;
    }
    break_stream(s);
    /* The thread wants the lock to end. */
    bql_unlock();
    g_mutex_lock(&ending.lock);
    while (!ending.cleanup && g_cond_wait_until(&ending.over, &ending.lock, deadline)) {
    }
    over = ending.cleanup != NULL;
    g_mutex_unlock(&ending.lock);
    bql_lock();
    if (!over) {
        error_setg(errp, "the last migration has not ended yet: try again in a moment");
        return false;
    }
    clean_up(s);
    return true;
}
