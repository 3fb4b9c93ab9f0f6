/*
 * Post-copy at the source; what QEMU calls is in ferry.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_SOURCE_POSTCOPY_H
#define FERRY_GLUE_SOURCE_POSTCOPY_H

#include "qemu/typedefs.h"

/* A new session begins. */
void ferry_postcopy_reset(void);

/*
 * While the guest runs, with @left_bytes to go on the wire: go over to post-copy if it is time.  @round_ended:
 * a round has just ended.
 */
void ferry_postcopy_consider(bool round_ended, uint64_t left_bytes);

/* What to tell QEMU is left, once pages were left missing; @limit is what it compares with. */
uint64_t ferry_postcopy_pending(uint64_t limit);

/* Let the channels work for at most @timeout_ms; a SaveVMHandlers' save_live_iterate. */
int ferry_postcopy_push(QEMUFile *f, unsigned timeout_ms);

/* SaveVMHandlers' save_live_complete_postcopy: the destination has all pages. */
int ferry_save_complete_postcopy(QEMUFile *f);

/* SaveVMHandlers' resume_prepare: open the session's channels anew. */
int ferry_resume_prepare(MigrationState *s);

#endif
