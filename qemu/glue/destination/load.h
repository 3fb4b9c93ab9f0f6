/*
 * The handlers of the "ram" section at the destination.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_DESTINATION_LOAD_H
#define FERRY_GLUE_DESTINATION_LOAD_H

#include "qemu/typedefs.h"

/* Whether the section that comes next is Ferry's; takes it in if so, with *@ret its result. */
bool ferry_load_state(QEMUFile *f, int *ret);

/* SaveVMHandlers' load_cleanup: ends the session, if there is one. */
void ferry_load_cleanup(void);

/*
 * All memory is in place, or handed off, or the session failed: a FerryDestinationOps' complete and
 * handed_off.  Any thread.
 */
void ferry_load_memory_decided(void *opaque);

/*
 * Let the main loop go on until that happens, which may have been something else than what is waited for.
 * False, at once, on a thread that cannot.
 */
bool ferry_load_wait(void);

/* The session has failed: so query-migrate says why, before QEMU has words of its own.  Any thread. */
void ferry_load_failed(void *opaque, const GError *why);

#endif
