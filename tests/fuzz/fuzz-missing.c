/*
 * Bitmaps of missing pages, as they come on the control channel: frames for any region in any order.
 * The input is one frame after the other: region u8, length of the body u16, body.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "fuzz.h"

#include "migration/wire/missing.h"
#include "seal.h"

#define NR_REGIONS 3

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nr_bytes)
{
    FerryRegion list[NR_REGIONS] = {
        {.id = "one", .length_bytes = FERRY_PAGE_BYTES, .page_size_bytes = FERRY_PAGE_BYTES},
        {.id = "odd", .length_bytes = 70001 * FERRY_PAGE_BYTES, .page_size_bytes = 4096},
        {.id = "long", .length_bytes = 200000 * FERRY_PAGE_BYTES, .page_size_bytes = 4096},
    };
    FerryRegions regions = {.list = list, .nr = NR_REGIONS};
    FerryPageset *sets[NR_REGIONS];
    FerryMissingReader reader = {0};
    uint64_t nr_pages = 0;
    bool ok = true;

    for (uint32_t i = 0; i < NR_REGIONS; i++) {
        sets[i] = ferry_pageset_new(ferry_region_nr_pages(&list[i]));
        nr_pages += ferry_region_nr_pages(&list[i]);
    }
    while (ok && nr_bytes >= 3) {
        FerryFrame frame = {.type = FERRY_FRAME_MISSING, .region = data[0]};
        size_t body_bytes = MIN((size_t)data[1] | (size_t)data[2] << 8, nr_bytes - 3);
        g_autoptr(GByteArray) body = g_byte_array_new();
        g_autoptr(GError) error = NULL;

        g_byte_array_append(body, data + 3, (guint)body_bytes);
        data += 3 + body_bytes;
        nr_bytes -= 3 + body_bytes;
        if (body->len > 0) {
            fuzz_seal_items(body->data, body->len);
        }
        ok = ferry_missing_take(&reader, &frame, body->len ? body : NULL, &regions, sets, &error);
        fuzz_check(ok == (error == NULL));
        fuzz_check(!ok || frame.region < NR_REGIONS);
    }
    fuzz_check(ferry_missing_count(&regions, sets) <= nr_pages);
    ferry_missing_finish(&reader, NULL);
    fuzz_check(reader.reader == NULL);
    for (uint32_t i = 0; i < NR_REGIONS; i++) {
        ferry_pageset_free(sets[i]);
    }
    return 0;
}
