/*
 * feed() on top of a tracker that has reset(): see feeder.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "feeder.h"

static void keep(void *opaque, uint32_t region, uint64_t word, uint64_t mask)
{
    Feeder *feeder = opaque;

    ferry_pageset_add_mask(feeder->kept, word, mask);
    feeder->client->noticed(feeder->client->opaque, region, word, mask);
}

static void pass_on(void *opaque, uint32_t region, uint64_t word, uint64_t mask)
{
    Feeder *feeder = opaque;

    feeder->client->report(feeder->client->opaque, region, word, mask);
}

static bool feeder_start(void *opaque, const FerryTrackerClient *client, GError **errp)
{
    Feeder *feeder = opaque;

    feeder->client = client;
    feeder->own = (FerryTrackerClient){.report = pass_on, .found = keep, .opaque = feeder};
    return feeder->inner.ops->start(feeder->inner.opaque, &feeder->own, errp);
}

static bool feeder_arm(void *opaque, uint32_t region, uint64_t first_page, uint64_t nr_pages,
                       GError **errp)
{
    Feeder *feeder = opaque;

    return feeder->inner.ops->arm(feeder->inner.opaque, region, first_page, nr_pages, errp);
}

/* Report the pages of one granule that were kept, reset before if something runs that writes. */
static bool feed_granule(Feeder *feeder, uint64_t granule, bool reset, unsigned *nr_fed,
                         GError **errp)
{
    const uint64_t first_page = granule * FERRY_GRANULE_PAGES;
    uint64_t pages[FERRY_GRANULE_WORDS];

    *nr_fed = ferry_pageset_take(feeder->kept, granule, pages);
    if (*nr_fed > 0 && reset &&
        !feeder->inner.ops->reset(feeder->inner.opaque, 0, first_page,
                                  MIN(FERRY_GRANULE_PAGES, feeder->nr_pages - first_page), errp)) {
        return false;
    }
    for (unsigned word = 0; *nr_fed > 0 && word < FERRY_GRANULE_WORDS; word++) {
        if (pages[word]) {
            pass_on(feeder, 0, first_page / 64 + word, pages[word]);
        }
    }
    return true;
}

/* Report @max_pages pages that were kept, or somewhat more. */
static bool feed_some(Feeder *feeder, uint64_t max_pages, bool reset, GError **errp)
{
    int64_t granule = 0;
    unsigned nr_fed;

    for (uint64_t nr = 0; nr < max_pages; nr += nr_fed) {
        granule = ferry_pageset_next(feeder->kept, (uint64_t)granule, 0, 1);
        if (granule < 0) {
            break;
        }
        if (!feed_granule(feeder, (uint64_t)granule, reset, &nr_fed, errp)) {
            return false;
        }
    }
    return true;
}

static bool feeder_feed(void *opaque, uint64_t max_pages, uint64_t *left_pages, GError **errp)
{
    Feeder *feeder = opaque;

    if (!feed_some(feeder, max_pages, true, errp)) {
        return false;
    }
    *left_pages = ferry_pageset_count(feeder->kept);
    return true;
}

static bool feeder_harvest(void *opaque, bool last, GError **errp)
{
    Feeder *feeder = opaque;

    return (!last || feed_some(feeder, UINT64_MAX, false, errp)) &&
           feeder->inner.ops->harvest(feeder->inner.opaque, last, errp);
}

static void feeder_stop(void *opaque)
{
    Feeder *feeder = opaque;

    feeder->inner.ops->stop(feeder->inner.opaque);
}

static const FerryTrackerOps feeder_ops = {
    .name = "fed",
    .start = feeder_start,
    .arm = feeder_arm,
    .harvest = feeder_harvest,
    .feed = feeder_feed,
    .stop = feeder_stop,
};

FerryTracker feeder_init(Feeder *feeder, const FerryTracker *inner, uint64_t nr_pages)
{
    *feeder = (Feeder){.inner = *inner, .nr_pages = nr_pages, .kept = ferry_pageset_new(nr_pages)};
    return (FerryTracker){.ops = &feeder_ops, .opaque = feeder};
}

void feeder_clear(Feeder *feeder)
{
    ferry_pageset_free(feeder->kept);
}
