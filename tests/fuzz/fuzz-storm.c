/*
 * What a ferry-storm is saved as: all that its device loads from the wire but QEMU's own.
 *
 * The input is a pace, and then what the storm was saved as, without its check, which no fuzzer would ever guess.  A
 * storm that takes it must be able to write, to touch and to verify; one that refuses it stays what it was.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "fuzz.h"

#include "hw/misc/storm.h"

#define NR_PAGES 40

/* With a page before and after, which nobody is to write: ASan looks. */
static uint8_t *at(void *opaque, uint64_t page)
{
    fuzz_check(page < NR_PAGES);
    return (uint8_t *)opaque + page * FERRY_STORM_PAGE_BYTES;
}

static void wrote(void *opaque, uint64_t page, size_t nr_bytes)
{
    fuzz_check(page < NR_PAGES && nr_bytes <= FERRY_STORM_PAGE_BYTES);
}

/* The check over all that is saved. */
static void seal(uint8_t *saved, size_t nr_bytes)
{
    uint64_t check = UINT64_C(0x73746f726d000001), word;

    for (size_t i = 0; i + sizeof(word) < nr_bytes; i += sizeof(word)) {
        memcpy(&word, saved + i, sizeof(word));
        check = ferry_storm_mix(check + GUINT64_FROM_LE(word));
    }
    word = GUINT64_TO_LE(check);
    memcpy(saved + nr_bytes - sizeof(word), &word, sizeof(word));
}

static void use(FerryStorm *storm, uint8_t *pages)
{
    const FerryStormMemory memory = {.at = at, .wrote = wrote, .opaque = pages};
    FerryStormPattern ahead = *ferry_storm_pattern(storm);
    g_autofree uint8_t *saved = NULL;
    FerryStormVerdict verdict;
    size_t nr_bytes;

    ferry_storm_touch(&ahead, &memory, 20);
    fuzz_check(ferry_storm_write(storm, &memory, 20) == 20);
    ferry_storm_verify_begin(storm, &verdict);
    while (!ferry_storm_verify_is_complete(&verdict)) {
        fuzz_check(ferry_storm_verify_go_on(storm, &verdict, &memory, NR_PAGES));
        fuzz_check(verdict.checked <= NR_PAGES);
    }
    saved = ferry_storm_save(storm, &nr_bytes);
    fuzz_check(nr_bytes <= FERRY_STORM_MAX_SAVED_BYTES);
    fuzz_check(ferry_storm_load(storm, saved, nr_bytes, NULL));
}

static void try_pace(FerryStormPace pace)
{
    const FerryStormPace before = pace;
    g_autoptr(GError) error = NULL;

    if (!ferry_storm_pace_load(&pace, &error)) {
        fuzz_check(error != NULL && memcmp(&pace, &before, sizeof(pace)) == 0);
        return;
    }
    fuzz_check(pace.rate == before.rate && pace.rate <= FERRY_STORM_MOST_RATE);
    fuzz_check(pace.due <= FERRY_STORM_MOST_RATE / 10 + 1 && pace.rest < UINT64_C(1000000000));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nr_bytes)
{
    g_autoptr(FerryStorm) storm = ferry_storm_new(NR_PAGES, 7);
    g_autofree uint8_t *pages = g_malloc0(NR_PAGES * FERRY_STORM_PAGE_BYTES);
    g_autofree uint8_t *saved = NULL, *before = NULL, *after = NULL;
    g_autoptr(GError) error = NULL;
    size_t saved_bytes, before_bytes, after_bytes;
    FerryStormPace pace;

    if (nr_bytes < sizeof(pace)) {
        return 0;
    }
    memcpy(&pace, data, sizeof(pace));
    try_pace(pace);
    saved_bytes = nr_bytes - sizeof(pace) + sizeof(uint64_t);
    saved = g_malloc0(saved_bytes);
    memcpy(saved, data + sizeof(pace), nr_bytes - sizeof(pace));
    seal(saved, saved_bytes);
    before = ferry_storm_save(storm, &before_bytes);
    if (ferry_storm_load(storm, saved, saved_bytes, &error)) {
        use(storm, pages);
    } else {
        fuzz_check(error != NULL);
        after = ferry_storm_save(storm, &after_bytes);
        fuzz_check(before_bytes == after_bytes && memcmp(before, after, before_bytes) == 0);
    }
    return 0;
}
