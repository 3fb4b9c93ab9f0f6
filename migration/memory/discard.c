/*
 * Discarding pages: see discard.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "discard.h"

#include <limits.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "../error.h"
#include "empty.h"

/* Ranges in one system call: as many as a vector may have. */
#define BATCH_MAX IOV_MAX

/* Ranges are gathered, and discarded many at a time. */
typedef struct FerryDiscarder {
    const FerryRegion *region;
    GMutex *locks; /* of granules */
    unsigned nr_locks;
    int pidfd; /* of this process, for process_madvise(); -1 if that is of no use */
    int nr;
    struct iovec ranges[BATCH_MAX];
} FerryDiscarder;

/* Whether discarding is a matter of madvise() alone. */
static bool is_anonymous(const FerryRegion *region)
{
    return !(region->flags & FERRY_REGION_SHARED) && region->fd < 0;
}

static int discard_one(const FerryRegion *region, const struct iovec *range)
{
    const FerryScanTarget target = ferry_region_scan_target(region);
    uint64_t offset_bytes = (uint64_t)((uint8_t *)range->iov_base - region->host);

    return ferry_target_drop(&target, offset_bytes, offset_bytes + range->iov_len);
}

static bool flush(FerryDiscarder *discarder, GError **errp)
{
    int nr = discarder->nr, first = 0;

    discarder->nr = 0;
    if (discarder->pidfd >= 0 && nr > 1) {
        /* On oneself since Linux 6.13. It stops where it failed, and says how far it came. */
        ssize_t done = (ssize_t)syscall(SYS_process_madvise, discarder->pidfd, discarder->ranges,
                                        (size_t)nr, MADV_DONTNEED, 0);

        for (; first < nr && done >= (ssize_t)discarder->ranges[first].iov_len; first++) {
            done -= (ssize_t)discarder->ranges[first].iov_len;
        }
        if (first == 0) {
            close(discarder->pidfd);
            discarder->pidfd = -1;
        }
    }
    for (; first < nr; first++) {
        int error = discard_one(discarder->region, &discarder->ranges[first]);

        if (error) {
            g_set_error(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM,
                        "cannot discard out-of-date pages of RAM block '%s': %s (locked memory?)",
                        discarder->region->id, g_strerror(error));
            return false;
        }
    }
    return true;
}

static bool add(FerryDiscarder *discarder, uint64_t first_page, uint64_t nr_pages, GError **errp)
{
    uint8_t *start = discarder->region->host + first_page * FERRY_PAGE_BYTES;
    struct iovec *last = discarder->nr ? &discarder->ranges[discarder->nr - 1] : NULL;

    if (last && (uint8_t *)last->iov_base + last->iov_len == start) {
        last->iov_len += nr_pages * FERRY_PAGE_BYTES;
        return true;
    }
    if (discarder->nr == BATCH_MAX && !flush(discarder, errp)) {
        return false;
    }
    discarder->ranges[discarder->nr++] = (struct iovec){
        .iov_base = start,
        .iov_len = nr_pages * FERRY_PAGE_BYTES,
    };
    return true;
}

/* Some pages of one granule. */
static bool discard_granule(FerryDiscarder *discarder, uint64_t granule,
                            const uint64_t pages[FERRY_GRANULE_WORDS], GError **errp)
{
    uint64_t first = granule * FERRY_GRANULE_PAGES;

    if (discarder->region->page_size_bytes > FERRY_PAGE_BYTES) {
        return add(discarder, first, FERRY_GRANULE_PAGES, errp);
    }
    for (uint32_t word = 0; word < FERRY_GRANULE_WORDS; word++) {
        for (uint64_t bits = pages[word]; bits;) {
            unsigned start = (unsigned)__builtin_ctzll(bits);
            uint64_t rest = bits >> start;
            unsigned nr = rest == UINT64_MAX ? 64 : (unsigned)__builtin_ctzll(~rest);

            if (!add(discarder, first + word * 64 + start, nr, errp)) {
                return false;
            }
            bits = start + nr == 64 ? 0 : bits & (UINT64_MAX << (start + nr));
        }
    }
    return true;
}

static bool discard_all(FerryDiscarder *discarder, FerryPageset *incoming, FerryPageset *missing,
                        GError **errp)
{
    for (int64_t granule = ferry_pageset_next(incoming, 0, 0, 1); granule >= 0;
         granule = ferry_pageset_next(incoming, (uint64_t)granule + 1, 0, 1)) {
        uint64_t pages[FERRY_GRANULE_WORDS], any = 0;

        ferry_pageset_take(incoming, (uint64_t)granule, pages);
        for (uint32_t i = 0; i < FERRY_GRANULE_WORDS; i++) {
            uint64_t word = (uint64_t)granule * FERRY_GRANULE_WORDS + i;

            pages[i] &= ~ferry_pageset_get(missing, word);
            any |= pages[i];
        }
        if (any) {
            GMutex *lock = &discarder->locks[(uint64_t)granule % discarder->nr_locks];

            /* First: who touches one that is gone must find it missing. */
            g_mutex_lock(lock);
            ferry_pageset_add_granule(missing, (uint64_t)granule, pages);
            g_mutex_unlock(lock);
            if (!discard_granule(discarder, (uint64_t)granule, pages, errp)) {
                return false;
            }
        }
    }
    return flush(discarder, errp);
}

bool ferry_discard_missing(const FerryRegion *region, FerryPageset *incoming, FerryPageset *missing,
                           GMutex *locks, unsigned nr_locks, GError **errp)
{
    g_autofree FerryDiscarder *discarder = g_new0(FerryDiscarder, 1);
    bool ok;

    discarder->region = region;
    discarder->locks = locks;
    discarder->nr_locks = nr_locks;
    discarder->pidfd = is_anonymous(region) ? (int)syscall(SYS_pidfd_open, (long)getpid(), 0L) : -1;
    ok = discard_all(discarder, incoming, missing, errp);
    if (discarder->pidfd >= 0) {
        close(discarder->pidfd);
    }
    return ok;
}
