/*
 * Dropping pages: taking them out of memory, so that who touches them next finds them missing.
 *
 * Threads: none of its own.
 *
 * Sources: madvise(2), process_madvise(2), fallocate(2).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_DROP_H
#define FERRY_DROP_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "pageset.h"
#include "region.h"

/*
 * Drop the pages of @region that are in @missing and not in @dropped, whatever backs them and whether
 * they are there or not, and add them to @dropped.  Where the region's pages are larger than those of
 * the sets, one of which a part is to be dropped is dropped as a whole.
 */
bool ferry_drop_missing(const FerryRegion *region, FerryPageset *missing, FerryPageset *dropped,
                        GError **errp);

#endif
