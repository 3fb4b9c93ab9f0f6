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
#include "../fault.h"
#include "../memory/empty.h"
#include "../memory/unavailable.h"
#include "../memory/zero.h"

/* Whether a store may end in a SIGBUS: there is no page for it in the file, or in the pool. */
static bool may_run_out(const FerryRegion *region)
{
    return region->fd >= 0 || (region->flags & FERRY_REGION_HUGETLB);
}

void ferry_receiver_set_regions(FerryReceiver *receiver, FerryRegions *regions)
{
    receiver->regions = *regions;
    *regions = (FerryRegions){0};
    receiver->provided = g_new0(FerryPageset *, receiver->regions.nr + 1);
    for (size_t i = 0; i < receiver->regions.nr; i++) {
        const FerryRegion *region = &receiver->regions.list[i];

        receiver->provided[i] =
            may_run_out(region) ? ferry_pageset_new(ferry_region_nr_pages(region)) : NULL;
    }
}

void ferry_receiver_forget_provided(FerryReceiver *receiver)
{
    for (size_t i = 0; i < receiver->regions.nr; i++) {
        if (receiver->provided[i]) {
            ferry_pageset_clear(receiver->provided[i]);
        }
    }
}

void ferry_receiver_clear(FerryReceiver *receiver)
{
    ferry_fetch_free(receiver->fetch);
    for (size_t i = 0; i < receiver->regions.nr && receiver->provided; i++) {
        ferry_pageset_free(receiver->provided[i]);
    }
    g_clear_pointer(&receiver->provided, g_free);
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
    return !ferry_fetch_is_live(receiver->fetch) && !(frame->flags & FERRY_FRAME_ZSTD) &&
           ferry_kind_may_store(receiver->regions.list[frame->region].flags);
}

/* Whether all these pages have been provided before. */
static bool is_provided(const FerryPageset *provided, uint64_t first, uint64_t nr_pages)
{
    const uint64_t end = first + nr_pages;

    for (uint64_t word = first / 64; word * 64 < end; word++) {
        uint64_t wanted = UINT64_MAX;

        if (word == first / 64) {
            wanted &= UINT64_MAX << (first % 64);
        }
        if (end - word * 64 < 64) {
            wanted &= (UINT64_C(1) << (end - word * 64)) - 1;
        }
        if (wanted & ~ferry_pageset_get(provided, word)) {
            return false;
        }
    }
    return true;
}

/*
 * Have the kernel provide pages before anything is stored there: who stores may be a system call, which
 * would fail, or a library, which would be killed.  Costs a system call for pages that come first time.
 */
static bool provide(FerryReceiver *receiver, const Arrival *arrival, const FerryExtent *extent,
                    GError **errp)
{
    const FerryRegion *region = arrival->region;
    FerryPageset *provided = receiver->provided[arrival->frame->region];
    const uint64_t first = arrival->frame->first_page + extent->first;
    const uint64_t offset_bytes = first * FERRY_PAGE_BYTES;
    int error;

    if (!provided || is_provided(provided, first, extent->nr_pages)) {
        return true;
    }
    if (ferry_fault(FERRY_FAULT_PROVIDE, errp)) {
        return false;
    }
    error = ferry_provide(region->host + offset_bytes, extent->nr_pages * FERRY_PAGE_BYTES);
    if (error) {
        ferry_set_unavailable(errp, region, offset_bytes, error);
        return false;
    }
    ferry_pageset_add(provided, first, extent->nr_pages);
    return true;
}

/* Make pages zero. */
static bool clear(FerryReceiver *receiver, const Arrival *arrival, const FerryExtent *extent,
                  GError **errp)
{
    const FerryScanTarget target = ferry_region_scan_target(arrival->region);
    const uint64_t first = arrival->frame->first_page + extent->first;

    if (!ferry_scan_discard_populated(receiver->scanner, &target, first * FERRY_PAGE_BYTES,
                                      extent->nr_pages * FERRY_PAGE_BYTES, errp)) {
        g_prefix_error(errp, "RAM block '%s' at 0x%" PRIx64 ": ", arrival->region->id,
                       first * FERRY_PAGE_BYTES);
        return false;
    }
    if (receiver->provided[arrival->frame->region]) {
        ferry_pageset_remove(receiver->provided[arrival->frame->region], first, extent->nr_pages);
    }
    return true;
}

/* Memory of the pages whose content comes, provided; that of zero pages is given back. */
static bool find_places(FerryReceiver *receiver, const Arrival *arrival, struct iovec *iov,
                        int *nr_iov, GError **errp)
{
    const FerryFrame *frame = arrival->frame;
    uint8_t *host = arrival->region->host + frame->first_page * FERRY_PAGE_BYTES;

    *nr_iov = 0;
    for (uint32_t i = 0; i < frame->nr_extents; i++) {
        const FerryExtent *extent = &arrival->extents[i];
        uint64_t nr_bytes = extent->nr_pages * FERRY_PAGE_BYTES;

        if (extent->zero ? !clear(receiver, arrival, extent, errp)
                         : !provide(receiver, arrival, extent, errp)) {
            return false;
        }
        if (!extent->zero) {
            iov[(*nr_iov)++] = (struct iovec){
                .iov_base = host + extent->first * FERRY_PAGE_BYTES,
                .iov_len = nr_bytes,
            };
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

/* What is read-only here cannot be made what it is at the source: it has to be that already. */
static bool compare_pages(const Arrival *arrival, const uint8_t *from, GError **errp)
{
    const FerryFrame *frame = arrival->frame;

    for (uint32_t i = 0; i < frame->nr_extents; i++) {
        const FerryExtent *extent = &arrival->extents[i];
        const uint64_t offset_bytes = (frame->first_page + extent->first) * FERRY_PAGE_BYTES;
        const uint8_t *host = arrival->region->host + offset_bytes;
        const uint64_t nr_bytes = extent->nr_pages * FERRY_PAGE_BYTES;

        if (extent->zero ? !ferry_is_zero(host, nr_bytes) : memcmp(host, from, nr_bytes) != 0) {
            g_set_error(errp, FERRY_ERROR, FERRY_ERROR_REFUSED,
                        "RAM block '%s' is read-only at the destination, and at 0x%" PRIx64
                        " it is not what it is at the source: give both sides the same content",
                        arrival->region->id, offset_bytes);
            return false;
        }
        from += extent->zero ? 0 : nr_bytes;
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
    if (!ferry_kind_may_store(arrival->region->flags)) {
        return compare_pages(arrival, from, errp);
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
    if (arrival.region->flags & FERRY_REGION_SAME) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL,
                    "pages of RAM block '%s', which both ends map", arrival.region->id);
        return false;
    }
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
