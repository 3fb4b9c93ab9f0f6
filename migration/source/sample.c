/*
 * A sample of the pages that are put off: see sample.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "sample.h"

struct FerrySample {
    const FerryBacklog *backlog;
    FerryPagesFrame frame;
    uint32_t region; /* where to go on */
    uint64_t granule;
};

FerrySample *ferry_sample_new(const FerryBacklog *backlog)
{
    FerrySample *sample = g_new0(FerrySample, 1);

    sample->backlog = backlog;
    /* Nobody gets it: a checksum would be of no use. */
    ferry_pages_frame_init(&sample->frame, false, true);
    return sample;
}

void ferry_sample_free(FerrySample *sample)
{
    if (sample) {
        ferry_pages_frame_clear(&sample->frame);
        g_free(sample);
    }
}

/* The first pages of the granule that are put off, at most @max_pages, as bits in @pages.  Returns how many. */
static unsigned peek(const FerrySample *sample, unsigned max_pages,
                     uint64_t pages[FERRY_GRANULE_WORDS])
{
    unsigned nr_pages = 0;

    for (unsigned i = 0; i < FERRY_GRANULE_WORDS; i++) {
        pages[i] = ferry_backlog_get_deferred(sample->backlog, sample->region,
                                              sample->granule * FERRY_GRANULE_WORDS + i);
        nr_pages += (unsigned)__builtin_popcountll(pages[i]);
        for (; nr_pages > max_pages; nr_pages--) {
            pages[i] &= ~(UINT64_C(1) << (63 - __builtin_clzll(pages[i])));
        }
    }
    return nr_pages;
}

/* Go to the next granule with pages that are put off, from here on and round; false if there is none. */
static bool find(FerrySample *sample)
{
    const size_t nr_regions = ferry_backlog_regions(sample->backlog)->nr;

    for (size_t i = 0; i <= nr_regions; i++) {
        int64_t granule =
            ferry_backlog_next_deferred(sample->backlog, sample->region, sample->granule);

        if (granule >= 0) {
            sample->granule = (uint64_t)granule;
            return true;
        }
        sample->region = (sample->region + 1) % (uint32_t)nr_regions;
        sample->granule = 0;
    }
    return false;
}

void ferry_sample_look(FerrySample *sample, FerryWireCost *cost)
{
    const FerryRegions *regions = ferry_backlog_regions(sample->backlog);
    unsigned left_pages = FERRY_SAMPLE_PAGES;
    uint64_t page_bytes = 0, wire_bytes = 0;

    /* A set may say of a granule that it has pages when the last one was taken out: so many times, no more. */
    for (unsigned i = 0; i < FERRY_SAMPLE_PAGES && left_pages > 0 && find(sample); i++) {
        uint64_t pages[FERRY_GRANULE_WORDS];
        unsigned nr_pages = peek(sample, left_pages, pages);

        if (nr_pages > 0) {
            ferry_pages_frame_build(&sample->frame, &regions->list[sample->region], sample->region,
                                    sample->granule, pages);
            page_bytes += sample->frame.content_bytes;
            wire_bytes += sample->frame.frame.payload_bytes;
            left_pages -= nr_pages;
        }
        sample->granule++;
    }
    ferry_wire_cost_note(cost, page_bytes, wire_bytes);
}
