/*
 * QMP and HMP.
 *
 * Threads: main thread.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "monitor/hmp.h"
#include "monitor/monitor.h"
#include "qapi/clone-visitor.h"
#include "qapi/qapi-commands-ferry.h"
#include "qapi/qapi-visit-ferry.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "system/runstate.h"

#include "ferry/glue/hmp.h"
#include "ferry/glue/marks.h"
#include "ferry/migration/source/sizes.h"
#include "ferry/version.h"
#include "destination/allowed.h"
#include "destination/session.h"
#include "internal.h"
#include "source/session.h"
#include "tracker/tracker.h"

/* Both enums list the same phases in the same order. */
QEMU_BUILD_BUG_ON((int)FERRY_PHASE__MAX != (int)FERRY_SESSION_IN_DOUBT + 1);

static FerrySocketInfo *make_socket(const FerryMarks *marks)
{
    FerrySocketInfo *socket = g_new0(FerrySocketInfo, 1);

    socket->dscp = marks->dscp;
    socket->socket_priority = marks->priority;
    socket->congestion_control = g_strdup(marks->congestion);
    return socket;
}

static FerrySharesInfo *make_shares(const FerrySharesStats *shares)
{
    FerrySharesInfo *info = g_new0(FerrySharesInfo, 1);

    info->members = shares->nr_members;
    info->weight = shares->weight;
    info->total_weight = shares->total_weight;
    info->host_bandwidth = shares->host_bytes_per_second;
    info->bandwidth = shares->granted_bytes_per_second;
    return info;
}

static FerryPathInfo *make_path(const FerryPath *path)
{
    FerryPathInfo *info = g_new0(FerryPathInfo, 1);
    strList **tail = &info->warnings;
    char *warnings[] = {ferry_sizes_judge_frames(path), ferry_sizes_judge_buffers(path)};

    info->mtu = path->mtu_bytes;
    info->mss = path->mss_bytes;
    info->has_interface_mtu = path->interface_mtu_bytes != 0;
    info->interface_mtu = path->interface_mtu_bytes;
    info->interface = info->has_interface_mtu ? g_strdup(path->interface) : NULL;
    info->rtt = path->rtt_us;
    info->has_min_rtt = path->min_rtt_us != 0;
    info->min_rtt = path->min_rtt_us;
    for (size_t i = 0; i < ARRAY_SIZE(warnings); i++) {
        if (warnings[i]) {
            info->has_warnings = true;
            QAPI_LIST_APPEND(tail, warnings[i]);
        }
    }
    return info;
}

static void fill_channels(FerryInfo *info, const FerryStats *stats)
{
    FerryChannelInfoList **tail = &info->channels;

    info->has_channels = true;
    for (guint i = 0; i < stats->channels->len; i++) {
        const FerryChannelStats *channel = &g_array_index(stats->channels, FerryChannelStats, i);
        FerryChannelInfo *value = g_new0(FerryChannelInfo, 1);

        value->name = g_strdup(channel->name);
        value->bytes = channel->bytes;
        value->rate = channel->bytes_per_second;
        value->socket = channel->has_marks ? make_socket(&channel->marks) : NULL;
        QAPI_LIST_APPEND(tail, value);
    }
}

static void fill_rounds(FerryInfo *info, const FerryStats *stats)
{
    FerryRoundInfoList **tail = &info->rounds;

    info->has_rounds = true;
    for (guint i = 0; i < stats->rounds->len; i++) {
        const FerryRoundStats *round = &g_array_index(stats->rounds, FerryRoundStats, i);
        FerryRoundInfo *value = g_new0(FerryRoundInfo, 1);

        value->pages = round->pages;
        value->zero_pages = round->zero_pages;
        value->bytes = round->bytes;
        value->dirty_pages = round->dirty_pages;
        value->harvest_time = round->harvest_ns / 1000;
        value->time = round->elapsed_ns / 1000;
        QAPI_LIST_APPEND(tail, value);
    }
}

static void fill_arm_times(FerryInfo *info, const FerryHistogram *arm)
{
    FerryTimeBucketList **tail = &info->arm_times;

    info->has_arm_times = true;
    for (unsigned i = 0; i < FERRY_HISTOGRAM_BUCKETS; i++) {
        if (arm->counts[i]) {
            FerryTimeBucket *bucket = g_new0(FerryTimeBucket, 1);

            bucket->below = UINT64_C(1) << i;
            bucket->count = arm->counts[i];
            QAPI_LIST_APPEND(tail, bucket);
        }
    }
}

