/*
 * Receiving pages: see receiver.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "receiver.h"

#include <inttypes.h>
#include <string.h>

#include "crc32c.h"
#include "error.h"

bool ferry_receive_pages(FerryReceiver *receiver, FerryChannel *channel, const FerryFrame *frame,
                         GError **errp)
{
    uint8_t table[FERRY_EXTENTS_MAX * FERRY_EXTENT_BYTES + sizeof(uint32_t)];
    FerryExtent extents[FERRY_EXTENTS_MAX];
    struct iovec iov[FERRY_EXTENTS_MAX];
    const FerryRegion *region;
    FerryScanTarget target;
    uint8_t *host;
    uint64_t nr_zero = 0;
    uint32_t crc = 0;
    int nr_iov = 0;

    if (frame->region >= receiver->regions.nr) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL, "pages for region %u of %zu",
                    frame->region, receiver->regions.nr);
        return false;
    }
    region = &receiver->regions.list[frame->region];
    if (!ferry_channel_read_all(channel, table, ferry_extents_encoded_bytes(frame->nr_extents),
                                errp) ||
        !ferry_extents_decode(frame, table, ferry_region_nr_pages(region), extents, errp)) {
        return false;
    }
    host = region->host + frame->first_page * FERRY_PAGE_BYTES;
    target = ferry_region_scan_target(region);
    for (uint32_t i = 0; i < frame->nr_extents; i++) {
        uint64_t nr_bytes = extents[i].nr_pages * FERRY_PAGE_BYTES;

        if (!extents[i].zero) {
            iov[nr_iov++] = (struct iovec){
                .iov_base = host + extents[i].first * FERRY_PAGE_BYTES,
                .iov_len = nr_bytes,
            };
            continue;
        }
        nr_zero += extents[i].nr_pages;
        if (!ferry_scan_discard_populated(receiver->scanner, &target,
                                          (frame->first_page + extents[i].first) * FERRY_PAGE_BYTES,
                                          nr_bytes, errp)) {
            return false;
        }
    }
    if (frame->flags & FERRY_FRAME_PAYLOAD_CRC) {
        struct iovec landed[FERRY_EXTENTS_MAX];

        memcpy(landed, iov, sizeof(*iov) * (size_t)nr_iov);
        if (!ferry_channel_readv_all(channel, iov, nr_iov, errp)) {
            return false;
        }
        for (int i = 0; i < nr_iov; i++) {
            crc = ferry_crc32c(crc, landed[i].iov_base, landed[i].iov_len);
        }
        if (crc != frame->payload_crc) {
            g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL,
                        "channel '%s': contents of pages from 0x%" PRIx64
                        " of RAM block '%s' were damaged on the way",
                        channel->name, frame->first_page, region->id);
            return false;
        }
    } else if (!ferry_channel_readv_all(channel, iov, nr_iov, errp)) {
        return false;
    }
    atomic_fetch_add_explicit(&receiver->normal_pages, frame->payload_bytes / FERRY_PAGE_BYTES,
                              memory_order_relaxed);
    atomic_fetch_add_explicit(&receiver->zero_pages, nr_zero, memory_order_relaxed);
    return true;
}
