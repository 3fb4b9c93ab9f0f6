/*
 * The source's side of a session: its life, and its control channel.  See source.h and
 * source-internal.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <string.h>

#include "../wire/control.h"
#include "../error.h"
#include "internal.h"

/* How long an I/O error on one channel waits for the peer's own words on the control channel. */
#define LAST_WORDS_US (G_USEC_PER_SEC / 2)

FerrySource *ferry_source_new(const FerrySourceConfig *config, FerryRegions *regions,
                              const FerryTracker *tracker)
{
    FerrySource *source = g_new0(FerrySource, 1);

    source->config = *config;
    source->total_bytes = ferry_regions_total_bytes(regions);
    source->copy = ferry_copy_new(regions, tracker, config->checksum, config->compress);
    source->copy->send_hot = config->send_hot;
    source->copy->may_leave = config->nr_fetch > 0;
    source->first_pass = ferry_first_pass_new(source->copy);
    source->rounds = g_array_new(FALSE, FALSE, sizeof(FerryRoundStats));
    ferry_channels_init(&source->channels);
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
    for (size_t i = 0; source->resume_missing && i < source->copy->regions.nr; i++) {
        ferry_pageset_free(source->resume_missing[i]);
    }
    g_clear_pointer(&source->resume_missing, g_free);
    ferry_missing_clear(&source->resume_reader);
}

void ferry_source_hang_up(FerrySource *source)
{
    atomic_store(&source->hanging_up, true);
    ferry_source_shutdown(source);
    if (source->control_thread) {
        g_thread_join(source->control_thread);
        source->control_thread = NULL;
    }
    g_clear_pointer(&source->heartbeat, ferry_heartbeat_free);
    for (unsigned i = 0; i < FERRY_FETCH_CHANNELS_MAX; i++) {
        g_clear_pointer(&source->servers[i], ferry_server_join);
    }
    ferry_copy_end_senders(source->copy);
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
    ferry_copy_free(source->copy);
    ferry_channels_destroy(&source->channels);
    g_array_unref(source->rounds);
    g_clear_error(&source->last_words);
    g_mutex_clear(&source->stats_lock);
    g_mutex_clear(&source->lock);
    g_cond_clear(&source->changed);
    g_free(source);
}

void ferry_source_set_phase(FerrySource *source, FerrySessionPhase phase)
{
    g_mutex_lock(&source->stats_lock);
    source->phase = phase;
    if ((phase == FERRY_SESSION_DONE || phase == FERRY_SESSION_FAILED) && !source->end_ns) {
        source->end_ns = ferry_now_ns();
    }
    g_mutex_unlock(&source->stats_lock);
}

/* --- Control channel ------------------------------------------------------------------------ */

/* A channel that broke means little to a user; say what it means. */
static void explain(GError **error)
{
    if (g_error_matches(*error, FERRY_ERROR, FERRY_ERROR_IO)) {
        (*error)->code = FERRY_ERROR_LOST;
        g_prefix_error(error, "lost the connection to the destination: ");
    }
}

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
    const FerryRegions *regions = &source->copy->regions;
    bool expected;

    g_mutex_lock(&source->lock);
    expected = source->resuming && !source->resumed;
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

