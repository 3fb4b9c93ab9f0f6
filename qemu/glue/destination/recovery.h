/*
 * A recovery that does not get on: see recovery.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_DESTINATION_RECOVERY_H
#define FERRY_GLUE_DESTINATION_RECOVERY_H

#include <glib.h>

struct QIOChannel;

/*
 * @main is the main channel of a paused migration that is recovered now: it is broken if the source does not resume,
 * and nothing comes for network-timeout and open-timeout together.  Takes a reference.  The thread that takes
 * connections.
 */
void ferry_recovery_begin(struct QIOChannel *main);

/* That thread's, NULL for the main one: where the other connections of the recovery are to come in.  Any thread. */
GMainContext *ferry_recovery_context(void);

#endif
