/*
 * Reports of the blackout, and the text of errors: what a destination tells a source
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "fuzz.h"

#include "migration/wire/frame.h"

static void try_report(const uint8_t *data, size_t nr_bytes)
{
    g_autoptr(GByteArray) again = NULL;
    g_autoptr(GError) error = NULL;
    FerryReport report;

    if (!ferry_report_decode(data, nr_bytes, &report, &error)) {
        fuzz_check(error != NULL);
        return;
    }
    fuzz_check(error == NULL);
    again = ferry_report_encode(&report);
    fuzz_check(again->len == nr_bytes && memcmp(again->data, data, nr_bytes) == 0);
}

static void try_error_text(const uint8_t *data, size_t nr_bytes)
{
    g_autofree char *text = ferry_error_text_decode(data, nr_bytes);

    fuzz_check(text != NULL);
    fuzz_check(strlen(text) <= MIN(nr_bytes, FERRY_ERROR_TEXT_MAX));
    for (const char *c = text; *c != '\0'; c++) {
        fuzz_check(g_ascii_isprint(*c));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nr_bytes)
{
    g_autofree uint8_t *exact = fuzz_exact(data, nr_bytes);

    try_report(exact, nr_bytes);
    try_error_text(exact, nr_bytes);
    return 0;
}
