/*
 * Hellos, the first thing that anybody who can connect may send
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
    FerryHello hello;

    if (!ferry_hello_decode(exact, nr_bytes, &hello, &error)) {
        fuzz_check(error != NULL);
        return 0;
    }
    fuzz_check(error == NULL);
    fuzz_check(hello.version >= FERRY_WIRE_VERSION_MIN);
    fuzz_check(hello.version <= FERRY_WIRE_VERSION_MAX);
    fuzz_check(hello.role >= FERRY_ROLE_CONTROL && hello.role <= FERRY_ROLE_FETCH);
    fuzz_check(hello.index < FERRY_DATA_CHANNELS_MAX);
    again = ferry_hello_encode(&hello);
    fuzz_check(again->len == nr_bytes && memcmp(again->data, exact, nr_bytes) == 0);
    return 0;
}
