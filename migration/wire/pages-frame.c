/*
 * PAGES frames: see pages-frame.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "pages-frame.h"

#include <string.h>

#include "crc32c.h"
#include "../memory/zero.h"

/* How many pages ahead of the zero test their first bytes are fetched. */
#define PREFETCH_PAGES 8

void ferry_pages_frame_init(FerryPagesFrame *frame, bool checksum, bool compress)
{
    frame->checksum = checksum;
    frame->packer = compress ? ferry_packer_new() : NULL;
    frame->packs = compress;
    frame->runs = ferry_data_runs_new();
    frame->staging = checksum || compress ? g_malloc(FERRY_GRANULE_PAGES * FERRY_PAGE_BYTES) : NULL;
}

void ferry_pages_frame_clear(FerryPagesFrame *frame)
{
    g_clear_pointer(&frame->staging, g_free);
    g_clear_pointer(&frame->packer, ferry_packer_free);
    g_clear_pointer(&frame->runs, ferry_data_runs_free);
}

/*
 * Turn the pages of a granule into extents: runs of zero pages and runs of others.  @with_data: the others
 * are known to be zero, and are not read; or NULL.
 */
static uint32_t build_extents(FerryPagesFrame *frame, const uint8_t *granule_host,
                              const uint64_t pages[FERRY_GRANULE_WORDS], const uint64_t *with_data)
{
    FerryExtent *extent = NULL;
    uint32_t nr = 0;

    frame->nr_pages = 0;
    for (uint32_t word = 0; word < FERRY_GRANULE_WORDS; word++) {
        for (uint64_t mask = pages[word]; mask; mask &= mask - 1) {
            uint32_t page = word * 64 + (uint32_t)__builtin_ctzll(mask);
            const uint8_t *host = granule_host + page * FERRY_PAGE_BYTES;
            bool zero;

            /* Each page is a cache miss: have those of the next ones under way meanwhile. */
            __builtin_prefetch(host + PREFETCH_PAGES * FERRY_PAGE_BYTES);
            zero = (with_data && !(with_data[word] >> (page % 64) & 1)) ||
                   ferry_is_zero(host, FERRY_PAGE_BYTES);
            frame->nr_pages++;

            if (extent && extent->zero == zero && extent->first + extent->nr_pages == page) {
                extent->nr_pages++;
            } else {
                extent = &frame->extents[nr++];
                *extent = (FerryExtent){.first = page, .nr_pages = 1, .zero = zero};
            }
        }
    }
    return nr;
}

/* What the peer gets of a stable copy of the content. */
static struct iovec build_staged(FerryPagesFrame *pages)
{
    FerryFrame *frame = &pages->frame;
    const uint8_t *packed = NULL;
    struct iovec iov = {.iov_base = pages->staging};

    if (pages->packs) {
        packed = ferry_packer_pack(pages->packer, pages->staging, pages->content_bytes,
                                   &frame->payload_bytes);
    }
    if (packed) {
        frame->flags |= FERRY_FRAME_ZSTD;
        iov.iov_base = (void *)packed;
    }
    iov.iov_len = frame->payload_bytes;
    if (pages->checksum) {
        frame->flags |= FERRY_FRAME_PAYLOAD_CRC;
        frame->payload_crc = ferry_crc32c(0, iov.iov_base, iov.iov_len);
    }
    return iov;
}

/* Point the vector at the payload, or at a stable copy of it when it is to be worked on. */
static int build_payload(FerryPagesFrame *pages, uint8_t *granule_host)
{
    FerryFrame *frame = &pages->frame;
    const bool stages = pages->checksum || pages->packs;
    struct iovec *iov = pages->iov + 1;

    for (uint32_t i = 0; i < frame->nr_extents; i++) {
        const FerryExtent *extent = &pages->extents[i];
        uint8_t *host = granule_host + extent->first * FERRY_PAGE_BYTES;
        uint32_t nr_bytes = extent->nr_pages * (uint32_t)FERRY_PAGE_BYTES;

        if (extent->zero) {
            continue;
        }
        if (stages) {
            memcpy(pages->staging + frame->payload_bytes, host, nr_bytes);
        } else {
            *iov++ = (struct iovec){.iov_base = host, .iov_len = nr_bytes};
        }
        frame->payload_bytes += nr_bytes;
    }
    pages->content_bytes = frame->payload_bytes;
    if (stages && pages->content_bytes) {
        *iov++ = build_staged(pages);
    }
    return (int)(iov - pages->iov);
}

void ferry_pages_frame_build(FerryPagesFrame *frame, const FerryRegion *region, uint32_t index,
                             uint64_t granule, const uint64_t pages[FERRY_GRANULE_WORDS])
{
    uint64_t first_page = granule * FERRY_GRANULE_PAGES;
    uint8_t *host = region->host + first_page * FERRY_PAGE_BYTES;
    uint64_t with_data[FERRY_GRANULE_WORDS];

    frame->frame = (FerryFrame){
        .type = FERRY_FRAME_PAGES,
        .region = (uint16_t)index,
        .first_page = first_page,
    };
    if (region->flags & FERRY_REGION_HOLES_KNOWN) {
        ferry_region_find_data(region, frame->runs, first_page,
                               MIN(FERRY_GRANULE_PAGES, ferry_region_nr_pages(region) - first_page),
                               with_data);
    }
    frame->frame.nr_extents = build_extents(
        frame, host, pages, region->flags & FERRY_REGION_HOLES_KNOWN ? with_data : NULL);
    frame->nr_iov = build_payload(frame, host);
    ferry_frame_encode(&frame->frame, frame->head);
    ferry_extents_encode(frame->extents, frame->frame.nr_extents, frame->head + FERRY_FRAME_BYTES);
    frame->iov[0] = (struct iovec){
        .iov_base = frame->head,
        .iov_len = FERRY_FRAME_BYTES + ferry_extents_encoded_bytes(frame->frame.nr_extents),
    };
}

uint32_t ferry_pages_frame_try(FerryPagesFrame *frame, uint32_t *nr_bytes)
{
    const uint32_t wanted = MIN(*nr_bytes, frame->content_bytes);
    uint32_t packed_bytes, nr = 0;

    /* A copy: the guest may write to its pages meanwhile. */
    for (int i = 1; i < frame->nr_iov && nr < wanted; i++) {
        uint32_t part = (uint32_t)MIN(frame->iov[i].iov_len, wanted - nr);

        if (frame->iov[i].iov_base != frame->staging + nr) {
            memcpy(frame->staging + nr, frame->iov[i].iov_base, part);
        }
        nr += part;
    }
    *nr_bytes = nr;
    return nr > 0 && ferry_packer_try(frame->packer, frame->staging, nr, &packed_bytes)
               ? packed_bytes
               : nr;
}

uint64_t ferry_pages_frame_bytes(const FerryPagesFrame *frame)
{
    return frame->iov[0].iov_len + frame->frame.payload_bytes;
}

bool ferry_pages_frame_send(FerryPagesFrame *frame, FerryChannel *channel, GError **errp)
{
    return ferry_channel_writev_all(channel, frame->iov, frame->nr_iov, errp);
}
