/*
 * The backlog: which pages still have to go to the destination.
 *
 * The tracker puts in what is written, the first pass what was ever touched; senders take granules
 * out of it, page servers the pages that are asked for.  Everything here counts in pages of 4 KiB
 * unless it says otherwise.
 *
 * Threads: the driver begins rounds, drafts and releases; senders, page servers and the tracker's
 * threads take, put in and count.  Each function says whose it is where that is not plain.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_BACKLOG_H
#define FERRY_BACKLOG_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "../memory/pageset.h"
#include "../memory/region.h"
#include "../tracker.h"
#include "../wire/pages-frame.h"

/* Sets of pages written: this round's, the last round's, and one before it that is being emptied. */
#define FERRY_WRITTEN_SETS 3

/* Pages that stay hot go all the same every so many rounds: some look at what has arrived. */
#define FERRY_HOT_ROUNDS 8

typedef struct FerryBacklog FerryBacklog;

/* What becomes of the guest at the source; never goes back. */
typedef enum {
    FERRY_GUEST_RUNS,
    FERRY_GUEST_STOPPED, /* nothing is written any more, hence nothing need be reset */
    FERRY_GUEST_LEFT,    /* the same; it is to run at the destination with pages missing */
} FerryGuest;

/* The sets of one region, for reports and tests. */
typedef enum {
    FERRY_BACKLOG_QUEUED,  /* to send */
    FERRY_BACKLOG_SWAPPED, /* to send last: they have to be read from the swap device */
    FERRY_BACKLOG_KEPT,    /* known to be written, kept by the tracker until it may reset them */
    FERRY_BACKLOG_DRAFT,   /* said to the destination to be missing */
    FERRY_BACKLOG_DEFERRED,
    FERRY_BACKLOG_WRITTEN = FERRY_BACKLOG_DEFERRED + 2,
    FERRY_BACKLOG_SETS = FERRY_BACKLOG_WRITTEN + FERRY_WRITTEN_SETS,
} FerryBacklogSet;

/* Pages since the session began. */
typedef struct FerryBacklogCounts {
    uint64_t normal_pages;   /* sent with their content */
    uint64_t zero_pages;     /* sent, or found in the first pass, as zero */
    uint64_t deferred_pages; /* how often a page was put off because it stays hot */
    uint64_t written_pages;  /* reported by the tracker; each page once a round */
} FerryBacklogCounts;

/*
 * Takes over @regions (its list is cleared); copies @tracker, whose opaque must outlive it.
 * @may_leave: pages may be left missing, so what the tracker keeps is to be known.  @send_hot: put no
 * page off because it stays hot.
 */
FerryBacklog *ferry_backlog_new(FerryRegions *regions, const FerryTracker *tracker, bool may_leave,
                                bool send_hot);

/* Stops the tracker; senders and servers must have ended. */
void ferry_backlog_free(FerryBacklog *backlog);

/* The regions; they do not change. */
/*
 * The destination has said what it has done with each region (FerryAnswer): before the first chunk is
 * queued, nothing else runs.
 */
void ferry_backlog_settle(FerryBacklog *backlog, const uint8_t *answers);

const FerryRegions *ferry_backlog_regions(const FerryBacklog *backlog);

/* The tracker in use: the driver's. */
const FerryTracker *ferry_backlog_tracker(const FerryBacklog *backlog);

/* Have the tracker begin.  The driver's. */
bool ferry_backlog_start_tracker(FerryBacklog *backlog, GError **errp);

/*
 * Stop the tracker, which has feed(), and start @next.  Everything has to be armed and copied once
 * more.  From the driver, while the senders may be at work: such a tracker is none of their
 * business, and they hear of @next only when it has found something.
 */
bool ferry_backlog_replace_tracker(FerryBacklog *backlog, const FerryTracker *next, GError **errp);

/* The vCPUs have stopped, or pages were left missing.  The driver's; any thread may ask. */
void ferry_backlog_set_guest(FerryBacklog *backlog, FerryGuest guest);
FerryGuest ferry_backlog_guest(const FerryBacklog *backlog);

/* --- The first pass --- */

/* How many chunks (FERRY_CHUNK_PAGES) the region has. */
uint64_t ferry_backlog_nr_chunks(const FerryBacklog *backlog, size_t region);

/* Whether writes to the chunk are being tracked: what is not armed is copied in full after it is. */
bool ferry_backlog_is_armed(const FerryBacklog *backlog, size_t region, uint64_t chunk);

/* Have the tracker arm the chunk.  One thread at a time. */
bool ferry_backlog_arm(FerryBacklog *backlog, size_t region, uint64_t chunk, GError **errp);

/* Forget that any chunk was armed. */
void ferry_backlog_disarm_all(FerryBacklog *backlog);

/*
 * Pages are to be sent; or to be sent last.  Not those that were spared and have not been reported
 * since.  Returns how many.
 */
uint64_t ferry_backlog_queue(FerryBacklog *backlog, size_t region, uint64_t first_page,
                             uint64_t nr_pages);
uint64_t ferry_backlog_queue_swapped(FerryBacklog *backlog, size_t region, uint64_t first_page,
                                     uint64_t nr_pages);

/* --- Pages whose content does not matter until they are written --- */

/*
 * From here on a page need not be queued by the first pass, until the tracker reports it.  Its chunk is
 * armed: what was reported before is queued already.  Any thread.
 */
void ferry_backlog_spare(FerryBacklog *backlog, size_t region, uint64_t first_page,
                         uint64_t nr_pages);

