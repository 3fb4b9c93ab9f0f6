/*
 * The migration stream at the destination, held so that anybody can break it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_DESTINATION_STREAM_H
#define FERRY_GLUE_DESTINATION_STREAM_H

struct MigrationIncomingState;

/* Hold the stream that it has now, in place of the last one; NULL: none.  Any thread. */
void ferry_stream_hold(struct MigrationIncomingState *mis);

/* Break it, if there is one.  Any thread. */
void ferry_stream_break(void);

#endif
