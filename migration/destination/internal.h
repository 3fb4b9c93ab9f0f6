/*
 * The destination's side of a session: what its files share.  From the top: destination (its life),
 * acceptor (connections), control-channel, data-channel (what comes on them), state (how it stands with
 * it); query (reports) above state.
 *
 * Threads: one per channel (ChannelReader); what several of them touch is under `lock`.  Until pages are left
 * missing, guest memory is written by the data channels' threads without a lock: a granule always
 * comes on the same channel, so no two threads ever write the same page.  After that see fetch.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_DESTINATION_INTERNAL_H
#define FERRY_DESTINATION_INTERNAL_H

#include "destination.h"
#include "fetch.h"
#include "incoming-limit.h"
#include "../wire/missing.h"
#include "receiver.h"
#include "../wire/heartbeat.h"

/*
 * How it stands with the session.  Changed by ferry_destination_enter only, which has the table of what may
 * follow what; the first three are before the hand-off.
 */
typedef enum FerryDestinationPhase {
    FERRY_DESTINATION_OPENING,    /* channels come in; regions are checked, memory is emptied */
    FERRY_DESTINATION_COPYING,    /* regions fit and memory is empty: pages may be written */
    FERRY_DESTINATION_DRAFTING,   /* the same, but some have been discarded, to be left missing */
    FERRY_DESTINATION_HANDED_OFF, /* it is known what comes still, or will be missing */
    FERRY_DESTINATION_IN_PLACE,   /* nothing is missing: the device state is loaded next */
    /* The source was told that the guest can run here, and may have let go of it. */
    FERRY_DESTINATION_LOADED,   /* with all of its memory: GO is waited for */
    FERRY_DESTINATION_FETCHING, /* with pages missing */
    FERRY_DESTINATION_PAUSED,   /* the same, but the connection broke: another one is waited for */
    FERRY_DESTINATION_DONE,     /* all memory is in place; if none was left missing, GO has come */
    FERRY_DESTINATION_PARTED,   /* all memory is in place, but the connection broke too early */
    FERRY_DESTINATION_FAILED,   /* of `error` */
    FERRY_DESTINATION_NR_PHASES
} FerryDestinationPhase;

typedef struct ChannelReader {
    FerryDestination *destination;
    FerryChannel *channel;
    GThread *thread;
    FerryUnpacker *unpacker; /* its thread's */
    uint64_t fenced;         /* number of the last fence that came on it */

    /* All under the session's lock. */
    bool proved;  /* its hello was good */
    bool dropped; /* closed to make room, before it had proved itself */
    bool stale;   /* another connection takes its place: what it says does not count any more */
    bool over;    /* its thread has ended, or is about to */
} ChannelReader;

struct FerryDestination {
    FerryDestinationConfig config;
    FerryDestinationOps ops;
    void *opaque;
    FerryReceiver receiver;            /* its regions and its fetch do not change once copying */
    FerryMissingReader missing_reader; /* the control thread's */
    FerryHeartbeat *heartbeat;         /* the same */
    uint64_t start_ns;
    FerryIncomingLimit *limit; /* or NULL */

    GMutex lock; /* for all that follows */
    GCond changed;
    FerryDestinationPhase phase;
    GError *error;       /* the first cause, once failed; else NULL */
    bool failed_opening; /* it was in phase opening then */
    bool settling;       /* regions are checked and memory is emptied, which takes its time */
    /* Whatever the phase: ferry_destination_free has begun, and nobody is told any more. */
    bool closing;

    GPtrArray *readers; /* of ChannelReader; they stay until the end, but for strangers */
    /* The session's channels; NULL until they are in, and while another connection takes over. */
    ChannelReader *control;
    ChannelReader *data[FERRY_DATA_CHANNELS_MAX];
    ChannelReader *fetch[FERRY_FETCH_CHANNELS_MAX];
    unsigned nr_data, nr_fetch; /* how many of these readers are in */
    FerryLayout layout;         /* how many there will be; zero until the regions came */
    uint32_t attempt;           /* the source's, at connecting */
    unsigned nr_recoveries;
    /* Cut off, and the next connection's control channel is in: it goes on with RESUME. */
    bool resuming;

    uint64_t reached;    /* the newest fence that has come on all data channels */
    uint64_t handed_off; /* number of the fence that ends it, or 0 */
    /*
     * GO came, and ops.go was called: only then may the guest run here.  Not a phase: it comes while
     * loaded, fetching, paused or done, is sent again after a broken connection, and counts once.
     */
    bool may_run;
    bool telling_go;  /* ops.go has not returned yet */
    bool telling_why; /* the same for ops.broken: the session is paused, and has not said why yet */
    /* The source may have heard that, on this connection or on one before. */
    bool told_taken, told_complete;
    /* The stream that the device state came on broke, and no other one has taken its place. */
    bool stream_broke;
    bool
        reported; /* the report was due, and is not sent twice; what the source knows is no phase */

    /* When: the vCPUs stopped, all memory was in place, the device state was in, the vCPUs ran; or 0. */
    uint64_t stopped_ns, complete_ns, loaded_ns, running_ns;
};

#endif
