/*
 * Shared between the files of the source's side: source.c (its life, its control channel), settle.c
 * (what memory is to both sides), connect.c (opening it, and what watches it), draft.c (what will be
 * missing), rounds.c (the first pass and rounds), handoff.c (the end, with pages missing or without),
 * query.c.  Each of them uses only those before it.
 *
 * Threads: the driver (whoever calls the functions in source.h's order) owns everything that is not
 * marked otherwise; the control thread reads the control channel and touches only what is under
 * `lock`; senders.h, page-server.h and heartbeat.h say what their threads do.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_SOURCE_INTERNAL_H
#define FERRY_SOURCE_INTERNAL_H

#include <stdatomic.h>

#include "../wire/heartbeat.h"
#include "../wire/missing.h"
#include "backlog.h"
#include "cause.h"
#include "channels.h"
#include "converge.h"
#include "first-pass.h"
#include "page-server.h"
#include "sample.h"
#include "senders.h"
#include "source.h"

/* When a round ends and the next one begins: what was counted until then. */
typedef struct FerryRoundMark {
    uint64_t ns;
    uint64_t pages, zero_pages, bytes;
} FerryRoundMark;

/* How long what the destination said before its connection broke may take to be read. */
#define FERRY_LAST_WORDS_MS 500

struct FerrySource {
    FerrySourceConfig config;
    const FerryRegions *regions; /* the backlog's */
    FerryBacklog *backlog;
    FerrySenders *senders;
    FerryFirstPass *first_pass;
    FerrySample *hot_sample; /* the driver's; NULL: nothing is compressed */
    uint64_t total_bytes;

    FerryChannels channels;
    GThread *control_thread;
    GByteArray *opening; /* what it sends first: the regions; NULL on a new connection */
    FerryPageServer *servers[FERRY_FETCH_CHANNELS_MAX];
    FerryHeartbeat *heartbeat;
    uint32_t attempt; /* of the next connection */
    FerryCause cause; /* of its failure */

    GMutex phase_lock;                 /* for changing the phase */
    _Atomic FerrySourcePhase phase;    /* changed by ferry_source_enter() only */
    _Atomic uint64_t handed_off_pages; /* left missing at the hand-off; 0: none, or not yet */
    _Atomic uint64_t nr_requests;
    _Atomic uint64_t bandwidth;  /* bytes a second that are allowed; 0: no limit */
    _Atomic uint64_t left_pages; /* pages of the round that the tracker still keeps */
    _Atomic bool hanging_up;     /* this side ends the connection: that it breaks is no news */
    _Atomic bool is_open;        /* the session has been opened: its end is news to the caller */
    _Atomic bool is_silent;      /* nothing has come on it, or gone out, for too long */
    /* Monotonic: when the guest is taken back unless it is gone by then; 0: not limited. */
    _Atomic gint64 give_up_us;
    unsigned limit_ms;     /* how long that was */
    uint64_t last_fence;   /* number of the newest fence */
    uint64_t seen_written; /* pages known to have been written at the last harvest */

    GMutex stats_lock;  /* for the next ones */
    GArray *rounds;     /* finished ones */
    unsigned nr_rounds; /* how many have begun after the first pass */
    FerryRoundStats round;
    FerryRoundMark round_start; /* of the round under way */
    FerryConverge converge;
    FerryWireCost wire_cost; /* of the rounds' pages */
    FerryWireCost hot_cost;  /* of those that are put off */
    uint64_t start_ns, end_ns;
    bool has_path; /* of the connection there is, or was */
    FerryPath path;

    GMutex lock; /* for what follows: what the destination has said */
    GCond changed;
    bool ready;       /* it accepted the regions */
    uint8_t *answers; /* with that: a FerryAnswer for each region */
    int64_t heard_us; /* monotonic: when it last said that it is at work; or 0 */
    bool drafted;     /* it has discarded, or forgotten, what was drafted last */
    bool loaded;      /* it has loaded the device state */
    bool taken;       /* it has been told to run the guest */
    bool asked;       /* what is missing; it says so into `resume_missing` ... */
    bool resumed;     /* ... and has done so */
    bool complete;    /* nothing is missing any more */
    FerryMissingReader resume_reader;
    FerryPageset **resume_missing; /* of each region; NULL when none is expected */
    unsigned nr_recoveries;
    uint64_t round_fence; /* number of the fence that ends the round under way, or 0 */
    uint64_t reached;     /* the newest fence that it has reached on all channels */
    bool has_report;
    FerryReport report;
};

