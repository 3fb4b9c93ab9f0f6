/*
 * Pages that are left out: see left-out.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "left-out.h"

#include "../memory/region.h"

typedef struct PageRun {
    uint64_t first, end;
} PageRun;

struct FerryLeftOut {
    GArray *runs; /* of PageRun, in order */
};

FerryLeftOut *ferry_left_out_new(void)
{
    FerryLeftOut *left_out = g_new0(FerryLeftOut, 1);

    left_out->runs = g_array_new(FALSE, FALSE, sizeof(PageRun));
    return left_out;
}

void ferry_left_out_free(FerryLeftOut *left_out)
{
    g_array_unref(left_out->runs);
    g_free(left_out);
}

/* The first run that ends after @page; their number if none does. */
static guint find_run(const FerryLeftOut *left_out, uint64_t page)
{
    guint low = 0, high = left_out->runs->len;

    while (low < high) {
        guint middle = low + (high - low) / 2;

        if (g_array_index(left_out->runs, PageRun, middle).end <= page) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

void ferry_left_out_add(FerryLeftOut *left_out, uint64_t first_page, uint64_t nr_pages)
{
    const PageRun run = {.first = first_page, .end = first_page + nr_pages};

    g_array_insert_val(left_out->runs, find_run(left_out, first_page), run);
}

void ferry_left_out_filter(const FerryLeftOut *left_out, uint64_t offset_bytes, uint64_t nr_bytes,
                           FerryScanKind kind, FerryScanFn fn, void *opaque)
{
    uint64_t page = offset_bytes >> FERRY_PAGE_SHIFT;
    const uint64_t end = page + (nr_bytes >> FERRY_PAGE_SHIFT);

    for (guint i = find_run(left_out, page); page < end; i++) {
        PageRun run = {end, end};
        uint64_t stop;

        if (i < left_out->runs->len) {
            run = g_array_index(left_out->runs, PageRun, i);
        }
        stop = CLAMP(run.first, page, end);
        if (stop > page) {
            fn(opaque, page << FERRY_PAGE_SHIFT, (stop - page) << FERRY_PAGE_SHIFT, kind);
        }
        page = MAX(run.end, stop);
    }
}
