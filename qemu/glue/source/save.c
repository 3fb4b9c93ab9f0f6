/*
 * The source: driving the engine from QEMU's migration thread.
 *
 * Threads: the migration thread owns the session from ferry_negotiate() on; the main thread frees
 * it in ferry_save_cleanup(), after which the migration thread does not touch it.  What other
 * threads may look at (cancel, queries) is under `lock`.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "qemu/yank.h"
#include "exec/memory.h"
#include "exec/ramblock.h"
#include "hw/boards.h"
#include "io/channel-socket.h"
#include "qapi/qapi-events-migration.h"
#include "qapi/qapi-commands-migration.h"
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
#include "ferry/migration/source/converge.h"
#include "ferry/migration/error.h"
#include "ferry/migration/source/source.h"
#include "../internal.h"

/* How long one call of the iterate handler copies. */
#define ITERATE_MS 50

/* How long to wait for the report that the destination sent before it closed. */
#define REPORT_TIMEOUT_MS 1000

/* How long the end of the return path waits for Ferry to say why. */
#define LAST_WORDS_MS 500

/* How long a failure waits for the cancelling that caused it to show. */
#define CANCELLING_MS 1000

/* Data channels when the user does not say: up to this. */
#define CHANNELS_AUTO_MAX 8

/* One thread answers as many requests as so many vCPUs are likely to have at once. */
#define VCPUS_PER_FETCH_CHANNEL 32

static struct {
    GMutex lock; /* for source, active, last, reason, version */
    FerrySource *source;
    bool active; /* the memory of this migration goes through Ferry */
    bool has_last;
    FerryStats last; /* of the session that has ended */
    char *reason;    /* why Ferry is not in use */
    uint8_t version;

    FerryTracker tracker;
    FerryRegions regions; /* as handed to the source: for looking blocks up */
    VMChangeStateEntry *vm_change;
    bool logging;    /* the dirty log is on */
    bool cancelling; /* the user has cancelled it; atomic */

    /* Accounting on the thread that drives the session. */
    uint64_t counted_bytes, counted_normal, counted_zero;
    bool stopped;

    /* Rates, as QEMU reports them: at most once a second.  With the BQL. */
    int64_t period_start_ms;
    uint64_t period_dirty_pages, period_start_bytes;
    FerryThrottle throttle;
} outgoing;

/* --- Whether to use Ferry at all ------------------------------------------------------------- */

static void set_reason(const char *format, ...) G_GNUC_PRINTF(1, 2);

static void set_reason(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_mutex_lock(&outgoing.lock);
    g_free(outgoing.reason);
    outgoing.reason = format ? g_strdup_vprintf(format, args) : NULL;
    g_mutex_unlock(&outgoing.lock);
    va_end(args);
}

/* Why a migration as it is set up cannot use Ferry; NULL if it can. */
static const char *why_not(MigrationState *s)
{
    if (!ferry_settings()->enabled) {
        return "switched off with -global ferry.enabled=off";
    }
    if (!ferry_underlying_socket(qemu_file_get_ioc(s->to_dst_file))) {
        return "the transport is not a socket";
    }
    if (migrate_mode_is_cpr(s)) {
        return "the migration mode is CPR";
    }
    if (migrate_background_snapshot()) {
        return "capability background-snapshot is set";
    }
    if (migrate_mapped_ram()) {
        return "capability mapped-ram is set";
    }
    if (migrate_colo()) {
        return "capability x-colo is set";
    }
    if (migrate_xbzrle()) {
        return "capability xbzrle is set";
    }
    if (migrate_zero_copy_send()) {
        return "capability zero-copy-send is set";
    }
    if (migrate_release_ram()) {
        return "capability release-ram is set";
    }
    if (migrate_multifd() && migrate_multifd_compression() != MULTIFD_COMPRESSION_NONE) {
        return "multifd-compression is set";
    }
    return NULL;
}

bool ferry_wants_return_path(MigrationState *s)
{
    const char *reason;

    ferry_peer_reset();
    if (s->state == MIGRATION_STATUS_POSTCOPY_RECOVER_SETUP) {
        /* The session is there, but its connection has to be made anew. */
        return ferry_outgoing_active();
    }
    reason = why_not(s);
    qatomic_set(&outgoing.cancelling, false);
    g_mutex_lock(&outgoing.lock);
    if (outgoing.has_last) {
        ferry_stats_clear(&outgoing.last);
        outgoing.has_last = false;
    }
    outgoing.version = 0;
    g_mutex_unlock(&outgoing.lock);
    if (reason) {
        set_reason("%s", reason);
    } else {
        set_reason(NULL);
    }
    return reason == NULL;
}

