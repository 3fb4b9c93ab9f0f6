/*
 * Fetching: the guest runs at the destination, and pages that it touches before they have come are
 * asked for.
 *
 * How races between copies of a page are settled: pages are placed by the kernel, which places a
 * page that is missing, whole, and never one that is there.  The source's vCPUs have stopped, so
 * all copies of a page are the same; the first one to be placed counts, and later ones are dropped,
 * whatever the guest has written to it by then.
 *
 * A page's bit is taken out of the set of missing pages only after the page was placed, with its
 * granule locked.  So a page whose bit is not set is there, or was never touched at the source and
 * is zero: the only pages that are filled without asking.
 *
 *   placing                         fault
 *   -------                         -----
 *   lock granule                    touch: not there
 *   bit set? place                  bit set?  yes: ask (for nothing, if it has just been placed)
 *   take bit out                              no: lock granule, place zero; if something is there,
 *   unlock                                    the page has been placed meanwhile: wake, no more
 *
 * Threads: one for each index reads faults; pages may be placed from any thread.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_FETCH_H
#define FERRY_FETCH_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "../memory/pageset.h"
#include "../memory/region.h"
#include "../stats.h"
#include "../memory/userfault.h"
#include "../wire/frame.h"

typedef struct FerryFetch FerryFetch;

typedef struct FerryFetchOps {
    /*
     * The guest waits for this page: ask for it.  From fault thread @index, or from ask_again's,
     * which spreads the pages over all indices.
     */
    void (*want)(void *opaque, unsigned index, uint32_t region, uint64_t page);
    /* Nothing is missing any more.  From whatever thread placed the last page; once. */
    void (*complete)(void *opaque);
    /* The kernel failed, or memory is not as it must be; takes over @error.  Any thread. */
    void (*failed)(void *opaque, GError *error);
    /*
     * No memory is left for a page that a thread waits for; takes over @error.  It is tried again when
     * the waiting pages are asked for again.  Any thread.
     */
    void (*starved)(void *opaque, GError *error);
} FerryFetchOps;

/* Over @regions, which must outlive it, with @nr_threads threads. */
FerryFetch *ferry_fetch_new(const FerryRegions *regions, unsigned nr_threads,
                            const FerryFetchOps *ops, void *opaque, GError **errp);

/* Ends the threads.  Pages that are still missing read as zero from here on. */
void ferry_fetch_free(FerryFetch *fetch);

/* The missing pages of each region. */
FerryPageset *const *ferry_fetch_missing(FerryFetch *fetch);

/* Pages of each region to be made missing by the next call: the caller adds to them. */
FerryPageset *const *ferry_fetch_incoming(FerryFetch *fetch);

/*
 * While the guest still runs at the source: discard the incoming pages, which are missing from then on.
 * Takes time in proportion to them, not to all that is missing.  From here on,
 * whoever touches one of them waits, until it is live and the page has come; and the kernel provides
 * no huge pages, in which there would be no missing ones.
 */
bool ferry_fetch_draft(FerryFetch *fetch, GError **errp);

/* The opposite: nothing is missing, or going to be. */
void ferry_fetch_forget(FerryFetch *fetch);

/* Nothing will come any more: whoever waits goes on, and finds zero.  Any thread. */
void ferry_fetch_release(FerryFetch *fetch);

/* The same, and all missing pages are known, and can be asked for. */
bool ferry_fetch_go_live(FerryFetch *fetch, GError **errp);

/* Whether it is; not, if @fetch is NULL.  Any thread. */
bool ferry_fetch_is_live(const FerryFetch *fetch);

/* The threads of which it is told how long they had to wait: vCPUs. */
void ferry_fetch_set_vcpus(FerryFetch *fetch, const uint32_t *threads, unsigned nr_threads);

/*
 * Place the pages of a PAGES frame whose @extents have been checked, with their contents in
 * @payload.  Those that are not missing are left alone.
 */
bool ferry_fetch_place(FerryFetch *fetch, const FerryFrame *frame, const FerryExtent *extents,
                       const uint8_t *payload, GError **errp);

/* Ask once more for all pages that the guest waits for: after a broken connection. */
void ferry_fetch_ask_again(FerryFetch *fetch);

/* @vcpu_ms: how long each vCPU waited is appended, as uint64_t. */
void ferry_fetch_query(FerryFetch *fetch, FerryFetchStats *stats, GArray *vcpu_ms);

/* Where pages are missing, in words, for a person; the caller's to free. */
char *ferry_fetch_describe(FerryFetch *fetch);

/* The threads that wait for a missing page: uint32_t, the kernel's numbers; the caller's to free. */
GArray *ferry_fetch_waiting(FerryFetch *fetch);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(FerryFetch, ferry_fetch_free)

#endif
