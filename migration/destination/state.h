/*
 * The destination's side of a session: how it stands with it, below all that reads its channels.
 *
 * Waits and questions are in destination.h.  Threads: any.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_DESTINATION_STATE_H
#define FERRY_DESTINATION_STATE_H

#include "internal.h"

/* End the session with @error (taken over), or pause it if the guest may be running here. */
void ferry_destination_fail(FerryDestination *destination, GError *error);

/* With the lock held: the memory may be complete. */
void ferry_destination_check_complete(FerryDestination *destination);

/* With the lock held: break all channels, those of strangers too. */
void ferry_destination_shut_down_locked(FerryDestination *destination);

#endif
