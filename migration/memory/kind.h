/*
 * Kinds of memory, and what may be done to each.  docs/design.md has the table.
 *
 * Whoever samples, scans, reads, empties, drops or faults guest memory asks here; qemu/glue/ram.c says
 * of each RAM block what it is.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_KIND_H
#define FERRY_KIND_H

#include <stdbool.h>
#include <stdint.h>

/* What is known of a region's memory. */
typedef enum {
    FERRY_REGION_SHARED = 1 << 0,     /* mapped shared: other processes may see it */
    FERRY_REGION_HUGETLB = 1 << 1,    /* backed by huge pages of page_size_bytes */
    FERRY_REGION_KEEP_PAGES = 1 << 2, /* pinned, or allocated in advance: clear, do not discard */
    FERRY_REGION_FOREIGN = 1 << 3,    /* of a file that others may map, or keep: it is not ours */
    FERRY_REGION_READ_ONLY = 1 << 4,  /* mapped read-only */
    FERRY_REGION_SPARSE = 1 << 5,     /* a device may have unplugged parts of it (virtio-mem) */

    /* These are found out by the destination, about its own memory. */
    FERRY_REGION_IN_FULL = 1 << 6, /* not emptied: the source sends zero pages, too */
    FERRY_REGION_SAME = 1 << 7,    /* both ends map this memory: nothing is to be sent */

    /* At the source, of one that is to be sent in full: where its file has holes, it is zero. */
    FERRY_REGION_HOLES_KNOWN = 1 << 8,
} FerryRegionFlags;

/* What a peer may say of its memory. */
#define FERRY_REGION_WIRE_FLAGS                                                                    \
    (FERRY_REGION_SHARED | FERRY_REGION_HUGETLB | FERRY_REGION_KEEP_PAGES | FERRY_REGION_FOREIGN | \
     FERRY_REGION_READ_ONLY | FERRY_REGION_SPARSE)

/* Everything below takes FerryRegionFlags. */

/* Whether this process may change it at all. */
static inline bool ferry_kind_may_store(uint32_t flags)
{
    return !(flags & (FERRY_REGION_READ_ONLY | FERRY_REGION_SAME));
}

/*
 * Whether it may be made zero before anything has come: not what somebody else may hold dear.  Nor a private
 * mapping of that of which parts may be unplugged: it can only be dropped, and then shows the file.
 */
static inline bool ferry_kind_may_empty(uint32_t flags)
{
    return ferry_kind_may_store(flags) && (!(flags & FERRY_REGION_FOREIGN) ||
                                           !(flags & (FERRY_REGION_SHARED | FERRY_REGION_SPARSE)));
}

/* Whether pages in it that are to be zero may be given back, and not only be cleared. */
static inline bool ferry_kind_may_drop(uint32_t flags)
{
    return ferry_kind_may_store(flags) &&
           !(flags & (FERRY_REGION_KEEP_PAGES | FERRY_REGION_FOREIGN));
}

/* Whether it can be emptied only by dropping: a read would allocate what was unplugged, or fail. */
static inline bool ferry_kind_is_emptied_unseen(uint32_t flags)
{
    return ferry_kind_may_empty(flags) && (flags & FERRY_REGION_SPARSE);
}

/* Whether pages of it may be left missing, to be fetched. */
static inline bool ferry_kind_may_fetch(uint32_t flags)
{
    return ferry_kind_may_store(flags);
}

#endif
