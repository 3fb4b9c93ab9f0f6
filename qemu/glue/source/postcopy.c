/*
 * The source in post-copy: when to go over to it, leaving pages missing, and recovery.
 *
 * Threads: the migration thread.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "system/runstate.h"
#include "migration/misc.h"
#include "migration/migration.h"
#include "migration/migration-stats.h"
#include "migration/options.h"
#include "migration/qemu-file.h"
#include "migration/ram.h"
#include "migration/savevm.h"

#include "ferry/glue/ferry.h"
#include "ferry/migration/source/converge.h"
#include "ferry/migration/error.h"
#include "../internal.h"
#include "../trace.h"
#include "peer.h"
#include "postcopy.h"
#include "release.h"
#include "session.h"

/* How long one step of it takes at most. */
#define PUSH_MS 50

/* How often a wait looks whether something has failed. */
#define POLL_MS 50

/* For how long what the destination has said last may be on its way. */
#define LAST_WORDS_MS 500

static struct {
    FerryConverge converge; /* over all rounds: whether more of them are of use */
    uint64_t counted_requests;
} postcopy;

void ferry_postcopy_reset(void)
{
    memset(&postcopy, 0, sizeof(postcopy));
}

/* Whether the user has left it to Ferry, and it is time, with so much left, as it goes on the wire. */
static bool is_time(bool round_ended, uint64_t left_bytes)
{
    uint64_t limit = migrate_get_current()->threshold_size;

    switch (ferry_settings()->switchover) {
    case FERRY_SWITCHOVER_MODE_POSTCOPY:
        return ferry_source_first_pass_done(ferry_outgoing_source());
    case FERRY_SWITCHOVER_MODE_AUTO:
        if (!round_ended) {
            return false;
        }
        ferry_converge_note(&postcopy.converge, left_bytes, UINT64_MAX);
        /*
         * What fits downtime-limit is about to be sent in pre-copy, after as many rounds as are of use.  Where no rate
         * is known, as after a moment without anything to send, nobody knows what fits.
         */
        return left_bytes > limit && (limit > 0 || migrate_downtime_limit() == 0) &&
               !ferry_converge_wants_round(&postcopy.converge, UINT64_MAX);
    default:
        return false;
    }
}

void ferry_postcopy_consider(bool round_ended, uint64_t left_bytes)
{
    MigrationState *s = migrate_get_current();
    GError *error = NULL;

    if (!runstate_is_running() || s->state != MIGRATION_STATUS_ACTIVE) {
        return;
    }
    if (is_time(round_ended, left_bytes)) {
        trace_ferry_postcopy_decided(left_bytes);
        qatomic_set(&s->start_postcopy, true);
    }
    /* Whatever is discarded there now is no part of the blackout. */
    if (qatomic_read(&s->start_postcopy) && left_bytes > 0 &&
        !ferry_source_draft(ferry_outgoing_source(), &error)) {
        ferry_session_error(s->to_dst_file, error);
    }
}

uint64_t ferry_postcopy_pending(uint64_t limit)
{
    uint64_t pending = ferry_source_remaining_bytes(ferry_outgoing_source());

    /* As long as this exceeds the limit, QEMU does not end the migration. */
    return ferry_source_is_complete(ferry_outgoing_source()) ? 0 : MAX(pending, limit + 1);
}

void ferry_postcopy_leave(MigrationState *s)
{
    GError *error = NULL;
    bool ok;

    if (!ferry_outgoing_active()) {
        ram_postcopy_send_discard_bitmap(s);
        return;
    }
    precopy_notify(PRECOPY_NOTIFY_BEFORE_BITMAP_SYNC, NULL);
    ferry_outgoing_switch();
    bql_unlock();
    ok = ferry_source_leave(ferry_outgoing_source(), &error);
    bql_lock();
    ok = ok && ferry_outgoing_is_quiet(&error);
    if (!ok) {
        ferry_session_error(s->to_dst_file, error);
        return;
    }
    stat64_add(&mig_stats.dirty_sync_count, 1);
    ferry_outgoing_count();
}

