/*
 * The source is lost, for a time or for ever: see lost.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_DESTINATION_LOST_H
#define FERRY_GLUE_DESTINATION_LOST_H

/* The source is lost, with pages missing.  Any thread. */
void ferry_lost_begin(void);

/* It is back: a FerryDestinationOps' resumed.  Any thread. */
void ferry_lost_end(void *opaque);

/* Stop the guest so that only a reset gets it going again.  Main thread. */
void ferry_lost_stop_for_ever(void);

#endif
