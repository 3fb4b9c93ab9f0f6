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
#include "../wire/missing.h"
#include "receiver.h"
#include "../wire/heartbeat.h"

typedef struct ChannelReader {
    FerryDestination *destination;
    FerryChannel *channel;
    GThread *thread;
    bool proved;  /* its hello was good */
    bool dropped; /* closed to make room, before it had proved itself */
    bool stale;   /* another connection takes its place: what it says does not count any more */
    bool over;    /* its thread has ended, or is about to */
    FerryUnpacker *unpacker; /* its thread's */
    uint64_t fenced;         /* number of the last fence that came on it */
} ChannelReader;

struct FerryDestination {
    FerryDestinationConfig config;
    FerryDestinationOps ops;
    void *opaque;
    FerryReceiver receiver;            /* its regions do not change once ready */
    FerryMissingReader missing_reader; /* the control thread's */
    FerryHeartbeat *heartbeat;         /* the same */
    uint64_t start_ns;

    GMutex lock; /* for all that follows */
    GCond changed;
    GPtrArray *readers; /* of ChannelReader; they stay until the end */
    ChannelReader *control;
    ChannelReader *data[FERRY_DATA_CHANNELS_MAX];
    ChannelReader *fetch[FERRY_FETCH_CHANNELS_MAX];
    unsigned nr_data, nr_fetch; /* how many of these readers are in */
    FerryLayout layout;         /* how many there will be; zero until the regions came */
    bool ready;                 /* regions fit and memory is empty: pages may be written */
    bool closing;

    uint64_t reached;    /* the newest fence that has come on all data channels */
    uint64_t handed_off; /* number of the fence that ends it, or 0 */
    bool left;           /* pages are missing, or were, and are fetched */
    bool committed;   /* the source was told that the guest can run here: it may have taken note */
    bool may_run;     /* it has */
    bool broken;      /* a channel failed after that; others are waited for */
    uint32_t attempt; /* the source's, at connecting */
    bool resuming;    /* the first of them, the control channel, is in */
    unsigned nr_recoveries;
    bool complete;
    bool told; /* ops.complete was called */
    bool reported;
    GError *error;

    uint64_t stopped_ns, complete_ns, loaded_ns, running_ns;
};

#endif
