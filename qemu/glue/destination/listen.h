/*
 * How QEMU's listen thread ends: see listen.c; what QEMU calls is in ferry.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_DESTINATION_LISTEN_H
#define FERRY_GLUE_DESTINATION_LISTEN_H

#include "qemu/typedefs.h"

struct MigrationIncomingState;

/*
 * The paused migration, whose state is 'cancelling' by now, is given up: the thread ends, then everything that
 * is left of the migration; then the state is 'failed', or 'completed' if the guest is @whole.  Returns at once.
 * Main thread.
 */
void ferry_listen_give_up(struct MigrationIncomingState *mis, bool whole);

/* What a thread that is resumed waits for may have changed: the state, or who fails.  Any thread. */
void ferry_listen_look_again(void);

/*
 * The device state is loaded, but the session has failed, so that the guest cannot run here: the migration
 * fails, as exit-on-error says.  Main thread, from the main loop.
 */
void ferry_listen_fail(struct MigrationIncomingState *mis);

#endif
