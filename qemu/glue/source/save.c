/*
 * The "ram" section at the source: driving the engine from QEMU's migration thread.
 *
 * Threads: the migration thread, except where ferry.h says otherwise; ferry_save_cleanup() runs on the
 * main thread, with the BQL.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "exec/memory.h"
#include "exec/ramblock.h"
#include "qapi/qapi-events-migration.h"
#include "qapi/qapi-commands-migration.h"
#include "qapi/error.h"
#include "system/cpu-throttle.h"
#include "system/dirtylimit.h"
#include "system/runstate.h"
#include "migration/misc.h"
#include "migration/migration.h"
#include "migration/migration-stats.h"
#include "migration/options.h"
#include "migration/qemu-file.h"
#include "migration/ram.h"

#include "ferry/glue/ferry.h"
#include "ferry/glue/kvm/kvm.h"
#include "ferry/glue/tracker/tracker.h"
#include "ferry/migration/fault.h"
#include "ferry/migration/source/converge.h"
#include "../internal.h"
#include "../trace.h"
#include "postcopy.h"
#include "save.h"
#include "session.h"
#include "sizes.h"

/* How long one call of the iterate handler copies. */
#define ITERATE_MS 50

static struct {
    VMChangeStateEntry *vm_change;
    bool logging; /* the dirty log is on */
    bool hinted;  /* a balloon may hint at free pages */
    /* Atomic: auto-converge wants to know what was written, however long the round takes. */
    bool sync_wanted;

    /* Rates, as QEMU reports them: at most once a second.  With the BQL. */
    int64_t period_start_ms;
    uint64_t period_dirty_pages, period_start_bytes;
    FerryThrottle throttle;
} saving;

/* --- The beginning --------------------------------------------------------------------------- */

static void vm_changed(void *opaque, bool running, RunState state)
{
    g_autoptr(GError) error = NULL;

    if (!running && state == RUN_STATE_FINISH_MIGRATE) {
        /* A broken channel shows, with its reason, when the last pages are sent. */
        ferry_outgoing_stop(&error);
    }
}

bool ferry_save_begins(void)
{
    g_autoptr(GError) cause = NULL;

    if (!ferry_outgoing_active()) {
        return false;
    }
    if (ferry_outgoing_mark()) {
        return true;
    }
    cause = ferry_source_cause(ferry_outgoing_source(), 0);
    ferry_outgoing_close();
    ferry_outgoing_set_reason(cause ? cause->message : "the session had failed before it was used");
    return false;
}

/* Devices are told with the BQL: of a balloon, what it hints at counts from one harvest to the next. */
static void notify(PrecopyNotifyReason reason)
{
    Error *err = NULL;

    if (precopy_notify(reason, &err)) {
        error_report_err(err);
    }
}

/* With the BQL.  None is plugged in while QEMU migrates. */
static bool has_hinting_balloon(void)
{
    Object *balloon = object_resolve_path_type("", "virtio-balloon-device", NULL);

    return balloon && object_property_get_bool(balloon, "free-page-hint", NULL);
}

/* Without the BQL: before a balloon is told to go on. */
static bool expect_hints(Error **errp)
{
    GError *error = NULL;

    if (!saving.hinted) {
        return true;
    }
    if (!ferry_source_expect_hints(ferry_outgoing_source(), &error)) {
        ferry_propagate_error(errp, error);
        return false;
    }
    trace_ferry_hints_expected();
    return true;
}

