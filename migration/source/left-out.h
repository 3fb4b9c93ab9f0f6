/*
 * Pages of a region that the first pass leaves out: what a device has not plugged in.
 *
 * Runs of pages, not bits: terabytes are as quick as one page.  No lock of its own.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_LEFT_OUT_H
#define FERRY_LEFT_OUT_H

#include "../memory/scan.h"

typedef struct FerryLeftOut FerryLeftOut;

FerryLeftOut *ferry_left_out_new(void);
void ferry_left_out_free(FerryLeftOut *left_out);

/* Leave out pages, at least one, none of which was added before. */
void ferry_left_out_add(FerryLeftOut *left_out, uint64_t first_page, uint64_t nr_pages);

/* Pass a range that a scan has found on to @fn, in ranges without the pages that are left out. */
void ferry_left_out_filter(const FerryLeftOut *left_out, uint64_t offset_bytes, uint64_t nr_bytes,
                           FerryScanKind kind, FerryScanFn fn, void *opaque);

#endif
