/*
 * The source's side of a session: handing off, and serving what was left missing.  See source.h
 * and source-internal.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../wire/control.h"
#include "../error.h"
#include "internal.h"

/* How often a wait for the destination looks whether a sender has failed. */
#define LOOK_MS 50

/* How long the destination may take to say what is missing. */
#define RESUME_MS 10000

bool ferry_source_stopped(FerrySource *source, GError **errp)
{
    atomic_store(&source->copy->stopped, true);
    ferry_pace_set_rate(source->copy->pace, 0);
    if (!ferry_control_send(source->channels.control, FERRY_FRAME_STOPPED, 0, NULL, NULL)) {
        return ferry_source_fail(source, errp);
    }
    return true;
}

/* All of the first pass is known of, if not sent. */
static bool finish_first_pass(FerrySource *source, GError **errp)
{
    while (!ferry_first_pass_done(source->first_pass)) {
        if (!ferry_first_pass_feed(source->first_pass, errp)) {
            return ferry_source_fail_here(source);
        }
    }
    return true;
}

static bool send_fence(FerrySource *source)
{
    ferry_copy_fence(source->copy, ++source->last_fence);
    return ferry_copy_wait_fenced(source->copy);
}

/* --- Announcing what will be missing ----------------------------------------------------------- */

/* Nothing is on its way any more: wait until the destination has all that was sent. */
static bool drain(FerrySource *source)
{
    bool reached;

    /* What a sender has taken it sends now, however slow it was to be; but no more than that. */
    atomic_store(&source->copy->frozen, true);
    ferry_pace_set_rate(source->copy->pace, 0);
    if (!ferry_copy_freeze(source->copy) || !send_fence(source)) {
        return false;
    }
    g_mutex_lock(&source->lock);
    while (source->reached < source->last_fence && !source->control_over) {
        g_cond_wait(&source->changed, &source->lock);
    }
    reached = source->reached >= source->last_fence;
    g_mutex_unlock(&source->lock);
    return reached;
}

/* The sets of one kind, of all regions; the array is the caller's to free. */
static FerryPageset **list_sets(FerrySource *source, bool base)
{
    FerryCopy *copy = source->copy;
    FerryPageset **sets = g_new(FerryPageset *, copy->regions.nr);

    for (size_t i = 0; i < copy->regions.nr; i++) {
        sets[i] = base ? copy->state[i].base : copy->state[i].pages;
    }
    return sets;
}

static bool send_draft(FerrySource *source)
{
    g_autofree FerryPageset **base = list_sets(source, true);
    const FerryRegions *regions = &source->copy->regions;

    g_mutex_lock(&source->lock);
    source->drafted = false;
    g_mutex_unlock(&source->lock);
    return ferry_missing_send(source->channels.control, regions, base, true, NULL) &&
           ferry_control_send(source->channels.control, FERRY_FRAME_DRAFT,
                              ferry_missing_count(regions, base), NULL, NULL) &&
           ferry_source_wait(source, &source->drafted, 0);
}

bool ferry_source_announce(FerrySource *source, GError **errp)
{
    FerryCopy *copy = source->copy;
    const FerryTracker *tracker = &copy->tracker;
    GError *error = NULL;

    if (source->announced) {
        return true;
    }
    if (!finish_first_pass(source, errp)) {
        return false;
    }
    if (!drain(source)) {
        return ferry_source_fail(source, errp);
    }
    /* What the tracker keeps need not be reset for that. */
    ferry_copy_begin_round(copy);
    if (!tracker->ops->harvest(tracker->opaque, false, &error) ||
        !ferry_first_pass_look_again(source->first_pass, &error)) {
        ferry_copy_unfreeze(copy);
        return ferry_source_replace_tracker(source, error, errp);
    }
    atomic_store(&source->left_pages, tracker->ops->feed ? 1 : 0);
    ferry_copy_set_apart(copy);
    source->announced = true;
    return send_draft(source) || ferry_source_fail(source, errp);
}

bool ferry_source_retract(FerrySource *source, GError **errp)
{
    if (!source->announced) {
        return true;
    }
    g_mutex_lock(&source->lock);
    source->drafted = false;
    g_mutex_unlock(&source->lock);
    if (!ferry_control_send(source->channels.control, FERRY_FRAME_FORGET, 0, NULL, NULL) ||
        !ferry_source_wait(source, &source->drafted, 0)) {
        return ferry_source_fail(source, errp);
    }
    source->announced = false;
    ferry_copy_rejoin(source->copy);
    ferry_copy_unfreeze(source->copy);
    return true;
}

