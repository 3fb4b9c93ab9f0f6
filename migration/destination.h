/*
 * The destination's side of a session: receives guest memory into place.
 *
 *     ferry_destination_new             when a source with Ferry has shown itself
 *     ferry_destination_add_channel     for every further connection
 *     ferry_destination_wait_complete   (or the complete callback) when the source hands over
 *     ferry_destination_loaded, _running  what the report of the blackout needs
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

#include "channel.h"
#include "region.h"
#include "stats.h"
#include "wire.h"

/* Connections that may be open and not have proved themselves yet; then the oldest makes room. */
#define FERRY_STRANGERS_MAX 64

typedef struct FerryDestination FerryDestination;

/* The machine that is to receive the guest.  Called from the destination's threads. */
typedef struct FerryDestinationOps {
    /*
     * List this machine's regions, after making them fit @remote where that can be done (a region
     * whose size may change).  @local is empty on entry.
     */
    bool (*list_regions)(void *opaque, const FerryRegions *remote, FerryRegions *local,
                         GError **errp);
    /* All memory is in place, or the session failed.  At most once. */
    void (*complete)(void *opaque);
    /* A line for the log. */
    void (*warn)(void *opaque, const char *message);
} FerryDestinationOps;

FerryDestination *ferry_destination_new(uint64_t session, const FerryDestinationOps *ops,
                                        void *opaque);

/*
 * Ends all threads and closes all channels.  Unless the report was sent, @reason (or NULL) is what
 * the source is told; it gets a moment to read it.
 */
void ferry_destination_free(FerryDestination *destination, const char *reason);

/* Takes over @channel, a connection that has not said anything yet.  Does not block. */
void ferry_destination_add_channel(FerryDestination *destination, FerryChannel *channel);

/* Break all channels, as a broken network would.  Any thread. */
void ferry_destination_shutdown(FerryDestination *destination);

/* Whether the source's channels are all in: strangers need not be listened to any more. */
bool ferry_destination_has_all_channels(FerryDestination *destination);

/* Whether the memory is complete (true), not yet (false without error), or never will be. */
bool ferry_destination_is_complete(FerryDestination *destination, GError **errp);

/* Block until that is decided. */
bool ferry_destination_wait_complete(FerryDestination *destination, GError **errp);

/* The device state is in; the vCPUs run.  For the report. */
void ferry_destination_loaded(FerryDestination *destination);
void ferry_destination_running(FerryDestination *destination);

/* Send the source the report of the blackout; does nothing before the memory is complete. */
void ferry_destination_send_report(FerryDestination *destination);

/* @stats is to be cleared by the caller. */
void ferry_destination_query(FerryDestination *destination, FerryStats *stats);

#endif
