/*
 * The cause: why a session failed, decided in one place.
 *
 * A failure shows in many threads at once, and most of what they see are symptoms.  The first one
 * counts until one of a higher rank comes: that somebody cancelled, then what the peer itself says,
 * then what it sent that no Ferry sends and what failed here, and last that a channel broke.
 *
 * Threads: any.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_CAUSE_H
#define FERRY_CAUSE_H

#include <glib.h>
#include <stdatomic.h>
#include <stdbool.h>

typedef struct FerryCause {
    GMutex lock;
    GCond changed;
    GError *error;       /* NULL: nothing has failed */
    _Atomic bool known;  /* there is one */
    _Atomic bool closed; /* the peer has said its last word */
} FerryCause;

void ferry_cause_init(FerryCause *cause);
void ferry_cause_destroy(FerryCause *cause);

/*
 * Something failed with @error (taken over), of the domain FERRY_ERROR; a broken channel (I/O) is
 * explained to a user as a lost connection.
 */
void ferry_cause_note(FerryCause *cause, GError *error);

/* The peer will say nothing more: no better cause can come but that somebody cancels. */
void ferry_cause_close(FerryCause *cause);
bool ferry_cause_is_closed(const FerryCause *cause);

/* Whether anything has failed. */
bool ferry_cause_is_known(const FerryCause *cause);

/* Whether that is that somebody cancelled. */
bool ferry_cause_is_cancelled(FerryCause *cause);

/*
 * A copy of the cause, the caller's to free, or NULL.  Waits at most @timeout_ms while there is none
 * yet, or only a broken channel whose reason the peer may still give.
 */
GError *ferry_cause_wait(FerryCause *cause, unsigned timeout_ms);

/* Another connection begins: forget it, unless somebody cancelled. */
void ferry_cause_reset(FerryCause *cause);

#endif