/* QEMU's own path: the word to run is the last of it, so the destination has the guest once all is sent. */
static int send_plainly(MigrationState *s, const uint8_t *data, size_t nr_bytes)
{
    /* With an error, memory that was to be there before may not have been sent. */
    int ret =
        migrate_has_error(s) ? -EIO : qemu_savevm_send_packaged(s->to_dst_file, data, nr_bytes);

    ret = ret ?: qemu_fflush(s->to_dst_file);
    if (ret == 0) {
        ferry_let_go_packaged(s);
    }
    return ret;
}

int ferry_send_packaged(MigrationState *s, const uint8_t *data, size_t nr_bytes)
{
    GError *error = NULL;
    int ret;

    if (!ferry_outgoing_is_left()) {
        return send_plainly(s, data, nr_bytes);
    }
    bql_unlock();
    /* Which may look at the file of shares. */
    ferry_source_set_bandwidth(ferry_outgoing_source(), migrate_max_postcopy_bandwidth());
    ret = qemu_savevm_send_packaged(s->to_dst_file, data, nr_bytes);
    ret = ret ?: qemu_fflush(s->to_dst_file);
    if (ret == 0 && !ferry_release_guest(s, &error)) {
        ret = ferry_session_error(s->to_dst_file, error);
    }
    bql_lock();
    return ret;
}

/* Requests, as QEMU reports them. */
static void count_requests(void)
{
    FerryStats stats;

    ferry_source_query(ferry_outgoing_source(), &stats);
    stat64_add(&mig_stats.postcopy_requests, stats.fetch.faults - postcopy.counted_requests);
    postcopy.counted_requests = stats.fetch.faults;
    ferry_stats_clear(&stats);
}

static bool push(unsigned timeout_ms, GError **errp)
{
    if (!ferry_source_push(ferry_outgoing_source(), timeout_ms, errp)) {
        return false;
    }
    ferry_outgoing_count();
    count_requests();
    return true;
}

int ferry_postcopy_push(QEMUFile *f, unsigned timeout_ms)
{
    GError *error = NULL;

    if (!push(timeout_ms, &error)) {
        return ferry_session_error(f, error);
    }
    qemu_put_be64(f, FERRY_STREAM_PART);
    return qemu_fflush(f) < 0 ? -EIO : 1;
}

/* What else goes over QEMU's own stream when the guest has gone; and nobody sends it again. */
static void note_lost_bitmaps(MigrationState *s)
{
    g_autoptr(GError) why = NULL;

    if (migrate_dirty_bitmaps()) {
        why = g_error_new_literal(FERRY_ERROR, FERRY_ERROR_IO,
                                  "the guest and its memory have arrived, but the migration stream "
                                  "broke: its dirty bitmaps may be missing");
        if (!migrate_has_error(s)) {
            ferry_set_migration_error(s, why);
        }
        warn_report("%s", why->message);
    }
}

static bool has_sent_all(void)
{
    return ferry_outgoing_active() && ferry_outgoing_is_left() &&
           ferry_source_is_complete(ferry_outgoing_source());
}

bool ferry_has_sent_all(MigrationState *s)
{
    GError *error = NULL;

    if (!ferry_is_gone() || !ferry_outgoing_is_left() || !qemu_file_get_error(s->to_dst_file)) {
        return has_sent_all();
    }
    /*
     * QEMU's stream broke, and the guest needs its pages all the same.  The destination breaks the session
     * when it notices; until then, what comes on that would be heard by nobody in a pause.
     */
    while (!has_sent_all()) {
        if (!push(PUSH_MS, &error)) {
            ferry_session_error(s->to_dst_file, error);
            /* If this QEMU is told to end meanwhile, QEMU is not to pause what it has cancelled. */
            return s->state != MIGRATION_STATUS_POSTCOPY_ACTIVE;
        }
    }
    note_lost_bitmaps(s);
    return true;
}

/* Without pages to leave missing, Ferry has no post-copy: dirty bitmaps come with the device state. */
static bool has_no_postcopy(void)
{
    return ferry_outgoing_active() && !migrate_postcopy_ram();
}

