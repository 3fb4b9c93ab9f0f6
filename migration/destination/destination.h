/*
 * The destination's side of a session: receives guest memory into place.
 *
 *     ferry_destination_new             when a source with Ferry has shown itself
 *     ferry_destination_add_channel     for every further connection
 *     ferry_destination_wait_complete   (or the complete callback) when the source hands off
 *       or ferry_destination_wait_left    when pages are missing
 *     ferry_destination_loaded          the device state is in; go() comes in return
 *     ferry_destination_running         what the report of the blackout needs
 *     ferry_destination_free
 *
 * Each channel has a thread of its own, which first makes sure that the channel belongs to the
 * session.  A channel with the wrong session, version or role is closed, said so in the log, and
 * disturbs nothing.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_DESTINATION_H
#define FERRY_DESTINATION_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "../wire/channel.h"
#include "../memory/region.h"
#include "../stats.h"
#include "../wire/frame.h"
#include "../wire/shares.h"

/*
 * Connections that may be open and not have proved themselves yet: all of a source's, which come at once,
 * and as many that are not its.  When there are more, the oldest makes room.
 */
#define FERRY_STRANGERS_MAX (64 + FERRY_CHANNELS_MAX)

typedef struct FerryDestination FerryDestination;

typedef struct FerryDestinationConfig {
    uint64_t session;          /* a token that nobody can guess, which the source is given */
    unsigned timeout_ms;       /* silence that means a broken connection: see heartbeat.h */
    uint64_t bytes_per_second; /* how fast pages may come; 0: as fast as they do */
    FerryShares *shares; /* of the host's incoming bandwidth, or NULL; the session's from here on */
} FerryDestinationConfig;

/* The machine that is to receive the guest.  Called from the destination's threads. */
typedef struct FerryDestinationOps {
    /*
     * List this machine's regions, after making them fit @remote where that can be done (a region
     * whose size may change).  @local is empty on entry.
     */
    bool (*list_regions)(void *opaque, const FerryRegions *remote, FerryRegions *local,
                         GError **errp);
    /*
     * All memory is in place, or the session failed.  At most once each; the guest may not run here for
     * that.
     */
    void (*complete)(void *opaque);
    /* The source has let go of the guest: it may run here.  Once, and never after a failure. */
    void (*go)(void *opaque);
    /* The session has failed: before the source is told.  Optional.  Once; any thread. */
    void (*failed)(void *opaque, const GError *why);
    /* A line for the log. */
    void (*warn)(void *opaque, const char *message);

    /* What follows is for sessions in which pages can be left missing. */

    /* The source has handed off, and missing pages can be fetched; optional.  Once. */
    void (*handed_off)(void *opaque);
    /* Add the kernel's thread numbers of all vCPUs, uint32_t each; optional. */
    void (*list_vcpus)(void *opaque, GArray *threads);
    /*
     * For how many milliseconds nothing has come on the migration stream, which belongs to the
     * session; optional.  Any thread.
     */
    uint64_t (*stream_idle_ms)(void *opaque);
    /*
     * The connection broke after that, or just before, of @why; the source may come back.  Whoever reads the
     * migration stream is not to wait there.  Any thread.
     */
    void (*broken)(void *opaque, const GError *why);
    /* It is back, and missing pages come again.  Any thread. */
    void (*resumed)(void *opaque);
    /* Guest memory is wrong, or cannot be made right: the guest must stop.  Any thread. */
    void (*damaged)(void *opaque, const GError *why);
} FerryDestinationOps;

FerryDestination *ferry_destination_new(const FerryDestinationConfig *config,
                                        const FerryDestinationOps *ops, void *opaque);

/*
 * Ends all threads and closes all channels.  Unless the report was sent, @reason (or NULL) is what
 * the source is told; it gets a moment to read it.
 */
void ferry_destination_free(FerryDestination *destination, const char *reason);

/* Takes over @channel, a connection that has not said anything yet.  Does not block. */
void ferry_destination_add_channel(FerryDestination *destination, FerryChannel *channel);

/* Break all channels, as a broken network would.  Any thread. */
void ferry_destination_shutdown(FerryDestination *destination);

/*
 * Whether the session's own limits count: it is open, or what its opening takes here is under way; and nothing has
 * failed since.  Any thread.
 */
bool ferry_destination_is_met(FerryDestination *destination);

/* Whether the source's channels are all in: strangers need not be listened to any more. */
bool ferry_destination_has_all_channels(FerryDestination *destination);

/* Whether the memory is complete (true), not yet (false without error), or never will be. */
bool ferry_destination_is_complete(FerryDestination *destination, GError **errp);

/*
 * Why the session failed before it was open, if it did: then memory can come another way.  NULL otherwise;
 * the caller's to free.
 */
char *ferry_destination_opening_failure(FerryDestination *destination);

/* Block until that is decided. */
bool ferry_destination_wait_complete(FerryDestination *destination, GError **errp);

/* Whether the source may still hand off. */
bool ferry_destination_awaits_handoff(FerryDestination *destination);

/* Block until the source has handed off with pages missing, and they can be fetched. */
bool ferry_destination_wait_left(FerryDestination *destination, GError **errp);

/* Whether that has happened. */
bool ferry_destination_is_left(FerryDestination *destination);

/*
 * The stream that the device state came on broke (@why: for the log), with pages left missing.  True if the
 * session waits for another connection: the source may have let go of the guest.  False if it has failed; or
 * if the source was told that guest and pages are all here, so that nothing more is to come.
 */
bool ferry_destination_stream_broke(FerryDestination *destination, const char *why);

/* Another stream has taken the place of the one that broke. */
void ferry_destination_stream_came(FerryDestination *destination);

/*
 * While a source is back on another control channel, and the session about to go on: how many bytes have gone over
 * that, in both directions; else 0.  Any thread.
 */
uint64_t ferry_destination_resuming_bytes(FerryDestination *destination);

/* Whether GO has come: the guest is this side's. */
bool ferry_destination_has_guest(FerryDestination *destination);

/*
 * The source will not come back: the session fails, and missing pages read as zero from here on.  If none is
 * missing, and the guest is this side's, it is complete instead.  Only while the connection is broken.  Any thread.
 */
bool ferry_destination_abandon(FerryDestination *destination, GError **errp);

/* Which pages are missing, in words; the caller's to free.  After the hand-off. */
char *ferry_destination_describe_missing(FerryDestination *destination);

/* The threads that wait for one of them: uint32_t, the kernel's numbers; the caller's to free.  After the hand-off. */
GArray *ferry_destination_waiting(FerryDestination *destination);

/*
 * The device state is in: the source is told so, and go() comes in return.  False if the session has failed
 * before that.  The vCPUs run: for the report.
 */
bool ferry_destination_loaded(FerryDestination *destination, GError **errp);
void ferry_destination_running(FerryDestination *destination);

/* Send the source the report of the blackout; does nothing before the memory is complete. */
void ferry_destination_send_report(FerryDestination *destination);

/* @stats is to be cleared by the caller. */
void ferry_destination_query(FerryDestination *destination, FerryStats *stats);

#endif
