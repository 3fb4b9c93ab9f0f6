/*
 * The session at the source: see session.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/yank.h"
#include "system/runstate.h"
#include "migration/misc.h"
#include "migration/migration.h"
#include "migration/migration-stats.h"
#include "migration/options.h"
#include "migration/qemu-file.h"

#include "ferry/glue/ferry.h"
#include "ferry/glue/tracker/tracker.h"
#include "ferry/migration/error.h"
#include "ferry/migration/fault.h"
#include "ferry/migration/memory/pageset.h"
#include "../internal.h"
#include "../stream.h"
#include "peer.h"
#include "session.h"

/* How long the end of the return path waits for Ferry to say why. */
#define LAST_WORDS_MS 500

/* How long a failure waits for the cancelling that caused it to show. */
#define CANCELLING_MS 1000

static struct {
    GMutex lock; /* for what follows, up to version */
    GCond released;
    FerrySource *source;
    unsigned nr_waiting; /* threads that wait for the cause of its failure */
    bool active;         /* the memory of this migration goes through Ferry */
    bool has_last;
    FerryStats last; /* of the session that has ended */
    char *reason;    /* why Ferry is not in use */
    uint8_t version;

    FerryTracker tracker;
    FerryRegions regions; /* as handed to the source: for looking blocks up */
    bool cancelling;      /* the user has cancelled it; atomic */

    FerryStream main; /* QEMU's own connection, to be broken with ours */
    bool marked; /* the stream says that Ferry carries the memory: no way back; under the lock */

    /* Accounting on the thread that drives the session. */
    uint64_t counted_bytes, counted_normal, counted_zero;
} outgoing;

/* --- Its life -------------------------------------------------------------------------------- */

void ferry_outgoing_set_reason(const char *reason)
{
    g_mutex_lock(&outgoing.lock);
    g_free(outgoing.reason);
    outgoing.reason = g_strdup(reason);
    g_mutex_unlock(&outgoing.lock);
}

static void forget_last(void)
{
    g_mutex_lock(&outgoing.lock);
    if (outgoing.has_last) {
        ferry_stats_clear(&outgoing.last);
        outgoing.has_last = false;
    }
    outgoing.version = 0;
    g_mutex_unlock(&outgoing.lock);
}

void ferry_outgoing_reset(const char *reason)
{
    qatomic_set(&outgoing.cancelling, false);
    forget_last();
    ferry_outgoing_set_reason(reason);
}

/* Break what there is of the session, or of the way to one. */
static void break_channels(void)
{
    ferry_peer_cancel();
    g_mutex_lock(&outgoing.lock);
    if (outgoing.source) {
        ferry_source_shutdown(outgoing.source);
    }
    g_mutex_unlock(&outgoing.lock);
}

static void yank(void *opaque)
{
    break_channels();
}

void ferry_outgoing_pause(void)
{
    FerrySource *source = ferry_outgoing_hold();

    if (source) {
        ferry_source_note_failure(
            source, g_error_new_literal(FERRY_ERROR, FERRY_ERROR_LOST, FERRY_PAUSED_BY_USER));
        ferry_outgoing_release();
    }
}

void ferry_outgoing_paused(void)
{
    if (ferry_outgoing_active()) {
        ferry_source_pause(outgoing.source);
    }
}

/* Whether nothing depends on QEMU's own connection any more: all is done, or whoever waits for TAKEN says. */
static bool is_settled(FerrySource *source)
{
    return ferry_source_is_gone(source) &&
           (!ferry_source_is_left(source) || ferry_source_is_complete(source));
}

/*
 * The session's connection broke.  QEMU's own belongs to it: break that too, so that nobody waits there,
 * and have it known why before QEMU says so in its own words.  On a thread of the engine's.
 */
static void broken(void *opaque)
{
    FerrySource *source = ferry_outgoing_hold();
    g_autoptr(GError) cause = NULL;
    bool marked;

    if (!source) {
        return;
    }
    marked = outgoing.marked;
    if (marked && !is_settled(source)) {
        cause = ferry_source_cause(source, 0);
    }
    ferry_outgoing_release();
    if (cause && !g_error_matches(cause, FERRY_ERROR, FERRY_ERROR_CANCELLED)) {
        ferry_set_migration_error(opaque, cause);
    }
    if (marked) {
        ferry_stream_break(&outgoing.main);
    }
}

