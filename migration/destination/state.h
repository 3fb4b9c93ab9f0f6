/*
 * The destination's side of a session: how it stands with it, below all that reads its channels.
 *
 *   opening -> copying                    READY is sent
 *   copying <-> drafting                  DRAFT, FORGET
 *   copying, drafting -> handed off       HANDOFF
 *   handed off -> done                    no page is missing, and all fences have come
 *   handed off -> fetching                pages are missing, the device state is in: LOADED is sent
 *   fetching -> done                      the last page has come
 *   fetching <-> paused, done <-> parted  the connection breaks; RESUME on another one
 *   paused -> parted                      the last page had come, and is in place now
 *   all before fetching -> failed         something breaks
 *   paused, parted -> failed              somebody abandons it, or the source keeps the guest
 *
 * Until LOADED is sent, whatever breaks fails the session: the source has the guest.  After that nothing
 * does but ferry_destination_abandon, while it is paused: the guest may run here, and here only.
 *
 * A session that breaks after LOADED is paused, with a reason, and breaks the migration stream: another
 * connection is waited for, whether or not pages are missing.  There is one exception: a source that was told
 * TAKEN and COMPLETE may close its channels because it is done.  Then the stream may still bring its end.
 *
 * Waits and questions for the owner are in destination.h.
 *
 * Threads: any; with the session's lock held where that is said.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_DESTINATION_STATE_H
#define FERRY_DESTINATION_STATE_H

#include "internal.h"

/* For events and messages: "handed-off". */
const char *ferry_destination_phase_name(FerryDestinationPhase phase);

/* With the lock held: whether @phase may follow the one that the session is in. */
bool ferry_destination_may_enter(const FerryDestination *destination, FerryDestinationPhase phase);

/*
 * With the lock held: change the phase, which is done nowhere else.  False, and nothing is changed, if it
 * must not follow: what the peer sent is out of turn, or the session has failed meanwhile.
 */
bool ferry_destination_enter(FerryDestination *destination,
                             FerryDestinationPhase phase) G_GNUC_WARN_UNUSED_RESULT;

/* With the lock held, as are all that follow: nothing has been handed off, and nothing has failed. */
bool ferry_destination_is_before_handoff(const FerryDestination *destination);

/* The source was told that the guest can run here: it may have let go of it. */
bool ferry_destination_is_committed(const FerryDestination *destination);

/* The connection broke after that, and another one can take its place. */
bool ferry_destination_is_cut_off(const FerryDestination *destination);

/* The session's channels are all in use, if it got that far: neither cut off nor failed. */
bool ferry_destination_is_connected(const FerryDestination *destination);

/* All memory is in place. */
bool ferry_destination_has_all(const FerryDestination *destination);

/* Pages were left missing at the hand-off. */
bool ferry_destination_has_left(const FerryDestination *destination);

/* With pages left missing: guest and pages are all here, and the source was told so.  It may be done. */
bool ferry_destination_is_content(const FerryDestination *destination);

/* A fence, a page, or a change of phase came: the session may be done. */
void ferry_destination_check_complete(FerryDestination *destination);

/*
 * Without the lock: tell the source @type, TAKEN or COMPLETE; not on what is left of a connection that broke, as a
 * source that has heard both is done, with nobody left to resume this side.  False if the channel breaks.
 */
bool ferry_destination_tell(FerryDestination *destination, FerryFrameType type, GError **errp);

/* Break all channels, those of strangers too. */
void ferry_destination_shut_down_locked(FerryDestination *destination);

/*
 * Without the lock: something of the session broke.  It fails of @error (taken over), or is paused if the
 * guest may be running here.
 */
void ferry_destination_fail(FerryDestination *destination, GError *error);

#endif
