/*
 * Guest memory regions: what both sides must agree on before a page moves.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_REGION_H
#define FERRY_REGION_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "holes.h"
#include "kind.h"
#include "scan.h"

/* The unit of dirty tracking and of the wire: 4 KiB, the x86 target page. */
#define FERRY_PAGE_SHIFT 12
#define FERRY_PAGE_BYTES (UINT64_C(1) << FERRY_PAGE_SHIFT)

/* A granule (2 MiB) always travels on one data channel, so its pages stay in order. */
#define FERRY_GRANULE_PAGES UINT64_C(512)

/* First copies are armed, scanned and queued a chunk (32 MiB) at a time. */
#define FERRY_CHUNK_PAGES UINT64_C(8192)

/* Length of a region's name, without its terminator (QEMU's own limit). */
#define FERRY_REGION_ID_MAX 255

/* Regions in one session; bounds what a peer can make us allocate. */
#define FERRY_REGIONS_MAX 1024

/*
 * One region. @host is the mapping in this process; the machine that lists the regions owns it
 * and keeps it mapped until the session is freed.
 */
typedef struct FerryRegion {
    char id[FERRY_REGION_ID_MAX + 1];
    uint8_t *host;
    uint64_t length_bytes;    /* a multiple of FERRY_PAGE_BYTES */
    uint32_t page_size_bytes; /* of the backing memory */
    uint32_t flags;           /* FerryRegionFlags */
    int fd;                   /* backing file, or -1 */
    uint64_t fd_offset_bytes;
    FerryScanMethod scan; /* how to tell which pages were ever touched */
    GArray *absent;       /* of FerryRange: see scan.h; a reference, or NULL */
} FerryRegion;

/* Says which running system it is, as long as that runs. */
#define FERRY_HOST_ID_BYTES 16

/* A list of regions; the index of a region in it is its number on the wire. */
typedef struct FerryRegions {
    FerryRegion *list;
    size_t nr;
    uint8_t host[FERRY_HOST_ID_BYTES]; /* where they are; all 0: not known */
} FerryRegions;

static inline uint64_t ferry_region_nr_pages(const FerryRegion *region)
{
    return region->length_bytes >> FERRY_PAGE_SHIFT;
}

/* FERRY_CHUNK_PAGES, or what is left of @region. */
static inline uint64_t ferry_chunk_nr_pages(const FerryRegion *region, uint64_t chunk)
{
    return MIN(FERRY_CHUNK_PAGES, ferry_region_nr_pages(region) - chunk * FERRY_CHUNK_PAGES);
}

/* Frees the list, not the memory it describes. */
void ferry_regions_clear(FerryRegions *regions);

/* A copy, with references of its own. */
FerryRegions ferry_regions_copy(const FerryRegions *regions);

/* Note which host this is: Linux's boot id.  Not known is no error. */
void ferry_regions_set_host(FerryRegions *regions);

/* Whether both lists are of memory of one and the same host, as far as is known. */
bool ferry_regions_share_host(const FerryRegions *a, const FerryRegions *b);

/* Sum of all lengths. */
uint64_t ferry_regions_total_bytes(const FerryRegions *regions);

/*
 * Check what a source announced (@remote: id, length and page size are valid) against what is
 * here (@local) and reorder @local into the source's order, so that both number regions alike.
 * Every remote region must exist here with the same length and, if pages may be left missing
 * (@may_leave), the same page size; a region that exists only here is dropped from @local.  On
 * failure @local is unchanged and the error names the region, both values and the remedy.
 */
bool ferry_regions_match(FerryRegions *local, const FerryRegions *remote, bool may_leave,
                         GError **errp);

/* Whether the peer may be sent @nr_pages from @first_page on: nothing of it is absent, or left alone. */
bool ferry_region_may_send(const FerryRegion *region, uint64_t first_page, uint64_t nr_pages);

/* The first byte from @offset_bytes on that has not been unplugged; the region's length if all have. */
uint64_t ferry_region_skip_absent(const FerryRegion *region, uint64_t offset_bytes);

/*
 * Which of @nr_pages from @first_page on (a multiple of 64) have data in @region's file, as bits; the
 * others are zero, and to read them would allocate them.  All of them, where the file does not tell.
 * @runs: what the caller has found so far, of any region.
 */
void ferry_region_find_data(const FerryRegion *region, FerryDataRuns *runs, uint64_t first_page,
                            uint64_t nr_pages, uint64_t *mask);

/* What PAGEMAP_SCAN and friends need to know about @region. */
FerryScanTarget ferry_region_scan_target(const FerryRegion *region);

#endif
