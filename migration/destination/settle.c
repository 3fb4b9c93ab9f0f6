/*
 * Settling what each end's memory is to the other: see settle.h.
 *
 * Threads: the control channel's.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "settle.h"

#include "../error.h"
#include "../fault.h"
#include "../memory/empty.h"
#include "../memory/mark.h"

static bool refuse(GError **errp, const char *format, ...) G_GNUC_PRINTF(2, 3);

static bool refuse(GError **errp, const char *format, ...)
{
    g_autofree char *message = NULL;
    va_list args;

    va_start(args, format);
    message = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error_literal(errp, FERRY_ERROR, FERRY_ERROR_REFUSED, message);
    return false;
}

static bool overlap(const FerryRegion *a, const FerryRegion *b)
{
    return a->fd_offset_bytes < b->fd_offset_bytes + b->length_bytes &&
           b->fd_offset_bytes < a->fd_offset_bytes + a->length_bytes;
}

/* Whether what is seen in @region is the file itself, and not a copy that began as the file. */
static bool shows_file(const FerryRegion *region)
{
    return region->flags & (FERRY_REGION_SHARED | FERRY_REGION_READ_ONLY);
}

/* @theirs, of the source, is of the same file as @ours. */
static bool compare_files(const FerryRegions *local, FerryRegion *ours, const FerryRegions *remote,
                          const FerryRegion *theirs, GError **errp)
{
    bool is_peer = theirs - remote->list == ours - local->list;

    if (!overlap(ours, theirs)) {
        return true;
    }
    /* Whatever else it is, it is not ours alone. */
    ours->flags |= FERRY_REGION_FOREIGN;
    if (!shows_file(ours) || !shows_file(theirs)) {
        /* Each has its own copy of what it has written; the file itself is not cleared. */
        return true;
    }
    if (!is_peer || ours->fd_offset_bytes != theirs->fd_offset_bytes) {
        return refuse(errp,
                      "RAM block '%s' of the destination is in the same part of a file as '%s' of "
                      "the source: give each a file, or a part of it, of its own",
                      ours->id, theirs->id);
    }
    if (!ferry_regions_share_host(local, remote)) {
        return refuse(errp,
                      "RAM block '%s' is one file at both ends, on different hosts: set capability "
                      "x-ignore-shared on both sides, which leaves it where it is, or give each "
                      "side a file of its own",
                      ours->id);
    }
    ours->flags |= FERRY_REGION_SAME;
    return true;
}

static bool look_for_same_file(const FerryRegions *local, FerryRegion *ours,
                               const FerryRegions *remote, uint64_t session, GError **errp)
{
    bool hidden;
    g_autoptr(GArray) marks = ferry_region_find_marks(ours, session, &hidden);

    if (hidden) {
        /* It may be anybody's. */
        ours->flags |= FERRY_REGION_FOREIGN;
        return true;
    }
    for (guint i = 0; i < marks->len; i++) {
        uint32_t number = g_array_index(marks, uint32_t, i);

        if (number < remote->nr &&
            !compare_files(local, ours, remote, &remote->list[number], errp)) {
            return false;
        }
    }
    return true;
}

/*
 * Whether who touches a page of a private mapping finds it missing once our own copy of it is gone.  Only huge pages
 * are copied past an empty file: of others, a store to one, or a look at it, leaves a page of zeros in the file, which
 * everybody sees then.
 */
static bool may_drop_copies(const FerryRegion *region)
{
    const FerryScanTarget target = ferry_region_scan_target(region);

    return (region->flags & FERRY_REGION_HUGETLB) && ferry_target_is_blank(&target);
}

/* Whether pages of it can be left missing, for which they have to be taken away first. */
static bool check_fetch(const FerryRegion *region, GError **errp)
{
    if (region->flags & FERRY_REGION_SAME) {
        return true;
    }
    if (!ferry_kind_may_fetch(region->flags)) {
        return refuse(errp,
                      "post-copy is not possible: RAM block '%s' is read-only at the destination: "
                      "give both sides the same file and set capability x-ignore-shared, or clear "
                      "postcopy-ram",
                      region->id);
    }
    if ((region->flags & FERRY_REGION_FOREIGN) && !(region->flags & FERRY_REGION_SHARED) &&
        !may_drop_copies(region)) {
        return refuse(errp,
                      "post-copy is not possible: RAM block '%s' is a private mapping of a file "
                      "that others may map, and in which what is missing would be seen: use "
                      "memory-backend-memfd, share=on, a folder for mem-path, or an empty file on "
                      "hugetlbfs",
                      region->id);
    }
    return true;
}

static FerryAnswer answer(FerryRegion *region)
{
    const FerryScanTarget target = ferry_region_scan_target(region);

    if (region->flags & FERRY_REGION_SAME) {
        region->scan = FERRY_SCAN_NOTHING;
        return FERRY_ANSWER_SAME;
    }
    if (ferry_kind_may_empty(region->flags) ||
        (shows_file(region) && ferry_target_is_blank(&target))) {
        return FERRY_ANSWER_EMPTY;
    }
    region->flags |= FERRY_REGION_IN_FULL;
    return FERRY_ANSWER_IN_FULL;
}

uint8_t *ferry_settle(const FerryScanner *scanner, FerryRegions *local, const FerryRegions *remote,
                      uint64_t session, bool may_leave, GError **errp)
{
    g_autofree uint8_t *answers = g_malloc0(remote->nr + 1);

    if (!ferry_regions_match(local, remote, may_leave, errp)) {
        return NULL;
    }
    for (size_t i = 0; i < local->nr; i++) {
        if (!look_for_same_file(local, &local->list[i], remote, session, errp) ||
            (may_leave && !check_fetch(&local->list[i], errp))) {
            return NULL;
        }
    }
    for (size_t i = 0; i < local->nr; i++) {
        answers[i] = (uint8_t)answer(&local->list[i]);
    }
    for (size_t i = 0; i < local->nr; i++) {
        if (ferry_fault(FERRY_FAULT_EMPTY, errp) ||
            !ferry_region_empty(scanner, &local->list[i], errp)) {
            return NULL;
        }
    }
    return g_steal_pointer(&answers);
}
