/*
 * Compressed contents of pages.  The input is how long they are to be, u32, and then what came.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "fuzz.h"

#include "migration/wire/compress.h"
#include "migration/memory/region.h"

#define GRANULE_BYTES ((uint32_t)(FERRY_GRANULE_PAGES * FERRY_PAGE_BYTES))

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nr_bytes)
{
    static FerryUnpacker *unpacker;
    g_autoptr(GError) error = NULL;
    uint32_t content_bytes;
    bool ok;

    if (!unpacker) {
        unpacker = ferry_unpacker_new();
    }
    if (nr_bytes < sizeof(content_bytes) || nr_bytes > GRANULE_BYTES) {
        return 0;
    }
    memcpy(&content_bytes, data, sizeof(content_bytes));
    content_bytes = GUINT32_FROM_LE(content_bytes) % (GRANULE_BYTES + 1);
    memcpy(ferry_unpacker_packed(unpacker), data + sizeof(content_bytes),
           nr_bytes - sizeof(content_bytes));
    ok = ferry_unpacker_unpack(unpacker, (uint32_t)(nr_bytes - sizeof(content_bytes)),
                               content_bytes, &error);
    fuzz_check(ok == (error == NULL));
    return 0;
}