/* --- Events from the guest and from other threads -------------------------------------------- */

static void vm_changed(void *opaque, bool running, RunState state)
{
    GError *error = NULL;

    if (!running && state == RUN_STATE_FINISH_MIGRATE && !outgoing.stopped) {
        outgoing.stopped = true;
        /* A broken channel shows, with its reason, when the last pages are sent. */
        if (!ferry_source_stopped(outgoing.source, &error)) {
            g_error_free(error);
        }
    }
}

static void session_failed(void *opaque, const GError *error)
{
    MigrationState *s = opaque;
    Error *err = NULL;

    /* QEMU's return path may have noticed first, but "Channel error" is all it has to say. */
    WITH_QEMU_LOCK_GUARD(&s->error_mutex)
    {
        if (s->error && g_str_has_prefix(error_get_pretty(s->error), "Channel error")) {
            error_free(s->error);
            s->error = NULL;
        }
    }
    error_setg(&err, "%s", error->message);
    migrate_set_error(s, err);
    error_free(err);
}

static bool next_tracker(void *opaque, const GError *why, FerryTracker *next)
{
    bool replaced = ferry_tracker_replace(why, next);

    if (replaced) {
        warn_report("%s; dirty tracking begins anew in another way", why->message);
    }
    return replaced;
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

void ferry_return_path_error(MigrationState *s, const Error *error)
{
    gint64 deadline = g_get_monotonic_time() + LAST_WORDS_MS * 1000;

    if (!ferry_outgoing_active()) {
        /* While channels are being opened, this is how it shows that nobody will answer. */
        break_channels();
    }
    while (ferry_outgoing_active() && !migrate_has_error(s) && g_get_monotonic_time() < deadline) {
        g_usleep(1000);
    }
    migrate_set_error(s, error);
}

void ferry_outgoing_cancelling(void)
{
    qatomic_set(&outgoing.cancelling, true);
}

void ferry_outgoing_cancel(void)
{
    ferry_peer_cancel();
    g_mutex_lock(&outgoing.lock);
    if (outgoing.source) {
        ferry_source_cancel(outgoing.source);
    }
    g_mutex_unlock(&outgoing.lock);
}

static void yank(void *opaque)
{
    break_channels();
}

/* --- Opening the session --------------------------------------------------------------------- */

/*
 * As many as there are CPUs to serve them which the guest leaves free; where its vCPUs want all of
 * them, still a quarter of the CPUs.
 */
static unsigned choose_channels(void)
{
    int nr_cpus = (int)g_get_num_processors();
    int nr_vcpus = (int)current_machine->smp.cpus;

    if (migrate_multifd()) {
        return MIN((unsigned)migrate_multifd_channels(), FERRY_DATA_CHANNELS_MAX);
    }
    if (ferry_settings()->channels) {
        return MIN(ferry_settings()->channels, FERRY_DATA_CHANNELS_MAX);
    }
    return CLAMP(MAX(nr_cpus - nr_vcpus, nr_cpus / 4), 1, CHANNELS_AUTO_MAX);
}

/* For pages that the guest waits for: one, and more only if very many vCPUs may wait at once. */
static unsigned choose_fetch_channels(void)
{
    if (!migrate_postcopy_ram()) {
        return 0;
    }
    return MIN(1 + current_machine->smp.cpus / VCPUS_PER_FETCH_CHANNEL, FERRY_FETCH_CHANNELS_MAX);
}

static void drop_session(void)
{
    FerrySource *source;

    yank_unregister_function(MIGRATION_YANK_INSTANCE, yank, NULL);
    g_mutex_lock(&outgoing.lock);
    source = outgoing.source;
    if (source) {
        ferry_source_query(source, &outgoing.last);
        outgoing.has_last = true;
    }
    outgoing.source = NULL;
    outgoing.active = false;
    g_mutex_unlock(&outgoing.lock);
    ferry_source_free(source);
    ferry_tracker_close();
    ferry_regions_clear(&outgoing.regions);
}

static void end_migration(MigrationState *s, const char *why)
{
    Error *err = NULL;

    error_setg(&err, "%s", why);
    migrate_set_error(s, err);
    qemu_file_set_error_obj(s->to_dst_file, -EINVAL, err);
}

/* Returns whether Ferry carries the memory; if not, why is in outgoing.reason. */
static bool open_session(MigrationState *s)
{
    FerrySourceConfig config = {
        .dial = ferry_peer_dial,
        .failed = session_failed,
        .next_tracker = next_tracker,
        .opaque = s,
    };
    g_autofree char *reason = NULL;
    FerryRegions regions;
    uint8_t version;
    GError *error = NULL;

    if (why_not(s)) {
        return false;
    }
    if (!ferry_peer_ask(s, &version, &config.session, &reason)) {
        set_reason("%s", reason);
        return false;
    }
    g_mutex_lock(&outgoing.lock);
    outgoing.version = version;
    g_mutex_unlock(&outgoing.lock);
    config.version = version;
    config.nr_channels = choose_channels();
    config.nr_fetch = choose_fetch_channels();
    config.timeout_ms = ferry_settings()->network_timeout_ms;
    config.checksum = ferry_settings()->checksum;
    config.compress = ferry_settings()->compression == FERRY_COMPRESSION_ZSTD;
    config.send_hot = !ferry_settings()->x_defer;

    ferry_list_ram(&regions);
    outgoing.regions = (FerryRegions){
        .list = g_memdup2(regions.list, regions.nr * sizeof(*regions.list)),
        .nr = regions.nr,
    };
    if (!ferry_tracker_open(ferry_settings()->tracker, &outgoing.regions, &outgoing.tracker,
                            &error)) {
        set_reason("%s", error->message);
        g_error_free(error);
        ferry_regions_clear(&regions);
        ferry_regions_clear(&outgoing.regions);
        return false;
    }
    outgoing.counted_bytes = outgoing.counted_normal = outgoing.counted_zero = 0;
    outgoing.stopped = false;
    ferry_postcopy_reset();
    outgoing.period_dirty_pages = 0;
    outgoing.throttle = (FerryThrottle){0};

    g_mutex_lock(&outgoing.lock);
    outgoing.source = ferry_source_new(&config, &regions, &outgoing.tracker);
    g_mutex_unlock(&outgoing.lock);
    yank_register_function(MIGRATION_YANK_INSTANCE, yank, NULL);

    if (ferry_source_connect(outgoing.source, &error)) {
        g_mutex_lock(&outgoing.lock);
        outgoing.active = true;
        g_mutex_unlock(&outgoing.lock);
        return true;
    }
    drop_session();
    if (g_error_matches(error, FERRY_ERROR, FERRY_ERROR_REFUSED)) {
        end_migration(s, error->message);
    }
    set_reason("%s", error->message);
    g_error_free(error);
    return false;
}

void ferry_negotiate(MigrationState *s)
{
    if (!open_session(s) && migrate_postcopy_ram() && migrate_multifd()) {
        g_autofree char *message =
            g_strdup_printf("post-copy together with multifd needs Ferry, which is not in use: %s",
                            outgoing.reason);

        end_migration(s, message);
    }
}

bool ferry_outgoing_active(void)
{
    bool active;

    g_mutex_lock(&outgoing.lock);
    active = outgoing.active;
    g_mutex_unlock(&outgoing.lock);
    return active;
}

/* --- The "ram" section ----------------------------------------------------------------------- */

/* Leave out memory that a device (virtio-mem) has not plugged in. */
static void skip_section(MemoryRegionSection *section, void *opaque)
{
    uint32_t region = GPOINTER_TO_UINT(opaque);

    ferry_source_skip(outgoing.source, region, section->offset_within_region >> FERRY_PAGE_SHIFT,
                      int128_get64(section->size) >> FERRY_PAGE_SHIFT);
}

static void skip_discarded(void)
{
    for (uint32_t region = 0; region < outgoing.regions.nr; region++) {
        RAMBlock *block = qemu_ram_block_by_name(outgoing.regions.list[region].id);

        if (block->mr && memory_region_has_ram_discard_manager(block->mr)) {
            MemoryRegionSection section = {
                .mr = block->mr,
                .size = int128_make64(block->used_length),
            };

            ram_discard_manager_replay_discarded(memory_region_get_ram_discard_manager(block->mr),
                                                 &section, skip_section, GUINT_TO_POINTER(region));
        }
    }
}

void ferry_outgoing_count(void)
{
    Stat64 *phase = ferry_postcopy_is_left() ? &mig_stats.postcopy_bytes
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

/*
 * QEMU breaks the main channel before its state says that the migration is being cancelled.  The
 * destination's complaint may be back here by then; it must not pass for a failure.
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

    wait_for_cancel();
    if (g_error_matches(error, FERRY_ERROR, FERRY_ERROR_TRACKER)) {
        ferry_tracker_failed(error);
    }
    ferry_propagate_error(&err, error);
    qemu_file_set_error_obj(f, -EIO, err);
    return -EIO;
}

int ferry_save_setup(QEMUFile *f, Error **errp)
{
    bool started;

    ferry_tracker_begin();
    qemu_mutex_lock_ramlist();
    WITH_RCU_READ_LOCK_GUARD()
    {
        started = memory_global_dirty_log_start(GLOBAL_DIRTY_MIGRATION, errp);
        if (started) {
            /* Arming a chunk clears what this reports; without it there is nothing to clear. */
            ferry_kvm_sync_others(false);
        }
    }
    qemu_mutex_unlock_ramlist();
    if (!started) {
        return -1;
    }
    outgoing.logging = true;
    outgoing.period_start_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
    outgoing.period_start_bytes = migration_transferred_bytes();
    outgoing.vm_change = qemu_add_vm_change_state_handler(vm_changed, NULL);
    WITH_RCU_READ_LOCK_GUARD()
    {
        skip_discarded();
    }
    stat64_add(&mig_stats.dirty_sync_count, 1);
    precopy_notify(PRECOPY_NOTIFY_AFTER_BITMAP_SYNC, NULL);

    qemu_put_be64(f, FERRY_STREAM_SETUP);
    return qemu_fflush(f);
}

