/*
 * Missing pages in words, for a person who has to decide what becomes of the guest.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_DESCRIBE_H
#define FERRY_DESCRIBE_H

#include <glib.h>
#include <stdint.h>

#include "../memory/pageset.h"
#include "../memory/region.h"

/* How many, and which of each region's: the first ranges.  The caller's to free. */
char *ferry_describe_missing(const FerryRegions *regions, FerryPageset *const *missing,
                             uint64_t nr_missing);

#endif
