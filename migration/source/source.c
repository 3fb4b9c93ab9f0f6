/*
 * The source's side of a session: its life, its phase, and its control channel.  See source.h and
 * internal.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <string.h>

#include "../wire/control.h"
#include "../clock.h"
#include "../error.h"
#include "../events.h"
#include "../fault.h"
#include "../thread.h"
#include "internal.h"

FerrySource *ferry_source_new(const FerrySourceConfig *config, FerryRegions *regions,
                              const FerryTracker *tracker)
{
    FerrySource *source = g_new0(FerrySource, 1);
    const FerrySendersConfig senders = {
        .checksum = config->checksum,
        .compress = config->compress,
        .weigh = config->weigh_compression,
        .failed = ferry_source_lose_channel,
        .opaque = source,
    };

    source->config = *config;
    source->total_bytes = ferry_regions_total_bytes(regions);
    source->backlog = ferry_backlog_new(regions, tracker, config->nr_fetch > 0, config->send_hot);
    source->regions = ferry_backlog_regions(source->backlog);
    source->senders = ferry_senders_new(source->backlog, &senders);
    source->first_pass = ferry_first_pass_new(source->backlog, source->senders);
    source->hot_sample =
        config->compress && !config->weigh_compression ? ferry_sample_new(source->backlog) : NULL;
    source->rounds = g_array_new(FALSE, FALSE, sizeof(FerryRoundStats));
    source->answers = g_malloc0(source->regions->nr + 1);
    ferry_channels_init(&source->channels);
    ferry_cause_init(&source->cause);
    g_mutex_init(&source->phase_lock);
    g_mutex_init(&source->stats_lock);
    g_mutex_init(&source->lock);
    g_cond_init(&source->changed);
    return source;
}

void ferry_source_shutdown(FerrySource *source)
{
    ferry_channels_shutdown(&source->channels);
}

static void free_resume_missing(FerrySource *source)
{
    for (size_t i = 0; source->resume_missing && i < source->regions->nr; i++) {
        ferry_pageset_free(source->resume_missing[i]);
    }
    g_clear_pointer(&source->resume_missing, g_free);
    ferry_missing_clear(&source->resume_reader);
}

void ferry_source_hang_up(FerrySource *source)
{
    atomic_store(&source->hanging_up, true);
    atomic_store(&source->is_open, false);
    ferry_source_shutdown(source);
    if (source->control_thread) {
        g_thread_join(source->control_thread);
        source->control_thread = NULL;
    }
    g_clear_pointer(&source->heartbeat, ferry_heartbeat_free);
    atomic_store(&source->is_silent, false);
    for (unsigned i = 0; i < FERRY_FETCH_CHANNELS_MAX; i++) {
        g_clear_pointer(&source->servers[i], ferry_page_server_join);
    }
    g_clear_pointer(&source->opening, g_byte_array_unref);
    ferry_senders_end(source->senders);
    ferry_channels_clear(&source->channels);
    atomic_store(&source->hanging_up, false);
}

void ferry_source_free(FerrySource *source)
{
    if (!source) {
        return;
    }
    ferry_source_hang_up(source);
    free_resume_missing(source);
    ferry_first_pass_free(source->first_pass);
    ferry_sample_free(source->hot_sample);
    ferry_shares_leave(source->config.shares);
    ferry_senders_free(source->senders);
    ferry_backlog_free(source->backlog);
    ferry_channels_destroy(&source->channels);
    g_array_unref(source->rounds);
    g_free(source->answers);
    ferry_cause_destroy(&source->cause);
    g_mutex_clear(&source->phase_lock);
    g_mutex_clear(&source->stats_lock);
    g_mutex_clear(&source->lock);
    g_cond_clear(&source->changed);
    g_free(source);
}

/* --- Phase ----------------------------------------------------------------------------------- */

