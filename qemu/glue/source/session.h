/*
 * The session at the source, or the lack of one.
 *
 * Threads: the migration thread owns the session from ferry_outgoing_open() on; the main thread
 * closes it when QEMU cleans up, after which the migration thread does not touch it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_SOURCE_SESSION_H
#define FERRY_GLUE_SOURCE_SESSION_H

#include "qemu/typedefs.h"

#include "ferry/migration/source/source.h"

/*
 * A new migration begins: forget the last one.  @reason: why it cannot use Ferry; NULL if it can, as
 * far as known.  Main thread.
 */
void ferry_outgoing_reset(const char *reason);

/* Why Ferry is not in use after all.  Migration thread. */
void ferry_outgoing_set_reason(const char *reason);

/*
 * Open a session as @config says (`opaque` is the session's own): with a tracker, over
 * channels to the destination.  FERRY_ERROR_REFUSED: the destination cannot take this guest; with
 * any other error QEMU can still migrate it.
 */
bool ferry_outgoing_open(MigrationState *s, const FerrySourceConfig *config, GError **errp);

/* End the session; what it has to tell is kept.  With the BQL, or on the migration thread. */
void ferry_outgoing_close(void);

/* Whether the memory of this migration goes through Ferry.  Any thread. */
bool ferry_outgoing_active(void);

/* The session, while it is active.  From the thread that drives it. */
FerrySource *ferry_outgoing_source(void);

/*
 * The same from any other thread: it stays until ferry_outgoing_release().  NULL, with nothing to
 * release, if no session is active.
 */
FerrySource *ferry_outgoing_hold(void);
void ferry_outgoing_release(void);

/* Its memory, listed when it was opened. */
const FerryRegions *ferry_outgoing_regions(void);

/*
 * The vCPUs have stopped: the first time, have the destination told.  The migration thread, or another
 * one that holds the BQL.
 */
bool ferry_outgoing_stop(GError **errp);

/* QEMU's own connection, which is broken with the session's: @s's, or NULL for none.  Migration thread. */
void ferry_outgoing_hold_main(MigrationState *s);

/*
 * The stream is about to say that Ferry carries the memory.  False if the session has failed by then, so
 * that QEMU's own path can.  Migration thread.
 */
bool ferry_outgoing_mark(void);

/* The hand-off begins: nobody keeps the guest stopped any more but Ferry.  Migration thread. */
void ferry_outgoing_switch(void);

/*
 * Whether no device has written to memory since the last look at what was written, while the BQL was free;
 * else the session fails: what it wrote would be in the device state, and not in memory.  With the BQL.
 */
bool ferry_outgoing_is_quiet(GError **errp);

/* Whether they have; while the session is active. */
bool ferry_outgoing_is_stopped(void);

/* Whether there is a session that left pages missing at the destination.  The migration thread. */
bool ferry_outgoing_is_left(void);

/* Bring QEMU's counters up to date. */
void ferry_outgoing_count(void);

/* Have the migration fail, or pause, with @error (taken over); returns -EIO. */
int ferry_session_error(QEMUFile *f, GError *error);

/*
 * What a session does, or did last.  False when there is nothing to tell; *@reason, the caller's to
 * free, says why Ferry is not in use, or is NULL.  Any thread.
 */
bool ferry_outgoing_query(FerryStats *stats, bool *active, uint8_t *version, char **reason);

#endif
