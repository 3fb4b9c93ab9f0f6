/*
 * The source's side of a session: the draft of what will be missing at the destination.  See source.h
 * and internal.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../clock.h"
#include "../events.h"
#include "../fault.h"
#include "../wire/control.h"
#include "internal.h"

bool ferry_source_send_fence(FerrySource *source)
{
    ferry_senders_fence(source->senders, ++source->last_fence);
    return ferry_senders_wait_fenced(source->senders);
}

/* All of the first pass is known of, if not sent. */
static bool finish_first_pass(FerrySource *source, GError **errp)
{
    while (!ferry_first_pass_done(source->first_pass)) {
        if (!ferry_first_pass_feed(source->first_pass, errp)) {
            return ferry_source_fail_here(source, errp);
        }
    }
    return true;
}

/* Nothing is on its way any more: wait until the destination has all that was sent. */
static bool drain(FerrySource *source)
{
    bool reached;

    /* What a sender has taken it sends now, however slow it was to be; but no more than that. */
    if (!ferry_senders_freeze(source->senders) || !ferry_source_send_fence(source)) {
        return false;
    }
    g_mutex_lock(&source->lock);
    while (source->reached < source->last_fence && !ferry_cause_is_closed(&source->cause) &&
           !ferry_cause_is_known(&source->cause)) {
        ferry_cond_wait(&source->changed, &source->lock);
    }
    reached = source->reached >= source->last_fence;
    g_mutex_unlock(&source->lock);
    return reached;
}

/* What is said of the draft from here on has not been answered yet. */
static void expect_answer(FerrySource *source)
{
    g_mutex_lock(&source->lock);
    source->drafted = false;
    g_mutex_unlock(&source->lock);
}

static bool send_draft(FerrySource *source)
{
    g_autofree FerryPageset **draft = ferry_backlog_list(source->backlog, FERRY_BACKLOG_DRAFT);
    uint64_t nr_pages = ferry_missing_count(source->regions, draft);

    ferry_event(draft, "source", nr_pages);
    expect_answer(source);
    return ferry_missing_send(source->channels.control, source->regions, draft, true, NULL) &&
           ferry_control_send(source->channels.control, FERRY_FRAME_DRAFT, nr_pages, NULL, NULL) &&
           ferry_source_wait(source, &source->drafted, 0);
}

bool ferry_source_undraft(FerrySource *source, GError **errp)
{
    if (!ferry_backlog_is_drafted(source->backlog)) {
        return true;
    }
    ferry_event(undraft, "source");
    expect_answer(source);
    if (!ferry_control_send(source->channels.control, FERRY_FRAME_FORGET, 0, NULL, NULL) ||
        !ferry_source_wait(source, &source->drafted, 0)) {
        return ferry_source_fail(source, errp);
    }
    ferry_backlog_undraft(source->backlog);
    ferry_senders_unfreeze(source->senders);
    if (!ferry_source_is_stopped(source)) {
        ferry_source_enter(source, ferry_first_pass_done(source->first_pass)
                                       ? FERRY_SOURCE_ROUNDS
                                       : FERRY_SOURCE_COPYING);
    }
    return true;
}

bool ferry_source_draft(FerrySource *source, GError **errp)
{
    const FerryTracker *tracker = ferry_backlog_tracker(source->backlog);
    GError *error = NULL;

    if (ferry_backlog_is_drafted(source->backlog) && ferry_first_pass_done(source->first_pass)) {
        return true;
    }
    /* Another tracker took its predecessor's place: what was drafted before is not all. */
    if (!ferry_source_undraft(source, errp)) {
        return false;
    }
    if (!finish_first_pass(source, errp)) {
        return false;
    }
    if (!drain(source)) {
        return ferry_source_fail(source, errp);
    }
    /* What the tracker keeps need not be reset for that. */
    ferry_backlog_begin_draft(source->backlog);
    if (ferry_fault(FERRY_FAULT_TRACKER_HARVEST, &error) ||
        !tracker->ops->harvest(tracker->opaque, false, &error) ||
        !ferry_first_pass_look_again(source->first_pass, &error)) {
        ferry_senders_unfreeze(source->senders);
        return ferry_source_replace_tracker(source, error, errp);
    }
    atomic_store(&source->left_pages, tracker->ops->feed ? 1 : 0);
    ferry_backlog_draft(source->backlog);
    if (!ferry_source_is_stopped(source)) {
        ferry_source_enter(source, FERRY_SOURCE_DRAFTED);
    }
    return send_draft(source) || ferry_source_fail(source, errp);
}
