/*
 * A session that nobody opens: see opening.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_DESTINATION_OPENING_H
#define FERRY_GLUE_DESTINATION_OPENING_H

struct QIOChannel;

/*
 * The source has been answered on @main, which is broken if nothing follows for open-timeout and network-timeout
 * together.  Takes a reference.  Main thread.
 */
void ferry_opening_begin(struct QIOChannel *main);

#endif
