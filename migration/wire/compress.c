/*
 * Compression: see compress.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "compress.h"

#include <zstd.h>

#include "../error.h"
#include "../memory/region.h"

#define GRANULE_BYTES (FERRY_GRANULE_PAGES * FERRY_PAGE_BYTES)

/* The fastest that is not one of zstd's negative levels: a core does some 500 MB/s of it. */
#define LEVEL 1

/* At most so many frames in a row go as they are before it is tried again. */
#define PASS_MAX 32

struct FerryPacker {
    ZSTD_CCtx *zstd;
    uint8_t *packed;
    size_t room_bytes;
    unsigned pass; /* frames that are still to go as they are */
    unsigned next_pass;
};

FerryPacker *ferry_packer_new(void)
{
    FerryPacker *packer = g_new0(FerryPacker, 1);

    packer->zstd = ZSTD_createCCtx();
    packer->room_bytes = ZSTD_compressBound(GRANULE_BYTES);
    packer->packed = g_malloc(packer->room_bytes);
    packer->next_pass = 1;
    return packer;
}

void ferry_packer_free(FerryPacker *packer)
{
    if (packer) {
        ZSTD_freeCCtx(packer->zstd);
        g_free(packer->packed);
        g_free(packer);
    }
}

const uint8_t *ferry_packer_try(FerryPacker *packer, const uint8_t *in, uint32_t nr_bytes,
                                uint32_t *packed_bytes)
{
    size_t size =
        ZSTD_compressCCtx(packer->zstd, packer->packed, packer->room_bytes, in, nr_bytes, LEVEL);

    if (ZSTD_isError(size) || size > nr_bytes - nr_bytes / 8) {
        return NULL;
    }
    *packed_bytes = (uint32_t)size;
    return packer->packed;
}

const uint8_t *ferry_packer_pack(FerryPacker *packer, const uint8_t *in, uint32_t nr_bytes,
                                 uint32_t *packed_bytes)
{
    const uint8_t *packed;

    if (packer->pass) {
        packer->pass--;
        return NULL;
    }
    packed = ferry_packer_try(packer, in, nr_bytes, packed_bytes);
    if (packed) {
        packer->next_pass = 1;
    } else {
        packer->pass = packer->next_pass;
        packer->next_pass = MIN(packer->next_pass * 2, PASS_MAX);
    }
    return packed;
}

struct FerryUnpacker {
    ZSTD_DCtx *zstd;
    uint8_t *plain, *packed;
};

FerryUnpacker *ferry_unpacker_new(void)
{
    return g_new0(FerryUnpacker, 1);
}

void ferry_unpacker_free(FerryUnpacker *unpacker)
{
    if (unpacker) {
        ZSTD_freeDCtx(unpacker->zstd);
        g_free(unpacker->plain);
        g_free(unpacker->packed);
        g_free(unpacker);
    }
}

/* When they are first needed: most migrations need neither. */
uint8_t *ferry_unpacker_plain(FerryUnpacker *unpacker)
{
    if (!unpacker->plain) {
        unpacker->plain = g_malloc(GRANULE_BYTES);
    }
    return unpacker->plain;
}

uint8_t *ferry_unpacker_packed(FerryUnpacker *unpacker)
{
    if (!unpacker->packed) {
        unpacker->packed = g_malloc(GRANULE_BYTES);
        unpacker->zstd = ZSTD_createDCtx();
    }
    return unpacker->packed;
}

bool ferry_unpacker_unpack(FerryUnpacker *unpacker, uint32_t packed_bytes, uint32_t nr_bytes,
                           GError **errp)
{
    uint8_t *packed = ferry_unpacker_packed(unpacker);
    size_t size = ZSTD_decompressDCtx(unpacker->zstd, ferry_unpacker_plain(unpacker), nr_bytes,
                                      packed, packed_bytes);

    if (ZSTD_isError(size) || size != nr_bytes) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL,
                    "compressed pages that are damaged: %s",
                    ZSTD_isError(size) ? ZSTD_getErrorName(size) : "too short");
        return false;
    }
    return true;
}
