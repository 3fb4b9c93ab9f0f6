/*
 * The session at the destination, or the lack of one.
 *
 * Threads: the main thread, except where marked.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_DESTINATION_SESSION_H
#define FERRY_GLUE_DESTINATION_SESSION_H

#include "io/net-listener.h"

#include "ferry/migration/destination/destination.h"
#include "../stream.h"

/* A source with Ferry has shown itself, which will speak @version: there is a session from here on. */
void ferry_incoming_open(uint8_t version, const FerryDestinationOps *ops);

/* The session, or NULL.  Any thread; it stays until the migration ends. */
FerryDestination *ferry_incoming_destination(void);

/* The stream that the device state comes on, which is broken with the session. */
FerryStream *ferry_incoming_stream(void);

/*
 * Why the session has failed: the caller's to free.  NULL if it has not, or there is none.  Any thread.
 */
GError *ferry_incoming_cause(void);

/* What the source has to know of the session; there must be one.  Any thread. */
void ferry_incoming_identify(uint8_t *version, uint64_t *token);

/* Hand @ioc, a new connection, to the session.  False: there is none any more.  Any thread. */
bool ferry_incoming_add(QIOChannel *ioc);

/* Whether there is a session; *@all is whether the source's channels are all in.  Any thread. */
bool ferry_incoming_has_all(bool *all);

/* Whether there is a session; *@nr_bytes is what has come on the control channel that it goes on with.  Any thread. */
bool ferry_incoming_resuming_bytes(uint64_t *nr_bytes);

/* Keep a listener of our own, taken over, in place of the last one; NULL: have none.  Any thread. */
void ferry_incoming_set_listener(QIONetListener *listener);

/* The source's stream says that Ferry carries the memory. */
void ferry_incoming_begin(void);

/* Whether it has said so. */
bool ferry_incoming_active(void);

/*
 * Whether the incoming migration is over, whatever has come of it: QEMU has no use for a connection then, and asserts
 * that none comes.  Any thread.
 */
bool ferry_incoming_is_over(void);

/* Why Ferry is not in use; NULL if it is. */
void ferry_incoming_set_reason(const char *reason);

/* The same, unless another reason is known already. */
void ferry_incoming_suggest_reason(const char *reason);

/* What comes now is none of the session's business: no more channels, nor whether the guest runs. */
void ferry_incoming_stop_listening(void);

/* Keep what the session has to tell: it is about to end, and the migration has @failed. */
void ferry_incoming_keep_last(bool failed);

/*
 * End the session, telling the source @reason (or NULL).  With @later it has ended well: joining its
 * threads waits until the source has been told that the guest runs, and is no part of the blackout.
 */
void ferry_incoming_end(const char *reason, bool later);

/*
 * What the session does, or the last one did.  False when there is nothing to tell; *@reason, the
 * caller's to free, says why Ferry is not in use, or is NULL.
 */
bool ferry_incoming_query(FerryStats *stats, bool *active, uint8_t *version, char **reason);

/* By the clock that the destination's timers go by, in milliseconds.  Any thread. */
int64_t ferry_incoming_clock_ms(void);

/*
 * For how long a source may say nothing that is about to open a session, or to resume one: open-timeout and
 * network-timeout together, in milliseconds.  Any thread.
 */
int64_t ferry_incoming_limit_ms(void);

#endif
