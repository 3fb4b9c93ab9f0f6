/*
 * Progress: whether the peer still takes what was written to a socket.
 *
 * A write that waits says nothing by itself: on a slow path two megabytes wait for half a minute.  The
 * kernel knows more.  On TCP it knows when the peer's kernel last acknowledged anything, which a peer that
 * is busy does too; on other sockets, whether less waits than before.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_PROGRESS_H
#define FERRY_PROGRESS_H

#include <glib.h>

typedef struct FerryProgress {
    int unsent_bytes; /* in the socket, at the last look */
    gint64 moved_us;  /* monotonic: when that last changed; 0: not looked at yet */
} FerryProgress;

/*
 * For how many milliseconds the peer has taken nothing, at @now_us (monotonic) and as far as looks at
 * @fd with the same @progress can tell; zeroed before the first one.  -1 if @fd is no socket.  One thread.
 */
gint64 ferry_progress_stalled_ms(FerryProgress *progress, int fd, gint64 now_us);

#endif
