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

#include "channel.h"
#include "region.h"
#include "wire.h"

/* What all data channels' threads share; the regions and the scanner do not change meanwhile. */
typedef struct FerryReceiver {
    FerryRegions regions;
    FerryScanner *scanner;
    _Atomic uint64_t normal_pages; /* that came with their content */
    _Atomic uint64_t zero_pages;
} FerryReceiver;

/*
 * Receive what follows the header @frame.  Contents go straight into guest memory; zero extents
 * drop, or clear, what is there.  Nothing outside the region that the frame names is touched,
 * whatever it says.  With a damaged payload the pages are left with what came: the session is over.
 * Any thread; two must not receive for the same granule at once.
 */
bool ferry_receive_pages(FerryReceiver *receiver, FerryChannel *channel, const FerryFrame *frame,
                         GError **errp);

#endif
