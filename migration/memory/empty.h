/*
 * Making memory read as zero, and having the kernel provide it.
 *
 * Threads: everything may be called from any thread; nobody else may write the range meanwhile.
 *
 * Sources: madvise(2), fallocate(2), process_vm_readv(2).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_EMPTY_H
#define FERRY_EMPTY_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "region.h"
#include "scan.h"

/*
 * Make all of @region read as zero, as its kind allows: see kind.h.  Does nothing to memory that may not
 * be emptied.  What may have been unplugged is dropped unseen.
 */
bool ferry_region_empty(const FerryScanner *scanner, const FerryRegion *region, GError **errp);

/*
 * Make @nr_bytes of @target from @offset_bytes on read as zero.
 *
 * Costs in proportion to what is populated, and gives the memory back to the system where its kind
 * allows that: private pages are discarded, a shared file gets a hole.  Where neither is possible, and
 * in parts of a page, bytes that are not zero are cleared in place.  Neither allocates memory of a file
 * that has none there.  False, with @errp set, when the kernel fails a request, or the range lies
 * outside the target.
 */
bool ferry_scan_discard_populated(const FerryScanner *scanner, const FerryScanTarget *target,
                                  uint64_t offset_bytes, uint64_t nr_bytes, GError **errp);

/*
 * Give whole pages back, whatever is in them: who touches them next finds them missing, and zero.  Of a
 * file that is not ours (FERRY_REGION_FOREIGN), mapped privately, only our own copies.  0, or an errno.
 */
int ferry_target_drop(const FerryScanTarget *target, uint64_t start_bytes, uint64_t end_bytes);

/* Whether it is sure that nothing was ever written to the file behind @target, as far as it is mapped. */
bool ferry_target_is_blank(const FerryScanTarget *target);

/*
 * Have the kernel provide pages that are about to be overwritten, so that a store to them cannot end in
 * a SIGBUS.  Their content may be lost.  0, or an errno: see unavailable.h.
 */
int ferry_provide(void *host, size_t nr_bytes);

#endif