/* With the phase lock held. */
static void enter(FerrySource *source, FerrySourcePhase from, FerrySourcePhase phase)
{
    switch (phase) {
    case FERRY_SOURCE_STOPPED:
        /* In the blackout there is no limit. */
        ferry_backlog_set_guest(source->backlog, FERRY_GUEST_STOPPED);
        ferry_senders_set_rate(source->senders, 0);
        break;
    case FERRY_SOURCE_HANDED_OFF:
        if (ferry_source_is_left(source)) {
            ferry_backlog_set_guest(source->backlog, FERRY_GUEST_LEFT);
        }
        break;
    default:
        break;
    }
    atomic_store(&source->phase, phase);
    if (ferry_source_phase_is_over(phase)) {
        g_mutex_lock(&source->stats_lock);
        source->end_ns = source->end_ns ?: ferry_now_ns();
        g_mutex_unlock(&source->stats_lock);
    }
    ferry_event(phase, "source", ferry_source_phase_name(from), ferry_source_phase_name(phase));
}

bool ferry_source_enter(FerrySource *source, FerrySourcePhase phase)
{
    FerrySourcePhase from;
    bool ok;

    g_mutex_lock(&source->phase_lock);
    from = atomic_load(&source->phase);
    ok = from == phase || ferry_source_phase_may_follow(from, phase);
    if (ok && from != phase) {
        enter(source, from, phase);
    } else if (!ok && !ferry_source_phase_is_over(from)) {
        ferry_event(phase_refused, "source", ferry_source_phase_name(from),
                    ferry_source_phase_name(phase));
    }
    g_mutex_unlock(&source->phase_lock);
    if (ok && from != phase) {
        ferry_fault_phase(SOURCE, phase);
    }
    return ok;
}

FerrySourcePhase ferry_source_phase(const FerrySource *source)
{
    return atomic_load(&source->phase);
}

bool ferry_source_is_gone(const FerrySource *source)
{
    return ferry_source_phase_is_gone(ferry_source_phase(source));
}

bool ferry_source_is_over(const FerrySource *source)
{
    return ferry_source_phase_is_over(ferry_source_phase(source));
}

bool ferry_source_is_left(const FerrySource *source)
{
    return atomic_load(&source->handed_off_pages) > 0;
}

bool ferry_source_is_stopped(const FerrySource *source)
{
    return ferry_backlog_guest(source->backlog) != FERRY_GUEST_RUNS;
}

/* --- Control channel ------------------------------------------------------------------------ */

/* Something that the control thread is told becomes true. */
static void note(FerrySource *source, bool *what)
{
    g_mutex_lock(&source->lock);
    *what = true;
    g_cond_broadcast(&source->changed);
    g_mutex_unlock(&source->lock);
}

/* The destination says what is missing, or has said it. */
static bool take_missing(FerrySource *source, const FerryFrame *frame, const GByteArray *body,
                         GError **errp)
{
    const FerryRegions *regions = source->regions;
    bool expected;

    g_mutex_lock(&source->lock);
    expected = source->asked && !source->resumed;
    g_mutex_unlock(&source->lock);
    if (!expected) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL,
                    "the destination says unasked what is missing");
        return false;
    }
    if (frame->type == FERRY_FRAME_MISSING) {
        return ferry_missing_take(&source->resume_reader, frame, body, regions,
                                  source->resume_missing, errp);
    }
    if (!ferry_missing_finish(&source->resume_reader, errp)) {
        return false;
    }
    if (ferry_missing_count(regions, source->resume_missing) != frame->first_page) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL,
                    "the destination's bitmap has a wrong number of pages");
        return false;
    }
    note(source, &source->resumed);
    return true;
}

/* The destination accepts the regions, and says what it makes of each. */
static bool take_ready(FerrySource *source, const GByteArray *body, GError **errp)
{
    bool ok;

    g_mutex_lock(&source->lock);
    ok = !source->ready && ferry_answers_decode(body ? body->data : NULL, body ? body->len : 0,
                                                source->answers, source->regions->nr, errp);
    source->ready |= ok;
    g_cond_broadcast(&source->changed);
    g_mutex_unlock(&source->lock);
    if (!ok && errp && !*errp) {
        g_set_error_literal(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL,
                            "the destination is ready a second time");
    }
    return ok;
}

