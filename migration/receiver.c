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

void ferry_receiver_clear(FerryReceiver *receiver)
{
    ferry_fetch_free(receiver->fetch);
    ferry_regions_clear(&receiver->regions);
    ferry_scanner_free(receiver->scanner);
}

/* A frame on its way into memory. */
typedef struct Arrival {
    const FerryFrame *frame;
    const FerryRegion *region;
    FerryExtent extents[FERRY_EXTENTS_MAX];
} Arrival;

static bool is_undamaged(const Arrival *arrival, const FerryChannel *channel, uint32_t crc,
                         GError **errp)
{
    if (crc != arrival->frame->payload_crc) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL,
                    "channel '%s': contents of pages from 0x%" PRIx64
                    " of RAM block '%s' were damaged on the way",
                    channel->name, arrival->frame->first_page, arrival->region->id);
        return false;
    }
    return true;
}

/* Straight into memory. */
static bool write_pages(FerryReceiver *receiver, FerryChannel *channel, Arrival *arrival,
                        GError **errp)
{
    const FerryFrame *frame = arrival->frame;
    uint8_t *host = arrival->region->host + frame->first_page * FERRY_PAGE_BYTES;
    FerryScanTarget target = ferry_region_scan_target(arrival->region);
    struct iovec iov[FERRY_EXTENTS_MAX], landed[FERRY_EXTENTS_MAX];
    uint32_t crc = 0;
    int nr_iov = 0;

    for (uint32_t i = 0; i < frame->nr_extents; i++) {
        const FerryExtent *extent = &arrival->extents[i];
        uint64_t nr_bytes = extent->nr_pages * FERRY_PAGE_BYTES;

        if (!extent->zero) {
            iov[nr_iov++] = (struct iovec){
                .iov_base = host + extent->first * FERRY_PAGE_BYTES,
                .iov_len = nr_bytes,
            };
        } else if (!ferry_scan_discard_populated(
                       receiver->scanner, &target,
                       (frame->first_page + extent->first) * FERRY_PAGE_BYTES, nr_bytes, errp)) {
            return false;
        }
    }
    if (!(frame->flags & FERRY_FRAME_PAYLOAD_CRC)) {
        return ferry_channel_readv_all(channel, iov, nr_iov, errp);
    }
    memcpy(landed, iov, sizeof(*iov) * (size_t)nr_iov);
    if (!ferry_channel_readv_all(channel, iov, nr_iov, errp)) {
        return false;
    }
    for (int i = 0; i < nr_iov; i++) {
        crc = ferry_crc32c(crc, landed[i].iov_base, landed[i].iov_len);
    }
    return is_undamaged(arrival, channel, crc, errp);
}

/* By way of a buffer: the kernel puts whole pages in place. */
static bool place_pages(FerryReceiver *receiver, FerryChannel *channel, Arrival *arrival,
                        uint8_t **buffer, GError **errp)
{
    const FerryFrame *frame = arrival->frame;

    if (!*buffer) {
        *buffer = g_malloc(FERRY_GRANULE_PAGES * FERRY_PAGE_BYTES);
    }
    if (!ferry_channel_read_all(channel, *buffer, frame->payload_bytes, errp) ||
        ((frame->flags & FERRY_FRAME_PAYLOAD_CRC) &&
         !is_undamaged(arrival, channel, ferry_crc32c(0, *buffer, frame->payload_bytes), errp))) {
        return false;
    }
    return ferry_fetch_place(receiver->fetch, frame, arrival->extents, *buffer, errp);
}

bool ferry_receive_pages(FerryReceiver *receiver, FerryChannel *channel, const FerryFrame *frame,
                         uint8_t **buffer, GError **errp)
{
    uint8_t table[FERRY_EXTENTS_MAX * FERRY_EXTENT_BYTES + sizeof(uint32_t)];
    Arrival arrival = {.frame = frame};
    uint64_t nr_zero = 0;

    if (frame->region >= receiver->regions.nr) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL, "pages for region %u of %zu",
                    frame->region, receiver->regions.nr);
        return false;
    }
    arrival.region = &receiver->regions.list[frame->region];
    if (!ferry_channel_read_all(channel, table, ferry_extents_encoded_bytes(frame->nr_extents),
                                errp) ||
        !ferry_extents_decode(frame, table, ferry_region_nr_pages(arrival.region), arrival.extents,
                              errp)) {
        return false;
    }
    if (!(atomic_load(&receiver->armed) ? place_pages(receiver, channel, &arrival, buffer, errp)
                                        : write_pages(receiver, channel, &arrival, errp))) {
        return false;
    }
    for (uint32_t i = 0; i < frame->nr_extents; i++) {
        nr_zero += arrival.extents[i].zero ? arrival.extents[i].nr_pages : 0;
    }
    atomic_fetch_add_explicit(&receiver->normal_pages, frame->payload_bytes / FERRY_PAGE_BYTES,
                              memory_order_relaxed);
    atomic_fetch_add_explicit(&receiver->zero_pages, nr_zero, memory_order_relaxed);
    return true;
}