/* That does not hold any more, for no page.  Any thread. */
void ferry_backlog_unspare_all(FerryBacklog *backlog);

/*
 * Pages of one chunk, which is armed, need not be sent: take out those that wait to be, but not what may
 * have been written meanwhile.  Returns whether any had to be put back, of which senders must hear.  Any
 * thread.
 */
bool ferry_backlog_withdraw(FerryBacklog *backlog, uint32_t region, uint64_t first_page,
                            uint64_t nr_pages);

/* --- Senders and servers --- */

/*
 * Take out of @granule (2 MiB) of @region what is to be sent, as bits in @pages.  The pages may be
 * read: the tracker has reset them.  They count as in flight until ferry_backlog_sent().  Returns
 * how many, or -1 with @errp set.  Only the one sender that has the granule may call it.
 */
int ferry_backlog_take(FerryBacklog *backlog, uint32_t region, uint64_t granule,
                       uint64_t pages[FERRY_GRANULE_WORDS], GError **errp);

/* Pages taken were handed to the network, or are lost with the session. */
void ferry_backlog_sent(FerryBacklog *backlog, unsigned nr_pages);

/*
 * Make sure that pages of the chunk that holds @page may be read: resets it if need be.  Any sender's
 * thread.
 */
bool ferry_backlog_make_readable(FerryBacklog *backlog, uint32_t region, uint64_t page,
                                 GError **errp);

/* The next granule from @from on that holds a page to send, of share @index of @nr; or -1. */
int64_t ferry_backlog_next(const FerryBacklog *backlog, uint32_t region, uint64_t from,
                           unsigned index, unsigned nr);

/* Take pages wherever they are: they go to the destination now.  Returns those that had been to go. */
uint64_t ferry_backlog_take_asked(FerryBacklog *backlog, uint32_t region, uint64_t word,
                                  uint64_t mask);

/* A frame was sent: its pages count.  Any thread. */
void ferry_backlog_count_sent(FerryBacklog *backlog, const FerryPagesFrame *frame);

/* Pages were found to be zero, and need not be sent.  Any thread. */
void ferry_backlog_count_zero(FerryBacklog *backlog, uint64_t nr_pages);

/* --- Counts; any thread --- */

/* Pages that the senders may take. */
uint64_t ferry_backlog_queued(const FerryBacklog *backlog);

/* Pages in all sets: the same, those put off and those drafted. */
uint64_t ferry_backlog_count(const FerryBacklog *backlog);

/* The same and those in flight: what is still to be sent.  Never too few. */
uint64_t ferry_backlog_unsent(const FerryBacklog *backlog);

/* Pages that are put off because they stay hot. */
uint64_t ferry_backlog_deferred(const FerryBacklog *backlog);

/* Which of the 64 pages from @word * 64 on are put off, as bits. */
uint64_t ferry_backlog_get_deferred(const FerryBacklog *backlog, uint32_t region, uint64_t word);

/* The first granule from @from on that may hold a page that is put off, or -1. */
int64_t ferry_backlog_next_deferred(const FerryBacklog *backlog, uint32_t region, uint64_t from);

void ferry_backlog_query(const FerryBacklog *backlog, FerryBacklogCounts *counts);

/* One of its sets. */
const FerryPageset *ferry_backlog_set(const FerryBacklog *backlog, uint32_t region,
                                      FerryBacklogSet which);

/* --- Rounds; the driver's --- */

/* A round begins: to be called before its harvest. */
void ferry_backlog_begin_round(FerryBacklog *backlog);

/* The same; what the tracker keeps when that is over is to be in a draft. */
void ferry_backlog_begin_draft(FerryBacklog *backlog);

/*
 * Forget some of what was written two rounds ago; returns whether all of it is forgotten.  During a
 * round: what is left when the next one begins is work for that moment.
 */
bool ferry_backlog_forget_some(FerryBacklog *backlog);

/* All written pages of the round are known: pages that have cooled down go with it. */
void ferry_backlog_release_cooled(FerryBacklog *backlog);

/* The vCPUs have stopped and the last harvest is in: nothing is put off any more. */
void ferry_backlog_release_all(FerryBacklog *backlog);

/* Whether pages are put off until last. */
bool ferry_backlog_has_swapped(const FerryBacklog *backlog);

/* They go now; false if there are none. */
bool ferry_backlog_release_swapped(FerryBacklog *backlog);

/* --- Leaving pages missing; the driver's, while no sender takes anything --- */

/*
 * Draft: set apart all pages known to be out of date at the destination, so that what is found while
 * the vCPUs are being stopped (queued again) is little.  Where a region's pages are larger, whole ones.
 */
void ferry_backlog_draft(FerryBacklog *backlog);

/* Whether there is a draft. */
bool ferry_backlog_is_drafted(const FerryBacklog *backlog);

/* Reduce what was queued since to what is not in the draft. */
void ferry_backlog_subtract_draft(FerryBacklog *backlog);

/* What was drafted is to be sent after all, swapped pages last. */
void ferry_backlog_undraft(FerryBacklog *backlog);

/* The draft's sets, or the queued ones, of all regions; the array is the caller's to free. */
FerryPageset **ferry_backlog_list(FerryBacklog *backlog, FerryBacklogSet which);

/* All pages to send are those of @missing, sets of the caller's, which are emptied. */
void ferry_backlog_replace(FerryBacklog *backlog, FerryPageset *const *missing);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(FerryBacklog, ferry_backlog_free)

#endif
