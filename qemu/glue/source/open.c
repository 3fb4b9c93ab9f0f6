/*
 * Whether a migration uses Ferry, and opening its session.
 *
 * Threads: the migration thread, except where ferry.h says otherwise.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "hw/boards.h"
#include "io/channel-file.h"
#include "qapi/error.h"
#include "migration/misc.h"
#include "migration/migration.h"
#include "migration/options.h"
#include "migration/qemu-file.h"

#include "ferry/glue/binding.h"
#include "ferry/glue/ferry.h"
#include "ferry/glue/marks.h"
#include "ferry/glue/shares.h"
#include "ferry/glue/tracker/tracker.h"
#include "ferry/migration/error.h"
#include "../internal.h"
#include "../trace.h"
#include "last-word.h"
#include "peer.h"
#include "session.h"
#include "sizes.h"

/* Data channels when the user does not say: up to this. */
#define CHANNELS_AUTO_MAX 8

/* One thread answers as many requests as so many vCPUs are likely to have at once. */
#define VCPUS_PER_FETCH_CHANNEL 32

/* --- Whether to use Ferry at all ------------------------------------------------------------- */

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

/* Whether it goes to where nobody can answer: to a file, or into a pipe. */
static bool is_one_way(const MigrationState *s)
{
    Object *ioc = OBJECT(qemu_file_get_ioc(s->to_dst_file));
    QIOChannelFile *file = (QIOChannelFile *)object_dynamic_cast(ioc, TYPE_QIO_CHANNEL_FILE);

    return file && (fcntl(file->fd, F_GETFL) & O_ACCMODE) == O_WRONLY;
}

bool ferry_wants_return_path(MigrationState *s, bool postcopy)
{
    const char *reason;

    ferry_peer_reset();
    ferry_last_word_reset();
    ferry_sizes_reset();
    ferry_note_main(qemu_file_get_ioc(s->to_dst_file), true);
    if (s->state == MIGRATION_STATUS_POSTCOPY_RECOVER_SETUP) {
        /* The session is there, but its connection has to be made anew. */
        return postcopy || ferry_outgoing_active();
    }
    reason = why_not(s);
    trace_ferry_session_wanted(reason ?: "Ferry is wanted");
    ferry_outgoing_reset(reason);
    return reason == NULL || (postcopy && !is_one_way(s));
}

bool ferry_refuses_postcopy(MigrationState *s, Error **errp)
{
    QEMU_LOCK_GUARD(&s->qemu_file_lock);
    if (!s->to_dst_file || !is_one_way(s)) {
        return false;
    }
    error_setg(errp,
               "Post-copy needs a destination that answers, and this migration goes to a file or "
               "into a pipe");
    return true;
}

void ferry_outgoing_check(QIOChannel *ioc, Error **error)
{
    if (!*error && ferry_outgoing_active() &&
        migrate_get_current()->state == MIGRATION_STATUS_POSTCOPY_RECOVER_SETUP &&
        !ferry_underlying_socket(ioc)) {
        error_setg(error, "a session of Ferry's is resumed over a socket, and this is none");
    }
    if (!*error) {
        ferry_binding_check(ioc, error);
    }
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
        if (migrate_multifd_channels() > FERRY_DATA_CHANNELS_MAX) {
            warn_report(
                "ferry: multifd-channels is %d, but %d data channels are all that Ferry opens",
                migrate_multifd_channels(), FERRY_DATA_CHANNELS_MAX);
        }
        return MIN((unsigned)migrate_multifd_channels(), FERRY_DATA_CHANNELS_MAX);
    }
    if (ferry_settings()->channels) {
        return ferry_settings()->channels;
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

static bool next_tracker(void *opaque, const GError *why, FerryTracker *next)
{
    bool replaced = ferry_tracker_replace(why, next);

    if (replaced) {
        warn_report("%s; dirty tracking begins anew in another way", why->message);
    }
    return replaced;
}

static void end_migration(MigrationState *s, const char *why)
{
    Error *err = NULL;

    error_setg(&err, "%s", why);
    migrate_set_error(s, err);
    qemu_file_set_error_obj(s->to_dst_file, -EINVAL, err);
}

/* Where @reason is that it took too long: say what the limit is. */
static void name_limit(char **reason, gint64 deadline_us, unsigned timeout_ms)
{
    if (g_get_monotonic_time() >= deadline_us) {
        g_autofree char *text = g_steal_pointer(reason);

        *reason = g_strdup_printf("%s (open-timeout is %u ms)", text, timeout_ms);
    }
}

/* Returns whether Ferry carries the memory; if not, @reason says why (the caller's to free). */
static bool open_session(MigrationState *s, char **reason)
{
    FerrySourceConfig config = {
        .dial = ferry_peer_dial,
        .next_tracker = next_tracker,
    };
    unsigned timeout_ms = ferry_settings()->open_timeout_ms;
    gint64 deadline_us = g_get_monotonic_time() + (gint64)timeout_ms * 1000;
    g_autoptr(GError) error = NULL;
    uint8_t version;

    if (why_not(s)) {
        *reason = g_strdup(why_not(s));
        return false;
    }
    if (!ferry_peer_ask(s, deadline_us, &version, &config.session, reason)) {
        name_limit(reason, deadline_us, timeout_ms);
        return false;
    }
    config.open_deadline_us = deadline_us;
    config.open_timeout_ms = timeout_ms;
    config.version = version;
    config.nr_channels = choose_channels();
    config.nr_fetch = choose_fetch_channels();
    config.timeout_ms = ferry_settings()->network_timeout_ms;
    config.switchover_ms = ferry_settings()->switchover_timeout_ms;
    config.checksum = ferry_settings()->checksum;
    config.compress = ferry_settings()->compression != FERRY_COMPRESSION_NONE;
    config.weigh_compression = ferry_settings()->compression == FERRY_COMPRESSION_AUTO;
    config.send_hot = !ferry_settings()->x_defer;

    config.host_bytes_per_second = ferry_host_limit(FERRY_OUTGOING, &config.shares);

    if (ferry_outgoing_open(s, &config, &error)) {
        trace_ferry_session_opened(version, config.nr_channels, config.nr_fetch);
        return true;
    }
    if (g_error_matches(error, FERRY_ERROR, FERRY_ERROR_REFUSED)) {
        end_migration(s, error->message);
    }
    *reason = g_strdup(error->message);
    if (g_error_matches(error, FERRY_ERROR, FERRY_ERROR_IO)) {
        name_limit(reason, deadline_us, timeout_ms);
    }
    return false;
}

void ferry_negotiate(MigrationState *s)
{
    g_autofree char *reason = NULL;
    g_autofree char *message = NULL;

    if (open_session(s, &reason)) {
        return;
    }
    ferry_outgoing_set_reason(reason);
    if (migrate_postcopy_ram() && migrate_multifd()) {
        message = g_strdup_printf(
            "post-copy together with multifd needs Ferry, which is not in use: %s", reason);
        end_migration(s, message);
    }
}
