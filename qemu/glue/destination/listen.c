/*
 * How the thread that reads the stream in post-copy (QEMU's listen thread) ends, and an incoming
 * migration that fails while there is one.
 *
 * Two threads load a guest then: the main one its device state, the other one all else.  Whichever fails
 * first, only the main thread takes the migration apart, and only it ends the process:
 *
 *   main thread                                  listen thread
 *     the device state does not load               reads the stream
 *     failing = true; state = failed               an error, or the pause, or the end
 *     breaks the stream, ends a pause  --------->  waits until the main thread has loaded, or failed
 *     waits for ended, without the BQL  <--------  ended = true
 *     takes the migration apart; exits
 *
 * A stream that breaks while the main thread still loads is a pause if that succeeds.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/coroutine.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "block/aio.h"
#include "qapi/qapi-types-migration.h"
#include "migration/migration.h"
#include "migration/options.h"
#include "migration/postcopy-ram.h"
#include "migration/qemu-file.h"

#include "ferry/glue/ferry.h"
#include "../internal.h"
#include "listen.h"
#include "session.h"

static struct {
    bool failing;  /* atomic: the main thread could not load the device state */
    bool given_up; /* atomic: a person has abandoned the migration */
    bool whole;    /* it was only the source that was missing; the main thread's */
    bool pausing;  /* atomic: a person pauses it, and the stream is about to break */
    GMutex lock;   /* for what follows */
    GCond changed;
    bool ended;
} listening;

static void fail_state(MigrationIncomingState *mis)
{
    static const MigrationStatus open[] = {
        MIGRATION_STATUS_ACTIVE,
        MIGRATION_STATUS_POSTCOPY_ACTIVE,
        MIGRATION_STATUS_POSTCOPY_PAUSED,
        MIGRATION_STATUS_POSTCOPY_RECOVER,
    };

    for (size_t i = 0; i < G_N_ELEMENTS(open); i++) {
        migrate_set_state(&mis->state, open[i], MIGRATION_STATUS_FAILED);
    }
}

/* --- The main thread ----------------------------------------------------------------------------- */

/* Nobody reads the stream when it returns. */
static void end_thread(MigrationIncomingState *mis)
{
    qatomic_set(&listening.failing, true);
    fail_state(mis);
    ferry_listen_look_again();
    if (ferry_incoming_destination()) {
        ferry_stream_break(ferry_incoming_stream());
    } else {
        qemu_file_shutdown(mis->from_src_file);
    }
    qemu_sem_post(&mis->postcopy_pause_sem_dst);
    bql_unlock();
    g_mutex_lock(&listening.lock);
    while (!listening.ended) {
        g_cond_wait(&listening.changed, &listening.lock);
    }
    g_mutex_unlock(&listening.lock);
    bql_lock();
    mis->have_listen_thread = false;
    postcopy_state_set(POSTCOPY_INCOMING_END);
}

void ferry_incoming_failed(MigrationIncomingState *mis, Error **error)
{
    g_autoptr(GError) cause = NULL;

    if (mis->have_listen_thread) {
        end_thread(mis);
    }
    if (mis->from_src_file) {
        /* The source is told of this, and not of what QEMU did not take for one. */
        qemu_file_set_error(mis->from_src_file, -EINVAL);
    }
    cause = ferry_incoming_cause();
    if (cause) {
        error_free(*error);
        *error = NULL;
        error_setg(error, "load of migration failed: %s", cause->message);
    }
}

bool ferry_incoming_tells_failure(MigrationIncomingState *mis, bool stream_failed)
{
    /* What QEMU can do without was cut off, and the guest runs: the source must not have it run, too. */
    return stream_failed && mis->state != MIGRATION_STATUS_COMPLETED;
}

void ferry_listen_fail(MigrationIncomingState *mis)
{
    Error *error = NULL;

    ferry_incoming_failed(mis, &error);
    migrate_set_state(&mis->state, MIGRATION_STATUS_ACTIVE, MIGRATION_STATUS_FAILED);
    migrate_set_error(migrate_get_current(), error);
    migration_incoming_state_destroy();
    if (mis->exit_on_error) {
        error_report_err(error);
        exit(EXIT_FAILURE);
    }
    error_free(error);
}

/* Whoever sees that it has failed finds nothing left of it. */
static void take_apart(void *opaque)
{
    MigrationIncomingState *mis = opaque;

    mis->have_listen_thread = false;
    postcopy_state_set(POSTCOPY_INCOMING_END);
    ferry_incoming_keep_last(!listening.whole);
    ferry_incoming_end(NULL, false);
    migration_incoming_state_destroy();
    migrate_set_state(&mis->state, MIGRATION_STATUS_CANCELLING,
                      listening.whole ? MIGRATION_STATUS_COMPLETED : MIGRATION_STATUS_FAILED);
}

void ferry_listen_give_up(MigrationIncomingState *mis, bool whole)
{
    listening.whole = whole;
    g_mutex_lock(&listening.lock);
    qatomic_set(&listening.given_up, true);
    g_cond_broadcast(&listening.changed);
    g_mutex_unlock(&listening.lock);
    qemu_sem_post(&mis->postcopy_pause_sem_dst);
}

