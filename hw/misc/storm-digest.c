/*
 * Which generation each page should hold, in few bytes: see storm-digest.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <glib.h>
#include <string.h>

#include "storm-digest.h"

void ferry_storm_digest_init(FerryStormDigest *digest)
{
    memset(digest, 0, sizeof(*digest));
    digest->block_pages = 1;
}

uint64_t ferry_storm_digest_nr_blocks(const FerryStormDigest *digest)
{
    return (digest->nr_pages + digest->block_pages - 1) / digest->block_pages;
}

/* Two blocks become one: what was at a place in the second is now block_pages further on. */
static void join_blocks(FerryStormDigest *digest)
{
    for (unsigned i = 0; i < FERRY_STORM_MAX_BLOCKS / 2; i++) {
        const FerryStormSums *a = &digest->blocks[2 * i];
        const FerryStormSums *b = &digest->blocks[2 * i + 1];

        digest->blocks[i] = (FerryStormSums){
            .plain = a->plain + b->plain,
            .weighted = a->weighted + b->weighted + digest->block_pages * b->plain,
        };
    }
    memset(&digest->blocks[FERRY_STORM_MAX_BLOCKS / 2], 0, sizeof(digest->blocks) / 2);
    digest->block_pages *= 2;
}

void ferry_storm_digest_add(FerryStormDigest *digest, uint64_t page, uint64_t difference)
{
    while (page / digest->block_pages >= FERRY_STORM_MAX_BLOCKS) {
        join_blocks(digest);
    }
    digest->nr_pages = MAX(digest->nr_pages, page + 1);
    ferry_storm_sums_add(&digest->blocks[page / digest->block_pages], page % digest->block_pages,
                         difference);
}

FerryStormSumsResult ferry_storm_sums_compare(const FerryStormSums *kept,
                                              const FerryStormSums *found, uint64_t nr_pages,
                                              uint64_t *place)
{
    uint64_t plain = kept->plain - found->plain;
    uint64_t weighted = kept->weighted - found->weighted;

    if (plain == 0 && weighted == 0) {
        return FERRY_STORM_SUMS_EQUAL;
    }
    for (uint64_t i = 0; i < nr_pages && plain != 0; i++) {
        if ((i + 1) * plain == weighted) {
            *place = i;
            return FERRY_STORM_SUMS_ONE_WRONG;
        }
    }
    return FERRY_STORM_SUMS_MORE_WRONG;
}
