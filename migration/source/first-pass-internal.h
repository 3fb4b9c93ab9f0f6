/*
 * The first pass, as its files see it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_FIRST_PASS_INTERNAL_H
#define FERRY_FIRST_PASS_INTERNAL_H

#include "first-pass.h"
#include "heat.h"
#include "hint-queue.h"

typedef struct ChunkRef {
    size_t region;
    uint64_t number;
    unsigned heat;
    bool seen; /* something in it was touched, as far as is known */
} ChunkRef;

/* Chunks in a row that nobody has touched so far. */
typedef struct IdleRun {
    size_t region;
    uint64_t first, nr;
} IdleRun;

struct FerryFirstPass {
    FerryBacklog *backlog;
    const FerryRegions *regions; /* the backlog's */
    FerrySenders *senders;
    FerryHeat *heat;
    ChunkRef look;    /* the next chunk to look at */
    ChunkRef next;    /* the next chunk to judge */
    uint64_t nr_seen; /* how many chunks `look` is ahead of `next` */
    gint64 looked_us; /* when the first of them were looked at */
    bool settled;
    GArray *cold; /* of ChunkRef: to be copied next, a group */
    GArray *hot;  /* of ChunkRef: put off until the others are done; then the coolest last */
    bool hot_is_sorted;
    GArray *idle;     /* of IdleRun, none next to another of its region */
    uint64_t nr_idle; /* how many chunks were ever in there, since the pass began */
    FerryScanner *scanner;
    bool scan_is_read; /* each look at a chunk takes time for each of its pages */
    uint64_t total_bytes;
    _Atomic uint64_t unseen_bytes;
    _Atomic uint64_t skipped_pages;

    GMutex lock;      /* for what follows, and for arming */
    bool **queued;    /* of each region and chunk: its first copy is in the backlog, or was */
    bool **hintable;  /* of each region and chunk: it was armed when hints were last asked for */
    bool armed_ahead; /* all that was touched has been armed at once, for hints */
    ChunkRef expect;  /* the next chunk of which hints are to be expected */
    bool restarted;
    FerryHintQueue *hints; /* what was hinted at while somebody had the lock; any thread adds */

    GMutex arm_lock; /* for `arm`: who asks does not wait for arming, which may take the BQL */
    FerryHistogram arm;
};

/* Whether the vCPUs have stopped. */
static inline bool ferry_first_pass_is_late(const FerryFirstPass *pass)
{
    return ferry_backlog_guest(pass->backlog) != FERRY_GUEST_RUNS;
}

/* Let go of the lock: who could not get it to apply a hint relies on this.  No guest has it go on for ever. */
void ferry_first_pass_unlock(FerryFirstPass *pass);

#endif
