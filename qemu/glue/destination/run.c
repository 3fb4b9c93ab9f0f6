/*
 * Running the guest at the destination: when the source has let go of it, and not before.
 *
 * Threads: the main thread, except where marked.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "block/aio.h"
#include "migration/misc.h"
#include "migration/migration.h"
#include "migration/qemu-file.h"

#include "ferry/glue/ferry.h"
#include "ferry/migration/fault.h"
#include "../internal.h"
#include "listen.h"
#include "postcopy.h"
#include "run.h"
#include "session.h"
#include "wait.h"

/* Starts the guest; not NULL while GO is waited for. */
static void (*pending)(void *opaque);

bool ferry_incoming_awaits_go(void)
{
    return pending;
}

/* --- Failing -------------------------------------------------------------------------------------- */

void ferry_incoming_check(void)
{
    MigrationIncomingState *mis = migration_incoming_get_current();
    g_autoptr(GError) cause = ferry_incoming_active() ? ferry_incoming_cause() : NULL;

    if (!cause) {
        return;
    }
    if (qatomic_read(&mis->state) == MIGRATION_STATUS_CANCELLING) {
        /* Abandoned, perhaps before GO: what is left of it is taken apart elsewhere, and the process stays. */
        pending = NULL;
    } else if (pending) {
        pending = NULL;
        if (!mis->have_listen_thread) {
            /* Lest the source is told on it that all is well. */
            qemu_file_shutdown(mis->from_src_file);
        }
        ferry_listen_fail(mis);
    } else if (mis->from_src_file) {
        /* Whoever reads the stream gets to know, and fails in QEMU's own way. */
        qemu_file_shutdown(mis->from_src_file);
    }
}

static void decided(void *opaque)
{
    ferry_incoming_check();
    ferry_wait_end();
}

/* On a thread of the engine's. */
void ferry_incoming_decided(void *opaque)
{
    aio_bh_schedule_oneshot(qemu_get_aio_context(), decided, NULL);
}

/* --- Running -------------------------------------------------------------------------------------- */

static void run_now(void *opaque)
{
    void (*run)(void *opaque) = pending;

    if (run) {
        (void)ferry_fault(FERRY_FAULT_QEMU_START, NULL);
        pending = NULL;
        migration_bh_schedule(run, migration_incoming_get_current());
    }
}

/* On a thread of the engine's. */
void ferry_incoming_go(void *opaque)
{
    ferry_postcopy_note_go();
    aio_bh_schedule_oneshot(qemu_get_aio_context(), run_now, NULL);
}

void ferry_incoming_run(void (*run)(void *opaque), MigrationIncomingState *mis)
{
    if (!ferry_incoming_active()) {
        migration_bh_schedule(run, mis);
        return;
    }
    (void)ferry_fault(FERRY_FAULT_QEMU_LOADED, NULL);
    pending = run;
    if (!ferry_destination_loaded(ferry_incoming_destination(), NULL)) {
        /* Not from within QEMU's own loading. */
        ferry_incoming_decided(NULL);
    }
}
