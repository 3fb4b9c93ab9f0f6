/*
 * Marking the migration's connections, as the user's parameters say: see marks.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_MARKS_H
#define FERRY_GLUE_MARKS_H

#include <stdbool.h>

#include "ferry/migration/stats.h"

struct QIOChannel;

/* Mark what the socket @fd sends, if it is TCP; what cannot be done is warned of.  Any thread. */
void ferry_mark_socket(int fd);

/* Remember, for query-ferry, how QEMU's own connection is marked: the one that @outgoing migration has.  Any thread. */
void ferry_note_main(struct QIOChannel *ioc, bool outgoing);

/* What was remembered last; false if there was none, or it was not TCP.  Any thread. */
bool ferry_query_main(bool outgoing, FerryMarks *marks);

#endif