FerrySource *ferry_outgoing_source(void)
{
    return outgoing.source;
}

int ferry_save_iterate(QEMUFile *f)
{
    uint64_t rate = migration_rate_get() * (1000 / BUFFER_DELAY);
    GError *error = NULL;

    ferry_source_set_bandwidth(outgoing.source, rate);
    if (ferry_postcopy_is_left()) {
        return ferry_postcopy_push(f, ITERATE_MS);
    }
    if (!ferry_source_step(outgoing.source, ITERATE_MS, &error)) {
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
    unsigned percent = ferry_throttle_next(&outgoing.throttle, &params, sent_bytes, dirty_bytes,
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
    int64_t period_ms = now_ms - outgoing.period_start_ms;
    uint64_t bytes = migration_transferred_bytes();

    outgoing.period_dirty_pages += dirty_pages;
    if (period_ms < 1000) {
        return;
    }
    throttle_guest(bytes - outgoing.period_start_bytes,
                   outgoing.period_dirty_pages * FERRY_PAGE_BYTES);
    stat64_set(&mig_stats.dirty_pages_rate, outgoing.period_dirty_pages * 1000 / period_ms);
    outgoing.period_start_ms = now_ms;
    outgoing.period_start_bytes = bytes;
    outgoing.period_dirty_pages = 0;
}

static bool harvest(Error **errp)
{
    GError *error = NULL;
    uint64_t dirty_pages = 0;
    Error *err = NULL;

    if (precopy_notify(PRECOPY_NOTIFY_BEFORE_BITMAP_SYNC, &err)) {
        error_report_err(err);
        err = NULL;
    }
    if (!ferry_source_harvest(outgoing.source, &dirty_pages, &error)) {
        ferry_propagate_error(errp, error);
        return false;
    }
    stat64_add(&mig_stats.dirty_sync_count, 1);
    stat64_set(&mig_stats.dirty_bytes_last_sync, ferry_source_remaining_bytes(outgoing.source));
    note_round(dirty_pages);
    if (precopy_notify(PRECOPY_NOTIFY_AFTER_BITMAP_SYNC, &err)) {
        error_report_err(err);
    }
    if (migrate_events()) {
        qapi_event_send_migration_pass(stat64_get(&mig_stats.dirty_sync_count));
    }
    return true;
}

/* How much QEMU is to think is left; *round_ended: everything that is known of has just been sent. */
static uint64_t pending_bytes(bool exact, bool *round_ended)
{
    MigrationState *s = migrate_get_current();
    uint64_t limit = s->threshold_size;
    uint64_t pending = ferry_source_remaining_bytes(outgoing.source);
    bool go_on;

    *round_ended = false;
    /*
     * QEMU asks for the exact value only when the estimate is below the limit.  With a limit of nothing
     * that is never: it switches over as soon as the estimate is nothing, whatever was written
     * meanwhile.  If that is what the user wants (downtime-limit is 0), the blackout is to be as short
     * as rounds can make it.  If no rate is known yet, wait for one.  And pages that are put off can be
     * more than the limit when a round ends.
     */
    if (!exact && (limit > 0 || pending > 0) &&
        (pending < limit || !ferry_source_may_harvest(outgoing.source))) {
        return pending;
    }
    if (ferry_source_may_harvest(outgoing.source)) {
        Error *err = NULL;
        bool ok;

        bql_lock();
        ok = harvest(&err);
        bql_unlock();
        if (!ok) {
            qemu_file_set_error_obj(s->to_dst_file, -EIO, err);
            return pending;
        }
        *round_ended = true;
        go_on = (runstate_is_running() &&
                 ferry_source_wants_round(outgoing.source, limit ? limit : UINT64_MAX)) ||
                (limit == 0 && migrate_downtime_limit() > 0 &&
                 ferry_source_remaining_bytes(outgoing.source) > 0);
    } else {
        go_on = true;
    }
    pending = ferry_source_remaining_bytes(outgoing.source);
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

    if (ferry_postcopy_is_left()) {
        *can_postcopy += ferry_postcopy_pending(migrate_get_current()->threshold_size);
        return;
    }
    pending = pending_bytes(exact, &round_ended);
    if (migrate_postcopy_ram()) {
        *can_postcopy += pending;
        ferry_postcopy_consider(round_ended, pending);
    } else {
        *must_precopy += pending;
    }
}

bool ferry_bitmap_sync(bool last_stage)
{
    Error *err = NULL;

    if (!ferry_outgoing_active()) {
        return false;
    }
    /* From auto-converge's timer; the handlers above do their own.  A failure will show there. */
    if (ferry_source_first_pass_done(outgoing.source) && !outgoing.stopped && !harvest(&err)) {
        error_free(err);
    }
    return true;
}

bool ferry_bytes_remaining(uint64_t *bytes)
{
    bool active;

    g_mutex_lock(&outgoing.lock);
    active = outgoing.active;
    if (active) {
        *bytes = ferry_source_remaining_bytes(outgoing.source);
    }
    g_mutex_unlock(&outgoing.lock);
    return active;
}

/* The index of @block among the session's regions, or -1. */
static int find_region(const RAMBlock *block)
{
    for (size_t i = 0; i < outgoing.regions.nr; i++) {
        if (outgoing.regions.list[i].host == block->host) {
            return (int)i;
        }
    }
    return -1;
}

bool ferry_free_page_hint(void *addr, size_t len)
{
    g_mutex_lock(&outgoing.lock);
    if (!outgoing.active) {
        g_mutex_unlock(&outgoing.lock);
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
        ferry_source_skip(outgoing.source, region, offset >> FERRY_PAGE_SHIFT,
                          part >> FERRY_PAGE_SHIFT);
        addr = (char *)addr + part;
        len -= part;
    }
    g_mutex_unlock(&outgoing.lock);
    return true;
}

/* --- The end --------------------------------------------------------------------------------- */

int ferry_save_complete(QEMUFile *f)
{
    GError *error = NULL;

    if (!outgoing.stopped) {
        /* The guest was paused all along. */
        outgoing.stopped = true;
        if (!ferry_source_stopped(outgoing.source, &error)) {
            return ferry_session_error(f, error);
        }
    }
    precopy_notify(PRECOPY_NOTIFY_BEFORE_BITMAP_SYNC, NULL);
    if (!ferry_source_hand_off(outgoing.source, &error)) {
        return ferry_session_error(f, error);
    }
    stat64_add(&mig_stats.dirty_sync_count, 1);
    ferry_outgoing_count();
    qemu_put_be64(f, FERRY_STREAM_END);
    return qemu_fflush(f);
}

void ferry_save_cleanup(void)
{
    MigrationState *s = migrate_get_current();

    if (outgoing.vm_change) {
        qemu_del_vm_change_state_handler(outgoing.vm_change);
        outgoing.vm_change = NULL;
    }
    if (s->state == MIGRATION_STATUS_COMPLETED) {
        ferry_source_finish(outgoing.source, REPORT_TIMEOUT_MS);
    }
    ferry_outgoing_count();
    drop_session();
    if (outgoing.logging) {
        memory_global_dirty_log_stop(GLOBAL_DIRTY_MIGRATION);
        outgoing.logging = false;
    }
    ferry_tracker_end();
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
