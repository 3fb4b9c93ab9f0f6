/*
 * Shared between the files of the source's side: source.c (its life, channels), source-copy.c
 * (rounds), source-handover.c (the end, with pages missing or without), source-stats.c.
 *
 * Threads: the driver (whoever calls the functions in source.h's order) owns everything that is not
 * marked otherwise; the control thread reads the control channel and touches only what is under
 * `lock`; the senders are described in copy.h, the servers in serve.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_SOURCE_INTERNAL_H
#define FERRY_SOURCE_INTERNAL_H

#include <stdatomic.h>

#include "converge.h"
#include "backlog.h"
#include "first-pass.h"
#include "channels.h"
#include "../wire/missing.h"
#include "page-server.h"
#include "source.h"
#include "../wire/heartbeat.h"

struct FerrySource {
    FerrySourceConfig config;
    FerryCopy *copy;
    FerryFirstPass *first_pass;
    uint64_t total_bytes;

    FerryChannels channels;
    GThread *control_thread;
    FerryServer *servers[FERRY_FETCH_CHANNELS_MAX];
    FerryHeartbeat *heartbeat;
    uint32_t attempt;      /* of the next connection */
    bool announced;        /* the destination knows what was set apart */
    bool left;             /* pages were left missing */
    uint64_t handed_pages; /* how many */
    _Atomic uint64_t nr_requests;

    _Atomic uint64_t bandwidth; /* bytes a second that are allowed; 0: no limit */

    /* Pages of the round that the tracker still keeps. */
    _Atomic uint64_t left_pages;

    /* Rounds. */
    GMutex stats_lock; /* for rounds, round_*, phase, converge */
    GArray *rounds;    /* finished ones */
    FerryRoundStats round;
    uint64_t round_start_ns;
    uint64_t round_start_pages, round_start_zero, round_start_bytes;
    FerryConverge converge;
    FerrySessionPhase phase;
    uint64_t start_ns, end_ns;
    uint64_t last_fence;   /* number of the newest fence; the driver's */
    uint64_t seen_written; /* nr_written() at the last harvest; the driver's */

    GMutex lock; /* for what follows */
    GCond changed;
    bool ready;    /* the destination accepted the regions */
    bool drafted;  /* it has discarded what was announced last */
    bool loaded;   /* it has loaded the device state */
    bool gone;     /* it was told to run the guest: this side never will again */
    bool resuming; /* it is about to say what is missing, into `resume_missing` ... */
    bool resumed;  /* ... and has said it */
    bool complete; /* nothing is missing any more */
    FerryMissingReader resume_reader;
    FerryPageset **resume_missing; /* of each region; NULL when none is expected */
    unsigned nr_recoveries;
    bool control_over;    /* the control thread has ended */
    GError *last_words;   /* from the destination, or why the control channel broke */
    uint64_t round_fence; /* number of the fence that ends the round under way, or 0 */
    uint64_t reached;     /* the newest fence that the destination has reached on all channels */
    bool has_report;
    FerryReport report;
    _Atomic bool cancelled;
    _Atomic bool hanging_up; /* this side ends the connection: that it breaks is no news */
};

void ferry_source_set_phase(FerrySource *source, FerrySessionPhase phase);

/* Something failed on a channel: say what, to a user.  Always false. */
bool ferry_source_fail(FerrySource *source, GError **errp);

/* A failure on this side: of the kernel, of a tracker.  Always false. */
bool ferry_source_fail_here(FerrySource *source);

/* A round ends, and another one begins with what was found. */
void ferry_source_turn_round(FerrySource *source, uint64_t dirty_pages, uint64_t harvest_ns,
                             bool last);

/* Ask the tracker what was written; @last: the vCPUs have stopped, and all is in the page sets. */
bool ferry_source_look(FerrySource *source, bool last, uint64_t *dirty_pages, GError **errp);

/*
 * Wait until the control thread has noted @what; false when it has ended instead, or after
 * @timeout_ms (0: never).
 */
bool ferry_source_wait(FerrySource *source, const bool *what, unsigned timeout_ms);

/*
 * The tracker failed with @error (taken over).  While the vCPUs run, another one can begin anew: it
 * costs a second pass over memory, nothing else.  False with @errp set when there is none.
 */
bool ferry_source_replace_tracker(FerrySource *source, GError *error, GError **errp);

/* What was announced is not to be left missing: send it after all. */
bool ferry_source_retract(FerrySource *source, GError **errp);

/* On channels that have been opened: read what the destination says, in a thread. */
void ferry_source_listen(FerrySource *source);

/* Open @layout's channels. */
bool ferry_source_open(FerrySource *source, const FerryLayout *layout, GError **errp);

/* End all threads and channels.  What is to be sent is known as well as before. */
void ferry_source_hang_up(FerrySource *source);

/* What the round under way has done so far.  With stats_lock held. */
FerryRoundStats ferry_source_round_so_far(FerrySource *source);

#endif
