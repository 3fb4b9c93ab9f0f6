/*
 * One PAGES frame, from guest memory to a channel.
 *
 * Threads: a frame belongs to one thread.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_PAGES_FRAME_H
#define FERRY_PAGES_FRAME_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "channel.h"
#include "compress.h"
#include "../memory/pageset.h"
#include "../memory/region.h"
#include "frame.h"

typedef struct FerryPagesFrame {
    FerryFrame frame;
    FerryExtent extents[FERRY_EXTENTS_MAX];
    uint8_t head[FERRY_FRAME_BYTES + FERRY_EXTENTS_MAX * FERRY_EXTENT_BYTES + sizeof(uint32_t)];
    struct iovec iov[FERRY_EXTENTS_MAX + 1];
    int nr_iov;
    uint32_t nr_pages;      /* zero ones included */
    uint32_t content_bytes; /* of the others, before compression */
    bool checksum;
    uint8_t *staging;    /* a stable copy of the content, when that is needed; else NULL */
    FerryPacker *packer; /* NULL: nothing is compressed */
    bool packs;          /* compress the next one; the caller's to change, if there is a packer */
    FerryDataRuns *runs; /* in files of regions whose holes are known */
} FerryPagesFrame;

/* @checksum: send a CRC32C of the contents.  @compress: send them compressed where that helps. */
void ferry_pages_frame_init(FerryPagesFrame *frame, bool checksum, bool compress);
void ferry_pages_frame_clear(FerryPagesFrame *frame);

/*
 * Make a frame of those pages of @granule, of @region with number @index, whose bits are set in
 * @pages; at least one.  Reads them, to tell zero pages apart.  The rest of @frame is overwritten.
 */
void ferry_pages_frame_build(FerryPagesFrame *frame, const FerryRegion *region, uint32_t index,
                             uint64_t granule, const uint64_t pages[FERRY_GRANULE_WORDS]);

/*
 * Compress *@nr_bytes of the contents of a frame that was built plain, fewer if it has fewer, to see what that gains:
 * what is left of them is returned, and *@nr_bytes is how many they were.  The frame, not sent yet, stays as it is.
 */
uint32_t ferry_pages_frame_try(FerryPagesFrame *frame, uint32_t *nr_bytes);

/* How many bytes it takes on the wire. */
uint64_t ferry_pages_frame_bytes(const FerryPagesFrame *frame);

/* Send it; once. */
bool ferry_pages_frame_send(FerryPagesFrame *frame, FerryChannel *channel, GError **errp);

#endif
