/*
 * Letting go of the guest: the moment from which it is the destination's, and what QEMU must not do after it.
 *
 * The destination runs the guest when it hears GO, and for no other reason.  GO is sent once, with the BQL,
 * and only if by then nobody has cancelled and nothing has failed.  Before it, whatever happens, the source
 * takes the guest back; after it, never, whatever QEMU meets on its own connection.
 *
 * Threads: the migration thread, except where ferry.h says otherwise.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "io/channel.h"
#include "system/runstate.h"
#include "migration/misc.h"
#include "migration/migration.h"
#include "migration/options.h"
#include "migration/qemu-file.h"
#include "migration/savevm.h"

#include "ferry/glue/ferry.h"
#include "ferry/migration/error.h"
#include "ferry/migration/fault.h"
#include "../internal.h"
#include "devices.h"
#include "last-word.h"
#include "peer.h"
#include "release.h"
#include "session.h"

/* --- GO ------------------------------------------------------------------------------------------ */

/* Whether this migration has let go of the guest, until QEMU has asked how it ended.  With the BQL. */
static bool has_let_go;

/* Of a migration that lets go of it on QEMU's own path. */
static struct {
    RunState old_state; /* what the guest was in */
    bool ended;         /* all that the destination needs to run it has been written */
    bool told;          /* the same, in pre-copy, and its last word is waited for */
} own_path;

/*
 * With the BQL, and before the word that gives the guest away: nothing that QEMU does when a migration ends starts a
 * guest that was in this state.  Returns what it was in.
 */
static RunState give_up_guest(MigrationState *s)
{
    RunState old_state = s->vm_old_state;

    s->vm_old_state = RUN_STATE_POSTMIGRATE;
    has_let_go = true;
    return old_state;
}

/* With the BQL: the word was not said, or the destination has not started the guest. */
static void take_guest_back(MigrationState *s, RunState old_state)
{
    s->vm_old_state = old_state;
    has_let_go = false;
}

/* With the BQL, so that nobody cancels between the look and the word. */
static bool say_go(MigrationState *s)
{
    FerrySource *source = ferry_outgoing_source();
    RunState old_state;
    bool told;

    if (migrate_has_error(s) || qemu_file_get_error(s->to_dst_file)) {
        ferry_source_note_failure(
            source, g_error_new_literal(FERRY_ERROR, FERRY_ERROR_IO, "the migration stream broke"));
    }
    old_state = give_up_guest(s);
    told = ferry_source_go(source);
    if (!told) {
        take_guest_back(s, old_state);
    }
    return told;
}

/*
 * On QEMU's own path, once all of the stream is written the destination has the guest, whatever comes of the return
 * path.  So this is before the last of it, with the BQL, so that nobody cancels in between.
 */
int ferry_save_devices(QEMUFile *f)
{
    MigrationState *s = migrate_get_current();
    int ret = -EIO;

    if (ferry_outgoing_active()) {
        return ferry_keep_devices(f);
    }
    if (!ferry_last_word_decides(s)) {
        return qemu_savevm_state_complete_precopy(f, false);
    }
    own_path.old_state = give_up_guest(s);
    own_path.ended = false;
    ferry_peer_expect_last_word(true);
    if (!migrate_has_error(s)) {
        ret = qemu_savevm_state_complete_precopy(f, false) ?: qemu_file_get_error(f);
    }
    ferry_peer_has_stream();
    if (ret && own_path.ended && ferry_peer_wait_last_word(0) != FERRY_LAST_WORD_FAILED) {
        return ferry_fail_last_word(s, ret,
                                    "the connection broke when the destination had what it needs");
    }
    if (ret) {
        ferry_peer_expect_last_word(false);
        take_guest_back(s, own_path.old_state);
    }
    own_path.told = ret == 0;
    return ret;
}

/*
 * What follows the byte that is written next, a description of the devices, QEMU's destination does without.  Where
 * something has failed before, it is not written.
 */
