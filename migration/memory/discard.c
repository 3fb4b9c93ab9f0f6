/*
 * Dropping pages: see drop.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "discard.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "../error.h"

/* Ranges in one system call: as many as a vector may have. */
#define BATCH_MAX IOV_MAX

/* Ranges are gathered, and dropped many at a time. */
typedef struct FerryDropper {
    const FerryRegion *region;
    int pidfd; /* of this process, for process_madvise(); -1 if that is of no use */
    int nr;
    struct iovec ranges[BATCH_MAX];
} FerryDropper;

/* Whether dropping is a matter of madvise() alone. */
static bool is_anonymous(const FerryRegion *region)
{
    return !(region->flags & FERRY_REGION_SHARED) && region->fd < 0;
}

static bool drop_one(const FerryRegion *region, const struct iovec *range)
{
    uint64_t offset_bytes = (uint64_t)((uint8_t *)range->iov_base - region->host);

    if (region->fd >= 0 &&
        fallocate(region->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  (off_t)(region->fd_offset_bytes + offset_bytes), (off_t)range->iov_len) != 0) {
        return false;
    }
    if (!(region->flags & FERRY_REGION_SHARED)) {
        return madvise(range->iov_base, range->iov_len, MADV_DONTNEED) == 0;
    }
    return region->fd >= 0 || madvise(range->iov_base, range->iov_len, MADV_REMOVE) == 0;
}

static bool flush(FerryDropper *dropper, GError **errp)
{
    int nr = dropper->nr, first = 0;

    dropper->nr = 0;
    if (dropper->pidfd >= 0 && nr > 1) {
        /* On oneself since Linux 6.13. It stops where it failed, and says how far it came. */
        ssize_t done = (ssize_t)syscall(SYS_process_madvise, dropper->pidfd, dropper->ranges,
                                        (size_t)nr, MADV_DONTNEED, 0);

        for (; first < nr && done >= (ssize_t)dropper->ranges[first].iov_len; first++) {
            done -= (ssize_t)dropper->ranges[first].iov_len;
        }
        if (first == 0) {
            close(dropper->pidfd);
            dropper->pidfd = -1;
        }
    }
    for (; first < nr; first++) {
        if (!drop_one(dropper->region, &dropper->ranges[first])) {
            g_set_error(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM,
                        "cannot drop out-of-date pages of RAM block '%s': %s (locked memory?)",
                        dropper->region->id, g_strerror(errno));
            return false;
        }
    }
    return true;
}

static bool add(FerryDropper *dropper, uint64_t first_page, uint64_t nr_pages, GError **errp)
{
    uint8_t *start = dropper->region->host + first_page * FERRY_PAGE_BYTES;
    struct iovec *last = dropper->nr ? &dropper->ranges[dropper->nr - 1] : NULL;

    if (last && (uint8_t *)last->iov_base + last->iov_len == start) {
        last->iov_len += nr_pages * FERRY_PAGE_BYTES;
        return true;
    }
    if (dropper->nr == BATCH_MAX && !flush(dropper, errp)) {
        return false;
    }
    dropper->ranges[dropper->nr++] = (struct iovec){
        .iov_base = start,
        .iov_len = nr_pages * FERRY_PAGE_BYTES,
    };
    return true;
}

/* Some pages of one granule. */
static bool drop_granule(FerryDropper *dropper, uint64_t granule,
                         const uint64_t pages[FERRY_GRANULE_WORDS], GError **errp)
{
    uint64_t first = granule * FERRY_GRANULE_PAGES;

    if (dropper->region->page_size_bytes > FERRY_PAGE_BYTES) {
        return add(dropper, first, FERRY_GRANULE_PAGES, errp);
    }
    for (uint32_t word = 0; word < FERRY_GRANULE_WORDS; word++) {
        for (uint64_t bits = pages[word]; bits;) {
            unsigned start = (unsigned)__builtin_ctzll(bits);
            uint64_t rest = bits >> start;
            unsigned nr = rest == UINT64_MAX ? 64 : (unsigned)__builtin_ctzll(~rest);

            if (!add(dropper, first + word * 64 + start, nr, errp)) {
                return false;
            }
            bits = start + nr == 64 ? 0 : bits & (UINT64_MAX << (start + nr));
        }
    }
    return true;
}

static bool drop_all(FerryDropper *dropper, FerryPageset *missing, FerryPageset *dropped,
                     GError **errp)
{
    for (int64_t granule = ferry_pageset_next(missing, 0, 0, 1); granule >= 0;
         granule = ferry_pageset_next(missing, (uint64_t)granule + 1, 0, 1)) {
        uint64_t pages[FERRY_GRANULE_WORDS], any = 0;

        for (uint32_t i = 0; i < FERRY_GRANULE_WORDS; i++) {
            uint64_t word = (uint64_t)granule * FERRY_GRANULE_WORDS + i;

            pages[i] = ferry_pageset_get(missing, word) & ~ferry_pageset_get(dropped, word);
            any |= pages[i];
        }
        if (any) {
            ferry_pageset_add_granule(dropped, (uint64_t)granule, pages);
            if (!drop_granule(dropper, (uint64_t)granule, pages, errp)) {
                return false;
            }
        }
    }
    return flush(dropper, errp);
}

bool ferry_drop_missing(const FerryRegion *region, FerryPageset *missing, FerryPageset *dropped,
                        GError **errp)
{
    g_autofree FerryDropper *dropper = g_new0(FerryDropper, 1);
    bool fine;

    dropper->region = region;
    dropper->pidfd = is_anonymous(region) ? (int)syscall(SYS_pidfd_open, (long)getpid(), 0L) : -1;
    fine = drop_all(dropper, missing, dropped, errp);
    if (dropper->pidfd >= 0) {
        close(dropper->pidfd);
    }
    return fine;
}
