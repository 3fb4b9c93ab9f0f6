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

#include "../tracker.h"
#include "../wire/channel.h"
#include "pace.h"
#include "../wire/pages-frame.h"
#include "../memory/pageset.h"
#include "../memory/region.h"
#include "../wire/frame.h"

/* Sets of pages written: this round's, the last round's, and one before it that is being emptied. */
#define FERRY_WRITTEN_SETS 3

/* A sender's hint is the region's number, so many bits up, and the granule's plus one. */
#define FERRY_HINT_SHIFT 40

/* Pages that stay hot go all the same every so many rounds: some look at what has arrived. */
#define FERRY_HOT_ROUNDS 8

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
 * Of the two sets of pages put off, one is the round's under way and the other the last one's.
 *
 * Before pages are left missing at the destination, those known of are set apart (base), so that
 * what is found while the vCPUs are being stopped (in pages again) is little.
 */
typedef struct FerryCopyRegion {
    FerryPageset *pages;   /* to send */
    FerryPageset *swapped; /* to send last: they have to be read from the swap device */
    FerryPageset *kept;    /* known to be written, kept by the tracker until it may reset them */
    FerryPageset *base;
    FerryPageset *skip; /* not to queue when its chunk is */
    FerryPageset *written[FERRY_WRITTEN_SETS];
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
    bool compress;
    bool send_hot;  /* put no page off because it stays hot */
    bool may_leave; /* pages may be left missing: `kept` is looked after */
    unsigned nr_senders;
    FerrySender **senders;
    /* Where each sender is to go on, when pages are being fetched there; 0: nowhere in particular. */
    _Atomic uint64_t hints[FERRY_DATA_CHANNELS_MAX];

    _Atomic bool stopped;  /* vCPUs do not run: nothing is written, no need to reset */
    _Atomic bool leaving;  /* pages are being left missing: those set apart are no news */
    _Atomic bool fetching; /* pages were left missing, and the destination asks for them */
    _Atomic bool frozen;   /* the senders take nothing */
    _Atomic uint64_t in_flight_pages; /* taken out of a set, not handed to the network yet */
    _Atomic uint64_t normal_pages;
    _Atomic uint64_t zero_pages;
    _Atomic uint64_t deferred_pages; /* how often a page was put off */
    _Atomic uint64_t written_pages;  /* reported by the tracker; each page once a round */
    _Atomic unsigned round;          /* tells which of the sets are this round's */
    size_t stale_region;             /* the driver's: up to here what is stale is forgotten, */
    uint64_t stale_granule;          /* and in that region up to here */

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
FerryCopy *ferry_copy_new(FerryRegions *regions, const FerryTracker *tracker, bool checksum,
                          bool compress);
/* Stops the senders and the tracker, and frees all. */
void ferry_copy_free(FerryCopy *copy);

bool ferry_copy_start_tracker(FerryCopy *copy, GError **errp);

/* Start a sender for each of the channels, which stay the caller's. */
void ferry_copy_start(FerryCopy *copy, FerryChannel **channels, unsigned nr_channels);

/*
 * End the senders, whose channels must be shut down; what they had taken and not sent is nowhere.
 * They can be started again, with other channels: an error is forgotten.
 */
void ferry_copy_end_senders(FerryCopy *copy);

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

/* A frame was sent: its pages count in normal_pages or zero_pages.  Any thread. */
void ferry_copy_count_sent(FerryCopy *copy, const FerryPagesFrame *frame);

/* Pages that the senders may take. */
uint64_t ferry_copy_queued(const FerryCopy *copy);

/* Pages in all sets: the same and those put off. */
uint64_t ferry_copy_count(const FerryCopy *copy);

/* The same and those in flight: what is still to be sent.  Never too few. */
uint64_t ferry_copy_unsent(const FerryCopy *copy);

/* A round begins: to be called before its harvest. */
void ferry_copy_begin_round(FerryCopy *copy);

/*
 * Forget some of what was written two rounds ago; returns whether all of it is forgotten.  From the
 * driver, during a round: what is left when the next one begins is work for that moment.
 */
bool ferry_copy_forget_some(FerryCopy *copy);

/* All written pages of the round are known: pages that have cooled down go with it. */
void ferry_copy_release_cooled(FerryCopy *copy);

/* The vCPUs have stopped and the last harvest is in: nothing is put off any more. */
void ferry_copy_release_all(FerryCopy *copy);

/* Pages that are put off until last. */
bool ferry_copy_has_swapped(const FerryCopy *copy);
/* They go now; false if there are none. */
bool ferry_copy_release_swapped(FerryCopy *copy);

/* Have the senders stop taking pages, and wait until none of them sends; false on failure. */
bool ferry_copy_freeze(FerryCopy *copy);
void ferry_copy_unfreeze(FerryCopy *copy);

/*
 * While frozen: set apart all pages known to be out of date at the destination.  Where a region's
 * pages are larger, whole ones.
 */
void ferry_copy_set_apart(FerryCopy *copy);

/* What was found since, without what has been set apart; all of it that is in `pages`. */
void ferry_copy_reduce_late(FerryCopy *copy);

/* What was set apart is to be sent after all, swapped pages last. */
void ferry_copy_rejoin(FerryCopy *copy);

/* All pages to send are those of @missing, sets of the caller's, which are emptied. */
void ferry_copy_replace_pages(FerryCopy *copy, FerryPageset *const *missing);

/*
 * Make sure that pages of the chunk that holds @page may be read: resets it if need be.  False if
 * that failed, and with it the session.
 */
bool ferry_copy_make_readable(FerryCopy *copy, uint32_t region, uint64_t page);

#endif
