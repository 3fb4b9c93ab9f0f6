/*
 * The source's side of a session: parameters and reports.  See source.h and internal.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../clock.h"
#include "../wire/marks.h"
#include "../wire/pace.h"
#include "../wire/path.h"
#include "internal.h"

/* What is left of @bytes_per_second when the host's limit is shared out; 0 is no limit. */
static uint64_t share(FerrySource *source, uint64_t bytes_per_second)
{
    if (source->config.shares) {
        return ferry_shares_update(source->config.shares,
                                   ferry_channels_sent_bytes(&source->channels),
                                   ferry_senders_held_up(source->senders), bytes_per_second);
    }
    return ferry_pace_lower(source->config.host_bytes_per_second, bytes_per_second);
}

void ferry_source_set_bandwidth(FerrySource *source, uint64_t bytes_per_second)
{
    bytes_per_second = share(source, bytes_per_second);
    atomic_store(&source->bandwidth, bytes_per_second);
    /* In the blackout there is none. */
    if (ferry_backlog_guest(source->backlog) != FERRY_GUEST_STOPPED) {
        ferry_senders_set_rate(source->senders, bytes_per_second);
    }
}

void ferry_source_count(FerrySource *source, FerryCounters *counters)
{
    FerryBacklogCounts counts;

    ferry_backlog_query(source->backlog, &counts);
    *counters = (FerryCounters){
        .sent_bytes = ferry_channels_sent_bytes(&source->channels),
        .normal_pages = counts.normal_pages,
        .zero_pages = counts.zero_pages,
    };
}

typedef struct PathLook {
    FerryPath path;
    bool known;
} PathLook;

/* All data channels go the same way: the first one tells. */
static void look_at_path(void *opaque, FerryChannel *channel)
{
    PathLook *look = opaque;

    if (!look->known && g_str_has_prefix(channel->name, "data")) {
        look->known = ferry_path_look(ferry_channel_fd(channel), &look->path);
    }
}

bool ferry_source_query_path(FerrySource *source, FerryPath *path)
{
    PathLook look = {0};
    bool has_path;

    g_mutex_lock(&source->stats_lock);
    has_path = source->has_path;
    look.path = source->path;
    g_mutex_unlock(&source->stats_lock);
    if (has_path) {
        ferry_channels_foreach(&source->channels, look_at_path, &look);
        *path = look.path;
        path->nr_channels = source->config.nr_channels;
        path->max_bytes_per_second = atomic_load(&source->bandwidth);
    }
    return has_path;
}

typedef struct ChannelList {
    GArray *channels; /* of FerryChannelStats */
    uint64_t elapsed_ns;
} ChannelList;

static void add_channel_stats(void *opaque, FerryChannel *channel)
{
    ChannelList *list = opaque;
    FerryChannelStats stats = {.bytes = channel->sent_bytes};

    g_strlcpy(stats.name, channel->name, sizeof(stats.name));
    stats.bytes_per_second =
        list->elapsed_ns ? (uint64_t)((double)stats.bytes * 1e9 / (double)list->elapsed_ns) : 0;
    stats.has_marks = ferry_marks_read(ferry_channel_fd(channel), &stats.marks);
    g_array_append_val(list->channels, stats);
}

void ferry_source_query(FerrySource *source, FerryStats *stats)
{
    bool left = ferry_source_is_left(source);
    uint64_t now_ns = ferry_now_ns();
    FerryBacklogCounts counts;
    ChannelList list;

    ferry_backlog_query(source->backlog, &counts);
    *stats = (FerryStats){
        .is_source = true,
        .total_bytes = source->total_bytes,
        .has_remaining = true,
        .remaining_bytes = ferry_source_remaining_bytes(source),
        .normal_pages = counts.normal_pages,
        .zero_pages = counts.zero_pages,
        .deferred_pages = counts.deferred_pages,
        .channels = g_array_new(FALSE, FALSE, sizeof(FerryChannelStats)),
        .rounds = g_array_new(FALSE, FALSE, sizeof(FerryRoundStats)),
    };
    ferry_first_pass_query(source->first_pass, &stats->skipped_pages, &stats->arm);
    g_mutex_lock(&source->lock);
    stats->has_report = source->has_report;
    stats->report = source->report;
    stats->sent_bytes = ferry_channels_sent_bytes(&source->channels);
    g_mutex_lock(&source->stats_lock);
    stats->phase = ferry_source_phase_report(ferry_source_phase(source));
    if (source->start_ns) {
        FerryRoundStats current = ferry_source_round_so_far(source);

        stats->elapsed_ns = (source->end_ns ? source->end_ns : now_ns) - source->start_ns;
        g_array_append_vals(stats->rounds, source->rounds->data, source->rounds->len);
        g_array_append_val(stats->rounds, current);
    }
    g_mutex_unlock(&source->stats_lock);
    stats->has_fetch = left;
    stats->fetch = (FerryFetchStats){
        .faults = atomic_load(&source->nr_requests),
        .missing_pages = left ? ferry_backlog_unsent(source->backlog) : 0,
        .handed_pages = atomic_load(&source->handed_off_pages),
        .nr_recoveries = source->nr_recoveries,
    };
    g_mutex_unlock(&source->lock);
    list = (ChannelList){.channels = stats->channels, .elapsed_ns = stats->elapsed_ns};
    ferry_channels_foreach(&source->channels, add_channel_stats, &list);
    stats->has_path = ferry_source_query_path(source, &stats->path);
    stats->has_shares = source->config.shares;
    if (stats->has_shares) {
        ferry_shares_query(source->config.shares, &stats->shares);
    }
}
