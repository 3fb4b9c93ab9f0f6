/*
 * The source's side of a session: settling with the destination what its memory is to both.  See internal.h,
 * and ../destination/settle.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../error.h"
#include "../memory/mark.h"
#include "../wire/control.h"
#include "internal.h"

/* Tell what memory there is, and hear what the destination makes of it. */
static bool announce_regions(FerrySource *source, const FerryLayout *layout, GError **errp)
{
    g_autoptr(GByteArray) body = ferry_regions_encode(source->regions, layout);

    if (!ferry_control_send(source->channels.control, FERRY_FRAME_REGIONS, 0, body, NULL)) {
        return ferry_source_fail(source, errp);
    }
    if (!ferry_first_pass_prepare(source->first_pass, errp)) {
        return ferry_source_fail_here(source, errp);
    }
    if (!ferry_source_wait(source, &source->ready, 0)) {
        return ferry_source_fail(source, errp);
    }
    ferry_backlog_settle(source->backlog, source->answers);
    return true;
}

bool ferry_source_settle(FerrySource *source, const FerryLayout *layout, GError **errp)
{
    bool ok;

    /* A destination that maps one of these files as well sees the marks. */
    ferry_regions_mark(source->regions, source->config.session);
    ok = announce_regions(source, layout, errp);
    ferry_regions_unmark(source->regions, source->config.session);
    return ok;
}