static bool take_report(FerrySource *source, const GByteArray *body, GError **errp)
{
    FerryReport report;

    if (!ferry_report_decode(body ? body->data : NULL, body ? body->len : 0, &report, errp)) {
        return false;
    }
    g_mutex_lock(&source->lock);
    source->report = report;
    g_mutex_unlock(&source->lock);
    note(source, &source->has_report);
    return true;
}

/*
 * Whether @frame may come now.  Loading the device state may fetch the last page, so that COMPLETE comes
 * before LOADED.
 */
static bool is_due(FerrySource *source, const FerryFrame *frame)
{
    FerrySourcePhase phase = ferry_source_phase(source);
    bool left = ferry_backlog_guest(source->backlog) == FERRY_GUEST_LEFT;

    switch (frame->type) {
    case FERRY_FRAME_LOADED:
        return left || phase == FERRY_SOURCE_HANDED_OFF;
    case FERRY_FRAME_COMPLETE:
        return left;
    case FERRY_FRAME_TAKEN:
    case FERRY_FRAME_REPORT:
        return ferry_source_phase_is_gone(phase);
    default:
        return true;
    }
}

/* One frame from the destination; false when the channel is over. */
static bool take_control_frame(FerrySource *source, GError **errp)
{
    g_autoptr(GByteArray) body = NULL;
    g_autofree char *text = NULL;
    FerryFrame frame;

    if (!ferry_control_receive(source->channels.control, &frame, &body, errp)) {
        return false;
    }
    if (!is_due(source, &frame)) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL,
                    "the destination sent frame type %u out of turn", frame.type);
        return false;
    }
    switch (frame.type) {
    case FERRY_FRAME_READY:
        return take_ready(source, body, errp);
    case FERRY_FRAME_DRAFTED:
        note(source, &source->drafted);
        return true;
    case FERRY_FRAME_LOADED:
        ferry_event(loaded, "source");
        note(source, &source->loaded);
        return true;
    case FERRY_FRAME_TAKEN:
        ferry_event(taken, "source");
        note(source, &source->taken);
        return true;
    case FERRY_FRAME_COMPLETE:
        ferry_event(complete, "source");
        note(source, &source->complete);
        return true;
    case FERRY_FRAME_REACHED:
        g_mutex_lock(&source->lock);
        source->reached = frame.first_page;
        g_cond_broadcast(&source->changed);
        g_mutex_unlock(&source->lock);
        return true;
    case FERRY_FRAME_REPORT:
        return take_report(source, body, errp);
    case FERRY_FRAME_MISSING:
    case FERRY_FRAME_RESUMED:
        return take_missing(source, &frame, body, errp);
    case FERRY_FRAME_BEAT:
        g_mutex_lock(&source->lock);
        source->heard_us = ferry_now_us();
        g_mutex_unlock(&source->lock);
        return true;
    case FERRY_FRAME_ERROR:
        text = ferry_error_text_decode(body ? body->data : NULL, body ? body->len : 0);
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_REFUSED, "the destination says: %s", text);
        return false;
    default:
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL,
                    "the destination sent frame type %u, which is not its to send", frame.type);
        return false;
    }
}

/* Whether the destination has nothing more to say, or this side ends the connection. */
static bool is_expected(FerrySource *source)
{
    bool expected;

    g_mutex_lock(&source->lock);
    expected = source->has_report || atomic_load(&source->hanging_up) ||
               (ferry_source_has_all(source) && ferry_source_is_gone(source));
    g_mutex_unlock(&source->lock);
    return expected;
}

/* Whether the connection has served its purpose: that it breaks is no failure. */
static bool is_over(FerrySource *source)
{
    FerrySourcePhase phase = ferry_source_phase(source);
    bool taken;

    g_mutex_lock(&source->lock);
    taken = source->taken && (phase == FERRY_SOURCE_RELEASED || phase == FERRY_SOURCE_DONE);
    g_mutex_unlock(&source->lock);
    return taken || is_expected(source);
}

/* Have those look who wait for the destination. */
static void wake(FerrySource *source)
{
    g_mutex_lock(&source->lock);
    g_cond_broadcast(&source->changed);
    g_mutex_unlock(&source->lock);
}

