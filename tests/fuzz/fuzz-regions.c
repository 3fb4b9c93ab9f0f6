/*
 * Lists of RAM blocks
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "fuzz.h"

#include "migration/wire/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nr_bytes)
{
    g_autofree uint8_t *exact = fuzz_exact(data, nr_bytes);
    g_autoptr(GByteArray) again = NULL;
    g_autoptr(GError) error = NULL;
    FerryRegions regions = {0};
    FerryLayout layout;

    if (!ferry_regions_decode(exact, nr_bytes, &regions, &layout, &error)) {
        fuzz_check(error != NULL);
        fuzz_check(regions.list == NULL && regions.nr == 0);
        return 0;
    }
    fuzz_check(error == NULL);
    fuzz_check(layout.nr_data >= 1 && layout.nr_data <= FERRY_DATA_CHANNELS_MAX);
    fuzz_check(layout.nr_fetch <= FERRY_FETCH_CHANNELS_MAX);
    fuzz_check(regions.nr <= FERRY_REGIONS_MAX);
    for (size_t i = 0; i < regions.nr; i++) {
        fuzz_check(regions.list[i].id[0] != '\0');
        fuzz_check(regions.list[i].length_bytes % FERRY_PAGE_BYTES == 0);
        fuzz_check(regions.list[i].length_bytes <= INT64_MAX);
        for (size_t before = 0; before < i; before++) {
            fuzz_check(strcmp(regions.list[before].id, regions.list[i].id) != 0);
        }
    }
    again = ferry_regions_encode(&regions, &layout);
    fuzz_check(again->len == nr_bytes && memcmp(again->data, exact, nr_bytes) == 0);
    ferry_regions_clear(&regions);
    return 0;
}