void ferry_outgoing_end(QEMUFile *f)
{
    if (has_let_go && migrate_has_error(migrate_get_current())) {
        qemu_file_set_error(f, -EIO);
    }
    own_path.ended = qemu_file_get_error(f) == 0;
}

/* QEMU's own path, to its end: only the destination's own word brings the guest back. */
static int end_own_path(MigrationState *s)
{
    bool kept;
    int ret = ferry_wait_last_word(s, &kept);

    if (kept) {
        BQL_LOCK_GUARD();
        take_guest_back(s, own_path.old_state);
    }
    return ret;
}

void ferry_let_go_packaged(MigrationState *s)
{
    give_up_guest(s);
}

bool ferry_release_guest(MigrationState *s, GError **errp)
{
    FerrySource *source = ferry_outgoing_source();
    bool told;

    if (!ferry_source_wait_loaded(source, errp)) {
        return false;
    }
    (void)ferry_fault(FERRY_FAULT_QEMU_LET_GO, NULL);
    bql_lock();
    told = say_go(s);
    bql_unlock();
    return told || ferry_source_fail(source, errp);
}

static int let_go(MigrationState *s)
{
    GError *error = NULL;
    int ret = ferry_send_devices(s->to_dst_file);

    if (ret) {
        return ret;
    }
    return ferry_release_guest(s, &error) &&
                   ferry_source_wait_taken(ferry_outgoing_source(), &error)
               ? 0
               : ferry_session_error(s->to_dst_file, error);
}

/*
 * The destination has said all there is to say.  QEMU waits for its last word on the return path, too; but
 * if the connection broke there and a relay keeps it open here, that never comes.
 */
static void end_return_path(MigrationState *s)
{
    ferry_source_finish(ferry_outgoing_source(), ferry_settings()->network_timeout_ms);
    qio_channel_shutdown(qemu_file_get_ioc(s->to_dst_file), QIO_CHANNEL_SHUTDOWN_READ, NULL);
}

int ferry_let_go(MigrationState *s)
{
    int ret = 0;

    if (!ferry_outgoing_active()) {
        /* In post-copy no word brings the guest back: it was sent with the order to run it. */
        return own_path.told ? end_own_path(s) : 0;
    }
    /* In post-copy it is gone long since, and all pages have come. */
    if (!ferry_is_gone()) {
        ret = let_go(s);
    }
    if (ret == 0) {
        end_return_path(s);
    }
    return ret;
}

/* --- What follows from it ------------------------------------------------------------------------ */

bool ferry_has_failed(MigrationState *s)
{
    bool let_go = has_let_go;

    has_let_go = own_path.told = false;
    return migration_has_failed(s) && !let_go;
}

/* Whether the guest may run at the destination, with a session or without. */
static bool is_out_of_hand(void)
{
    return ferry_is_gone() || has_let_go;
}

int ferry_stream_error(MigrationState *s)
{
    return is_out_of_hand() ? 0 : qemu_file_get_error(s->to_dst_file);
}

bool ferry_take_blocks_back(Error **errp)
{
    return is_out_of_hand() || migration_block_activate(errp);
}

bool ferry_refuses_cancel(Error **errp)
{
    if (!is_out_of_hand()) {
        return false;
    }
    error_setg(errp, "The destination was told to run the guest, cannot cancel%s",
               migrate_get_current()->state == MIGRATION_STATUS_POSTCOPY_PAUSED
                   ? ": resume the migration; or, if the destination has ended, the guest is lost, "
                     "and this QEMU can only quit"
                   : "");
    return true;
}

bool ferry_outgoing_delays_reset(void)
{
    FerrySource *source = ferry_outgoing_hold();
    bool sending;

    if (!source) {
        return false;
    }
    sending = ferry_source_is_stopped(source) && !ferry_source_is_over(source);
    ferry_outgoing_release();
    return sending;
}
