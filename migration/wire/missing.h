/*
 * Bitmaps of missing pages on the control channel: MISSING frames, one segment each.
 *
 * Threads: none of its own; a reader belongs to one thread.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_MISSING_H
#define FERRY_MISSING_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "channel.h"
#include "compact.h"
#include "../memory/region.h"
#include "frame.h"

/*
 * Send what is in @sets, one for each region; nobody may change them meanwhile.  @ahead: there is
 * time to compress.  Regions without pages are left out.
 */
bool ferry_missing_send(FerryChannel *control, const FerryRegions *regions,
                        FerryPageset *const *sets, bool ahead, GError **errp);

typedef struct FerryMissingReader {
    FerryCompactReader *reader; /* of the region that has begun, or NULL */
    uint32_t region;
} FerryMissingReader;

/* Add the pages of a MISSING frame to @sets.  Any peer's frame: nothing in it is believed. */
bool ferry_missing_take(FerryMissingReader *reader, const FerryFrame *frame, const GByteArray *body,
                        const FerryRegions *regions, FerryPageset *const *sets, GError **errp);

/* Whether every region that began has been read to its end; ready for another bitmap. */
bool ferry_missing_finish(FerryMissingReader *reader, GError **errp);

void ferry_missing_clear(FerryMissingReader *reader);

/* Pages in all of @sets. */
uint64_t ferry_missing_count(const FerryRegions *regions, FerryPageset *const *sets);

#endif
