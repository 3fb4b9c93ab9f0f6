/*
 * Why there is no page for a place in guest memory: see unavailable.h.
 *
 * What is seen here was perhaps otherwise a moment before: it is only for words.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "unavailable.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "../error.h"

/* What the kernel's list of mappings says of an address. */
static FerryUnavailable look_at_mapping(const void *host)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    FerryUnavailable found = maps ? FERRY_UNAVAILABLE_NOT_MAPPED : FERRY_UNAVAILABLE_UNKNOWN;
    char line[512];

    while (maps && fgets(line, sizeof(line), maps)) {
        uintptr_t start, end;
        char rights[5];

        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %4s", &start, &end, rights) == 3 &&
            (uintptr_t)host >= start && (uintptr_t)host < end) {
            found = rights[1] == 'w' ? FERRY_UNAVAILABLE_UNKNOWN : FERRY_UNAVAILABLE_PROTECTED;
            break;
        }
    }
    if (maps) {
        fclose(maps);
    }
    return found;
}

static bool is_pool_empty(uint32_t page_size_bytes)
{
    g_autofree char *path = g_strdup_printf(
        "/sys/kernel/mm/hugepages/hugepages-%ukB/free_hugepages", page_size_bytes >> 10);
    g_autofree char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) && g_ascii_strtoull(text, NULL, 10) == 0;
}

static bool is_file_system_full(int fd)
{
    struct statfs fs;

    return fstatfs(fd, &fs) == 0 && fs.f_blocks > 0 && fs.f_bavail == 0;
}

FerryUnavailable ferry_target_unavailable(const FerryScanTarget *target, uint64_t offset_bytes,
                                          int error)
{
    FerryUnavailable mapping = look_at_mapping((const char *)target->host + offset_bytes);
    struct stat st;

    if (mapping != FERRY_UNAVAILABLE_UNKNOWN) {
        return mapping;
    }
    if (target->fd >= 0 && fstat(target->fd, &st) == 0 && S_ISREG(st.st_mode) &&
        target->fd_offset + offset_bytes >= (uint64_t)st.st_size) {
        return FERRY_UNAVAILABLE_CUT;
    }
    if ((target->flags & FERRY_REGION_HUGETLB) && is_pool_empty(target->page_size_bytes)) {
        return FERRY_UNAVAILABLE_NO_HUGE;
    }
    if (target->fd >= 0 && !(target->flags & FERRY_REGION_HUGETLB) &&
        is_file_system_full(target->fd)) {
        return FERRY_UNAVAILABLE_FULL;
    }
    return error == ENOMEM || error == ENOSPC || error == EDQUOT ? FERRY_UNAVAILABLE_NO_MEMORY
                                                                 : FERRY_UNAVAILABLE_UNKNOWN;
}

void ferry_set_unavailable(GError **errp, const FerryRegion *region, uint64_t offset_bytes,
                           int error)
{
    static const struct {
        const char *what, *remedy;
        int error; /* 0: what the kernel said */
    } words[] = {
        [FERRY_UNAVAILABLE_UNKNOWN] = {"cannot access its memory",
                                       "a limit of a cgroup or of huge pages, or a broken page?",
                                       0},
        [FERRY_UNAVAILABLE_NO_MEMORY] =
            {"has no memory left",
             "is the file system behind it, or a cgroup's limit, large enough?", 0},
        [FERRY_UNAVAILABLE_NO_HUGE] = {"has no memory left",
                                       "the pool of huge pages is empty: see vm.nr_hugepages",
                                       ENOMEM},
        [FERRY_UNAVAILABLE_FULL] = {"has no memory left", "the file system behind it is full",
                                    ENOSPC},
        [FERRY_UNAVAILABLE_CUT] = {"cannot access its memory",
                                   "the file behind it has become shorter than the RAM block", 0},
        [FERRY_UNAVAILABLE_PROTECTED] = {"cannot access its memory",
                                         "it is mapped, but not to be written", 0},
        [FERRY_UNAVAILABLE_NOT_MAPPED] = {"cannot access its memory", "nothing is mapped there", 0},
    };
    const FerryScanTarget target = ferry_region_scan_target(region);
    const FerryUnavailable why = ferry_target_unavailable(&target, offset_bytes, error);

    g_set_error(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM,
                "RAM block '%s': the destination %s at 0x%" PRIx64 ": %s (%s)", region->id,
                words[why].what, offset_bytes,
                g_strerror(words[why].error ? words[why].error : error), words[why].remedy);
}
