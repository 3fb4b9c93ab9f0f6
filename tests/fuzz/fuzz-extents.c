/*
 * Tables of extents. The input is what the frame and the region say (struct Head), then the
 * table without its checksum.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "fuzz.h"

#include "migration/wire/crc32c.h"
#include "migration/wire/frame.h"

struct Head {
    uint64_t first_page;
    uint64_t region_pages;
    uint32_t payload_bytes;
} __attribute__((packed));

static void check_extents(const FerryFrame *frame, uint64_t region_pages,
                          const FerryExtent *extents)
{
    uint64_t payload_pages = 0;
    uint64_t next = 0;

    for (uint32_t i = 0; i < frame->nr_extents; i++) {
        fuzz_check(extents[i].first >= next);
        fuzz_check(extents[i].nr_pages > 0);
        next = (uint64_t)extents[i].first + extents[i].nr_pages;
        payload_pages += extents[i].zero ? 0 : extents[i].nr_pages;
    }
    fuzz_check(next <= FERRY_GRANULE_PAGES);
    fuzz_check(frame->first_page % FERRY_GRANULE_PAGES == 0);
    fuzz_check(frame->first_page < region_pages && next <= region_pages - frame->first_page);
    if (frame->flags & FERRY_FRAME_ZSTD) {
        fuzz_check(frame->payload_bytes > 0);
        fuzz_check(frame->payload_bytes < payload_pages * FERRY_PAGE_BYTES);
    } else {
        fuzz_check(frame->payload_bytes == payload_pages * FERRY_PAGE_BYTES);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nr_bytes)
{
    FerryFrame frame = {.type = FERRY_FRAME_PAGES};
    struct Head head;
    g_autofree uint8_t *table = NULL;
    g_autofree uint8_t *again = NULL;
    g_autofree FerryExtent *extents = NULL;
    g_autoptr(GError) error = NULL;
    uint64_t region_pages;
    size_t table_bytes;
    uint32_t crc;

    if (nr_bytes < sizeof(head)) {
        return 0;
    }
    memcpy(&head, data, sizeof(head));
    /* What ferry_frame_decode() and a region guarantee. */
    frame.nr_extents = (uint32_t)((nr_bytes - sizeof(head)) / FERRY_EXTENT_BYTES);
    if (frame.nr_extents == 0 || frame.nr_extents > FERRY_EXTENTS_MAX) {
        return 0;
    }
    frame.first_page = GUINT64_FROM_LE(head.first_page);
    frame.flags = GUINT32_FROM_LE(head.payload_bytes) >> 31 ? FERRY_FRAME_ZSTD : 0;
    frame.payload_bytes = (GUINT32_FROM_LE(head.payload_bytes) & INT32_MAX) %
                          (uint32_t)(FERRY_GRANULE_PAGES * FERRY_PAGE_BYTES + 1);
    region_pages = GUINT64_FROM_LE(head.region_pages) & (INT64_MAX >> FERRY_PAGE_SHIFT);

    table_bytes = (size_t)frame.nr_extents * FERRY_EXTENT_BYTES;
    g_assert(ferry_extents_encoded_bytes(frame.nr_extents) == table_bytes + sizeof(crc));
    table = g_malloc(table_bytes + sizeof(crc));
    memcpy(table, data + sizeof(head), table_bytes);
    crc = GUINT32_TO_LE(ferry_crc32c(0, table, table_bytes));
    memcpy(table + table_bytes, &crc, sizeof(crc));
    extents = g_new(FerryExtent, frame.nr_extents);

    if (!ferry_extents_decode(&frame, table, region_pages, extents, &error)) {
        fuzz_check(error != NULL);
        return 0;
    }
    fuzz_check(error == NULL);
    check_extents(&frame, region_pages, extents);
    again = g_malloc(table_bytes + sizeof(crc));
    ferry_extents_encode(extents, frame.nr_extents, again);
    fuzz_check(memcmp(again, table, table_bytes + sizeof(crc)) == 0);
    return 0;
}
