/*
 * The handlers of the "ram" section at the source, for when a session is active.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_SOURCE_SAVE_H
#define FERRY_GLUE_SOURCE_SAVE_H

#include "qemu/typedefs.h"

/*
 * Whether Ferry carries the memory, as it is told next.  A session that has failed by now ends: as no memory
 * has gone, QEMU's own path can still carry all of it.
 */
bool ferry_save_begins(void);

/* SaveVMHandlers' save_setup: dirty tracking begins, and the stream says that this is Ferry's. */
int ferry_save_setup(QEMUFile *f, Error **errp);

/* save_live_iterate: copy for a while. */
int ferry_save_iterate(QEMUFile *f);

/*
 * state_pending_exact and state_pending_estimate: how much is left.  A round that has ended is
 * followed by a harvest, and that by a look at whether to go over to post-copy.
 */
void ferry_save_pending(bool exact, uint64_t *must_precopy, uint64_t *can_postcopy);

/* save_live_complete_precopy: the last pages, with the vCPUs stopped. */
int ferry_save_complete(QEMUFile *f);

/* save_cleanup: ends the session. */
void ferry_save_cleanup(void);

#endif