void ferry_pending(bool exact, uint64_t *must_precopy, uint64_t *can_postcopy)
{
    /* Nothing can be done for what else is left: QEMU would try for good. */
    if (ferry_is_gone() && has_sent_all() &&
        qemu_file_get_error(migrate_get_current()->to_dst_file)) {
        *must_precopy = *can_postcopy = 0;
    } else if (exact) {
        qemu_savevm_state_pending_exact(must_precopy, can_postcopy);
    } else {
        qemu_savevm_state_pending_estimate(must_precopy, can_postcopy);
    }
    if (has_no_postcopy() && qatomic_read(&migrate_get_current()->start_postcopy)) {
        *can_postcopy = 0;
    }
}

bool ferry_starts_postcopy(MigrationState *s)
{
    return qatomic_read(&s->start_postcopy) && !has_no_postcopy();
}

bool ferry_rate_exceeded(QEMUFile *f)
{
    /* QEMU takes a stream that broke for one that may not be written to yet. */
    return !has_sent_all() && migration_rate_exceeded(f);
}

int ferry_save_complete_postcopy(QEMUFile *f)
{
    qemu_put_be64(f, FERRY_STREAM_END);
    return qemu_fflush(f);
}

/*
 * The recovery fails, and the migration is paused again: for that QEMU waits until nothing more comes on the return
 * path, which a relay may keep open.
 */
static int give_up_recovery(MigrationState *s)
{
    qemu_file_shutdown(s->to_dst_file);
    return -EIO;
}

/* Its last words may be on their way still: that it has all that it needs. */
static bool waits_for_nothing(void)
{
    g_autoptr(GError) error = NULL;

    return has_sent_all() || (ferry_outgoing_active() && ferry_outgoing_is_left() &&
                              push(LAST_WORDS_MS, &error) && has_sent_all());
}

/* The destination does not say that it goes on, and need not if it has all that it needs. */
static int end_recovery(MigrationState *s)
{
    if (!waits_for_nothing()) {
        return give_up_recovery(s);
    }
    note_lost_bitmaps(s);
    migrate_set_state(&s->state, MIGRATION_STATUS_POSTCOPY_RECOVER,
                      MIGRATION_STATUS_POSTCOPY_ACTIVE);
    return 0;
}

int ferry_resume_wait(MigrationState *s)
{
    gint64 deadline_us =
        g_get_monotonic_time() + (gint64)ferry_settings()->network_timeout_ms * 1000;

    if (!ferry_outgoing_active()) {
        return migration_rp_wait(s);
    }
    while (!migrate_has_error(s) && qemu_sem_timedwait(&s->rp_state.rp_sem, POLL_MS) < 0) {
        if (g_get_monotonic_time() > deadline_us) {
            error_report(
                "ferry: cannot resume: the destination has not said in time that it goes on");
            return end_recovery(s);
        }
    }
    return migrate_has_error(s) ? end_recovery(s) : 0;
}

int ferry_resume_prepare(MigrationState *s)
{
    gint64 deadline_us =
        g_get_monotonic_time() + (gint64)ferry_settings()->network_timeout_ms * 1000;
    g_autofree char *reason = NULL;
    GError *error = NULL;
    Error *err = NULL;
    uint64_t session;
    uint8_t version;

    ferry_outgoing_hold_main(s);
    if (!ferry_peer_ask(s, deadline_us, &version, &session, &reason)) {
        error_report("ferry: cannot resume: %s", reason);
        return give_up_recovery(s);
    }
    if (!ferry_source_reconnect(ferry_outgoing_source(), version, session, &error)) {
        ferry_propagate_error(&err, error);
        if (waits_for_nothing()) {
            warn_reportf_err(err, "ferry: cannot resume: ");
            return end_recovery(s);
        }
        migrate_set_error(s, err);
        error_reportf_err(err, "ferry: cannot resume: ");
        return give_up_recovery(s);
    }
    return 0;
}
