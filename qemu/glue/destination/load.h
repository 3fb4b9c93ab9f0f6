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

/* The session has failed: so query-migrate says why, before QEMU has words of its own.  Any thread. */
void ferry_load_failed(void *opaque, const GError *why);

#endif
