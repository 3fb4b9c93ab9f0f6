/*
 * Looking at every page that a storm has written.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <string.h>

#include "storm-internal.h"

void ferry_storm_verify_begin(const FerryStorm *storm, FerryStormVerdict *verdict)
{
    *verdict = (FerryStormVerdict){.to_check = storm->digest.nr_pages};
}

/* Counts a wrong page. True if it is the first one so far, and wants a description. */
static bool count_wrong(FerryStormVerdict *verdict, uint64_t page)
{
    if (verdict->wrong++ > 0 && page > verdict->first_wrong) {
        return false;
    }
    verdict->first_wrong = page;
    return true;
}

static void describe_bad(FerryStormVerdict *verdict, FerryStormPageState state,
                         const FerryStormStamp *stamp)
{
    char *text = verdict->description;
    size_t size = sizeof(verdict->description);

    if (state == FERRY_STORM_PAGE_MISPLACED) {
        g_snprintf(text, size, "it holds page %" PRIu64 " as of write %" PRIu64, stamp->page,
                   stamp->generation);
    } else if (state == FERRY_STORM_PAGE_BAD_BODY) {
        g_snprintf(text, size,
                   "its stamp (write %" PRIu64 ") is intact, but what follows it is damaged",
                   stamp->generation);
    } else {
        g_snprintf(text, size, "it holds neither zeros nor a stamp of this storm");
    }
}

/* The page is as the storm has left it some time, but that is not the last time. */
static void describe_stale(FerryStormVerdict *verdict, const FerryStorm *storm,
                           const FerryStormMemory *memory, uint64_t page)
{
    const uint8_t *host = memory->at(memory->opaque, page);
    FerryStormStamp stamp;

    if (host &&
        ferry_storm_page_peek(host, storm->seed, page, &stamp) == FERRY_STORM_PAGE_STAMPED) {
        g_snprintf(verdict->description, sizeof(verdict->description),
                   "it is not as last written: it holds write %" PRIu64 " of %" PRIu64
                   ", or was so when it was written again",
                   stamp.generation, storm->nr_written);
    } else {
        g_snprintf(verdict->description, sizeof(verdict->description),
                   "it is not as last written: it is blank, or was so when it was written again");
    }
}

static void check_page(const FerryStorm *storm, FerryStormVerdict *verdict, const uint8_t *host)
{
    uint64_t page = verdict->checked;
    uint64_t place = page % storm->digest.block_pages;
    FerryStormStamp stamp;
    FerryStormPageState state = ferry_storm_page_check(host, storm->seed, page, &stamp);

    if (state == FERRY_STORM_PAGE_STAMPED || state == FERRY_STORM_PAGE_BAD_BODY) {
        ferry_storm_sums_add(&verdict->found, place, stamp.check);
    }
    if (state == FERRY_STORM_PAGE_BLANK || state == FERRY_STORM_PAGE_STAMPED) {
        return;
    }
    if (verdict->bad_in_block++ == 0) {
        verdict->first_bad = page;
    }
    if (count_wrong(verdict, page)) {
        describe_bad(verdict, state, &stamp);
    }
}

/*
 * The block ends before @end. Pages that are wrong by themselves may or may not be why the sums
 * differ: so beside them only what is certain is counted.
 */
static void check_block(const FerryStorm *storm, FerryStormVerdict *verdict,
                        const FerryStormMemory *memory, uint64_t end)
{
    uint64_t block = (end - 1) / storm->digest.block_pages;
    uint64_t first = block * storm->digest.block_pages;
    uint64_t place = 0;

    switch (ferry_storm_sums_compare(&storm->digest.blocks[block], &verdict->found, end - first,
                                     &place)) {
    case FERRY_STORM_SUMS_EQUAL:
        break;
    case FERRY_STORM_SUMS_ONE_WRONG:
        if (verdict->bad_in_block > 1 ||
            (verdict->bad_in_block == 1 && verdict->first_bad == first + place)) {
            break;
        }
        verdict->stale++;
        if (count_wrong(verdict, first + place)) {
            describe_stale(verdict, storm, memory, first + place);
        }
        break;
    case FERRY_STORM_SUMS_MORE_WRONG:
        if (verdict->bad_in_block > 0) {
            break;
        }
        verdict->stale += 2;
        if (count_wrong(verdict, first)) {
            g_snprintf(verdict->description, sizeof(verdict->description),
                       "at least two of the %" PRIu64 " pages from here on are not as last written",
                       end - first);
        }
        verdict->wrong++;
        break;
    }
    verdict->found = (FerryStormSums){0};
    verdict->bad_in_block = 0;
}

bool ferry_storm_verify_go_on(const FerryStorm *storm, FerryStormVerdict *verdict,
                              const FerryStormMemory *memory, uint64_t nr_pages)
{
    for (uint64_t i = 0; i < nr_pages && !ferry_storm_verify_is_complete(verdict); i++) {
        const uint8_t *host = memory->at(memory->opaque, verdict->checked);

        if (!host) {
            return false;
        }
        check_page(storm, verdict, host);
        verdict->checked++;
        if (verdict->checked % storm->digest.block_pages == 0 ||
            ferry_storm_verify_is_complete(verdict)) {
            check_block(storm, verdict, memory, verdict->checked);
        }
    }
    return true;
}
