/*
 * Trackers: where written pages come from.
 *
 * A tracker tells which pages the guest, or a device, wrote.  The contract that makes a migration
 * exact, whatever stands behind it:
 *
 *   - A write after arm() of a page's chunk, and a write after reset() of it, is reported by some
 *     later harvest.
 *   - A harvest may miss a write that is in flight, except the last one, which is called with
 *     vCPUs and devices stopped and misses nothing.
 *   - A page may be reported although nobody wrote it.
 *
 * So the source reads a page only after it was armed or reset since its last report, and sends
 * everything that is reported later once more.  Resetting just before the page is read, not when
 * it is reported, leaves it writable meanwhile and costs the guest nothing while it waits.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_TRACKER_H
#define FERRY_TRACKER_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* Takes the written pages of @region, 64 at a time: bit 0 of @mask is page @word * 64. */
typedef void (*FerryDirtyFn)(void *opaque, uint32_t region, uint64_t word, uint64_t mask);

typedef struct FerryTrackerOps {
    const char *name; /* for reports: "qemu-bitmap" */

    /*
     * Before the first copy of a chunk (FERRY_CHUNK_PAGES long, or the region's rest).  Called
     * once per chunk, from the thread that drives the source.
     */
    void (*arm)(void *opaque, uint32_t region, uint64_t first_page, uint64_t nr_pages);

    /*
     * Before pages of a chunk that were reported since are read again.  Called from sending
     * threads, at most one at a time per chunk.
     */
    void (*reset)(void *opaque, uint32_t region, uint64_t first_page, uint64_t nr_pages);

    /*
     * Report all pages written since they were last reported.  @last: vCPUs and devices have
     * stopped.  Called from the thread that drives the source.
     */
    bool (*harvest)(void *opaque, bool last, FerryDirtyFn report, void *report_opaque,
                    GError **errp);
} FerryTrackerOps;

typedef struct FerryTracker {
    const FerryTrackerOps *ops;
    void *opaque;
} FerryTracker;

#endif