/* --- source.c --- */

/*
 * Go over to @phase, with what follows from that for senders and the backlog.  Does nothing in that
 * phase; false, and nothing is changed, if the phase may not come now.  Any thread.
 */
bool ferry_source_enter(FerrySource *source, FerrySourcePhase phase);

/*
 * A channel of the source @opaque failed with @error (taken over): the same, unless the session is
 * over, or ends the connection itself; then that is no failure.  What senders and page servers call.
 * Any thread.
 */
void ferry_source_lose_channel(void *opaque, GError *error);

/* As ferry_source_fail, for a failure on this side, of the kernel or a tracker, with @errp set or NULL. */
bool ferry_source_fail_here(FerrySource *source, GError **errp);

/*
 * Wait until the control thread has noted @what; false when it has ended instead, or after @timeout_ms.
 * Other channels may be closed already while the word is still on its way on that one.
 */
bool ferry_source_await(FerrySource *source, const bool *what, unsigned timeout_ms);

/* The same, but false as well when anything has failed; @timeout_ms 0: never. */
bool ferry_source_wait(FerrySource *source, const bool *what, unsigned timeout_ms);

/*
 * The tracker failed with @error (taken over).  While the vCPUs run, another one can begin anew: it
 * costs a second pass over memory, nothing else.  False with @errp set when there is none.
 */
bool ferry_source_replace_tracker(FerrySource *source, GError *error, GError **errp);

/*
 * Something failed that is of no use to wait for.  Unless the guest is gone, it stays: decided once, lest GO
 * follows, and the destination is told so, with @why, as it may wait to be told to run.  Any thread.
 */
void ferry_source_keep_guest(FerrySource *source, const char *why);

/* On channels that have been opened: read what the destination says, in a thread. */
void ferry_source_listen(FerrySource *source);

/* End all threads and channels.  What is to be sent is known as well as before. */
void ferry_source_hang_up(FerrySource *source);

/* Whether the destination has said that it has all pages and the guest.  With the lock held. */
static inline bool ferry_source_has_all(const FerrySource *source)
{
    return source->complete && source->taken;
}

/* --- settle.c --- */

/* While nobody reads data channels: whether the destination has closed one, which is noted then.  The driver's. */
bool ferry_source_lost_channel(FerrySource *source);

/*
 * Tell the destination what memory there is, and hear what it makes of it, until @deadline_us; channels are
 * listened to from here on.  The driver's.
 */
bool ferry_source_settle(FerrySource *source, const FerryLayout *layout, gint64 deadline_us,
                         GError **errp);

/* --- connect.c --- */

/* Open @layout's channels, until @deadline_us of ferry_now_us(). */
bool ferry_source_open(FerrySource *source, const FerryLayout *layout, gint64 deadline_us,
                       GError **errp);

/*
 * The destination is ready: senders, servers and the heartbeat begin.  False, with the cause noted, if they
 * cannot.
 */
bool ferry_source_start(FerrySource *source);

/* --- draft.c --- */

/* What was drafted is not to be left missing: send it after all. */
bool ferry_source_undraft(FerrySource *source, GError **errp);

/* Have each sender send a fence with the next number; false when something has failed. */
bool ferry_source_send_fence(FerrySource *source);

/* --- rounds.c --- */

/* Ask the tracker what was written; @last: the vCPUs have stopped, and all is in the page sets. */
bool ferry_source_look(FerrySource *source, bool last, uint64_t *dirty_pages, GError **errp);

/* What the round under way has done so far.  With stats_lock held. */
FerryRoundStats ferry_source_round_so_far(FerrySource *source);

#endif
