/*
 * Post-copy at the destination; what QEMU calls is in ferry.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_DESTINATION_POSTCOPY_H
#define FERRY_GLUE_DESTINATION_POSTCOPY_H

#include "qemu/typedefs.h"

struct MigrationIncomingState;

/* Why post-copy, which the user has permitted, must be QEMU's own; NULL if it need not. */
const char *ferry_postcopy_why_not(void);

/* The source goes on without Ferry. */
void ferry_postcopy_stand_down(void);

/* Remember the stream that is to be broken when Ferry's channels are; NULL: there is none. */
void ferry_postcopy_hold_stream(struct MigrationIncomingState *mis);

/* Something has come on it. */
void ferry_postcopy_note_part(void);

/* For how long nothing has: a FerryDestinationOps' stream_idle_ms.  Any thread. */
uint64_t ferry_postcopy_stream_idle_ms(void *opaque);

/* A FerryDestinationOps' list_vcpus.  Any thread. */
void ferry_postcopy_list_vcpus(void *opaque, GArray *threads);

/* The guest may run here.  Any thread. */
void ferry_postcopy_note_go(void);

/* The connection broke: a FerryDestinationOps' broken.  Any thread. */
void ferry_postcopy_broken(void *opaque, const GError *why);

/* Guest memory is wrong: a FerryDestinationOps' damaged.  Any thread. */
void ferry_postcopy_damaged(void *opaque, const GError *why);

#endif