bool ferry_incoming_is_open(Error **errp)
{
    MigrationIncomingState *mis = migration_incoming_get_current();

    /* The thread says that it has ended a moment after the state. */
    if (!mis->have_listen_thread || mis->state == MIGRATION_STATUS_COMPLETED) {
        return false;
    }
    error_setg(
        errp,
        "Post-copy still brings this guest's memory (state '%s'): wait until the incoming migration "
        "has completed, or give it up with ferry-abandon once it is paused",
        MigrationStatus_str(mis->state));
    return true;
}

void ferry_listen_look_again(void)
{
    g_mutex_lock(&listening.lock);
    g_cond_broadcast(&listening.changed);
    g_mutex_unlock(&listening.lock);
}

/* --- The listen thread ----------------------------------------------------------------------------- */

void ferry_incoming_pause(void)
{
    qatomic_set(&listening.pausing, true);
}

void ferry_listen_broke(void)
{
    if (!bql_locked() && ferry_incoming_destination()) {
        qemu_event_wait(&migration_incoming_get_current()->main_thread_load_event);
    }
}

bool ferry_postcopy_pauses(bool running)
{
    FerryDestination *destination = ferry_incoming_destination();
    bool pausing = qatomic_xchg(&listening.pausing, false), pauses;

    /* Where the device state did not load, here or in the coroutine, that is the reason, not the stream. */
    if (!destination || !ferry_destination_is_left(destination) || qemu_in_coroutine() ||
        qatomic_read(&listening.failing)) {
        return running;
    }
    pauses = ferry_destination_stream_broke(destination, pausing ? FERRY_PAUSED_BY_USER
                                                                 : "the migration stream broke");
    if (pauses) {
        /* Before anybody knows of the pause: the next stream may come at once. */
        ferry_stream_hold(ferry_incoming_stream(), NULL);
        /* Nor is anybody to come on the network that was; a recovery says where it listens. */
        ferry_incoming_set_listener(NULL);
    }
    return pauses;
}

int ferry_postcopy_listened(int ret)
{
    FerryDestination *destination = ferry_incoming_destination();

    if (ret < 0 && destination && ferry_destination_is_left(destination) &&
        ferry_destination_has_guest(destination) &&
        ferry_destination_is_complete(destination, NULL)) {
        MigrationIncomingState *mis = migration_incoming_get_current();

        /*
         * All pages had come before the stream broke.  In a recovery, that was before QEMU was told of its end, and
         * only from this state it goes on to 'completed'.
         */
        migrate_set_state(&mis->state, MIGRATION_STATUS_POSTCOPY_RECOVER,
                          MIGRATION_STATUS_POSTCOPY_ACTIVE);
        return 0;
    }
    return ret;
}

void ferry_listen_paused(MigrationIncomingState *mis)
{
    if (qatomic_read(&listening.failing)) {
        fail_state(mis);
    }
}

bool ferry_listen_resumed(void)
{
    MigrationIncomingState *mis = migration_incoming_get_current();
    MigrationStatus state;

    g_mutex_lock(&listening.lock);
    /*
     * Where a recovery woke this thread just when the migration is given up: who does that still uses the session,
     * and says when not, or that nothing comes of it.
     */
    while ((state = qatomic_read(&mis->state)) == MIGRATION_STATUS_CANCELLING &&
           !qatomic_read(&listening.given_up) && !qatomic_read(&listening.failing)) {
        g_cond_wait(&listening.changed, &listening.lock);
    }
    g_mutex_unlock(&listening.lock);
    if (state == MIGRATION_STATUS_CANCELLING || qatomic_read(&listening.failing)) {
        return false;
    }
    /* The recovery could not say so then. */
    migrate_set_state(&mis->state, MIGRATION_STATUS_POSTCOPY_PAUSED,
                      MIGRATION_STATUS_POSTCOPY_RECOVER);
    return state != MIGRATION_STATUS_FAILED;
}

/* Whether this thread's end is nothing but that of a migration that has failed. */
static bool has_failed(MigrationIncomingState *mis, int result)
{
    g_autoptr(GError) cause = NULL;

    if (qatomic_read(&listening.given_up) || qatomic_read(&listening.failing)) {
        return true;
    }
    if (result < 0 && !ferry_incoming_destination()) {
        return false;
    }
    qemu_event_wait(&mis->main_thread_load_event);
    /* The main thread knows of a session that has failed, or is about to. */
    cause = ferry_incoming_cause();
    return postcopy_state_get() != POSTCOPY_INCOMING_RUNNING || cause;
}

bool ferry_listen_ended(MigrationIncomingState *mis, int result)
{
    if (!has_failed(mis, result)) {
        return false;
    }
    postcopy_ram_incoming_cleanup(mis);
    rcu_unregister_thread();
    if (qatomic_read(&listening.given_up)) {
        aio_bh_schedule_oneshot(qemu_get_aio_context(), take_apart, mis);
        return true;
    }
    g_mutex_lock(&listening.lock);
    listening.ended = true;
    g_cond_broadcast(&listening.changed);
    g_mutex_unlock(&listening.lock);
    return true;
}
