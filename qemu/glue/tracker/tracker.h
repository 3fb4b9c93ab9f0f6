/*
 * A migration's dirty tracking.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_TRACKER_H
#define FERRY_GLUE_TRACKER_H

#include "qapi/qapi-types-ferry.h"

#include "ferry/migration/memory/region.h"
#include "ferry/migration/tracker.h"

/*
 * A tracker for @regions, listed at the source, as the user wants it or as it is best here.
 * @regions must stay until it is closed, and so will the RAM blocks.  Migration thread.
 */
bool ferry_tracker_open(FerryTrackerMode mode, const FerryRegions *regions, FerryTracker *tracker,
                        GError **errp);

/* End it; does nothing when none is open.  Any thread, with the BQL or without. */
void ferry_tracker_close(void);

/* Whether a device has written to memory since the last harvest.  While it is open, with the BQL. */
bool ferry_tracker_has_news(void);

/* QEMU's dirty log for migration is about to be switched on. */
void ferry_tracker_begin(void);

/* It has been switched off. */
void ferry_tracker_end(void);

/* The tracker failed because of @why: if it is the rings, `auto` will not pick them again. */
void ferry_tracker_failed(const GError *why);

/* The same while the guest runs: go on with another tracker.  False if there is none. */
bool ferry_tracker_replace(const GError *why, FerryTracker *tracker);

/* What is in use, or was in the last migration; NULL if there was none. */
FerryTrackerInfo *ferry_tracker_query(void);

#endif