/* What the destination is told that may be waiting to be told to run the guest. */
static const char *last_word(const GError *error)
{
    bool ours = error && error->code != FERRY_ERROR_REFUSED && error->code != FERRY_ERROR_IO &&
                error->code != FERRY_ERROR_LOST;

    return ours ? error->message : "the guest goes on at the source";
}

void ferry_source_keep_guest(FerrySource *source, const char *why)
{
    if (!ferry_source_is_gone(source) && ferry_source_enter(source, FERRY_SOURCE_FAILED)) {
        ferry_channels_tell(&source->channels, why);
    }
}

/* Without it no channel is of use, and the destination must get to know. */
static void end_control(FerrySource *source, GError *error)
{
    bool is_news = !is_expected(source) || atomic_load(&source->is_silent);
    g_autofree char *word = g_strdup(last_word(error));

    ferry_source_lose_channel(source, error);
    /* A destination that says why it failed may wait all the same, if GO was due. */
    if (is_news && atomic_load(&source->is_open)) {
        ferry_source_keep_guest(source, word);
    }
    ferry_source_shutdown(source);
    ferry_cause_close(&source->cause);
    wake(source);
    if (is_news && atomic_load(&source->is_open) && source->config.broken) {
        source->config.broken(source->config.opaque);
    }
}

/* The peer may not read.  Here that blocks nobody: the driver waits for READY, and not for ever. */
static bool send_opening(FerrySource *source, GError **errp)
{
    return !source->opening || ferry_control_send(source->channels.control, FERRY_FRAME_REGIONS, 0,
                                                  source->opening, errp);
}

static gpointer control_run(gpointer opaque)
{
    FerrySource *source = opaque;
    GError *error = NULL;

    if (send_opening(source, &error)) {
        while (take_control_frame(source, &error)) {
        }
    }
    end_control(source, error);
    return NULL;
}

/* --- Failures --------------------------------------------------------------------------------- */

void ferry_source_note_failure(FerrySource *source, GError *error)
{
    ferry_cause_note(&source->cause, error);
    ferry_senders_interrupt(source->senders);
    wake(source);
}

void ferry_source_lose_channel(void *opaque, GError *error)
{
    FerrySource *source = opaque;

    if (is_over(source)) {
        g_error_free(error);
        return;
    }
    ferry_event(channel_lost, "source", error->message);
    ferry_source_note_failure(source, error);
}

bool ferry_source_has_failed(const FerrySource *source)
{
    return ferry_cause_is_known(&source->cause) ||
           ferry_source_phase(source) == FERRY_SOURCE_FAILED;
}

/* Whether all is sent to a guest that runs there, and only the destination's last word is missing. */
static bool waits_for_last_word(const FerrySource *source)
{
    FerrySourcePhase phase = ferry_source_phase(source);

    return (phase == FERRY_SOURCE_FETCHING || phase == FERRY_SOURCE_PAUSED) &&
           ferry_backlog_unsent(source->backlog) == 0;
}

GError *ferry_source_cause(FerrySource *source, unsigned timeout_ms)
{
    g_autoptr(GError) cause = ferry_cause_wait(&source->cause, timeout_ms);

    if (cause && waits_for_last_word(source)) {
        return g_error_new(cause->domain, cause->code,
                           "%s: all pages were sent: quit this QEMU if the migration is completed "
                           "at the destination, else resume it",
                           cause->message);
    }
    return g_steal_pointer(&cause);
}

/* The connection is of no use any more: the session waits for another one, or is over. */
static void break_off(FerrySource *source, const GError *error)
{
    FerrySourcePhase phase = ferry_source_phase(source);

    if (phase == FERRY_SOURCE_RELEASED) {
        ferry_source_enter(source, FERRY_SOURCE_IN_DOUBT);
    } else if (ferry_source_phase_is_gone(phase)) {
        if (phase == FERRY_SOURCE_FETCHING) {
            ferry_event(paused, "source", error ? error->message : "");
        }
        ferry_source_enter(source, FERRY_SOURCE_PAUSED);
    } else if (!ferry_source_phase_is_over(phase)) {
        ferry_source_enter(source, ferry_cause_is_cancelled(&source->cause) ? FERRY_SOURCE_CANCELLED
                                                                            : FERRY_SOURCE_FAILED);
    }
    if (!ferry_source_is_gone(source)) {
        ferry_channels_tell(&source->channels, last_word(error));
    }
    ferry_source_shutdown(source);
}

