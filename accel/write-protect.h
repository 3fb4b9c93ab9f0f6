/*
 * Write protection by userfaultfd, and PAGEMAP_SCAN: which pages were written since they were protected.
 *
 * The kernel takes a page's protection off by itself at the first write, whoever writes and from
 * where (asynchronous write protection), and keeps in the page tables which pages that were.
 *
 * What the kernel tells about a page, and what it means here:
 *
 *   present or swapped, and WRITTEN       written
 *   present or swapped, and not WRITTEN   not written since it was protected
 *   neither: there is no entry            private memory: nothing was ever written there, or it was
 *                                         discarded since.  Elsewhere the entry may have gone while
 *                                         the page stayed in the file (memory was short, say), and
 *                                         with it the knowledge: written, unless the file has a
 *                                         hole there.
 *
 * Threads: any, at once for different pages; register and unregister are for one at a time.
 *
 * Sources: Documentation/admin-guide/mm/pagemap.rst and userfaultfd.rst (Linux 6.7).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_WRITE_PROTECT_H
#define FERRY_WRITE_PROTECT_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "../migration/memory/region.h"

typedef struct FerryWriteProtect FerryWriteProtect;

/** FerryPagesFn: told of pages of a region, by number; @opaque is the walk's */
typedef void (*FerryPagesFn)(void *opaque, uint64_t first_page, uint64_t nr_pages);

/**
 * ferry_write_protect_unsupported: why that cannot be had here, and what would help
 *
 * NULL if it can; else a text to be freed, to stand in a sentence ("this kernel has no ...").
 */
char *ferry_write_protect_unsupported(void);

/** ferry_write_protect_new: for memory of this process; fails where it is not supported */
FerryWriteProtect *ferry_write_protect_new(GError **errp);

/** ferry_write_protect_free: also ends what is registered; NULL is allowed */
void ferry_write_protect_free(FerryWriteProtect *protect);

/**
 * ferry_write_protect_register: let pages of @region be protected
 *
 * Costs nothing that grows with memory. Fails with an error that names the region, if the kernel
 * refuses (a file mapped shared that may not be written, memory in other hands), or if its pages
 * are over 2 MiB.
 */
bool ferry_write_protect_register(FerryWriteProtect *protect, const FerryRegion *region,
                                  GError **errp);

/** ferry_write_protect_unregister: and take all protection off */
void ferry_write_protect_unregister(FerryWriteProtect *protect, const FerryRegion *region);

/** ferry_write_protect_find: visit all written pages among @nr_pages, and protect none */
bool ferry_write_protect_find(FerryWriteProtect *protect, const FerryRegion *region,
                              uint64_t first_page, uint64_t nr_pages, FerryPagesFn visit,
                              void *opaque, GError **errp);

/**
 * ferry_write_protect_take: visit those that have an entry in the page tables, and protect each
 * before anybody else can write it
 */
bool ferry_write_protect_take(FerryWriteProtect *protect, const FerryRegion *region,
                              uint64_t first_page, uint64_t nr_pages, FerryPagesFn visit,
                              void *opaque, GError **errp);

/**
 * ferry_write_protect_all: protect all that is there
 *
 * Private memory that was never touched stays so, without page tables; it is found as written once
 * it is touched. Elsewhere, to tell "never mapped" from "gone", entries (markers) are made for what
 * a file has and nobody has mapped: page tables, 2 per mille of the data at most.
 */
bool ferry_write_protect_all(FerryWriteProtect *protect, const FerryRegion *region,
                             uint64_t first_page, uint64_t nr_pages, GError **errp);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(FerryWriteProtect, ferry_write_protect_free)

#endif
