/*
 * Running the guest at the destination; what QEMU calls is in ferry.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_DESTINATION_RUN_H
#define FERRY_GLUE_DESTINATION_RUN_H

/* The source has let go of the guest: a FerryDestinationOps' go.  Any thread. */
void ferry_incoming_go(void *opaque);

/*
 * All memory is in place, or handed off, or the session failed: a FerryDestinationOps' complete and
 * handed_off.  Any thread.
 */
void ferry_incoming_decided(void *opaque);

/* Whether a guest is loaded that may not run yet.  Main thread. */
bool ferry_incoming_awaits_go(void);

/* If the session has failed, have the migration fail, wherever it stands.  Main thread. */
void ferry_incoming_check(void);

#endif