int ferry_save_setup(QEMUFile *f, Error **errp)
{
    GError *error = NULL;
    bool started;
    int ret;

    ferry_tracker_begin();
    qemu_mutex_lock_ramlist();
    WITH_RCU_READ_LOCK_GUARD()
    {
        started = memory_global_dirty_log_start(GLOBAL_DIRTY_MIGRATION, errp);
        if (started) {
            ferry_kvm_sync_others(false);
        }
    }
    qemu_mutex_unlock_ramlist();
    if (!started) {
        return -1;
    }
    saving.logging = true;
    /* Arming a chunk clears what this reports; without it there is nothing to clear. */
    bql_unlock();
    ferry_kvm_sync_log();
    bql_lock();
    qatomic_set(&saving.sync_wanted, false);
    ferry_postcopy_reset();
    saving.throttle = (FerryThrottle){0};
    saving.period_dirty_pages = 0;
    saving.period_start_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
    saving.period_start_bytes = migration_transferred_bytes();
    saving.vm_change = qemu_add_vm_change_state_handler(vm_changed, NULL);
    /* A balloon asks for none where the migration may go over to post-copy. */
    saving.hinted = has_hinting_balloon() && !migrate_postcopy_ram();
    bql_unlock();
    started = expect_hints(errp);
    bql_lock();
    if (!started) {
        return -1;
    }
    stat64_add(&mig_stats.dirty_sync_count, 1);
    notify(PRECOPY_NOTIFY_AFTER_BITMAP_SYNC);

    if (ferry_fault(FERRY_FAULT_QEMU_SAVE_SETUP, &error)) {
        ferry_propagate_error(errp, error);
        return -1;
    }
    qemu_put_be64(f, FERRY_STREAM_SETUP);
    ret = qemu_fflush(f);
    if (ret < 0) {
        /* As when it has just been cancelled; QEMU wants to be told what failed. */
        error_setg_errno(errp, -ret, "cannot write to the migration stream");
    }
    return ret;
}

int ferry_save_iterate(QEMUFile *f)
{
    uint64_t rate = migration_rate_get() * (1000 / BUFFER_DELAY);
    GError *error = NULL;

    ferry_source_set_bandwidth(ferry_outgoing_source(), rate);
    ferry_sizes_look();
    if (ferry_outgoing_is_left()) {
        return ferry_postcopy_push(f, ITERATE_MS);
    }
    if (!ferry_source_step(ferry_outgoing_source(), ITERATE_MS, &error)) {
        return ferry_session_error(f, error);
    }
    ferry_outgoing_count();
    qemu_put_be64(f, FERRY_STREAM_PART);
    return 1;
}

/* --- Rounds ---------------------------------------------------------------------------------- */

static void throttle_guest(uint64_t sent_bytes, uint64_t dirty_bytes)
{
    FerryThrottleParams params = {
        .trigger_percent = migrate_throttle_trigger_threshold(),
        .initial_percent = migrate_cpu_throttle_initial(),
        .increment_percent = migrate_cpu_throttle_increment(),
        .max_percent = migrate_max_cpu_throttle(),
        .tailslow = migrate_cpu_throttle_tailslow(),
    };
    unsigned percent = ferry_throttle_next(&saving.throttle, &params, sent_bytes, dirty_bytes,
                                           cpu_throttle_get_percentage());

    if (percent == 0) {
        return;
    }
    if (migrate_auto_converge()) {
        cpu_throttle_set(percent);
    } else if (migrate_dirty_limit()) {
        qmp_set_vcpu_dirty_limit(false, -1, migrate_get_current()->parameters.vcpu_dirty_limit,
                                 NULL);
    }
}

/* Once a second or so: the dirty rate, and whether the guest must be slowed down. */
static void note_round(uint64_t dirty_pages)
{
    int64_t now_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
    int64_t period_ms = now_ms - saving.period_start_ms;
    uint64_t bytes = migration_transferred_bytes();

    saving.period_dirty_pages += dirty_pages;
    if (period_ms < 1000) {
        return;
    }
    throttle_guest(bytes - saving.period_start_bytes,
                   ferry_source_wire_bytes(ferry_outgoing_source(),
                                           saving.period_dirty_pages * FERRY_PAGE_BYTES));
    stat64_set(&mig_stats.dirty_pages_rate, saving.period_dirty_pages * 1000 / period_ms);
    saving.period_start_ms = now_ms;
    saving.period_start_bytes = bytes;
    saving.period_dirty_pages = 0;
}

