/*
 * Discarding pages: taking them out of memory, so that who touches them next finds them missing.
 *
 * Threads: none of its own.
 *
 * Sources: madvise(2), process_madvise(2), fallocate(2).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_DISCARD_H
#define FERRY_DISCARD_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "pageset.h"
#include "region.h"

/*
 * Move the pages of @region that are in @incoming to @missing, and discard those that were not there,
 * whatever backs them and whether they are there or not.  Where the region's pages are larger than those
 * of the sets, one of which a part is to be discarded is discarded as a whole.  Takes time in proportion
 * to @incoming.
 * @locks: granule g becomes missing, and only then is discarded, with lock g modulo @nr_locks held meanwhile.
 */
bool ferry_discard_missing(const FerryRegion *region, FerryPageset *incoming, FerryPageset *missing,
                           GMutex *locks, unsigned nr_locks, GError **errp);

#endif
