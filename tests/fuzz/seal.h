/*
 * Checksums of compact bitmaps, which no fuzzer would ever guess.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_TESTS_FUZZ_SEAL_H
#define FERRY_TESTS_FUZZ_SEAL_H

#include "fuzz.h"

#include "migration/wire/compact.h"

static inline uint32_t fuzz_get32(const uint8_t *in)
{
    uint32_t value;

    memcpy(&value, in, sizeof(value));
    return GUINT32_FROM_LE(value);
}

/* Whatever looks like an item gets its checksum, with as much payload as there is. */
static inline void fuzz_seal_items(uint8_t *segment, size_t nr_bytes)
{
    size_t at = FERRY_COMPACT_SEGMENT_BYTES;
    uint32_t chunk = nr_bytes >= at ? fuzz_get32(segment) : 0;

    while (nr_bytes >= at && nr_bytes - at >= FERRY_COMPACT_ITEM_BYTES) {
        uint8_t *item = segment + at;
        size_t left = nr_bytes - at - FERRY_COMPACT_ITEM_BYTES;
        bool is_stretch = item[0] == FERRY_COMPACT_EMPTY || item[0] == FERRY_COMPACT_FULL;
        size_t payload_bytes = is_stretch ? 0 : MIN(fuzz_get32(item + 1), left);
        uint32_t crc = GUINT32_TO_LE(ferry_compact_item_crc(chunk, item, payload_bytes));

        memcpy(item + 5, &crc, sizeof(crc));
        chunk += is_stretch ? fuzz_get32(item + 1) : 1;
        at += FERRY_COMPACT_ITEM_BYTES + payload_bytes;
    }
}

#endif
