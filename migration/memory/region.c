/*
 * Guest memory regions: see region.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "region.h"

#include <inttypes.h>
#include <string.h>

#include "../error.h"

void ferry_regions_clear(FerryRegions *regions)
{
    g_clear_pointer(&regions->list, g_free);
    regions->nr = 0;
}

uint64_t ferry_regions_total_bytes(const FerryRegions *regions)
{
    uint64_t total = 0;

    for (size_t i = 0; i < regions->nr; i++) {
        total += regions->list[i].length_bytes;
    }
    return total;
}

static const FerryRegion *find_region(const FerryRegions *regions, const char *id)
{
    for (size_t i = 0; i < regions->nr; i++) {
        if (strcmp(regions->list[i].id, id) == 0) {
            return &regions->list[i];
        }
    }
    return NULL;
}

bool ferry_regions_match(FerryRegions *local, const FerryRegions *remote, GError **errp)
{
    g_autofree FerryRegion *ordered = g_new0(FerryRegion, remote->nr ? remote->nr : 1);

    for (size_t i = 0; i < remote->nr; i++) {
        const FerryRegion *theirs = &remote->list[i];
        const FerryRegion *ours = find_region(local, theirs->id);

        if (!ours) {
            g_set_error(errp, FERRY_ERROR, FERRY_ERROR_REFUSED,
                        "RAM block '%s' of the source does not exist at the destination: start "
                        "both sides with the same memory and devices",
                        theirs->id);
            return false;
        }
        if (ours->length_bytes != theirs->length_bytes) {
            g_set_error(errp, FERRY_ERROR, FERRY_ERROR_REFUSED,
                        "RAM block '%s' is %" PRIu64 " bytes at the source but %" PRIu64
                        " bytes at the destination: start both sides with the same memory size",
                        theirs->id, theirs->length_bytes, ours->length_bytes);
            return false;
        }
        if (ours->page_size_bytes != theirs->page_size_bytes) {
            g_set_error(errp, FERRY_ERROR, FERRY_ERROR_REFUSED,
                        "RAM block '%s' has pages of %" PRIu32
                        " bytes at the source but of %" PRIu32
                        " bytes at the destination: use the same memory backend on both sides",
                        theirs->id, theirs->page_size_bytes, ours->page_size_bytes);
            return false;
        }
        ordered[i] = *ours;
    }

    g_free(local->list);
    local->list = g_steal_pointer(&ordered);
    local->nr = remote->nr;
    return true;
}

FerryScanTarget ferry_region_scan_target(const FerryRegion *region)
{
    return (FerryScanTarget){
        .host = region->host,
        .length_bytes = region->length_bytes,
        .fd = region->fd,
        .fd_offset = region->fd_offset_bytes,
        .method = region->scan,
        .page_size_bytes = region->page_size_bytes,
        .keep_pages = region->flags & FERRY_REGION_KEEP_PAGES,
    };
}
