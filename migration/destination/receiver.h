/*
 * Receiving pages: one PAGES frame from a data channel into guest memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_RECEIVER_H
#define FERRY_RECEIVER_H

#include <glib.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "../wire/channel.h"
#include "../wire/compress.h"
#include "fetch.h"
#include "../memory/region.h"
#include "../wire/frame.h"

/* What all data channels' threads share; the regions and the scanner do not change meanwhile. */
typedef struct FerryReceiver {
    FerryRegions regions;
    /* Of each region: pages that the kernel has provided; NULL where a store cannot fail. */
    FerryPageset **provided;
    FerryScanner *scanner;
    FerryFetch
        *fetch; /* NULL if no pages can be left missing; live: they are placed, not written */
    _Atomic uint64_t normal_pages; /* that came with their content */
    _Atomic uint64_t zero_pages;
} FerryReceiver;

/* Takes over @regions; nobody may be receiving yet. */
void ferry_receiver_set_regions(FerryReceiver *receiver, FerryRegions *regions);

/* Pages may have been discarded that were provided: do that anew.  Nobody may be receiving. */
void ferry_receiver_forget_provided(FerryReceiver *receiver);

/* Frees what it holds; nobody may be receiving. */
void ferry_receiver_clear(FerryReceiver *receiver);

/*
 * Receive what follows the header @frame.  Contents go straight into guest memory, and zero extents
 * discard, or clear, what is there; once live, pages are placed if they are missing, by way of
 * @unpacker; so is what comes compressed.  Nothing outside the region that the frame names is
 * touched, whatever it says.  With a damaged payload the pages are left with what came: the session
 * is over; or, once live, are left alone.  What is read-only here is compared, not written.  Memory that
 * is not to be had is an error that names it.
 * Any thread; until live, two must not receive for the same granule at once.
 */
bool ferry_receive_pages(FerryReceiver *receiver, FerryChannel *channel, const FerryFrame *frame,
                         FerryUnpacker *unpacker, GError **errp);

#endif
