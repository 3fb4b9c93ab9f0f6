/*
 * Missing pages in words
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/destination/describe.h"

#define NR_PAGES UINT64_C(4096)

typedef struct Bed {
    FerryRegion list[2];
    FerryRegions regions;
    FerryPageset *missing[2];
} Bed;

static void bed_init(Bed *bed)
{
    *bed = (Bed){
        .list = {{.id = "pc.ram", .length_bytes = NR_PAGES * FERRY_PAGE_BYTES},
                 {.id = "vga.vram", .length_bytes = NR_PAGES * FERRY_PAGE_BYTES}},
    };
    bed->regions = (FerryRegions){.list = bed->list, .nr = 2};
    for (size_t i = 0; i < G_N_ELEMENTS(bed->missing); i++) {
        bed->list[i].page_size_bytes = FERRY_PAGE_BYTES;
        bed->missing[i] = ferry_pageset_new(NR_PAGES);
    }
}

static void bed_expect(Bed *bed, const char *words)
{
    uint64_t nr = ferry_pageset_count(bed->missing[0]) + ferry_pageset_count(bed->missing[1]);
    g_autofree char *text = ferry_describe_missing(&bed->regions, bed->missing, nr);

    g_assert_cmpstr(text, ==, words);
}

static void bed_clear(Bed *bed)
{
    ferry_pageset_free(bed->missing[0]);
    ferry_pageset_free(bed->missing[1]);
}

static void test_ranges(void)
{
    Bed bed;

    bed_init(&bed);
    bed_expect(&bed, "0 pages are missing:");
    ferry_pageset_add(bed.missing[1], 0, 1);
    bed_expect(&bed, "1 pages are missing: 1 of RAM block 'vga.vram' (page numbers 0x0-0x0)");
    /* Across granules, and to the very end. */
    ferry_pageset_add(bed.missing[0], 0x1f0, 0x20);
    ferry_pageset_add(bed.missing[0], NR_PAGES - 1, 1);
    bed_expect(&bed, "34 pages are missing: 33 of RAM block 'pc.ram' (page numbers 0x1f0-0x20f "
                     "0xfff-0xfff) 1 of RAM block 'vga.vram' (page numbers 0x0-0x0)");
    bed_clear(&bed);
}

static void test_many_ranges(void)
{
    Bed bed;

    bed_init(&bed);
    for (uint64_t i = 0; i < 9; i++) {
        ferry_pageset_add(bed.missing[0], i * 2, 1);
        if (i == 7) {
            bed_expect(&bed, "8 pages are missing: 8 of RAM block 'pc.ram' (page numbers 0x0-0x0 "
                             "0x2-0x2 0x4-0x4 0x6-0x6 0x8-0x8 0xa-0xa 0xc-0xc 0xe-0xe)");
        }
    }
    bed_expect(&bed, "9 pages are missing: 9 of RAM block 'pc.ram' (page numbers 0x0-0x0 0x2-0x2 "
                     "0x4-0x4 0x6-0x6 0x8-0x8 0xa-0xa 0xc-0xc 0xe-0xe and more)");
    bed_clear(&bed);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/describe/ranges", test_ranges);
    g_test_add_func("/describe/many-ranges", test_many_ranges);
    return g_test_run();
}
