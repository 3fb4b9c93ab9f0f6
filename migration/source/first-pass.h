/*
 * The first pass over guest memory: chunk by chunk, arms the write trace of a chunk just ahead of
 * its first copy and queues what was ever touched in it.  Chunks that the guest seems to write
 * (heat.h) come last: the shorter is the time for which their writes are traced, and the fewer of
 * their pages have to be sent again.
 *
 * Threads: one drives it; ferry_first_pass_hint() and the queries may be called from any.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_FIRST_PASS_H
#define FERRY_FIRST_PASS_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "../stats.h"
#include "backlog.h"
#include "senders.h"

typedef struct FerryFirstPass FerryFirstPass;

/* Over all regions of @backlog, which must outlive it, as must @senders, who are told of it. */
FerryFirstPass *ferry_first_pass_new(FerryBacklog *backlog, FerrySenders *senders);
void ferry_first_pass_free(FerryFirstPass *pass);

/* Look at the memory that comes first: the earlier, the better is known what the guest writes. */
bool ferry_first_pass_prepare(FerryFirstPass *pass, GError **errp);

/* Whether every chunk was queued. */
bool ferry_first_pass_done(const FerryFirstPass *pass);

/*
 * Before the first feed, with a limit of @bytes_per_second (0: none): wait until it can be told what
 * the guest writes.  Takes 80 ms at most, and 2 % of the time that copying what was looked at takes;
 * FerryPace allows senders to catch up on that.  Later calls do nothing.
 */
void ferry_first_pass_settle(FerryFirstPass *pass, uint64_t bytes_per_second);

/* Choose a chunk, arm and queue it; the senders get to work at once. */
bool ferry_first_pass_feed(FerryFirstPass *pass, GError **errp);

/*
 * Chunks in which nothing was ever touched are not armed; instead they are looked at again, with each
 * harvest, and queued as soon as something is.  With the vCPUs stopped that is all there is.  Quick:
 * they have no page tables.  Same thread as the feed.
 */
bool ferry_first_pass_look_again(FerryFirstPass *pass, GError **errp);

/*
 * Begin again, with the tracker @next (see ferry_backlog_replace_tracker): the senders may be at work,
 * the pass must not.
 */
bool ferry_first_pass_restart(FerryFirstPass *pass, const FerryTracker *next, GError **errp);

/*
 * A step of ferry_source_expect_hints(), some milliseconds long; @done: it was the last.  Same thread as the
 * feed.
 */
bool ferry_first_pass_expect_hints(FerryFirstPass *pass, bool *done, GError **errp);

/* Pages that need not be copied until they are written: see ferry_source_hint(). */
void ferry_first_pass_hint(FerryFirstPass *pass, uint32_t region, uint64_t first_page,
                           uint64_t nr_pages);

/* Bytes of memory not looked at yet. */
uint64_t ferry_first_pass_unseen_bytes(const FerryFirstPass *pass);

/* Pages that were never touched, and how long arming took. */
void ferry_first_pass_query(FerryFirstPass *pass, uint64_t *skipped_pages, FerryHistogram *arm);

#endif