/* Whether @frame may come now. */
static bool is_due(FerrySource *source, const FerryFrame *frame)
{
    bool due;

    g_mutex_lock(&source->lock);
    switch (frame->type) {
    case FERRY_FRAME_LOADED:
        due = atomic_load(&source->copy->fetching);
        break;
    case FERRY_FRAME_COMPLETE:
        due = source->gone;
        break;
    default:
        due = true;
    }
    g_mutex_unlock(&source->lock);
    return due;
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
        note(source, &source->ready);
        return true;
    case FERRY_FRAME_DRAFTED:
        note(source, &source->drafted);
        return true;
    case FERRY_FRAME_LOADED:
        note(source, &source->loaded);
        return true;
    case FERRY_FRAME_COMPLETE:
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

static gpointer control_run(gpointer opaque)
{
    FerrySource *source = opaque;
    GError *error = NULL;

    while (take_control_frame(source, &error)) {
    }
    explain(&error);
    g_mutex_lock(&source->lock);
    source->last_words = error;
    source->control_over = true;
    g_cond_broadcast(&source->changed);
    bool over = source->has_report;
    g_mutex_unlock(&source->lock);
    /* After its report the destination has nothing more to say: then this is the end, no error. */
    if (!over) {
        if (source->config.failed && !atomic_load(&source->cancelled) &&
            !atomic_load(&source->hanging_up)) {
            source->config.failed(source->config.opaque, error);
        }
        ferry_copy_fail(source->copy, g_error_copy(error));
        ferry_source_shutdown(source);
    }
    return NULL;
}

/*
 * A channel that broke is only a symptom when the destination has said why
 * on the control channel, so give its words a moment to arrive.
 */
bool ferry_source_fail(FerrySource *source, GError **errp)
{
    g_autoptr(GError) error = NULL;
    gint64 deadline = g_get_monotonic_time() + LAST_WORDS_US;

    ferry_copy_check(source->copy, &error);
    if (!error) {
        error = g_error_new_literal(FERRY_ERROR, FERRY_ERROR_IO, "it is gone");
    }
    explain(&error);
    g_mutex_lock(&source->lock);
    while (source->control_thread && !source->control_over) {
        if (!g_cond_wait_until(&source->changed, &source->lock, deadline)) {
            break;
        }
    }
    if (source->last_words &&
        g_error_matches(source->last_words, FERRY_ERROR, FERRY_ERROR_REFUSED)) {
        g_clear_error(&error);
        error = g_error_copy(source->last_words);
    }
    g_mutex_unlock(&source->lock);
    if (atomic_load(&source->cancelled)) {
        g_clear_error(&error);
        error = g_error_new_literal(FERRY_ERROR, FERRY_ERROR_CANCELLED, "cancelled");
    }
    ferry_source_set_phase(source, source->gone ? FERRY_SESSION_PAUSED : FERRY_SESSION_FAILED);
    ferry_source_shutdown(source);
    g_propagate_error(errp, g_steal_pointer(&error));
    return false;
}

bool ferry_source_fail_here(FerrySource *source)
{
    ferry_source_set_phase(source, FERRY_SESSION_FAILED);
    ferry_source_shutdown(source);
    return false;
}

void ferry_source_cancel(FerrySource *source)
{
    atomic_store(&source->cancelled, true);
    ferry_copy_fail(source->copy,
                    g_error_new_literal(FERRY_ERROR, FERRY_ERROR_CANCELLED, "cancelled"));
    ferry_source_shutdown(source);
}

/* --- Connecting ----------------------------------------------------------------------------- */

bool ferry_source_open(FerrySource *source, const FerryLayout *layout, GError **errp)
{
    const FerryHello hello = {
        .session = source->config.session,
        .version = source->config.version,
        .attempt = source->attempt++,
    };

    return ferry_channels_open(&source->channels, layout, &hello, source->config.dial,
                               source->config.opaque, errp);
}

void ferry_source_listen(FerrySource *source)
{
    source->control_thread = g_thread_new("ferry-control", control_run, source);
}

bool ferry_source_wait(FerrySource *source, const bool *what, unsigned timeout_ms)
{
    gint64 deadline = timeout_ms ? g_get_monotonic_time() + (gint64)timeout_ms * 1000 : G_MAXINT64;
    bool came;

    g_mutex_lock(&source->lock);
    while (!*what && !source->control_over &&
           g_cond_wait_until(&source->changed, &source->lock, deadline)) {
    }
    came = *what;
    g_mutex_unlock(&source->lock);
    return came;
}

bool ferry_source_connect(FerrySource *source, GError **errp)
{
    FerryLayout layout = {
        .nr_data = source->config.nr_channels,
        .nr_fetch = source->config.nr_fetch,
    };
    g_autoptr(GByteArray) body = ferry_regions_encode(&source->copy->regions, &layout);

    if (!ferry_copy_start_tracker(source->copy, errp)) {
        ferry_source_set_phase(source, FERRY_SESSION_FAILED);
        return false;
    }
    if (!ferry_source_open(source, &layout, errp)) {
        if (atomic_load(&source->cancelled)) {
            g_clear_error(errp);
            return ferry_source_fail(source, errp);
        }
        ferry_source_set_phase(source, FERRY_SESSION_FAILED);
        return false;
    }
    source->start_ns = ferry_now_ns();
    source->round_start_ns = source->start_ns;
    ferry_source_listen(source);
    if (!ferry_control_send(source->channels.control, FERRY_FRAME_REGIONS, 0, body, NULL)) {
        return ferry_source_fail(source, errp);
    }
    if (!ferry_first_pass_prepare(source->first_pass, errp)) {
        return ferry_source_fail_here(source);
    }
    if (!ferry_source_wait(source, &source->ready, 0)) {
        return ferry_source_fail(source, errp);
    }
    ferry_copy_start(source->copy, source->channels.data, layout.nr_data);
    ferry_source_set_phase(source, FERRY_SESSION_COPY);
    return true;
}