void ferry_outgoing_hold_main(MigrationState *s)
{
    ferry_stream_hold(&outgoing.main, s ? qemu_file_get_ioc(s->to_dst_file) : NULL);
}

bool ferry_outgoing_mark(void)
{
    bool ok;

    g_mutex_lock(&outgoing.lock);
    ok = !ferry_source_has_failed(outgoing.source);
    outgoing.marked = ok;
    g_mutex_unlock(&outgoing.lock);
    return ok;
}

/* Whether a session that did not open for @error ends the migration: else QEMU's own path carries it. */
static bool migration_ends(const GError *error)
{
    return g_error_matches(error, FERRY_ERROR, FERRY_ERROR_REFUSED) ||
           g_error_matches(error, FERRY_ERROR, FERRY_ERROR_CANCELLED);
}

bool ferry_outgoing_open(MigrationState *s, const FerrySourceConfig *config, GError **errp)
{
    FerrySourceConfig own = *config;
    FerryRegions regions;

    own.opaque = s;
    own.broken = broken;
    g_mutex_lock(&outgoing.lock);
    outgoing.version = (uint8_t)own.version;
    g_mutex_unlock(&outgoing.lock);
    bql_lock();
    ferry_list_ram(&regions, true);
    bql_unlock();
    outgoing.regions = ferry_regions_copy(&regions);
    if (ferry_fault(FERRY_FAULT_QEMU_OPEN, errp) ||
        !ferry_pageset_fits(&regions, FERRY_SOURCE_PAGESETS, errp) ||
        !ferry_tracker_open(ferry_settings()->tracker, &outgoing.regions, &outgoing.tracker,
                            errp)) {
        ferry_regions_clear(&regions);
        ferry_regions_clear(&outgoing.regions);
        ferry_shares_leave(own.shares);
        return false;
    }
    outgoing.counted_bytes = outgoing.counted_normal = outgoing.counted_zero = 0;

    g_mutex_lock(&outgoing.lock);
    outgoing.source = ferry_source_new(&own, &regions, &outgoing.tracker);
    g_mutex_unlock(&outgoing.lock);
    yank_register_function(MIGRATION_YANK_INSTANCE, yank, NULL);

    if (!ferry_source_connect(outgoing.source, errp)) {
        ferry_outgoing_close();
        if (!migration_ends(*errp)) {
            forget_last();
        }
        return false;
    }
    ferry_watch_channel(qemu_file_get_ioc(s->to_dst_file), 0);
    ferry_outgoing_hold_main(s);
    g_mutex_lock(&outgoing.lock);
    outgoing.active = true;
    g_mutex_unlock(&outgoing.lock);
    return true;
}

void ferry_outgoing_close(void)
{
    FerrySource *source;

    yank_unregister_function(MIGRATION_YANK_INSTANCE, yank, NULL);
    g_mutex_lock(&outgoing.lock);
    source = outgoing.source;
    if (source) {
        ferry_source_query(source, &outgoing.last);
        outgoing.has_last = true;
        if (outgoing.last.phase != FERRY_SESSION_DONE &&
            outgoing.last.phase != FERRY_SESSION_IN_DOUBT) {
            /* Whatever it was doing when QEMU ended it. */
            outgoing.last.phase = FERRY_SESSION_FAILED;
        }
    }
    outgoing.source = NULL;
    outgoing.active = outgoing.marked = false;
    if (source) {
        /* Whoever waits for the cause knows it by then. */
        ferry_source_shutdown(source);
    }
    while (outgoing.nr_waiting) {
        g_cond_wait(&outgoing.released, &outgoing.lock);
    }
    g_mutex_unlock(&outgoing.lock);
    ferry_source_free(source);
    ferry_outgoing_hold_main(NULL);
    ferry_tracker_close();
    ferry_regions_clear(&outgoing.regions);
}

/* --- What others ask and tell ---------------------------------------------------------------- */

