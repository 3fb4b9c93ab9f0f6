/*
 * The source's side of a session: opening its channels, and what watches over them from then on.  See
 * source.h and internal.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../clock.h"
#include "../error.h"
#include "../wire/path.h"
#include "internal.h"

/* --- While it is open ------------------------------------------------------------------------- */

/* A channel went silent, or the blackout has become too long. */
static void silent(void *opaque, GError *error)
{
    FerrySource *source = opaque;

    atomic_store(&source->is_silent, true);
    ferry_source_keep_guest(source, error->message);
    ferry_source_note_failure(source, error);
    ferry_source_shutdown(source);
}

void ferry_source_limit_blackout(FerrySource *source, unsigned limit_ms)
{
    source->limit_ms = limit_ms;
    atomic_store(&source->give_up_us, limit_ms ? ferry_now_us() + (gint64)limit_ms * 1000 : 0);
}

/* The guest must not stay stopped for ever, whatever it is that is waited for. */
static GError *look_at_blackout(void *opaque)
{
    FerrySource *source = opaque;
    gint64 give_up_us = atomic_load(&source->give_up_us);
    bool handed_off = ferry_source_phase(source) == FERRY_SOURCE_HANDED_OFF;

    /* Decided once: it may be about to be let go of. */
    if (!give_up_us || ferry_now_us() < give_up_us || ferry_source_is_gone(source) ||
        ferry_source_is_over(source) || !ferry_source_enter(source, FERRY_SOURCE_FAILED)) {
        return NULL;
    }
    return g_error_new(FERRY_ERROR, FERRY_ERROR_TIMEOUT,
                       "the guest was stopped for %u ms (switchover-timeout), waiting for %s",
                       source->limit_ms,
                       handed_off ? "the destination to load the state of its devices"
                                  : "the last pages to arrive");
}

static void add_to_heartbeat(void *opaque, FerryChannel *channel)
{
    FerrySource *source = opaque;
    bool is_data = g_str_has_prefix(channel->name, "data");

    ferry_heartbeat_add(source->heartbeat, channel, true, !is_data);
}

bool ferry_source_start(FerrySource *source)
{
    FerryPageServerConfig config = {
        .backlog = source->backlog,
        .senders = source->senders,
        .failed = ferry_source_lose_channel,
        .opaque = source,
        .nr_requests = &source->nr_requests,
    };

    atomic_store(&source->is_open, true);
    for (unsigned i = 0; i < source->channels.layout.nr_fetch; i++) {
        config.channel = source->channels.fetch[i];
        source->servers[i] = ferry_page_server_start(&config, i);
    }
    if (!ferry_senders_start(source->senders, source->channels.data,
                             source->channels.layout.nr_data)) {
        return false;
    }
    source->heartbeat = ferry_heartbeat_new(source->config.timeout_ms, silent, source);
    ferry_channels_foreach(&source->channels, add_to_heartbeat, source);
    ferry_heartbeat_set_watch(source->heartbeat, look_at_blackout, source);
    ferry_heartbeat_start(source->heartbeat);
    return !ferry_cause_is_known(&source->cause);
}

/* --- Opening --------------------------------------------------------------------------------- */

/* All data channels go the same way. */
static void find_path(FerrySource *source)
{
    FerryPath path = {0};
    bool known = ferry_path_find(ferry_channel_fd(source->channels.data[0]), &path);

    g_mutex_lock(&source->stats_lock);
    source->has_path = known;
    source->path = path;
    g_mutex_unlock(&source->stats_lock);
}

bool ferry_source_open(FerrySource *source, const FerryLayout *layout, gint64 deadline_us,
                       GError **errp)
{
    const FerryHello hello = {
        .session = source->config.session,
        .version = source->config.version,
        .attempt = source->attempt++,
    };

    if (!ferry_channels_open(&source->channels, layout, &hello, source->config.dial,
                             source->config.opaque, deadline_us, errp)) {
        return false;
    }
    find_path(source);
    return true;
}

bool ferry_source_connect(FerrySource *source, GError **errp)
{
    gint64 deadline_us = source->config.open_deadline_us ?: G_MAXINT64;
    FerryLayout layout = {
        .nr_data = source->config.nr_channels,
        .nr_fetch = source->config.nr_fetch,
    };

    if (!ferry_backlog_start_tracker(source->backlog, errp)) {
        return ferry_source_fail_here(source, errp);
    }
    if (!ferry_source_open(source, &layout, deadline_us, errp)) {
        if (ferry_cause_is_cancelled(&source->cause)) {
            g_clear_error(errp);
            return ferry_source_fail(source, errp);
        }
        return ferry_source_fail_here(source, errp);
    }
    source->start_ns = ferry_now_ns();
    source->round_start.ns = source->start_ns;
    if (!ferry_source_settle(source, &layout, deadline_us, errp)) {
        return false;
    }
    return (ferry_source_start(source) && ferry_source_enter(source, FERRY_SOURCE_COPYING)) ||
           ferry_source_fail(source, errp);
}
