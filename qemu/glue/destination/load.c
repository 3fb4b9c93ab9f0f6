/*
 * The "ram" section at the destination.
 *
 * Threads: the main thread; once the guest runs in post-copy, the one that reads the stream (QEMU's
 * listen thread).  What the engine calls on threads of its own is marked.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "migration/migration.h"
#include "migration/qemu-file.h"

#include "ferry/glue/ferry.h"
#include "ferry/migration/fault.h"
#include "../internal.h"
#include "connections.h"
#include "kept.h"
#include "load.h"
#include "postcopy.h"
#include "run.h"
#include "session.h"
#include "wait.h"

/* On a thread of the engine's. */
void ferry_load_failed(void *opaque, const GError *why)
{
    ferry_set_migration_error(migrate_get_current(), why);
}

static void forget_failure(void)
{
    MigrationState *s = migrate_get_current();

    WITH_QEMU_LOCK_GUARD(&s->error_mutex)
    {
        error_free(s->error);
        s->error = NULL;
    }
}

/* The source goes on without Ferry: what was prepared is not needed. */
static void stand_down(void)
{
    FerryDestination *destination = ferry_incoming_destination();

    ferry_incoming_set_listener(NULL);
    if (destination) {
        g_autofree char *failure = ferry_destination_opening_failure(destination);
        g_autofree char *reason =
            failure ? g_strdup_printf("the session broke while it was opened: %s", failure)
                    : g_strdup("the source gave up before the session was open");

        ferry_incoming_end(NULL, false);
        /* That its channels failed does not matter any more. */
        forget_failure();
        ferry_postcopy_stand_down();
        ferry_incoming_set_reason(reason);
    } else {
        ferry_incoming_suggest_reason(
            "the source has no Ferry, or has it switched off, or cannot use it for this migration");
    }
}

static int load_setup(void)
{
    g_autoptr(GError) error = NULL;

    if (!ferry_incoming_destination()) {
        error_report(
            "ferry: the stream says that Ferry carries the memory, but no session is open");
        return -EINVAL;
    }
    if (ferry_fault(FERRY_FAULT_QEMU_LOAD_SETUP, &error)) {
        error_report("ferry: %s", error->message);
        return -EINVAL;
    }
    ferry_incoming_decide(true);
    ferry_incoming_begin();
    /* From here on, a session that has failed is the end of the migration. */
    ferry_incoming_check();
    return 0;
}

static int load_end(void)
{
    FerryDestination *destination = ferry_incoming_destination();
    GError *error = NULL;
    bool done = ferry_destination_is_complete(destination, &error);

    (void)ferry_fault(FERRY_FAULT_QEMU_LOAD_END, NULL);
    /* With pages missing, the source says that this is the end when it knows that they have come. */
    while (!done && !error && !ferry_destination_is_left(destination)) {
        if (!ferry_wait()) {
            ferry_destination_wait_complete(destination, NULL);
        }
        done = ferry_destination_is_complete(destination, &error);
    }
    /* A source that says so before the guest is this side's is none of ours. */
    done = done &&
           (!ferry_destination_is_left(destination) || ferry_destination_has_guest(destination));
    g_clear_error(&error);
    /* Why not is reported when the session is cleaned up. */
    return done ? 0 : -EIO;
}

bool ferry_load_state(QEMUFile *f, int *ret)
{
    uint8_t *head;
    uint64_t word;

    if (qemu_peek_buffer(f, &head, sizeof(word), 0) != sizeof(word)) {
        return false;
    }
    word = ldq_be_p(head);
    if (!ferry_incoming_active() && word != FERRY_STREAM_SETUP) {
        stand_down();
        ferry_incoming_decide(false);
        if (!ferry_incoming_wait_multifd()) {
            *ret = -EINVAL;
            return true;
        }
        return false;
    }
    qemu_file_skip(f, sizeof(word));
    switch (word) {
    case FERRY_STREAM_SETUP:
        *ret = load_setup();
        break;
    case FERRY_STREAM_PART:
        ferry_postcopy_note_part();
        *ret = 0;
        break;
    case FERRY_STREAM_END:
        *ret = load_end();
        break;
    default:
        error_report("ferry: 0x%" PRIx64 " in the stream where a mark of Ferry's belongs", word);
        *ret = -EINVAL;
    }
    return true;
}

/* What cannot be read is not what cannot be loaded. */
static bool has_stream_broken(MigrationIncomingState *mis)
{
    return mis->from_src_file && qemu_file_get_error(mis->from_src_file) == -EIO;
}

void ferry_load_cleanup(void)
{
    MigrationIncomingState *mis = migration_incoming_get_current();
    FerryDestination *destination = ferry_incoming_destination();
    bool failed = mis->state == MIGRATION_STATUS_FAILED;
    g_autoptr(GError) cause = failed ? ferry_incoming_cause() : NULL;

    ferry_incoming_stop_listening();
    ferry_kept_drop();
    if (!destination) {
        return;
    }
    if (!failed) {
        ferry_destination_send_report(destination);
    } else if (cause) {
        error_report("ferry: %s", cause->message);
    }
    ferry_incoming_keep_last(failed);
    ferry_postcopy_hold_stream(NULL);
    ferry_incoming_end(has_stream_broken(mis) ? "the migration stream broke"
                                              : "it could not load the state of the guest",
                       !failed);
}