bool ferry_outgoing_active(void)
{
    bool active;

    g_mutex_lock(&outgoing.lock);
    active = outgoing.active;
    g_mutex_unlock(&outgoing.lock);
    return active;
}

FerrySource *ferry_outgoing_source(void)
{
    return outgoing.source;
}

FerrySource *ferry_outgoing_hold(void)
{
    g_mutex_lock(&outgoing.lock);
    if (outgoing.active) {
        return outgoing.source;
    }
    g_mutex_unlock(&outgoing.lock);
    return NULL;
}

void ferry_outgoing_release(void)
{
    g_mutex_unlock(&outgoing.lock);
}

const FerryRegions *ferry_outgoing_regions(void)
{
    return &outgoing.regions;
}

/* For how long the guest may be stopped from now on; a guest that had been paused may be for longer. */
static unsigned blackout_ms(MigrationState *s)
{
    return runstate_is_live(s->vm_old_state) ? ferry_settings()->switchover_timeout_ms : 0;
}

bool ferry_outgoing_stop(GError **errp)
{
    MigrationState *s = migrate_get_current();

    if (ferry_source_is_stopped(outgoing.source)) {
        return true;
    }
    /* Until all pages have come, the destination does not read what else is sent. */
    ferry_watch_channel(qemu_file_get_ioc(s->to_dst_file), ferry_settings()->switchover_timeout_ms);
    /* Somebody else may want to keep it stopped for now. */
    return ferry_source_stopped(outgoing.source,
                                migrate_pause_before_switchover() ? 0 : blackout_ms(s), errp);
}

void ferry_outgoing_switch(void)
{
    MigrationState *s = migrate_get_current();

    if (migrate_pause_before_switchover()) {
        ferry_source_limit_blackout(outgoing.source, blackout_ms(s));
    }
}

bool ferry_outgoing_is_quiet(GError **errp)
{
    if (!ferry_tracker_has_news()) {
        return true;
    }
    g_set_error_literal(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM,
                        "a device wrote to memory while the last pages were sent: try again");
    ferry_source_note_failure(outgoing.source, g_error_copy(*errp));
    return false;
}

bool ferry_is_gone(void)
{
    bool gone;

    g_mutex_lock(&outgoing.lock);
    gone = outgoing.source && ferry_source_is_gone(outgoing.source);
    g_mutex_unlock(&outgoing.lock);
    return gone;
}

bool ferry_outgoing_is_stopped(void)
{
    return ferry_source_is_stopped(outgoing.source);
}

bool ferry_outgoing_is_left(void)
{
    return outgoing.source && ferry_source_is_left(outgoing.source);
}

void ferry_outgoing_count(void)
{
    Stat64 *phase = ferry_outgoing_is_left() ? &mig_stats.postcopy_bytes
                    : runstate_is_running()  ? &mig_stats.precopy_bytes
                                             : &mig_stats.downtime_bytes;
    FerryCounters now;

    ferry_source_count(outgoing.source, &now);
    stat64_add(&mig_stats.multifd_bytes, now.sent_bytes - outgoing.counted_bytes);
    stat64_add(phase, now.sent_bytes - outgoing.counted_bytes);
    stat64_add(&mig_stats.normal_pages, now.normal_pages - outgoing.counted_normal);
    stat64_add(&mig_stats.zero_pages, now.zero_pages - outgoing.counted_zero);
    outgoing.counted_bytes = now.sent_bytes;
    outgoing.counted_normal = now.normal_pages;
    outgoing.counted_zero = now.zero_pages;
}

bool ferry_outgoing_query(FerryStats *stats, bool *active, uint8_t *version, char **reason)
{
    bool known;

    g_mutex_lock(&outgoing.lock);
    *active = outgoing.active;
    *version = outgoing.version;
    *reason = g_strdup(outgoing.reason);
    known = outgoing.source || outgoing.has_last;
    if (outgoing.source) {
        ferry_source_query(outgoing.source, stats);
    } else if (outgoing.has_last) {
        ferry_stats_copy(stats, &outgoing.last);
    }
    g_mutex_unlock(&outgoing.lock);
    return known;
}

