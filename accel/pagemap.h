/*
 * Writes found in the page tables: userfaultfd's asynchronous write protection and PAGEMAP_SCAN.
 *
 * For machines whose accelerator has no dirty rings.  The kernel protects a page, takes the
 * protection off by itself at the first write, whoever writes and from where, and tells which
 * pages it took it off.  No thread waits for a fault, and KVM's own view follows, as its mappings
 * are made from these page tables.
 *
 *   arm        protects what is there.  What was never touched stays so, without page tables; once
 *              it is touched, it is found as written.
 *   harvest    looks, and protects nothing: a page which waits to be sent costs no more faults.
 *   reset      protects what was found, in ranges of at most 2 MiB.
 *
 * A huge page counts as all its pages, until the kernel breaks it up at its first write; a page of
 * hugetlb is never broken up.
 *
 * What it cannot see: writes that do not go through this process's page tables.  That is what a
 * device writes by DMA to pages pinned earlier (direct I/O too: only the pinning is seen), and what
 * another process writes to shared memory.  Whoever lets them write has to report it: QEMU does, in
 * its dirty bitmap.
 *
 * Threads: as FerryTrackerOps has it.
 *
 * Sources: Documentation/admin-guide/mm/pagemap.rst and userfaultfd.rst (Linux 6.7).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_PAGEMAP_H
#define FERRY_PAGEMAP_H

#include <glib.h>

#include "../migration/memory/region.h"
#include "../migration/tracker.h"

typedef struct FerryPagemap FerryPagemap;

/**
 * ferry_pagemap_unsupported: why pages cannot be traced so here, and what would help
 *
 * NULL if they can; else a text to be freed, to stand in a sentence ("this kernel has no ...").
 * Any thread.
 */
char *ferry_pagemap_unsupported(void);

/**
 * ferry_pagemap_new: take charge of writes to @regions
 *
 * All of them, or it fails with an error that names the region which the kernel refuses (a file
 * mapped shared that may not be written, pages over 2 MiB, memory in other hands): there is no
 * region whose writes would be missed. Costs nothing that grows with memory.
 *
 * Copies the list; the memory and its files must stay until ferry_pagemap_free(), to be called by
 * the same process. Mapping something else over a part of a region takes that part out of its
 * hands: it counts as written from then on, and can no longer be armed.
 */
FerryPagemap *ferry_pagemap_new(const FerryRegions *regions, GError **errp);

/** ferry_pagemap_free: frees @pagemap, which must be stopped; NULL is allowed */
void ferry_pagemap_free(FerryPagemap *pagemap);

/**
 * ferry_pagemap_tracker: the tracker, named "pagemap", good until ferry_pagemap_free()
 *
 * It has reset(), not feed(). stop() takes time in proportion to what is populated (see the
 * measurements in pagemap.c), protected or not, and is not for a moment when the guest waits.
 */
FerryTracker ferry_pagemap_tracker(FerryPagemap *pagemap);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(FerryPagemap, ferry_pagemap_free)

#endif
