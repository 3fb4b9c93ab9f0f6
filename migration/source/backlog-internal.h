/*
 * The backlog's structs, for its own files only: backlog.c (life, senders, counts),
 * backlog-spare.c (first copies, and what may be left out), backlog-rounds.c (what the tracker
 * reports), backlog-draft.c (what will be missing).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_BACKLOG_INTERNAL_H
#define FERRY_BACKLOG_INTERNAL_H

#include <stdatomic.h>

#include "backlog.h"

/* A chunk's tracking.  A page may be read while reset_seq has caught up with found_seq. */
typedef struct Chunk {
    _Atomic bool armed;
    _Atomic uint32_t found_seq; /* grows whenever the tracker finds pages in it */
    _Atomic uint32_t reset_seq; /* found_seq at the last reset */
    GMutex lock;                /* held while it is reset */
} Chunk;

/*
 * A page that was written both in the last round and in the one before is hot: to send it now would
 * be for nothing.  It is put off until a round comes in which it was not written, or the vCPUs stop.
 * What the tracker reports early is put off until the next round.
 * Of the two sets of pages put off, one is the round's under way and the other the last one's.
 */
typedef struct BacklogRegion {
    FerryPageset *queued;
    FerryPageset *swapped;
    FerryPageset *kept;
    FerryPageset *draft;
    FerryPageset *spared; /* their content does not matter, and they were not reported since */
    FerryPageset *deferred[2];
    FerryPageset *written[FERRY_WRITTEN_SETS];
    Chunk *chunks;
    uint64_t nr_chunks;
} BacklogRegion;

struct FerryBacklog {
    FerryRegions regions;
    BacklogRegion *state; /* one for each region */
    FerryTracker tracker;
    FerryTrackerClient client; /* what the tracker calls */
    bool tracking;             /* the tracker is started */
    bool may_leave, send_hot;  /* see ferry_backlog_new() */
    size_t stale_region;       /* the driver's: up to here what is stale is forgotten, */
    uint64_t stale_granule;    /* and in that region up to here */

    _Atomic FerryGuest guest;
    _Atomic bool drafting;            /* the round's harvest is for a draft */
    _Atomic bool drafted;             /* there are pages in `draft` */
    _Atomic bool sparing;             /* there is, or was, something in `spared` */
    _Atomic unsigned round;           /* tells which of the sets are this round's */
    _Atomic uint64_t in_flight_pages; /* taken out of a set, not handed to the network yet */
    _Atomic uint64_t normal_pages, zero_pages, deferred_pages, written_pages;
};

static inline bool ferry_backlog_is_stopped(const FerryBacklog *backlog)
{
    return atomic_load(&backlog->guest) != FERRY_GUEST_RUNS;
}

static inline Chunk *ferry_backlog_chunk(const FerryBacklog *backlog, uint32_t region,
                                         uint64_t page)
{
    return &backlog->state[region].chunks[page / FERRY_CHUNK_PAGES];
}

/* What the tracker calls. */
void ferry_backlog_init_client(FerryBacklog *backlog);

#endif
