/*
 * Copying: what the source's driver and its senders share.
 *
 * The driver fills the page sets; one sender per data channel takes granules out of them and sends
 * what is in them.  A granule belongs to one sender for good (granule % senders), so copies of a
 * page arrive in the order they were read, with no barrier between rounds.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_COPY_H
#define FERRY_COPY_H

#include <glib.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "../accel/tracker.h"
#include "channel.h"
#include "pace.h"
#include "pageset.h"
#include "region.h"

/* A chunk's tracing state.  A page may be read while reset_seq has caught up with found_seq. */
typedef struct FerryCopyChunk {
    _Atomic bool armed;
    _Atomic bool queued;        /* its first copy is in the page set, or was */
    _Atomic uint32_t found_seq; /* grows whenever the tracker finds pages in it */
    _Atomic uint32_t reset_seq; /* found_seq at the last reset */
    GMutex lock;                /* held while it is reset */
} FerryCopyChunk;

/*
 * A page that was written both in the last round and in the one before is hot: to send it now would
 * be for nothing.  It is put off until a round comes in which it was not written, or the vCPUs stop.
 * What the tracker reports early is put off until the next round.
 * Of each pair of sets, one is the round's under way and the other the last one's.
 */
typedef struct FerryCopyRegion {
    FerryPageset *pages; /* to send */
    FerryPageset *skip;  /* not to queue when its chunk is */
    FerryPageset *written[2];
    FerryPageset *deferred[2];
    FerryCopyChunk *chunks;
    uint64_t nr_chunks;
} FerryCopyRegion;

typedef struct FerrySender FerrySender;

typedef struct FerryCopy {
    FerryRegions regions;
    FerryCopyRegion *state; /* one for each region */
    FerryTracker tracker;
    FerryTrackerClient client; /* what the tracker calls */
    bool tracking;             /* the tracker is started */
    FerryPace *pace;
    bool checksum;
    bool send_hot; /* put no page off because it stays hot */
    unsigned nr_senders;
    FerrySender **senders;

    _Atomic bool stopped;             /* vCPUs do not run: nothing is written, no need to reset */
    _Atomic uint64_t in_flight_pages; /* taken out of a set, not handed to the network yet */
    _Atomic uint64_t normal_pages;
    _Atomic uint64_t zero_pages;
    _Atomic uint64_t deferred_pages; /* how often a page was put off */
    _Atomic uint64_t written_pages;  /* reported by the tracker; each page once a round */
    _Atomic unsigned round;          /* its lowest bit tells which set of a pair is the round's */

    GMutex lock;
    GCond work;          /* to senders: generation, fence or quit changed */
    GCond idle;          /* to the driver: a sender ran dry, fenced or failed */
    uint64_t generation; /* grows whenever pages were added */
    unsigned nr_busy;    /* senders that have not seen all of generation yet */
    uint64_t fence;      /* number of the fence to send once dry; 0 before the first */
    unsigned nr_fenced;
    bool quit;
    GError *error; /* the first failure; ends everything */
} FerryCopy;

/* Takes over @regions. */
FerryCopy *ferry_copy_new(FerryRegions *regions, const FerryTracker *tracker, bool checksum);
/* Stops the senders and the tracker, and frees all. */
void ferry_copy_free(FerryCopy *copy);

bool ferry_copy_start_tracker(FerryCopy *copy, GError **errp);

/* Start a sender for each of the channels, which stay the caller's. */
void ferry_copy_start(FerryCopy *copy, FerryChannel **channels, unsigned nr_channels);

/*
 * Stop the tracker, which has feed(), and start @next.  Everything has to be armed and copied once
 * more.  From the driver, while the senders may be at work: such a tracker is none of their
 * business, and they hear of @next only when it has found something.
 */
bool ferry_copy_replace_tracker(FerryCopy *copy, const FerryTracker *next, GError **errp);

/* Tell the senders that pages were added. */
void ferry_copy_kick(FerryCopy *copy);

/* Wait until all senders are dry, or @timeout_ms; true if they are.  Returns early on failure. */
bool ferry_copy_wait_dry(FerryCopy *copy, unsigned timeout_ms);

/* Have each sender send fence @number, larger than any before it, when it has run dry. */
void ferry_copy_fence(FerryCopy *copy, uint64_t number);

/* Wait until they all have sent it; false on failure. */
bool ferry_copy_wait_fenced(FerryCopy *copy);

/* End it with @error (taken over); the first one counts.  Wakes everybody. */
void ferry_copy_fail(FerryCopy *copy, GError *error);

/* False, with a copy of the error, once something has failed. */
bool ferry_copy_check(FerryCopy *copy, GError **errp);

/* Pages that the senders may take. */
uint64_t ferry_copy_queued(const FerryCopy *copy);

/* Pages in all sets: the same and those put off. */
uint64_t ferry_copy_count(const FerryCopy *copy);

/* The same and those in flight: what is still to be sent.  Never too few. */
uint64_t ferry_copy_unsent(const FerryCopy *copy);

/* A round begins: to be called before its harvest. */
void ferry_copy_begin_round(FerryCopy *copy);

/* All written pages of the round are known: pages that have cooled down go with it. */
void ferry_copy_release_cooled(FerryCopy *copy);

/* The vCPUs have stopped and the last harvest is in: nothing is put off any more. */
void ferry_copy_release_all(FerryCopy *copy);

/*
 * Make sure that pages of the chunk that holds @page may be read: resets it if need be.  False if
 * that failed, and with it the session.
 */
bool ferry_copy_make_readable(FerryCopy *copy, uint32_t region, uint64_t page);

#endif
