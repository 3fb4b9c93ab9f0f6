/*
 * The "ram" section's handlers: Ferry's where a session is in use, else QEMU's own.
 *
 * Everything else about a migration (states, events, devices, switchover) stays QEMU's.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "migration/register.h"

#include "ferry/glue/ferry.h"
#include "destination/load.h"
#include "destination/run.h"
#include "destination/session.h"
#include "events.h"
#include "internal.h"
#include "source/postcopy.h"
#include "source/release.h"
#include "source/save.h"
#include "source/session.h"

static SaveVMHandlers stock;

static int save_setup(QEMUFile *f, void *opaque, Error **errp)
{
    return ferry_save_begins() ? ferry_save_setup(f, errp) : stock.save_setup(f, opaque, errp);
}

static int save_live_iterate(QEMUFile *f, void *opaque)
{
    return ferry_outgoing_active() ? ferry_save_iterate(f) : stock.save_live_iterate(f, opaque);
}

static int save_live_complete_precopy(QEMUFile *f, void *opaque)
{
    return ferry_outgoing_active() ? ferry_save_complete(f)
                                   : stock.save_live_complete_precopy(f, opaque);
}

static int save_live_complete_postcopy(QEMUFile *f, void *opaque)
{
    return ferry_outgoing_active() ? ferry_save_complete_postcopy(f)
                                   : stock.save_live_complete_postcopy(f, opaque);
}

static int resume_prepare(MigrationState *s, void *opaque)
{
    return ferry_outgoing_active() ? ferry_resume_prepare(s) : stock.resume_prepare(s, opaque);
}

static void state_pending_exact(void *opaque, uint64_t *must_precopy, uint64_t *can_postcopy)
{
    if (ferry_outgoing_active()) {
        ferry_save_pending(true, must_precopy, can_postcopy);
    } else {
        stock.state_pending_exact(opaque, must_precopy, can_postcopy);
    }
}

static void state_pending_estimate(void *opaque, uint64_t *must_precopy, uint64_t *can_postcopy)
{
    if (ferry_outgoing_active()) {
        ferry_save_pending(false, must_precopy, can_postcopy);
    } else {
        stock.state_pending_estimate(opaque, must_precopy, can_postcopy);
    }
}

static void save_cleanup(void *opaque)
{
    if (ferry_outgoing_active()) {
        ferry_save_cleanup();
    } else {
        stock.save_cleanup(opaque);
    }
}

static int load_state(QEMUFile *f, void *opaque, int version_id)
{
    int ret;

    return ferry_load_state(f, &ret) ? ret : stock.load_state(f, opaque, version_id);
}

static int load_cleanup(void *opaque)
{
    ferry_load_cleanup();
    return stock.load_cleanup(opaque);
}

SaveVMHandlers *ferry_ram_handlers(SaveVMHandlers *handlers)
{
    static SaveVMHandlers wrapped;

    ferry_trace_engine();
    stock = *handlers;
    wrapped = stock;
    wrapped.save_setup = save_setup;
    wrapped.save_live_iterate = save_live_iterate;
    wrapped.save_live_complete_precopy = save_live_complete_precopy;
    wrapped.save_live_complete_postcopy = save_live_complete_postcopy;
    wrapped.resume_prepare = resume_prepare;
    wrapped.state_pending_exact = state_pending_exact;
    wrapped.state_pending_estimate = state_pending_estimate;
    wrapped.save_cleanup = save_cleanup;
    wrapped.load_state = load_state;
    wrapped.load_cleanup = load_cleanup;
    return &wrapped;
}

bool ferry_delays_reset(void)
{
    return ferry_outgoing_delays_reset() || ferry_incoming_awaits_go();
}

bool ferry_has_session(void)
{
    return ferry_incoming_destination() || ferry_outgoing_active();
}
