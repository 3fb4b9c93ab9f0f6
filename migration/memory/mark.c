/*
 * Marks on files: see mark.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "mark.h"

#include <fcntl.h>
#include <unistd.h>

/* Marks begin here; a session has FERRY_REGIONS_MAX bytes of its own. */
#define MARKS_START            (INT64_C(1) << 62)
#define SESSION_BITS           48
#define SESSION_MASK           ((UINT64_C(1) << SESSION_BITS) - 1)
#define SESSION_START(session) (MARKS_START + (int64_t)((session)&SESSION_MASK) * FERRY_REGIONS_MAX)
_Static_assert(FERRY_REGIONS_MAX <= 1 << (62 - SESSION_BITS), "marks stay below 2^63");

/*
 * Two kinds of lock, as each has an owner that it is not seen by: the one the process, the other whoever
 * shares the open file, as two QEMUs may that were given the same descriptor.
 */
static void lock(const FerryRegion *region, int64_t at, short type)
{
    struct flock flock = {.l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
    struct flock of_file = flock;

    if (region->fd >= 0) {
        (void)fcntl(region->fd, F_SETLK, &flock);
        (void)fcntl(region->fd, F_OFD_SETLK, &of_file);
    }
}

void ferry_regions_mark(const FerryRegions *regions, uint64_t session)
{
    for (size_t i = 0; i < regions->nr; i++) {
        lock(&regions->list[i], SESSION_START(session) + (int64_t)i, F_RDLCK);
    }
}

void ferry_regions_unmark(const FerryRegions *regions, uint64_t session)
{
    for (size_t i = 0; i < regions->nr; i++) {
        lock(&regions->list[i], SESSION_START(session) + (int64_t)i, F_UNLCK);
    }
}

static void add(GArray *found, uint32_t number)
{
    for (guint i = 0; i < found->len; i++) {
        if (g_array_index(found, uint32_t, i) == number) {
            return;
        }
    }
    g_array_append_val(found, number);
}

/* Whether @flock may be marks of the session's: somebody may have locked all of the file. */
static bool are_marks(const struct flock *flock, int64_t session_start)
{
    return flock->l_type == F_RDLCK && flock->l_start >= session_start && flock->l_len > 0 &&
           flock->l_start + flock->l_len <= session_start + FERRY_REGIONS_MAX;
}

/*
 * Add what is marked from @start to before @end; a question shows one lock at a time.  False if that cannot
 * be seen.
 */
static bool find(const FerryRegion *region, int command, int64_t session_start, GArray *found)
{
    const int64_t end = session_start + FERRY_REGIONS_MAX;
    int64_t start = session_start;

    while (start < end) {
        struct flock flock = {
            .l_type = F_WRLCK,
            .l_whence = SEEK_SET,
            .l_start = start,
            .l_len = end - start,
        };
        int64_t first;

        if (fcntl(region->fd, command, &flock) != 0 || flock.l_type == F_UNLCK) {
            return true;
        }
        if (!are_marks(&flock, session_start)) {
            return false;
        }
        /* Locks next to each other may have become one; none is shown twice. */
        first = MAX(flock.l_start, start);
        start = flock.l_len == 0 ? end : MIN(flock.l_start + flock.l_len, end);
        for (int64_t at = first; at < start; at++) {
            add(found, (uint32_t)(at - session_start));
        }
        if (start <= first) {
            return true;
        }
    }
    return true;
}

GArray *ferry_region_find_marks(const FerryRegion *region, uint64_t session, bool *hidden)
{
    GArray *found = g_array_new(FALSE, FALSE, sizeof(uint32_t));

    *hidden = region->fd >= 0 && !(find(region, F_OFD_GETLK, SESSION_START(session), found) &&
                                   find(region, F_GETLK, SESSION_START(session), found));
    return found;
}