static FerryFetchInfo *make_fetch(const FerryFetchStats *stats, bool is_source)
{
    FerryFetchInfo *fetch = g_new0(FerryFetchInfo, 1);

    fetch->handed_pages = stats->handed_pages;
    fetch->missing_pages = stats->missing_pages;
    fetch->faults = stats->faults;
    fetch->recoveries = stats->nr_recoveries;
    if (is_source) {
        return fetch;
    }
    fetch->has_zero_faults = fetch->has_placed_pages = fetch->has_duplicate_pages = true;
    fetch->zero_faults = stats->zero_faults;
    fetch->placed_pages = stats->placed_pages;
    fetch->duplicate_pages = stats->duplicates;
    fetch->has_count = true;
    fetch->count = stats->latency.nr;
    /* Of no faults there is no latency. */
    fetch->has_p50 = fetch->has_p90 = fetch->has_p99 = fetch->has_p999 = fetch->has_max =
        fetch->count > 0;
    fetch->p50 = ferry_latency_percentile(&stats->latency, 50000) / 1000;
    fetch->p90 = ferry_latency_percentile(&stats->latency, 90000) / 1000;
    fetch->p99 = ferry_latency_percentile(&stats->latency, 99000) / 1000;
    fetch->p999 = ferry_latency_percentile(&stats->latency, 99900) / 1000;
    fetch->max = stats->latency.max_ns / 1000;
    return fetch;
}

static void fill_stats(FerryInfo *info, const FerryStats *stats)
{
    info->has_phase = true;
    info->phase = (int)stats->phase;
    info->has_total = true;
    info->total = stats->total_bytes;
    info->has_remaining = stats->has_remaining;
    info->remaining = stats->remaining_bytes;
    info->has_transferred = true;
    info->transferred = stats->sent_bytes;
    info->has_normal_pages = true;
    info->normal_pages = stats->normal_pages;
    info->has_zero_pages = true;
    info->zero_pages = stats->zero_pages;
    info->has_elapsed_time = true;
    info->elapsed_time = stats->elapsed_ns / 1000000;
    if (stats->is_source) {
        info->has_skipped_pages = info->has_deferred_pages = info->has_longest_arm_time = true;
        info->skipped_pages = stats->skipped_pages;
        info->deferred_pages = stats->deferred_pages;
        info->longest_arm_time = stats->arm.max_ns / 1000;
        fill_arm_times(info, &stats->arm);
    }
    fill_channels(info, stats);
    info->path = stats->has_path ? make_path(&stats->path) : NULL;
    info->shares = stats->has_shares ? make_shares(&stats->shares) : NULL;
    fill_rounds(info, stats);
    if (stats->has_fetch) {
        info->fetch = make_fetch(&stats->fetch, stats->is_source);
    }
    if (stats->has_report) {
        info->blackout = g_new0(FerryBlackout, 1);
        info->blackout->memory = stats->report.memory_ns / 1000;
        info->blackout->device_state = stats->report.loaded_ns / 1000;
        info->blackout->has_running = stats->report.running_ns != 0;
        info->blackout->running = stats->report.running_ns / 1000;
    }
}

FerryInfo *qmp_query_ferry(Error **errp)
{
    FerryInfo *info = g_new0(FerryInfo, 1);
    FerryStats stats;
    bool active = false;
    uint8_t version = 0;
    char *reason = NULL;
    bool known = ferry_outgoing_query(&stats, &active, &version, &reason);
    bool outgoing = known || reason;
    FerryMarks marks;

    if (known) {
        info->tracker = ferry_tracker_query();
        info->trace = info->tracker ? QAPI_CLONE(FerryTrackerInfo, info->tracker) : NULL;
    }
    /* A QEMU that a guest migrated into, and that has not sent it on since, tells of that. */
    if (!outgoing) {
        known = ferry_incoming_query(&stats, &active, &version, &reason);
    }
    info->release = g_strdup(FERRY_VERSION);
    info->active = active;
    info->reason = active ? NULL : g_strdup(reason);
    g_free(reason);
    info->main = ferry_query_main(outgoing, &marks) ? make_socket(&marks) : NULL;
    info->refused_connections = ferry_nr_refused();
    info->has_refused_connections = info->refused_connections > 0;
    if (known) {
        info->has_version = true;
        info->version = version;
        fill_stats(info, &stats);
        ferry_stats_clear(&stats);
    }
    return info;
}

static void print_tracker(Monitor *mon, const FerryInfo *info)
{
    if (!info->tracker) {
        return;
    }
    monitor_printf(mon, "tracker: %s (%s)\n", FerryTrackerMode_str(info->tracker->mode),
                   info->tracker->reason);
    for (FerryVcpuTrackerInfoList *e = info->tracker->vcpus; e; e = e->next) {
        monitor_printf(mon,
                       "vcpu %u: %" PRIu64 " entries collected, %" PRIu64 " reset (%" PRIu64
                       " forced), %" PRIu64 " full exits, %.3f redirtied\n",
                       e->value->vcpu, e->value->collected, e->value->resets,
                       e->value->forced_resets, e->value->full_exits, e->value->redirty_ratio);
    }
    for (FerryTimeBucketList *e = info->arm_times; e; e = e->next) {
        monitor_printf(mon, "armed in less than %" PRIu64 " us: %" PRIu64 " chunks\n",
                       e->value->below, e->value->count);
    }
}

static void print_socket(Monitor *mon, const char *name, const FerrySocketInfo *socket)
{
    if (socket) {
        monitor_printf(mon, "socket %s: dscp %u, priority %u, congestion control %s\n", name,
                       socket->dscp, socket->socket_priority, socket->congestion_control);
    }
}

