/*
 * Warning of frames and buffers that do not fit the path.
 *
 * That a path takes only small packets shows when the first large one has been refused, so it is looked at again and
 * again.
 *
 * Threads: the migration thread, and the main thread when that has ended.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"

#include "ferry/migration/source/sizes.h"
#include "../internal.h"
#include "session.h"
#include "sizes.h"

/* How often it looks. */
#define LOOK_US G_USEC_PER_SEC

static struct {
    gint64 looked_us;
    bool warned_frames, warned_buffers;
} sizes;

void ferry_sizes_reset(void)
{
    sizes.looked_us = 0;
    sizes.warned_frames = sizes.warned_buffers = false;
}

/* Takes over @warning. */
static void warn_once(bool *warned, char *warning)
{
    if (warning && !*warned) {
        warn_report("ferry: %s", warning);
        *warned = true;
    }
    g_free(warning);
}

void ferry_sizes_look_last(void)
{
    FerryPath path;

    if (ferry_source_query_path(ferry_outgoing_source(), &path)) {
        warn_once(&sizes.warned_frames, ferry_sizes_judge_frames(&path));
        warn_once(&sizes.warned_buffers, ferry_sizes_judge_buffers(&path));
    }
}

void ferry_sizes_look(void)
{
    gint64 now_us = g_get_monotonic_time();

    if (now_us - sizes.looked_us >= LOOK_US) {
        sizes.looked_us = now_us;
        ferry_sizes_look_last();
    }
}
