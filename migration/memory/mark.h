/*
 * Do both ends map one and the same file?
 *
 * Numbers of devices and inodes do not tell: they differ between hosts that share a file system, and are
 * the same on two hosts of which one is a clone of the other.  So the source marks its files, and the
 * destination looks whether those that it maps carry the mark.  A mark is a read lock far beyond the end
 * of the file: nobody else sees it, it changes nothing, and it is gone with the process at the latest.
 * Where a file system takes locks across hosts (NFS), the mark is seen there, too.
 *
 * Threads: any.
 *
 * Source: fcntl(2), "Advisory record locking" and "Open file description locks".
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_MARK_H
#define FERRY_MARK_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "region.h"

/* Mark the files of all @regions with their numbers.  What cannot be locked stays without. */
void ferry_regions_mark(const FerryRegions *regions, uint64_t session);
void ferry_regions_unmark(const FerryRegions *regions, uint64_t session);

/*
 * The numbers of those regions that the source maps of @region's file, as uint32_t, in a new array; empty
 * if it maps none.  *@hidden: a lock of somebody else's is in the way, so that it is not known.
 */
GArray *ferry_region_find_marks(const FerryRegion *region, uint64_t session, bool *hidden);

#endif
