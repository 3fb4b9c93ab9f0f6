/*
 * Frame headers. The input is a header without its checksum, which no fuzzer would ever guess.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "fuzz.h"

#include "migration/wire/crc32c.h"
#include "migration/wire/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nr_bytes)
{
    g_autofree uint8_t *header = g_malloc0(FERRY_FRAME_BYTES);
    g_autoptr(GError) error = NULL;
    uint8_t again[FERRY_FRAME_BYTES];
    FerryFrame frame;
    uint32_t crc;

    if (nr_bytes > FERRY_FRAME_BYTES - sizeof(crc)) {
        return 0;
    }
    memcpy(header, data, nr_bytes);
    crc = GUINT32_TO_LE(ferry_crc32c(0, header, FERRY_FRAME_BYTES - sizeof(crc)));
    memcpy(header + FERRY_FRAME_BYTES - sizeof(crc), &crc, sizeof(crc));

    if (!ferry_frame_decode(header, &frame, &error)) {
        fuzz_check(error != NULL);
        return 0;
    }
    fuzz_check(error == NULL);
    fuzz_check(frame.nr_extents <= FERRY_EXTENTS_MAX);
    fuzz_check(frame.payload_bytes <=
               MAX(FERRY_BODY_MAX, (uint32_t)(FERRY_GRANULE_PAGES * FERRY_PAGE_BYTES)));
    /* There is one way to say a thing, so nothing said is ignored. */
    ferry_frame_encode(&frame, again);
    fuzz_check(memcmp(again, header, sizeof(again)) == 0);
    return 0;
}