/* Without the BQL, which the main thread wants meanwhile. */
static bool harvest(Error **errp)
{
    GError *error = NULL;
    uint64_t dirty_pages = 0;

    qatomic_set(&saving.sync_wanted, false);
    bql_lock();
    notify(PRECOPY_NOTIFY_BEFORE_BITMAP_SYNC);
    bql_unlock();
    if (!ferry_source_harvest(ferry_outgoing_source(), &dirty_pages, &error)) {
        ferry_propagate_error(errp, error);
        return false;
    }
    if (!expect_hints(errp)) {
        return false;
    }
    BQL_LOCK_GUARD();
    stat64_add(&mig_stats.dirty_sync_count, 1);
    stat64_set(&mig_stats.dirty_bytes_last_sync,
               ferry_source_remaining_bytes(ferry_outgoing_source()));
    note_round(dirty_pages);
    notify(PRECOPY_NOTIFY_AFTER_BITMAP_SYNC);
    if (migrate_events()) {
        qapi_event_send_migration_pass(stat64_get(&mig_stats.dirty_sync_count));
    }
    return true;
}

/* Whether auto-converge waits for a harvest that is not due yet, as the round takes long. */
static bool is_sync_wanted(void)
{
    return qatomic_read(&saving.sync_wanted) && runstate_is_running() &&
           ferry_source_first_pass_done(ferry_outgoing_source());
}

static bool harvest_or_fail(MigrationState *s)
{
    Error *err = NULL;

    if (!harvest(&err)) {
        qemu_file_set_error_obj(s->to_dst_file, -EIO, err);
        return false;
    }
    return true;
}

/* What is left takes so much of the bandwidth that QEMU has measured. */
static uint64_t remaining_wire_bytes(void)
{
    return ferry_source_remaining_wire_bytes(ferry_outgoing_source());
}

/* How much QEMU is to think is left; *round_ended: everything that is known of has just been sent. */
static uint64_t pending_bytes(bool exact, bool *round_ended)
{
    MigrationState *s = migrate_get_current();
    uint64_t limit = s->threshold_size;
    uint64_t pending = remaining_wire_bytes();
    bool go_on;

    *round_ended = false;
    if (!ferry_source_may_harvest(ferry_outgoing_source()) && is_sync_wanted()) {
        return harvest_or_fail(s) ? MAX(pending, limit + 1) : pending;
    }
    /*
     * QEMU asks for the exact value only when the estimate is below the limit.  With a limit of nothing
     * that is never: it switches over as soon as the estimate is nothing, whatever was written
     * meanwhile.  If that is what the user wants (downtime-limit is 0), the blackout is to be as short
     * as rounds can make it.  If no rate is known yet, wait for one.  And pages that are put off can be
     * more than the limit when a round ends.
     */
    if (!exact && (limit > 0 || pending > 0) &&
        (pending < limit || !ferry_source_may_harvest(ferry_outgoing_source()))) {
        return pending;
    }
    if (ferry_source_may_harvest(ferry_outgoing_source())) {
        if (!harvest_or_fail(s)) {
            return pending;
        }
        *round_ended = true;
        go_on = (runstate_is_running() &&
                 ferry_source_wants_round(ferry_outgoing_source(), limit ? limit : UINT64_MAX)) ||
                (limit == 0 && migrate_downtime_limit() > 0 && remaining_wire_bytes() > 0);
    } else {
        go_on = true;
    }
    pending = remaining_wire_bytes();
    trace_ferry_switch_considered(pending, limit, *round_ended, go_on);
    /*
     * QEMU switches over as soon as the rest fits downtime-limit.  When another round would still
     * shorten the blackout, say that it does not fit yet.
     */
    if (go_on) {
        return MAX(pending, limit + 1);
    }
    return limit ? pending : 0;
}

