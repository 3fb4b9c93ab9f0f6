/*
 * Connections that have not yet said what they are: see parked.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_DESTINATION_PARKED_H
#define FERRY_GLUE_DESTINATION_PARKED_H

#include <stdbool.h>

struct QIOChannel;

/*
 * Whether QEMU would have to wait for what @ioc, which is registered for yank, says first: then it comes to QEMU once
 * more when that is there, and until then it is nobody's but ours.  Main thread.
 */
bool ferry_park(struct QIOChannel *ioc);

#endif
