/*
 * Marks: what the network, and the host, know the migration's packets by: DSCP, priority, congestion control.
 *
 * Three things of Linux are easily missed, and are why this is in one place.  To set IP_TOS sets the priority, too
 * (ip(7)), so the priority comes last.  Over a socket for IPv6 both IPv6 and IPv4 may be spoken, and each has an option
 * of its own.  What a listening socket has is what its answers to a first packet have; a connection that it takes
 * has the same DSCP and congestion control, but not its priority.
 *
 * Threads: any.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_MARKS_H
#define FERRY_MARKS_H

#include <glib.h>
#include <stdbool.h>

#include "../stats.h"

/*
 * Mark what @fd sends from now on; 0, or an empty name, leaves what the system has.  Whatever is possible is done.
 * False, with the first failure, if something is not; a socket that is not TCP is left alone, and no failure.
 */
bool ferry_marks_set(int fd, const FerryMarks *wanted, GError **errp);

/* How it is marked.  False if it is not TCP. */
bool ferry_marks_read(int fd, FerryMarks *marks);

/* Whether @name can be set in this process, as far as that can be known now. */
bool ferry_marks_check_congestion(const char *name, GError **errp);

#endif