/* --- Handing off ------------------------------------------------------------------------------- */

static bool send_handoff(FerrySource *source, uint64_t nr_missing)
{
    g_autoptr(GByteArray) body = ferry_count_encode(nr_missing);

    return ferry_control_send(source->channels.control, FERRY_FRAME_HANDOFF, source->last_fence,
                              body, NULL);
}

static void note_handed_off(FerrySource *source)
{
    g_mutex_lock(&source->stats_lock);
    source->end_ns = ferry_now_ns();
    g_mutex_unlock(&source->stats_lock);
}

bool ferry_source_hand_off(FerrySource *source, GError **errp)
{
    FerryCopy *copy = source->copy;

    atomic_store(&copy->stopped, true);
    ferry_pace_set_rate(copy->pace, 0);
    if (!ferry_source_retract(source, errp)) {
        return false;
    }
    /* A guest that was paused all along may get here before the first pass is over. */
    while (!ferry_source_first_pass_done(source)) {
        if (!ferry_source_step(source, 100, errp)) {
            return false;
        }
    }
    if (!ferry_source_look(source, true, NULL, errp)) {
        return false;
    }
    if (ferry_copy_release_swapped(copy)) {
        ferry_copy_kick(copy);
    }
    while (!ferry_copy_wait_dry(copy, 1000)) {
        if (!ferry_copy_check(copy, NULL)) {
            return ferry_source_fail(source, errp);
        }
    }
    if (!send_fence(source) || !send_handoff(source, 0)) {
        return ferry_source_fail(source, errp);
    }
    note_handed_off(source);
    return true;
}

/* A channel went silent. */
static void silent(void *opaque, GError *error)
{
    FerrySource *source = opaque;

    ferry_copy_fail(source->copy, error);
    ferry_source_shutdown(source);
}

static void add_to_heartbeat(void *opaque, FerryChannel *channel)
{
    FerrySource *source = opaque;
    bool is_data = g_str_has_prefix(channel->name, "data");

    ferry_heartbeat_add(source->heartbeat, channel, true, !is_data);
}

/* From here on, the destination may ask for pages, and silence is a failure. */
static void start_serving(FerrySource *source)
{
    for (unsigned i = 0; i < source->channels.layout.nr_fetch; i++) {
        source->servers[i] =
            ferry_server_start(source->copy, source->channels.fetch[i], i, &source->nr_requests);
    }
    source->heartbeat = ferry_heartbeat_new(source->config.timeout_ms, silent, source);
    ferry_channels_foreach(&source->channels, add_to_heartbeat, source);
    ferry_heartbeat_start(source->heartbeat);
}

bool ferry_source_leave(FerrySource *source, GError **errp)
{
    FerryCopy *copy = source->copy;
    const FerryRegions *regions = &copy->regions;
    g_autofree FerryPageset **late = NULL, **base = NULL;

    g_assert(source->config.nr_fetch > 0);
    atomic_store(&copy->stopped, true);
    ferry_pace_set_rate(copy->pace, 0);
    if (!ferry_source_announce(source, errp)) {
        return false;
    }
    atomic_store(&copy->leaving, true);
    if (!ferry_source_look(source, true, NULL, errp)) {
        return false;
    }
    ferry_copy_reduce_late(copy);
    late = list_sets(source, false);
    base = list_sets(source, true);
    if (ferry_missing_count(regions, late) + ferry_missing_count(regions, base) == 0) {
        /* The destination waits for pages to be missing: let it be this one. */
        ferry_pageset_add(late[0], 0, regions->list[0].page_size_bytes / FERRY_PAGE_BYTES);
    }
    source->handed_pages = ferry_missing_count(regions, late) + ferry_missing_count(regions, base);
    source->left = true;
    atomic_store(&copy->fetching, true);
    start_serving(source);
    if (!ferry_missing_send(source->channels.control, regions, late, false, NULL) ||
        !send_handoff(source, source->handed_pages)) {
        return ferry_source_fail(source, errp);
    }
    note_handed_off(source);
    return true;
}

bool ferry_source_go(FerrySource *source, GError **errp)
{
    if (!ferry_source_wait(source, &source->loaded, 0)) {
        return ferry_source_fail(source, errp);
    }
    /* Before it is said: from here on nobody can know whether the destination has heard it. */
    g_mutex_lock(&source->lock);
    source->gone = true;
    g_mutex_unlock(&source->lock);
    ferry_control_send(source->channels.control, FERRY_FRAME_GO, 0, NULL, NULL);
    ferry_source_set_phase(source, FERRY_SESSION_FETCH);
    source->announced = false;
    ferry_copy_rejoin(source->copy);
    ferry_copy_unfreeze(source->copy);
    return true;
}

