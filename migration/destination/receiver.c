/*
 * Receiving pages: see receiver.h.
 *
 * Threads: any; until pages are left missing, two must not receive for the same granule at once.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "receiver.h"

#include <inttypes.h>
#include <string.h>

#include "../wire/crc32c.h"
#include "../error.h"

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
    uint32_t content_bytes; /* of the pages that are not zero */
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

/* Whether the kernel can put what comes where it belongs, without our having seen it. */
static bool is_direct(const FerryReceiver *receiver, const FerryFrame *frame)
{
    return !ferry_fetch_is_live(receiver->fetch) && !(frame->flags & FERRY_FRAME_ZSTD);
}

/* Memory of the pages whose content comes; that of zero pages is given back. */
static bool find_places(FerryReceiver *receiver, const Arrival *arrival, struct iovec *iov,
                        int *nr_iov, GError **errp)
{
    const FerryFrame *frame = arrival->frame;
    uint8_t *host = arrival->region->host + frame->first_page * FERRY_PAGE_BYTES;
    FerryScanTarget target = ferry_region_scan_target(arrival->region);

    *nr_iov = 0;
    for (uint32_t i = 0; i < frame->nr_extents; i++) {
        const FerryExtent *extent = &arrival->extents[i];
        uint64_t nr_bytes = extent->nr_pages * FERRY_PAGE_BYTES;

        if (!extent->zero) {
            iov[(*nr_iov)++] = (struct iovec){
                .iov_base = host + extent->first * FERRY_PAGE_BYTES,
                .iov_len = nr_bytes,
            };
        } else if (!ferry_scan_discard_populated(
                       receiver->scanner, &target,
                       (frame->first_page + extent->first) * FERRY_PAGE_BYTES, nr_bytes, errp)) {
            return false;
        }
    }
    return true;
}

/* Straight into memory. */
static bool write_pages(FerryReceiver *receiver, FerryChannel *channel, Arrival *arrival,
                        GError **errp)
{
    const FerryFrame *frame = arrival->frame;
    struct iovec iov[FERRY_EXTENTS_MAX], landed[FERRY_EXTENTS_MAX];
    uint32_t crc = 0;
    int nr_iov;

    if (!find_places(receiver, arrival, iov, &nr_iov, errp)) {
        return false;
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

/* Read the payload; what is in it is in the unpacker's plain() then. */
static bool read_content(FerryChannel *channel, const Arrival *arrival, FerryUnpacker *unpacker,
                         GError **errp)
{
    const FerryFrame *frame = arrival->frame;
    bool packed = frame->flags & FERRY_FRAME_ZSTD;
    uint8_t *to = packed ? ferry_unpacker_packed(unpacker) : ferry_unpacker_plain(unpacker);

    if (!ferry_channel_read_all(channel, to, frame->payload_bytes, errp) ||
        ((frame->flags & FERRY_FRAME_PAYLOAD_CRC) &&
         !is_undamaged(arrival, channel, ferry_crc32c(0, to, frame->payload_bytes), errp))) {
        return false;
    }
    if (packed &&
        !ferry_unpacker_unpack(unpacker, frame->payload_bytes, arrival->content_bytes, errp)) {
        g_prefix_error(errp, "channel '%s': ", channel->name);
        return false;
    }
    return true;
}

/* By way of a buffer: it comes compressed, or the kernel puts whole pages in place. */
static bool take_pages(FerryReceiver *receiver, FerryChannel *channel, Arrival *arrival,
                       FerryUnpacker *unpacker, GError **errp)
{
    const uint8_t *from = ferry_unpacker_plain(unpacker);
    struct iovec iov[FERRY_EXTENTS_MAX];
    int nr_iov;

    if (!read_content(channel, arrival, unpacker, errp)) {
        return false;
    }
    if (ferry_fetch_is_live(receiver->fetch)) {
        return ferry_fetch_place(receiver->fetch, arrival->frame, arrival->extents, from, errp);
    }
    if (!find_places(receiver, arrival, iov, &nr_iov, errp)) {
        return false;
    }
    for (int i = 0; i < nr_iov; from += iov[i++].iov_len) {
        memcpy(iov[i].iov_base, from, iov[i].iov_len);
    }
    return true;
}

bool ferry_receive_pages(FerryReceiver *receiver, FerryChannel *channel, const FerryFrame *frame,
                         FerryUnpacker *unpacker, GError **errp)
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
    for (uint32_t i = 0; i < frame->nr_extents; i++) {
        uint32_t nr_pages = arrival.extents[i].nr_pages;

        nr_zero += arrival.extents[i].zero ? nr_pages : 0;
        arrival.content_bytes +=
            arrival.extents[i].zero ? 0 : nr_pages * (uint32_t)FERRY_PAGE_BYTES;
    }
    if (!(is_direct(receiver, frame) ? write_pages(receiver, channel, &arrival, errp)
                                     : take_pages(receiver, channel, &arrival, unpacker, errp))) {
        return false;
    }
    atomic_fetch_add_explicit(&receiver->normal_pages, arrival.content_bytes / FERRY_PAGE_BYTES,
                              memory_order_relaxed);
    atomic_fetch_add_explicit(&receiver->zero_pages, nr_zero, memory_order_relaxed);
    return true;
}
