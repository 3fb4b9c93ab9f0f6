/*
 * Trackers: where written pages come from.
 *
 * A tracker tells which pages the guest, or a device, wrote.  The contract that makes a migration
 * exact, whatever stands behind it:
 *
 *   - A write after arm() of a page's chunk, and a write after the page was last reset, is reported
 *     some time later.
 *   - A harvest may miss a write that is in flight, except the last one, which is called with
 *     vCPUs and devices stopped and misses nothing.
 *   - A page may be reported although nobody wrote it.
 *
 * So the source reads a page only after it was armed or reset since its last report, and sends
 * everything that is reported later once more.  Resetting just before the page is read, not when
 * it is found, leaves it writable meanwhile and costs the guest nothing while it waits.  There are
 * two ways to do that, and a tracker has one of them:
 *
 *   - reset(): harvest() tells all it finds at once, and the source has a chunk reset before it
 *     reads pages in it that were found since (bitmap, pagemap: any range can be reset);
 *   - feed(): harvest() only looks, and feed() resets and then reports a few pages at a time, as
 *     fast as they can be sent (dirty rings: they can only be reset in the order they filled).
 *     What is reported may be read at once.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_TRACKER_H
#define FERRY_TRACKER_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * Who uses the tracker.  All functions may be called from any thread between start and stop, and
 * take written pages of @region, 64 at a time: bit 0 of @mask is page @word * 64.
 */
typedef struct FerryTrackerClient {
    /* Pages were written, and may be read: they were reset, or nothing runs that writes. */
    void (*report)(void *opaque, uint32_t region, uint64_t word, uint64_t mask);
    /*
     * The same, but nobody asked for it: they had to be reset early.  They are sent in the next
     * round, lest a round never ends in which pages are written faster than sent.  Only with feed().
     */
    void (*early)(void *opaque, uint32_t region, uint64_t word, uint64_t mask);
    /* Pages were written; reset() must be called before they are read.  Only with reset(). */
    void (*found)(void *opaque, uint32_t region, uint64_t word, uint64_t mask);
    /*
     * Pages were written, and will be reported when they have been reset: there is no point in
     * sending them before.  Only with feed().  Returns those that had been reported before, in this
     * round or in the last one.
     */
    uint64_t (*noticed)(void *opaque, uint32_t region, uint64_t word, uint64_t mask);
    /*
     * Whether pages that had been noticed by the last harvest need not be reported by the next, last one:
     * they are known to be left missing.  That harvest finds it true as well, and notices all pages again that
     * are kept: some may have been reported since, and be kept for another write.  Only with feed().
     */
    bool (*knows_noticed)(void *opaque);
    void *opaque;
} FerryTrackerClient;

typedef struct FerryTrackerOps {
    const char *name; /* for reports: "bitmap" */

    /* Begin: nothing is armed.  @client must stay valid until stop(). */
    bool (*start)(void *opaque, const FerryTrackerClient *client, GError **errp);

    /*
     * Before the first copy of a chunk (FERRY_CHUNK_PAGES long, or the region's rest): what was
     * written so far does not matter.  Called from the thread that drives the source.
     */
    bool (*arm)(void *opaque, uint32_t region, uint64_t first_page, uint64_t nr_pages,
                GError **errp);

    /*
     * Before pages of a chunk that were found since are read.  Called from sending threads, at most
     * one at a time per chunk.  Reports pages of that chunk that it resets and that no harvest has
     * found yet, if it cannot keep them for the next one.  NULL with feed().
     */
    bool (*reset)(void *opaque, uint32_t region, uint64_t first_page, uint64_t nr_pages,
                  GError **errp);

    /*
     * Look for all pages written since they were last reset, and tell with `found`, or keep them
     * for feed().  @last: vCPUs and devices have stopped; `report` everything, but for what the client
     * knows (knows_noticed).  Called from the thread that drives the source.
     */
    bool (*harvest)(void *opaque, bool last, GError **errp);

    /*
     * Reset and report at least one and about @max_pages of the pages that the last harvest kept;
     * *@left_pages is how many of them are kept still (pages written several times may count as
     * often).  Same thread as harvest.  NULL with reset().
     */
    bool (*feed)(void *opaque, uint64_t max_pages, uint64_t *left_pages, GError **errp);

    /*
     * Whether it still works: false with FERRY_ERROR_TRACKER if writes may have been missed.  Same
     * thread as harvest; quick.  NULL if that cannot happen.
     */
    bool (*check)(void *opaque, GError **errp);

    /* The end: nothing is reported after it returns. */
    void (*stop)(void *opaque);
} FerryTrackerOps;

typedef struct FerryTracker {
    const FerryTrackerOps *ops;
    void *opaque;
} FerryTracker;

#endif
