/*
 * Why the kernel has no page for a place in guest memory: it says "Bad address" for many reasons.
 *
 * Threads: any.
 *
 * Sources: madvise(2), proc_pid_maps(5), Documentation/admin-guide/mm/hugetlbpage.rst of Linux.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_UNAVAILABLE_H
#define FERRY_UNAVAILABLE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "region.h"
#include "scan.h"

/* What is known of a place that could not be read or written. */
typedef enum FerryUnavailable {
    FERRY_UNAVAILABLE_UNKNOWN,
    FERRY_UNAVAILABLE_NO_MEMORY, /* the kernel itself says so */
    FERRY_UNAVAILABLE_NO_HUGE,   /* the pool of huge pages is empty */
    FERRY_UNAVAILABLE_FULL,      /* the file system behind it is */
    FERRY_UNAVAILABLE_CUT,       /* the file behind it ends before this place */
    FERRY_UNAVAILABLE_PROTECTED, /* mapped, but not to be written */
    FERRY_UNAVAILABLE_NOT_MAPPED,
} FerryUnavailable;

/* Looks at @target at @offset_bytes, where something has failed with @error, an errno. */
FerryUnavailable ferry_target_unavailable(const FerryScanTarget *target, uint64_t offset_bytes,
                                          int error);

/* Set @errp: what the destination could not do with @region at @offset_bytes, and the remedy if it is known. */
void ferry_set_unavailable(GError **errp, const FerryRegion *region, uint64_t offset_bytes,
                           int error);

#endif
