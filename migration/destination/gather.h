/*
 * Gathering: huge pages that are longer than a granule (1 GiB) arrive a granule at a time, but are
 * placed as a whole.
 *
 * Each page that has begun to arrive takes as much memory again until it is whole.  Granules come in
 * order on each channel, so that is a page or two, and one more for each vCPU that waits for another.
 *
 * Threads: one at a time; its owner locks.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GATHER_H
#define FERRY_GATHER_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "../memory/region.h"
#include "../wire/frame.h"

/* Write the contents of a frame that has a whole granule to @to. */
void ferry_gather_unpack(uint8_t *to, const FerryFrame *frame, const FerryExtent *extents,
                         const uint8_t *payload);

typedef struct FerryGather FerryGather;

FerryGather *ferry_gather_new(void);
void ferry_gather_free(FerryGather *gather);

/*
 * Take in a granule of a page of @region's.  The first copy counts: *@is_new says whether it is that.
 * Returns the content of the page if it is whole now, else NULL; it stays the gather's.  With an error
 * there is no memory for the page.
 */
const uint8_t *ferry_gather_add(FerryGather *gather, const FerryRegion *region,
                                const FerryFrame *frame, const FerryExtent *extents,
                                const uint8_t *payload, bool *is_new, GError **errp);

/* Forget the page that begins with @first_page, in memory as well. */
void ferry_gather_forget(FerryGather *gather, uint32_t region, uint64_t first_page);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(FerryGather, ferry_gather_free)

#endif
