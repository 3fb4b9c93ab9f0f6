/*
 * The source's side of a session: handing off, and serving what was left missing.  See source.h
 * and internal.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../clock.h"
#include "../error.h"
#include "../events.h"
#include "../wire/control.h"
#include "internal.h"

/* How often a wait for the destination looks whether a sender has failed. */
#define LOOK_MS 50

bool ferry_source_stopped(FerrySource *source, unsigned limit_ms, GError **errp)
{
    ferry_source_limit_blackout(source, limit_ms);
    if (!ferry_source_enter(source, FERRY_SOURCE_STOPPED) ||
        !ferry_control_send(source->channels.control, FERRY_FRAME_STOPPED, 0, NULL, NULL)) {
        return ferry_source_fail(source, errp);
    }
    return true;
}

/* --- Handing off ------------------------------------------------------------------------------- */

static bool send_handoff(FerrySource *source, uint64_t nr_missing)
{
    g_autoptr(GByteArray) body = ferry_count_encode(nr_missing);

    ferry_event(handoff, "source", nr_missing);
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
    if (!ferry_source_enter(source, FERRY_SOURCE_STOPPED)) {
        return ferry_source_fail(source, errp);
    }
    if (!ferry_source_undraft(source, errp)) {
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
    if (ferry_backlog_release_swapped(source->backlog)) {
        ferry_senders_kick(source->senders);
    }
    /* In this order: whoever is told may say at once that it has loaded. */
    if (!ferry_senders_drain(source->senders) || !ferry_source_send_fence(source) ||
        !ferry_source_enter(source, FERRY_SOURCE_HANDED_OFF) || !send_handoff(source, 0)) {
        return ferry_source_fail(source, errp);
    }
    note_handed_off(source);
    return true;
}

/* Any page that may be read, sent and left missing: the first one that there is. */
static uint64_t any_page(const FerryRegions *regions, size_t *region)
{
    for (*region = 0; *region < regions->nr; (*region)++) {
        const FerryRegion *memory = &regions->list[*region];
        uint64_t offset_bytes = ferry_region_skip_absent(memory, 0);

        if (memory->scan != FERRY_SCAN_NOTHING && offset_bytes < memory->length_bytes) {
            return offset_bytes / FERRY_PAGE_BYTES;
        }
    }
    g_assert_not_reached();
}

/* How many pages are missing; the destination waits for some to be, so there is one at least. */
static uint64_t count_missing(FerrySource *source, FerryPageset **late)
{
    g_autofree FerryPageset **draft = ferry_backlog_list(source->backlog, FERRY_BACKLOG_DRAFT);
    const FerryRegions *regions = source->regions;
    uint64_t nr_pages = ferry_missing_count(regions, late) + ferry_missing_count(regions, draft);

    if (nr_pages == 0) {
        size_t region;
        uint64_t page = any_page(regions, &region);

        nr_pages = regions->list[region].page_size_bytes / FERRY_PAGE_BYTES;
        ferry_pageset_add(late[region], page, nr_pages);
    }
    return nr_pages;
}

bool ferry_source_leave(FerrySource *source, GError **errp)
{
    g_autofree FerryPageset **late = NULL;

    g_assert(source->config.nr_fetch > 0);
    if (!ferry_source_enter(source, FERRY_SOURCE_STOPPED)) {
        return ferry_source_fail(source, errp);
    }
    if (!ferry_source_draft(source, errp) || !ferry_source_look(source, true, NULL, errp)) {
        return false;
    }
    ferry_backlog_subtract_draft(source->backlog);
    late = ferry_backlog_list(source->backlog, FERRY_BACKLOG_QUEUED);
    atomic_store(&source->handed_off_pages, count_missing(source, late));
    if (!ferry_source_enter(source, FERRY_SOURCE_HANDED_OFF)) {
        return ferry_source_fail(source, errp);
    }
    if (!ferry_missing_send(source->channels.control, source->regions, late, false, NULL) ||
        !send_handoff(source, source->handed_off_pages)) {
        return ferry_source_fail(source, errp);
    }
    note_handed_off(source);
    return true;
}

bool ferry_source_wait_loaded(FerrySource *source, GError **errp)
{
    /* A guest that had been paused before has waited without a limit so far. */
    if (!atomic_load(&source->give_up_us)) {
        ferry_source_limit_blackout(source, source->config.switchover_ms);
    }
    return ferry_source_wait(source, &source->loaded, 0) || ferry_source_fail(source, errp);
}

bool ferry_source_go(FerrySource *source)
{
    bool left = ferry_source_is_left(source);

    /* Before it is said: from here on nobody can know whether the destination has heard it. */
    if (ferry_cause_is_known(&source->cause) ||
        !ferry_source_enter(source, left ? FERRY_SOURCE_FETCHING : FERRY_SOURCE_RELEASED)) {
        return false;
    }
    ferry_event(go, "source");
    ferry_control_send(source->channels.control, FERRY_FRAME_GO, 0, NULL, NULL);
    if (left) {
        ferry_backlog_undraft(source->backlog);
        ferry_senders_unfreeze(source->senders);
    }
    return true;
}

bool ferry_source_wait_taken(FerrySource *source, GError **errp)
{
    g_autoptr(GError) cause = NULL;

    if (ferry_source_await(source, &source->taken, source->config.switchover_ms)) {
        return true;
    }
    cause = ferry_source_cause(source, 0);
    ferry_source_enter(source, FERRY_SOURCE_IN_DOUBT);
    ferry_source_shutdown(source);
    g_set_error(errp, FERRY_ERROR, FERRY_ERROR_LOST,
                "the destination was told to run the guest, and did not say that it does (%s): %s",
                cause ? cause->message : "nothing came", FERRY_LOOK_THERE);
    return false;
}

/* --- Until nothing is missing ------------------------------------------------------------------- */

bool ferry_source_is_complete(FerrySource *source)
{
    bool complete;

    g_mutex_lock(&source->lock);
    complete = ferry_source_has_all(source);
    g_mutex_unlock(&source->lock);
    return complete;
}

/*
 * The connection broke.  That all is well may be what the destination said last, and not have been read yet:
 * then it is no failure.
 */
static bool has_last_words(FerrySource *source)
{
    GError *cause = ferry_source_cause(source, FERRY_LAST_WORDS_MS);

    g_clear_error(&cause);
    return ferry_source_is_complete(source);
}

bool ferry_source_push(FerrySource *source, unsigned timeout_ms, GError **errp)
{
    gint64 deadline = ferry_now_us() + (gint64)timeout_ms * 1000;
    bool over = false;

    while (!ferry_source_is_complete(source)) {
        gint64 look = MIN(deadline, ferry_now_us() + LOOK_MS * 1000);

        if (over || ferry_cause_is_known(&source->cause)) {
            return has_last_words(source) || ferry_source_fail(source, errp);
        }
        if (ferry_now_us() >= deadline) {
            return true;
        }
        if (ferry_backlog_queued(source->backlog) == 0 &&
            ferry_backlog_release_swapped(source->backlog)) {
            ferry_senders_kick(source->senders);
        }
        g_mutex_lock(&source->lock);
        while (!ferry_source_has_all(source) && !ferry_cause_is_closed(&source->cause)) {
            if (!ferry_cond_wait_until(&source->changed, &source->lock, look)) {
                break;
            }
        }
        over = ferry_cause_is_closed(&source->cause) && !ferry_source_has_all(source);
        g_mutex_unlock(&source->lock);
    }
    return true;
}

static void forget_connection(FerrySource *source)
{
    ferry_cause_reset(&source->cause);
    g_mutex_lock(&source->lock);
    source->asked = source->resumed = false;
    g_mutex_unlock(&source->lock);
    ferry_missing_clear(&source->resume_reader);
}

/* Nothing can be missing that is not there, or is the destination's as well: to read it may be our end. */
static bool check_resume_missing(FerrySource *source)
{
    for (size_t i = 0; i < source->regions->nr; i++) {
        const FerryRegion *region = &source->regions->list[i];
        const FerryRange all = {.end_bytes = region->length_bytes};
        bool left_alone = region->scan == FERRY_SCAN_NOTHING;
        guint nr = left_alone ? 1 : region->absent ? region->absent->len : 0;

        for (guint j = 0; j < nr; j++) {
            FerryRange range = left_alone ? all : g_array_index(region->absent, FerryRange, j);

            if (ferry_pageset_remove(source->resume_missing[i],
                                     range.start_bytes >> FERRY_PAGE_SHIFT,
                                     (range.end_bytes - range.start_bytes) >> FERRY_PAGE_SHIFT)) {
                ferry_source_note_failure(
                    source, g_error_new(FERRY_ERROR, FERRY_ERROR_PROTOCOL,
                                        "the destination lacks pages of RAM block '%s' that "
                                        "cannot be missing",
                                        region->id));
                return false;
            }
        }
    }
    return true;
}

/*
 * Until the destination has said what is missing, which takes its time on a slow path: as long as bytes come.  It may
 * wait for a channel that it could not take, and has closed.
 */
static bool wait_for_missing(FerrySource *source)
{
    const FerryChannel *control = source->channels.control;
    gint64 since_us = ferry_now_us();
    uint64_t before = control->received_bytes;

    while (!ferry_source_wait(source, &source->resumed, LOOK_MS)) {
        if (ferry_cause_is_known(&source->cause) || ferry_cause_is_closed(&source->cause) ||
            ferry_source_lost_channel(source)) {
            return false;
        }
        if (control->received_bytes != before) {
            before = control->received_bytes;
            since_us = ferry_now_us();
        }
        if (ferry_now_us() - since_us >= (gint64)source->config.timeout_ms * 1000) {
            ferry_source_note_failure(
                source,
                g_error_new(FERRY_ERROR, FERRY_ERROR_TIMEOUT,
                            "the destination did not go on saying what is missing for %u ms",
                            source->config.timeout_ms));
            return false;
        }
    }
    return true;
}

/* Have the destination say what is missing, instead of all that was thought so far. */
static bool ask_what_is_missing(FerrySource *source, const FerryLayout *layout)
{
    g_autoptr(GByteArray) body = ferry_layout_encode(layout);
    const FerryRegions *regions = source->regions;

    if (!source->resume_missing) {
        source->resume_missing = g_new0(FerryPageset *, regions->nr);
        for (size_t i = 0; i < regions->nr; i++) {
            source->resume_missing[i] = ferry_pageset_new(ferry_region_nr_pages(&regions->list[i]));
        }
    }
    for (size_t i = 0; i < regions->nr; i++) {
        ferry_pageset_clear(source->resume_missing[i]);
    }
    /* From here on the control thread fills them. */
    g_mutex_lock(&source->lock);
    source->asked = true;
    g_mutex_unlock(&source->lock);
    if (!ferry_control_send(source->channels.control, FERRY_FRAME_RESUME, 0, body, NULL) ||
        !wait_for_missing(source)) {
        return false;
    }
    if (!check_resume_missing(source)) {
        return false;
    }
    ferry_event(resumed, "source", ferry_missing_count(regions, source->resume_missing));
    ferry_backlog_replace(source->backlog, source->resume_missing);
    return true;
}

void ferry_source_pause(FerrySource *source)
{
    ferry_source_enter(source, FERRY_SOURCE_PAUSED);
    ferry_source_hang_up(source);
}

bool ferry_source_reconnect(FerrySource *source, uint16_t version, uint64_t session, GError **errp)
{
    gint64 deadline = ferry_now_us() + (gint64)source->config.timeout_ms * 1000;
    FerryLayout layout = {
        .nr_data = source->config.nr_channels,
        .nr_fetch = source->config.nr_fetch,
    };

    g_assert(ferry_source_phase_is_gone(ferry_source_phase(source)));
    ferry_source_pause(source);
    if (session != source->config.session || version != source->config.version) {
        g_set_error_literal(errp, FERRY_ERROR, FERRY_ERROR_REFUSED,
                            "the destination waits for another migration than this one");
        return false;
    }
    if (ferry_source_is_complete(source)) {
        return true;
    }
    forget_connection(source);
    ferry_source_enter(source, FERRY_SOURCE_RESUMING);
    if (!ferry_source_open(source, &layout, deadline, errp)) {
        ferry_source_enter(source, FERRY_SOURCE_PAUSED);
        ferry_source_shutdown(source);
        return false;
    }
    ferry_source_listen(source);
    if (!ask_what_is_missing(source, &layout)) {
        return ferry_source_fail(source, errp);
    }
    ferry_control_send(source->channels.control, FERRY_FRAME_GO, 0, NULL, NULL);
    /* What is there may be all that is needed: the destination, which has heard GO, says so. */
    if (!ferry_source_start(source) && !has_last_words(source)) {
        return ferry_source_fail(source, errp);
    }
    source->nr_recoveries++;
    ferry_source_enter(source, FERRY_SOURCE_FETCHING);
    ferry_senders_unfreeze(source->senders);
    return true;
}

bool ferry_source_finish(FerrySource *source, unsigned timeout_ms)
{
    bool has_report = ferry_source_await(source, &source->has_report, timeout_ms);

    ferry_source_enter(source, FERRY_SOURCE_DONE);
    return has_report;
}
