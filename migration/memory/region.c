/*
 * Guest memory regions: see region.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "region.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "../error.h"

#define BOOT_ID "/proc/sys/kernel/random/boot_id"

void ferry_regions_clear(FerryRegions *regions)
{
    for (size_t i = 0; i < regions->nr; i++) {
        g_clear_pointer(&regions->list[i].absent, g_array_unref);
    }
    g_clear_pointer(&regions->list, g_free);
    regions->nr = 0;
}

FerryRegions ferry_regions_copy(const FerryRegions *regions)
{
    FerryRegions copy = *regions;

    copy.list = g_memdup2(regions->list, regions->nr * sizeof(*regions->list));
    for (size_t i = 0; i < copy.nr; i++) {
        if (copy.list[i].absent) {
            g_array_ref(copy.list[i].absent);
        }
    }
    return copy;
}

void ferry_regions_set_host(FerryRegions *regions)
{
    g_autofree char *text = NULL;
    size_t nr_digits = 0;

    memset(regions->host, 0, sizeof(regions->host));
    if (!g_file_get_contents(BOOT_ID, &text, NULL, NULL)) {
        return;
    }
    for (const char *c = text; *c && nr_digits < 2 * FERRY_HOST_ID_BYTES; c++) {
        if (g_ascii_isxdigit(*c)) {
            uint8_t *byte = &regions->host[nr_digits++ / 2];

            *byte = (uint8_t)(*byte << 4 | g_ascii_xdigit_value(*c));
        }
    }
}

bool ferry_regions_share_host(const FerryRegions *a, const FerryRegions *b)
{
    static const uint8_t unknown[FERRY_HOST_ID_BYTES];

    return memcmp(a->host, b->host, sizeof(unknown)) == 0 &&
           memcmp(a->host, unknown, sizeof(unknown)) != 0;
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

bool ferry_regions_match(FerryRegions *local, const FerryRegions *remote, bool may_leave,
                         GError **errp)
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
        if (may_leave && ours->page_size_bytes != theirs->page_size_bytes) {
            g_set_error(errp, FERRY_ERROR, FERRY_ERROR_REFUSED,
                        "RAM block '%s' has pages of %" PRIu32
                        " bytes at the source but of %" PRIu32
                        " bytes at the destination, and capability postcopy-ram is set: use the "
                        "same memory backend on both sides, or clear the capability",
                        theirs->id, theirs->page_size_bytes, ours->page_size_bytes);
            return false;
        }
        ordered[i] = *ours;
    }

    for (size_t i = 0; i < remote->nr; i++) {
        if (ordered[i].absent) {
            g_array_ref(ordered[i].absent);
        }
    }
    ferry_regions_clear(local);
    local->list = g_steal_pointer(&ordered);
    local->nr = remote->nr;
    return true;
}

uint64_t ferry_region_skip_absent(const FerryRegion *region, uint64_t offset_bytes)
{
    for (guint i = 0; region->absent && i < region->absent->len; i++) {
        const FerryRange *range = &g_array_index(region->absent, FerryRange, i);

        if (offset_bytes >= range->start_bytes && offset_bytes < range->end_bytes) {
            offset_bytes = range->end_bytes;
        }
    }
    return MIN(offset_bytes, region->length_bytes);
}

bool ferry_region_may_send(const FerryRegion *region, uint64_t first_page, uint64_t nr_pages)
{
    const uint64_t start = first_page * FERRY_PAGE_BYTES;
    const uint64_t end = start + nr_pages * FERRY_PAGE_BYTES;

    for (guint i = 0; region->absent && i < region->absent->len; i++) {
        const FerryRange *range = &g_array_index(region->absent, FerryRange, i);

        if (start < range->end_bytes && range->start_bytes < end) {
            return false;
        }
    }
    return region->scan != FERRY_SCAN_NOTHING;
}

void ferry_region_find_data(const FerryRegion *region, FerryDataRuns *runs, uint64_t first_page,
                            uint64_t nr_pages, uint64_t *mask)
{
    const off_t start = (off_t)(region->fd_offset_bytes + first_page * FERRY_PAGE_BYTES);
    const off_t end = start + (off_t)(nr_pages * FERRY_PAGE_BYTES);

    memset(mask, 0, (nr_pages + 63) / 64 * sizeof(*mask));
    for (off_t at = start; at < end;) {
        off_t data = lseek(region->fd, at, SEEK_DATA);
        off_t hole;

        if (data < 0 && errno == ENXIO) {
            return; /* a hole up to the end */
        }
        data = MAX(data, at);
        hole = data < end ? ferry_data_runs_end(runs, region->fd, data, end) : end;
        if (hole <= data || hole > end) {
            hole = end;
        }
        for (off_t page = (data - start) >> FERRY_PAGE_SHIFT;
             page << FERRY_PAGE_SHIFT < hole - start; page++) {
            mask[page / 64] |= UINT64_C(1) << (page % 64);
        }
        at = hole;
    }
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
        .flags = region->flags,
        .absent = region->absent,
    };
}
