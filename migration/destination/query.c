/*
 * The destination's side of a session: reports.  See destination.h.
 *
 * Threads: any; all of it is under the session's lock.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <stdatomic.h>

#include "../clock.h"
#include "../wire/control.h"
#include "../wire/marks.h"
#include "state.h"

/* Nanoseconds from the notice that the vCPUs stopped to @when_ns; 0 if either did not happen. */
static uint64_t since_stop(const FerryDestination *destination, uint64_t when_ns)
{
    return destination->stopped_ns && when_ns > destination->stopped_ns
               ? when_ns - destination->stopped_ns
               : 0;
}

static FerryReport make_report(const FerryDestination *destination)
{
    return (FerryReport){
        .memory_ns = since_stop(destination, destination->complete_ns),
        .loaded_ns = since_stop(destination, destination->loaded_ns),
        .running_ns = since_stop(destination, destination->running_ns),
    };
}

void ferry_destination_send_report(FerryDestination *destination)
{
    g_autoptr(GByteArray) body = NULL;
    FerryChannel *control = NULL;
    FerryReport report;
    bool due;

    g_mutex_lock(&destination->lock);
    due = ferry_destination_has_all(destination) && !destination->reported;
    destination->reported |= due;
    if (due && ferry_destination_is_connected(destination)) {
        control = destination->control->channel;
    }
    report = make_report(destination);
    g_mutex_unlock(&destination->lock);
    if (control) {
        body = ferry_report_encode(&report);
        /* The guest runs here now: a source that cannot be told is no reason to stop it. */
        ferry_control_send(control, FERRY_FRAME_REPORT, 0, body, NULL);
    }
}

/* The phase in words that both sides have. */
static FerrySessionPhase session_phase(const FerryDestination *destination)
{
    switch (destination->phase) {
    case FERRY_DESTINATION_OPENING:
        return destination->stopped_ns ? FERRY_SESSION_HAND_OFF : FERRY_SESSION_CONNECT;
    case FERRY_DESTINATION_COPYING:
    case FERRY_DESTINATION_DRAFTING:
        /* The first fence that comes is the end of the first pass. */
        return destination->stopped_ns ? FERRY_SESSION_HAND_OFF
               : destination->reached  ? FERRY_SESSION_ROUNDS
                                       : FERRY_SESSION_COPY;
    case FERRY_DESTINATION_HANDED_OFF:
    case FERRY_DESTINATION_IN_PLACE:
    case FERRY_DESTINATION_LOADED:
        return FERRY_SESSION_HAND_OFF;
    case FERRY_DESTINATION_FETCHING:
        return FERRY_SESSION_FETCH;
    case FERRY_DESTINATION_PAUSED:
        return FERRY_SESSION_PAUSED;
    case FERRY_DESTINATION_DONE:
        return FERRY_SESSION_DONE;
    case FERRY_DESTINATION_PARTED:
        /* Whether or not pages are missing, it waits for a source that was not told all. */
        return ferry_destination_is_content(destination) ? FERRY_SESSION_DONE
                                                         : FERRY_SESSION_PAUSED;
    default:
        return FERRY_SESSION_FAILED;
    }
}

void ferry_destination_query(FerryDestination *destination, FerryStats *stats)
{
    uint64_t now_ns = ferry_now_ns(), elapsed_ns;

    *stats = (FerryStats){
        .normal_pages = atomic_load(&destination->receiver.normal_pages),
        .zero_pages = atomic_load(&destination->receiver.zero_pages),
        .channels = g_array_new(FALSE, FALSE, sizeof(FerryChannelStats)),
        .rounds = g_array_new(FALSE, FALSE, sizeof(FerryRoundStats)),
    };
    g_mutex_lock(&destination->lock);
    stats->total_bytes = ferry_regions_total_bytes(&destination->receiver.regions);
    stats->phase = session_phase(destination);
    elapsed_ns = (destination->complete_ns ?: now_ns) - destination->start_ns;
    stats->elapsed_ns = elapsed_ns;
    /* How much is to come is known from the hand-off on. */
    stats->has_remaining = ferry_destination_has_all(destination);
    stats->has_report = ferry_destination_has_all(destination) && destination->loaded_ns;
    stats->report = make_report(destination);
    stats->has_fetch = ferry_destination_has_left(destination);
    if (stats->has_fetch) {
        stats->vcpu_blocked_ms = g_array_new(FALSE, FALSE, sizeof(uint64_t));
        ferry_fetch_query(destination->receiver.fetch, &stats->fetch, stats->vcpu_blocked_ms);
        stats->fetch.nr_recoveries = destination->nr_recoveries;
        stats->has_remaining = true;
        stats->remaining_bytes = stats->fetch.missing_pages * FERRY_PAGE_BYTES;
    }
    for (guint i = 0; i < destination->readers->len; i++) {
        const ChannelReader *reader = g_ptr_array_index(destination->readers, i);
        FerryChannelStats channel = {.bytes = reader->channel->received_bytes};

        if (reader->proved) {
            /* Those of a connection that broke as well. */
            stats->sent_bytes += channel.bytes;
        }
        if (reader->proved && !reader->stale) {
            g_strlcpy(channel.name, reader->channel->name, sizeof(channel.name));
            channel.bytes_per_second =
                elapsed_ns ? (uint64_t)((double)channel.bytes * 1e9 / (double)elapsed_ns) : 0;
            channel.has_marks = ferry_marks_read(ferry_channel_fd(reader->channel), &channel.marks);
            g_array_append_val(stats->channels, channel);
        }
    }
    g_mutex_unlock(&destination->lock);
    stats->has_shares = destination->config.shares;
    if (stats->has_shares) {
        ferry_shares_query(destination->config.shares, &stats->shares);
    }
}