void ferry_save_pending(bool exact, uint64_t *must_precopy, uint64_t *can_postcopy)
{
    bool round_ended;
    uint64_t pending;

    if (ferry_outgoing_is_left()) {
        *can_postcopy += ferry_postcopy_pending(migrate_get_current()->threshold_size);
        return;
    }
    pending = pending_bytes(exact, &round_ended);
    if (migrate_postcopy_ram()) {
        *can_postcopy += pending;
        ferry_postcopy_consider(round_ended, remaining_wire_bytes());
    } else {
        *must_precopy += pending;
    }
}

bool ferry_bitmap_sync(bool last_stage)
{
    if (!ferry_outgoing_active()) {
        return false;
    }
    /* From auto-converge's timer, on the main thread: the migration thread harvests, nobody else. */
    qatomic_set(&saving.sync_wanted, true);
    return true;
}

bool ferry_bytes_remaining(uint64_t *bytes)
{
    FerrySource *source = ferry_outgoing_hold();

    if (!source) {
        return false;
    }
    *bytes = ferry_source_remaining_bytes(source);
    ferry_outgoing_release();
    return true;
}

/* The index of @block among the session's regions, or -1. */
static int find_region(const RAMBlock *block)
{
    const FerryRegions *regions = ferry_outgoing_regions();

    for (size_t i = 0; i < regions->nr; i++) {
        if (regions->list[i].host == block->host) {
            return (int)i;
        }
    }
    return -1;
}

bool ferry_free_page_hint(void *addr, size_t len)
{
    FerrySource *source = ferry_outgoing_hold();

    if (!source) {
        return false;
    }
    RCU_READ_LOCK_GUARD();
    while (len > 0) {
        ram_addr_t offset;
        RAMBlock *block = qemu_ram_block_from_host(addr, false, &offset);
        int region = block ? find_region(block) : -1;
        size_t part;

        if (region < 0 || offset >= block->used_length) {
            break;
        }
        part = MIN(len, block->used_length - offset);
        ferry_source_hint(source, region, offset >> FERRY_PAGE_SHIFT, part >> FERRY_PAGE_SHIFT);
        addr = (char *)addr + part;
        len -= part;
    }
    ferry_outgoing_release();
    return true;
}

/* --- The end --------------------------------------------------------------------------------- */

int ferry_save_complete(QEMUFile *f)
{
    GError *error = NULL;
    bool ok;

    /* If the guest was paused all along, nothing has told it yet. */
    if (!ferry_outgoing_stop(&error)) {
        return ferry_session_error(f, error);
    }
    notify(PRECOPY_NOTIFY_BEFORE_BITMAP_SYNC);
    ferry_outgoing_switch();
    /* What waits for the network does not keep the monitor waiting. */
    bql_unlock();
    ok = ferry_source_hand_off(ferry_outgoing_source(), &error);
    bql_lock();
    ok = ok && ferry_outgoing_is_quiet(&error) && !ferry_fault(FERRY_FAULT_QEMU_SAVE_END, &error);
    if (!ok) {
        return ferry_session_error(f, error);
    }
    /* With the vCPUs stopped this tells a balloon that it is done: so it arrives, and gives pages back. */
    notify(PRECOPY_NOTIFY_AFTER_BITMAP_SYNC);
    stat64_add(&mig_stats.dirty_sync_count, 1);
    ferry_outgoing_count();
    qemu_put_be64(f, FERRY_STREAM_END);
    return qemu_fflush(f);
}

void ferry_save_cleanup(void)
{
    if (saving.vm_change) {
        qemu_del_vm_change_state_handler(saving.vm_change);
        saving.vm_change = NULL;
    }
    ferry_outgoing_count();
    ferry_sizes_look_last();
    ferry_outgoing_close();
    if (saving.logging) {
        memory_global_dirty_log_stop(GLOBAL_DIRTY_MIGRATION);
        saving.logging = false;
    }
    ferry_tracker_end();
}
