/*
 * Compression of what PAGES frames carry, with zstd.
 *
 * What cannot be compressed costs little: after a frame that did not get smaller some go as they are
 * before it is tried again, more each time.
 *
 * Threads: a packer, and an unpacker, belongs to one.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_COMPRESS_H
#define FERRY_COMPRESS_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct FerryPacker FerryPacker;

FerryPacker *ferry_packer_new(void);
void ferry_packer_free(FerryPacker *packer);

/*
 * Compress @nr_bytes, which must not change meanwhile, at most a granule.  Returns the result, which is
 * the packer's and good until the next call, with *@packed_bytes less than @nr_bytes; or NULL if it is
 * not worth it.
 */
const uint8_t *ferry_packer_pack(FerryPacker *packer, const uint8_t *in, uint32_t nr_bytes,
                                 uint32_t *packed_bytes);

/* The same for a part of a frame, whatever has become of others. */
const uint8_t *ferry_packer_try(FerryPacker *packer, const uint8_t *in, uint32_t nr_bytes,
                                uint32_t *packed_bytes);

/* Where a channel's thread puts the contents of frames on their way into memory. */
typedef struct FerryUnpacker FerryUnpacker;

FerryUnpacker *ferry_unpacker_new(void);
void ferry_unpacker_free(FerryUnpacker *unpacker);

/* Room for a granule: what comes as it is; and what comes compressed. */
uint8_t *ferry_unpacker_plain(FerryUnpacker *unpacker);
uint8_t *ferry_unpacker_packed(FerryUnpacker *unpacker);

/*
 * Turn @packed_bytes of packed() into @nr_bytes of plain(): exactly that many, or it is an error.
 * Whatever a peer has sent does no harm.
 */
bool ferry_unpacker_unpack(FerryUnpacker *unpacker, uint32_t packed_bytes, uint32_t nr_bytes,
                           GError **errp);

#endif