/* --- Until nothing is missing ------------------------------------------------------------------- */

bool ferry_source_is_complete(FerrySource *source)
{
    bool complete;

    g_mutex_lock(&source->lock);
    complete = source->complete;
    g_mutex_unlock(&source->lock);
    return complete;
}

bool ferry_source_push(FerrySource *source, unsigned timeout_ms, GError **errp)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)timeout_ms * 1000;
    bool over = false;

    while (!ferry_source_is_complete(source)) {
        gint64 look = MIN(deadline, g_get_monotonic_time() + LOOK_MS * 1000);

        if (over || !ferry_copy_check(source->copy, NULL)) {
            return ferry_source_fail(source, errp);
        }
        if (g_get_monotonic_time() >= deadline) {
            return true;
        }
        if (ferry_copy_queued(source->copy) == 0 && ferry_copy_release_swapped(source->copy)) {
            ferry_copy_kick(source->copy);
        }
        g_mutex_lock(&source->lock);
        while (!source->complete && !source->control_over) {
            if (!g_cond_wait_until(&source->changed, &source->lock, look)) {
                break;
            }
        }
        over = source->control_over && !source->complete;
        g_mutex_unlock(&source->lock);
    }
    return true;
}

static void forget_session(FerrySource *source)
{
    g_mutex_lock(&source->lock);
    source->control_over = false;
    g_clear_error(&source->last_words);
    source->resuming = true;
    source->resumed = false;
    g_mutex_unlock(&source->lock);
    ferry_missing_clear(&source->resume_reader);
}

/* Have the destination say what is missing, instead of all that was thought so far. */
static bool ask_what_is_missing(FerrySource *source, const FerryLayout *layout)
{
    g_autoptr(GByteArray) body = ferry_layout_encode(layout);
    const FerryRegions *regions = &source->copy->regions;

    if (!source->resume_missing) {
        source->resume_missing = g_new0(FerryPageset *, regions->nr);
        for (size_t i = 0; i < regions->nr; i++) {
            source->resume_missing[i] = ferry_pageset_new(ferry_region_nr_pages(&regions->list[i]));
        }
    }
    for (size_t i = 0; i < regions->nr; i++) {
        ferry_pageset_clear(source->resume_missing[i]);
    }
    if (!ferry_control_send(source->channels.control, FERRY_FRAME_RESUME, 0, body, NULL) ||
        !ferry_source_wait(source, &source->resumed, RESUME_MS)) {
        return false;
    }
    ferry_copy_replace_pages(source->copy, source->resume_missing);
    return true;
}

bool ferry_source_reconnect(FerrySource *source, uint16_t version, uint64_t session, GError **errp)
{
    FerryLayout layout = {
        .nr_data = source->config.nr_channels,
        .nr_fetch = source->config.nr_fetch,
    };

    g_assert(source->gone);
    ferry_source_hang_up(source);
    if (session != source->config.session || version != source->config.version) {
        g_set_error_literal(errp, FERRY_ERROR, FERRY_ERROR_REFUSED,
                            "the destination waits for another migration than this one");
        return false;
    }
    if (ferry_source_is_complete(source)) {
        return true;
    }
    forget_session(source);
    if (!ferry_source_open(source, &layout, errp)) {
        ferry_source_shutdown(source);
        return false;
    }
    ferry_source_listen(source);
    if (!ask_what_is_missing(source, &layout)) {
        return ferry_source_fail(source, errp);
    }
    ferry_control_send(source->channels.control, FERRY_FRAME_GO, 0, NULL, NULL);
    ferry_copy_start(source->copy, source->channels.data, layout.nr_data);
    start_serving(source);
    source->nr_recoveries++;
    ferry_source_set_phase(source, FERRY_SESSION_FETCH);
    ferry_copy_unfreeze(source->copy);
    return true;
}

bool ferry_source_finish(FerrySource *source, unsigned timeout_ms)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)timeout_ms * 1000;
    bool has_report;

    g_mutex_lock(&source->lock);
    while (!source->has_report && !source->control_over) {
        if (!g_cond_wait_until(&source->changed, &source->lock, deadline)) {
            break;
        }
    }
    has_report = source->has_report;
    g_mutex_unlock(&source->lock);
    ferry_source_set_phase(source, FERRY_SESSION_DONE);
    return has_report;
}
