/*
 * A storm: see storm.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <string.h>

#include "storm-internal.h"

/* If nothing else is said, the hot spot is one in so many of the working set. */
#define HOT_SPOT_ONE_IN 16

FerryStorm *ferry_storm_new(uint64_t nr_pages, uint64_t seed)
{
    FerryStorm *storm = g_new0(FerryStorm, 1);
    FerryStormSettings settings = {
        .content = FERRY_STORM_NOISE,
        .whole = true,
        .working_pages = nr_pages,
    };

    g_assert(nr_pages > 0 && nr_pages <= FERRY_STORM_MAX_PAGES);
    storm->nr_pages = nr_pages;
    storm->seed = seed;
    ferry_storm_digest_init(&storm->digest);
    ferry_storm_pattern_init(&storm->pattern, seed);
    ferry_storm_set(storm, &settings);
    return storm;
}

void ferry_storm_free(FerryStorm *storm)
{
    g_free(storm);
}

void ferry_storm_set(FerryStorm *storm, const FerryStormSettings *settings)
{
    uint64_t hot_pages = settings->hot_pages;

    g_assert(settings->working_pages > 0 && settings->working_pages <= storm->nr_pages);
    g_assert(settings->pattern < FERRY_STORM_NR_PATTERNS);
    g_assert(settings->content < FERRY_STORM_NR_CONTENTS);
    storm->settings = *settings;
    ferry_storm_pattern_set(&storm->pattern, settings->pattern, settings->working_pages,
                            hot_pages ? hot_pages : settings->working_pages / HOT_SPOT_ONE_IN);
}

const FerryStormSettings *ferry_storm_settings(const FerryStorm *storm)
{
    return &storm->settings;
}

uint64_t ferry_storm_nr_written(const FerryStorm *storm)
{
    return storm->nr_written;
}

static void write_page(FerryStorm *storm, const FerryStormMemory *memory, uint64_t page,
                       uint8_t *host)
{
    FerryStormStamp stamp = {.content = storm->settings.content};
    bool stamped =
        ferry_storm_page_peek(host, storm->seed, page, &stamp) == FERRY_STORM_PAGE_STAMPED;
    uint64_t before = stamped ? stamp.check : 0;
    size_t nr_bytes = FERRY_STORM_PAGE_BYTES;

    storm->nr_written++;
    stamp.page = page;
    stamp.generation = storm->nr_written;
    stamp.check = 0;
    if (storm->settings.whole && storm->settings.content == FERRY_STORM_ZERO) {
        memset(host, 0, FERRY_STORM_PAGE_BYTES);
    } else if (storm->settings.whole) {
        stamp.content = storm->settings.content;
        stamp.body = storm->nr_written;
        ferry_storm_page_fill(host, storm->seed, &stamp);
        ferry_storm_page_stamp(host, storm->seed, &stamp);
    } else if (stamped) {
        ferry_storm_page_stamp(host, storm->seed, &stamp);
        nr_bytes = FERRY_STORM_STAMP_BYTES;
    } else {
        /* Whatever there is, from now on it is zeros with a stamp. */
        stamp.content = FERRY_STORM_ZERO;
        stamp.body = 0;
        ferry_storm_page_fill(host, storm->seed, &stamp);
        ferry_storm_page_stamp(host, storm->seed, &stamp);
    }
    memory->wrote(memory->opaque, page, nr_bytes);
    ferry_storm_digest_add(&storm->digest, page, stamp.check - before);
}

const FerryStormPattern *ferry_storm_pattern(const FerryStorm *storm)
{
    return &storm->pattern;
}

void ferry_storm_touch(FerryStormPattern *ahead, const FerryStormMemory *memory, uint64_t nr_pages)
{
    for (uint64_t i = 0; i < nr_pages; i++) {
        const volatile uint8_t *host = memory->at(memory->opaque, ferry_storm_pattern_next(ahead));

        if (!host) {
            return;
        }
        (void)*host;
    }
}

uint64_t ferry_storm_write(FerryStorm *storm, const FerryStormMemory *memory, uint64_t nr_pages)
{
    for (uint64_t i = 0; i < nr_pages; i++) {
        FerryStormPlace before = storm->pattern.place;
        uint64_t page = ferry_storm_pattern_next(&storm->pattern);
        uint8_t *host = memory->at(memory->opaque, page);

        if (!host) {
            storm->pattern.place = before;
            return i;
        }
        write_page(storm, memory, page, host);
    }
    return nr_pages;
}
