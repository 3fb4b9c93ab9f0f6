/*
 * How fast a destination takes pages: its own limit, and its share of the host's.
 *
 * Who reads a data channel waits here before it reads the next pages; TCP tells the source.  Pages that are waited
 * for come on channels of their own, and are not limited; nor is anything while the guest is stopped.
 *
 * Threads: any.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_INCOMING_LIMIT_H
#define FERRY_INCOMING_LIMIT_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "../wire/shares.h"

typedef struct FerryIncomingLimit FerryIncomingLimit;

/*
 * @bytes_per_second: its own limit; 0 is none.  @shares, the caller's, may be NULL, and must outlive it.  NULL if
 * there is nothing to limit: all that follows does nothing then.
 */
FerryIncomingLimit *ferry_incoming_limit_new(uint64_t bytes_per_second, FerryShares *shares);
void ferry_incoming_limit_free(FerryIncomingLimit *limit);

/* Ask what its share is by now: to be called every 100 ms or so, whether anything comes or not. */
void ferry_incoming_limit_look(FerryIncomingLimit *limit);

/* Wait until @nr_bytes more may come.  False if it was interrupted meanwhile. */
bool ferry_incoming_limit_take(FerryIncomingLimit *limit, uint64_t nr_bytes);

/* The guest is stopped, and nothing is to wait; or it runs again. */
void ferry_incoming_limit_lift(FerryIncomingLimit *limit, bool lifted);

/* Have all those return that wait, or come to wait, until it is resumed. */
void ferry_incoming_limit_interrupt(FerryIncomingLimit *limit);
void ferry_incoming_limit_resume(FerryIncomingLimit *limit);

#endif