/*
 * A channel that broke is only a symptom when the destination has said why
 * on the control channel, so give its words a moment to arrive.
 */
bool ferry_source_fail(FerrySource *source, GError **errp)
{
    GError *error = ferry_source_cause(source, source->control_thread ? FERRY_LAST_WORDS_MS : 0);

    if (!error) {
        error = g_error_new_literal(FERRY_ERROR, FERRY_ERROR_LOST,
                                    "lost the connection to the destination: it is gone");
    }
    break_off(source, error);
    g_propagate_error(errp, error);
    return false;
}

bool ferry_source_fail_here(FerrySource *source, GError **errp)
{
    if (errp && *errp) {
        ferry_cause_note(&source->cause, g_error_copy(*errp));
    }
    break_off(source, errp ? *errp : NULL);
    return false;
}

void ferry_source_cancel(FerrySource *source)
{
    ferry_source_note_failure(source,
                              g_error_new_literal(FERRY_ERROR, FERRY_ERROR_CANCELLED, "cancelled"));
    /* The driver may never come back to see it; and a hand-off that is too late is refused. */
    if (!ferry_source_is_gone(source) && ferry_source_enter(source, FERRY_SOURCE_CANCELLED)) {
        ferry_channels_tell(&source->channels, "the migration was cancelled");
    }
    ferry_source_shutdown(source);
}

bool ferry_source_replace_tracker(FerrySource *source, GError *error, GError **errp)
{
    FerryTracker next;

    if (!g_error_matches(error, FERRY_ERROR, FERRY_ERROR_TRACKER) ||
        ferry_source_is_stopped(source) || !source->config.next_tracker ||
        !source->config.next_tracker(source->config.opaque, error, &next)) {
        g_propagate_error(errp, error);
        return ferry_source_fail_here(source, errp);
    }
    ferry_event(tracker_replaced, error->message);
    g_error_free(error);
    if (!ferry_first_pass_restart(source->first_pass, &next, errp)) {
        return ferry_source_fail_here(source, errp);
    }
    atomic_store(&source->left_pages, 0);
    g_mutex_lock(&source->lock);
    source->round_fence = 0;
    g_mutex_unlock(&source->lock);
    return ferry_source_enter(source, FERRY_SOURCE_COPYING) || ferry_source_fail(source, errp);
}

void ferry_source_listen(FerrySource *source)
{
    GError *error = NULL;

    if (!ferry_fault(FERRY_FAULT_THREAD_CONTROL, &error)) {
        source->control_thread = ferry_thread_new("ferry-control", control_run, source, &error);
    }
    if (!source->control_thread) {
        end_control(source, error);
    }
}

static bool wait_for(FerrySource *source, const bool *what, gint64 deadline, bool whatever_fails)
{
    bool came;

    g_mutex_lock(&source->lock);
    while (!*what && !ferry_cause_is_closed(&source->cause) &&
           (whatever_fails || !ferry_cause_is_known(&source->cause)) &&
           ferry_cond_wait_until(&source->changed, &source->lock, deadline)) {
    }
    came = *what;
    g_mutex_unlock(&source->lock);
    return came;
}

bool ferry_source_await(FerrySource *source, const bool *what, unsigned timeout_ms)
{
    return wait_for(source, what, ferry_now_us() + (gint64)timeout_ms * 1000, true);
}

bool ferry_source_wait(FerrySource *source, const bool *what, unsigned timeout_ms)
{
    return wait_for(source, what,
                    timeout_ms ? ferry_now_us() + (gint64)timeout_ms * 1000 : G_MAXINT64, false);
}
