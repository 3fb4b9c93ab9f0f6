/*
 * The source's side of a session: settling with the destination what its memory is to both.  See internal.h,
 * and ../destination/settle.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../clock.h"
#include "../error.h"
#include "../memory/mark.h"
#include "internal.h"

/* How often a source that waits for READY looks for channels that broke. */
#define OPENING_POLL_US 20000

bool ferry_source_lost_channel(FerrySource *source)
{
    const char *lost = ferry_channels_find_hung_up(&source->channels);

    if (lost) {
        /* If the destination says why, that counts more. */
        ferry_source_lose_channel(source,
                                  g_error_new(FERRY_ERROR, FERRY_ERROR_IO,
                                              "channel '%s': the other side closed it", lost));
    }
    return lost;
}

/* False with @errp set when the destination does not say READY in time, or a channel breaks. */
static bool wait_ready(FerrySource *source, gint64 deadline_us, GError **errp)
{
    gint64 patience_us = (gint64)source->config.open_timeout_ms * 1000;
    bool closed = false, ready = false, late = false, lost = false;

    while (!ready && !closed && !lost && !late) {
        g_mutex_lock(&source->lock);
        if (!source->ready && !ferry_cause_is_closed(&source->cause)) {
            ferry_cond_wait_until(&source->changed, &source->lock,
                                  ferry_now_us() + OPENING_POLL_US);
        }
        ready = source->ready;
        closed = ferry_cause_is_closed(&source->cause);
        late = ferry_now_us() > MAX(deadline_us, source->heard_us + patience_us);
        g_mutex_unlock(&source->lock);
        lost = ferry_source_lost_channel(source);
    }
    if (lost || closed) {
        return ferry_source_fail(source, errp);
    }
    if (!ready) {
        g_set_error_literal(errp, FERRY_ERROR, FERRY_ERROR_IO,
                            "the destination did not say in time that it takes the RAM blocks");
        return ferry_source_fail_here(source, errp);
    }
    return true;
}

/* Tell what memory there is, and hear what the destination makes of it. */
static bool announce_regions(FerrySource *source, const FerryLayout *layout, gint64 deadline_us,
                             GError **errp)
{
    source->opening = ferry_regions_encode(source->regions, layout);
    ferry_source_listen(source);
    if (!ferry_first_pass_prepare(source->first_pass, errp)) {
        return ferry_source_fail_here(source, errp);
    }
    if (!wait_ready(source, deadline_us, errp)) {
        return false;
    }
    ferry_backlog_settle(source->backlog, source->answers);
    return true;
}

bool ferry_source_settle(FerrySource *source, const FerryLayout *layout, gint64 deadline_us,
                         GError **errp)
{
    bool ok;

    /* A destination that maps one of these files as well sees the marks. */
    ferry_regions_mark(source->regions, source->config.session);
    ok = announce_regions(source, layout, deadline_us, errp);
    ferry_regions_unmark(source->regions, source->config.session);
    return ok;
}