/* --- Failures -------------------------------------------------------------------------------- */

/*
 * Why the session fails, as the engine knows it: the caller's to free, or NULL.  This is the only place
 * that waits for it, and it does so while the session stays.
 */
static GError *wait_for_cause(void)
{
    FerrySource *source;
    GError *cause;

    g_mutex_lock(&outgoing.lock);
    source = outgoing.active ? outgoing.source : NULL;
    outgoing.nr_waiting += source != NULL;
    g_mutex_unlock(&outgoing.lock);
    if (!source) {
        return NULL;
    }
    cause = ferry_source_cause(source, LAST_WORDS_MS);
    g_mutex_lock(&outgoing.lock);
    outgoing.nr_waiting--;
    g_cond_broadcast(&outgoing.released);
    g_mutex_unlock(&outgoing.lock);
    return cause;
}

/* Whether it is no news that the return path breaks: nothing depends on it any more. */
static bool ends_return_path(void)
{
    FerrySource *source;
    bool ends;

    source = ferry_outgoing_hold();
    if (!source) {
        return ferry_peer_miss_last_word();
    }
    ends = is_settled(source);
    ferry_outgoing_release();
    return ends;
}

void ferry_return_path_error(MigrationState *s, const Error *error)
{
    g_autoptr(GError) cause = NULL;

    if (ends_return_path()) {
        if (ferry_peer_lacks_stream()) {
            ferry_outgoing_break_side();
        }
        return;
    }
    if (!ferry_outgoing_active()) {
        /* While channels are being opened, this is how it shows that nobody will answer. */
        break_channels();
    }
    cause = wait_for_cause();
    if (!cause || g_error_matches(cause, FERRY_ERROR, FERRY_ERROR_CANCELLED)) {
        migrate_set_error(s, error);
        /* Who waits in one of QEMU's other channels waits for somebody who has hung up. */
        ferry_outgoing_break_side();
        return;
    }
    ferry_set_migration_error(s, cause);
    if (!ferry_is_gone()) {
        ferry_outgoing_break_side();
    }
}

static void cancel_session(void)
{
    ferry_peer_cancel();
    g_mutex_lock(&outgoing.lock);
    if (outgoing.source) {
        ferry_source_cancel(outgoing.source);
    }
    g_mutex_unlock(&outgoing.lock);
}

void ferry_outgoing_cancel(void)
{
    /* It may have gone on to another state just then: QEMU tries again. */
    if (qatomic_read(&migrate_get_current()->state) == MIGRATION_STATUS_CANCELLING) {
        ferry_outgoing_break_side();
    }
    cancel_session();
}

void ferry_outgoing_cancelling(void)
{
    ferry_outgoing_note_cancel(migrate_get_current());
    qatomic_set(&outgoing.cancelling, true);
    if (migration_is_running()) {
        /*
         * Before QEMU breaks its own connection, and the destination complains of that.  QEMU's own channels
         * end when the state says why: before, their end would be a failure.
         */
        cancel_session();
    }
}

/*
 * The session is cancelled before QEMU's state says that the migration is.  The destination's complaint may be back
 * here by then; it must not pass for a failure.
 */
static void wait_for_cancel(void)
{
    MigrationState *s = migrate_get_current();

    for (int i = 0; i < CANCELLING_MS && qatomic_read(&outgoing.cancelling) &&
                    qatomic_read(&s->state) != MIGRATION_STATUS_CANCELLING;
         i++) {
        g_usleep(1000);
    }
}

int ferry_session_error(QEMUFile *f, GError *error)
{
    Error *err = NULL;
    bool cancelled;

    wait_for_cancel();
    if (g_error_matches(error, FERRY_ERROR, FERRY_ERROR_TRACKER)) {
        ferry_tracker_failed(error);
    }
    cancelled = g_error_matches(error, FERRY_ERROR, FERRY_ERROR_CANCELLED);
    ferry_propagate_error(&err, error);
    if (!cancelled) {
        /* The first one counts: before QEMU says in its own words that the stream has an error. */
        migrate_set_error(migrate_get_current(), err);
    }
    qemu_file_set_error_obj(f, -EIO, err);
    return -EIO;
}