static void print_shares(Monitor *mon, const FerrySharesInfo *shares)
{
    if (shares) {
        monitor_printf(
            mon, "shares: %u of %" PRIu64 ", %" PRIu64 " of %" PRIu64 " kbytes/s, %u migrations\n",
            shares->weight, shares->total_weight, shares->bandwidth >> 10,
            shares->host_bandwidth >> 10, shares->members);
    }
}

static void print_path(Monitor *mon, const FerryPathInfo *path)
{
    if (!path) {
        return;
    }
    monitor_printf(mon, "path: mtu %u bytes, mss %u bytes, round trip %" PRIu64 " us", path->mtu,
                   path->mss, path->rtt);
    if (path->has_min_rtt) {
        monitor_printf(mon, " (at least %" PRIu64 " us)", path->min_rtt);
    }
    if (path->interface) {
        monitor_printf(mon, ", interface %s with mtu %u bytes", path->interface,
                       path->interface_mtu);
    }
    monitor_printf(mon, "\n");
    for (strList *e = path->warnings; e; e = e->next) {
        monitor_printf(mon, "warning: %s\n", e->value);
    }
}

void hmp_info_ferry(Monitor *mon, const QDict *qdict)
{
    g_autoptr(FerryInfo) info = qmp_query_ferry(NULL);
    unsigned number = 0;

    monitor_printf(mon, "active: %s\n", info->active ? "yes" : "no");
    if (info->reason) {
        monitor_printf(mon, "reason: %s\n", info->reason);
    }
    print_socket(mon, "main", info->main);
    if (info->has_refused_connections) {
        monitor_printf(mon, "refused: %" PRIu64 " connections\n", info->refused_connections);
    }
    if (!info->has_phase) {
        return;
    }
    monitor_printf(mon, "phase: %s\n", FerryPhase_str(info->phase));
    monitor_printf(mon, "total ram: %" PRIu64 " kbytes\n", info->total >> 10);
    if (info->has_remaining) {
        monitor_printf(mon, "remaining ram: %" PRIu64 " kbytes\n", info->remaining >> 10);
    }
    monitor_printf(mon, "transferred: %" PRIu64 " kbytes\n", info->transferred >> 10);
    monitor_printf(mon, "normal: %" PRIu64 " pages\n", info->normal_pages);
    monitor_printf(mon, "zero: %" PRIu64 " pages\n", info->zero_pages);
    monitor_printf(mon, "elapsed time: %" PRIu64 " ms\n", info->elapsed_time);
    if (info->has_skipped_pages) {
        monitor_printf(mon, "skipped: %" PRIu64 " pages\n", info->skipped_pages);
        monitor_printf(mon, "deferred: %" PRIu64 " pages\n", info->deferred_pages);
    }
    print_tracker(mon, info);
    for (FerryChannelInfoList *e = info->channels; e; e = e->next) {
        monitor_printf(mon, "channel %s: %" PRIu64 " kbytes, %" PRIu64 " kbytes/s\n",
                       e->value->name, e->value->bytes >> 10, e->value->rate >> 10);
        print_socket(mon, e->value->name, e->value->socket);
    }
    print_path(mon, info->path);
    print_shares(mon, info->shares);
    for (FerryRoundInfoList *e = info->rounds; e; e = e->next) {
        monitor_printf(mon,
                       "round %u: %" PRIu64 " dirty pages found in %" PRIu64 " us, %" PRIu64
                       " pages (%" PRIu64 " kbytes) sent in %" PRIu64 " us\n",
                       ++number, e->value->dirty_pages, e->value->harvest_time, e->value->pages,
                       e->value->bytes >> 10, e->value->time);
    }
    if (info->fetch) {
        const FerryFetchInfo *fetch = info->fetch;

        monitor_printf(mon,
                       "fetch: %" PRIu64 " pages handed off missing, %" PRIu64
                       " missing now, %" PRIu64 " faults, %" PRIu64 " recoveries\n",
                       fetch->handed_pages, fetch->missing_pages, fetch->faults, fetch->recoveries);
    }
    if (info->fetch && info->fetch->has_p50) {
        const FerryFetchInfo *fetch = info->fetch;

        monitor_printf(mon,
                       "fault latency: p50 %" PRIu64 " us, p90 %" PRIu64 " us, p99 %" PRIu64
                       " us, p99.9 %" PRIu64 " us, max %" PRIu64 " us\n",
                       fetch->p50, fetch->p90, fetch->p99, fetch->p999, fetch->max);
    }
    if (info->blackout) {
        monitor_printf(mon, "blackout: memory %" PRIu64 " us, device state %" PRIu64 " us",
                       info->blackout->memory, info->blackout->device_state);
        if (info->blackout->has_running) {
            monitor_printf(mon, ", running %" PRIu64 " us", info->blackout->running);
        }
        monitor_printf(mon, "\n");
    }
}

void hmp_ferry_abandon(Monitor *mon, const QDict *qdict)
{
    Error *err = NULL;

    qmp_ferry_abandon(true, qdict_get_try_bool(qdict, "force", false), &err);
    hmp_handle_error(mon, err);
}
