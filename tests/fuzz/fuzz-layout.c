/*
 * The two smallest bodies: how many channels there are, and a number of pages
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "fuzz.h"

#include "migration/wire/frame.h"

static void try_layout(const uint8_t *data, size_t nr_bytes)
{
    g_autoptr(GByteArray) again = NULL;
    g_autoptr(GError) error = NULL;
    FerryLayout layout;

    if (!ferry_layout_decode(data, nr_bytes, &layout, &error)) {
        fuzz_check(error != NULL);
        return;
    }
    fuzz_check(error == NULL);
    fuzz_check(layout.nr_data >= 1 && layout.nr_data <= FERRY_DATA_CHANNELS_MAX);
    fuzz_check(layout.nr_fetch <= FERRY_FETCH_CHANNELS_MAX);
    again = ferry_layout_encode(&layout);
    fuzz_check(again->len == nr_bytes && memcmp(again->data, data, nr_bytes) == 0);
}

static void try_count(const uint8_t *data, size_t nr_bytes)
{
    g_autoptr(GByteArray) again = NULL;
    g_autoptr(GError) error = NULL;
    uint64_t nr_pages;

    if (!ferry_count_decode(data, nr_bytes, &nr_pages, &error)) {
        fuzz_check(error != NULL);
        return;
    }
    fuzz_check(error == NULL);
    again = ferry_count_encode(nr_pages);
    fuzz_check(again->len == nr_bytes && memcmp(again->data, data, nr_bytes) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nr_bytes)
{
    g_autofree uint8_t *exact = fuzz_exact(data, nr_bytes);

    try_layout(exact, nr_bytes);
    try_count(exact, nr_bytes);
    return 0;
}
