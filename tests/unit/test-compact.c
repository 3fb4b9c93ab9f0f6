/*
 * The compact bitmap: what is written is read back, it is as small as promised, and what was coded
 * ahead is as good as what is coded at the stop
 *
 * What is not accepted is in test-compact-hostile.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "compact-segments.h"

#include "migration/wire/crc32c.h"

#include <stdatomic.h>
#include <string.h>

#define TIB_PAGES (UINT64_C(1) << (40 - FERRY_PAGE_SHIFT))

static void assert_bound(const GPtrArray *segments, uint64_t nr_pages)
{
    uint64_t raw_bytes = (nr_pages + 7) / 8;
    uint64_t total = 0;

    for (unsigned i = 0; i < segments->len; i++) {
        total += ((GByteArray *)segments->pdata[i])->len;
    }
    g_assert_cmpuint(total, <=,
                     raw_bytes + ferry_compact_nr_tiles(nr_pages) * ITEM + 4 * segments->len);
    if (nr_pages >= TILE) {
        g_assert_cmpuint(total * 100, <=, raw_bytes * 101);
    }
}

/* What @writer says is what is in @set. */
static void check_write(FerryCompactWriter *writer, const FerryPageset *set, uint64_t nr_pages,
                        size_t out_bytes)
{
    g_autoptr(GPtrArray) segments = write_all(writer, out_bytes);
    g_autoptr(FerryPageset) read = ferry_pageset_new(nr_pages);
    g_autoptr(GError) error = NULL;

    assert_bound(segments, nr_pages);
    g_assert_true(read_all(segments, nr_pages, read, &error));
    g_assert_no_error(error);
    assert_same(set, read, nr_pages);
}

/* Write and read @set: coded at the stop, ahead, and half of each. */
static void check_round_trip(const FerryPageset *set, uint64_t nr_pages)
{
    static const size_t sizes[] = {FERRY_COMPACT_BUFFER_MIN, FERRY_COMPACT_BUFFER_MIN + 77,
                                   1 << 20};
    g_autoptr(FerryCompactWriter) writer = ferry_compact_writer_new(set, nr_pages);
    uint64_t nr_tiles = ferry_compact_nr_tiles(nr_pages);
    size_t half = nr_tiles / 2;

    check_write(writer, set, nr_pages, sizes[random_below(G_N_ELEMENTS(sizes))]);
    g_assert_cmpuint(ferry_compact_ahead(writer, half), ==, half);
    check_write(writer, set, nr_pages, sizes[random_below(G_N_ELEMENTS(sizes))]);
    g_assert_cmpuint(ferry_compact_ahead(writer, SIZE_MAX), ==, nr_tiles - half);
    g_assert_cmpuint(ferry_compact_ahead(writer, SIZE_MAX), ==, 0);
    check_write(writer, set, nr_pages, sizes[random_below(G_N_ELEMENTS(sizes))]);
}

/* Patterns; each fills an empty set. */

static void fill_empty(FerryPageset *set, uint64_t nr_pages)
{
}

static void fill_all(FerryPageset *set, uint64_t nr_pages)
{
    ferry_pageset_add(set, 0, nr_pages);
}

static void fill_ends(FerryPageset *set, uint64_t nr_pages)
{
    ferry_pageset_add(set, 0, 1);
    ferry_pageset_add(set, nr_pages - 1, 1);
}

static void fill_all_but_ends(FerryPageset *set, uint64_t nr_pages)
{
    ferry_pageset_add(set, 1, nr_pages > 2 ? nr_pages - 2 : 0);
}

static void fill_every_other(FerryPageset *set, uint64_t nr_pages)
{
    for (uint64_t word = 0; word * 64 < nr_pages; word++) {
        ferry_pageset_add_mask(set, word, UINT64_C(0xaaaaaaaaaaaaaaaa));
    }
}

/* Tiles that are empty and full in turn, and a run that reaches into the next one. */
static void fill_tiles(FerryPageset *set, uint64_t nr_pages)
{
    for (uint64_t first = TILE; first < nr_pages; first += 4 * TILE) {
        ferry_pageset_add(set, first, TILE);
        ferry_pageset_add(set, first + 2 * TILE - 3, 5);
    }
}

/* Runs that end where words, granules and stripes do, or one page before or after. */
static void fill_edges(FerryPageset *set, uint64_t nr_pages)
{
    static const uint64_t units[] = {64, FERRY_GRANULE_PAGES, 64 * FERRY_GRANULE_PAGES};

    for (int i = 0; i < 200; i++) {
        uint64_t unit = units[random_below(G_N_ELEMENTS(units))];
        uint64_t first = random_below(nr_pages / unit + 1) * unit + random_below(3);
        uint64_t length = random_below(4) * unit + random_below(3);

        if (first > 0) {
            ferry_pageset_add(set, first - 1, length);
        }
    }
}

/* @permille of all pages, on their own. */
static void fill_random(FerryPageset *set, uint64_t nr_pages, unsigned permille)
{
    for (uint64_t page = 0; page < nr_pages; page++) {
        if (random_below(1000) < permille) {
            ferry_pageset_add(set, page, 1);
        }
    }
}

static const uint64_t region_sizes[] = {
    1,     2,     5,        8,        9,      63,           64,
    65,    511,   512,      513,      32768,  TILE - 1,     TILE,
    65537, 65600, TILE + 7, 2 * TILE, 200000, 5 * TILE - 1, 5 * TILE + 513,
};

static void test_patterns(void)
{
    void (*const fills[])(FerryPageset *, uint64_t) = {
        fill_empty,       fill_all,   fill_ends,  fill_all_but_ends,
        fill_every_other, fill_tiles, fill_edges,
    };

    for (size_t size = 0; size < G_N_ELEMENTS(region_sizes); size++) {
        for (size_t i = 0; i < G_N_ELEMENTS(fills); i++) {
            g_autoptr(FerryPageset) set = ferry_pageset_new(region_sizes[size]);

            fills[i](set, region_sizes[size]);
            check_round_trip(set, region_sizes[size]);
        }
    }
}

static void test_densities(void)
{
    static const unsigned densities[] = {1, 10, 20, 50, 100, 200, 300, 500, 700, 900, 980, 999};

    for (size_t i = 0; i < G_N_ELEMENTS(densities); i++) {
        uint64_t nr_pages = 2 * TILE + random_below(2 * TILE);
        g_autoptr(FerryPageset) set = ferry_pageset_new(nr_pages);

        fill_random(set, nr_pages, densities[i]);
        check_round_trip(set, nr_pages);
    }
}

/* Runs and gaps of any length, differently in each tile. */
static void test_mixed(void)
{
    for (int i = 0; i < 30; i++) {
        uint64_t nr_pages = 1 + random_below(12 * TILE);
        g_autoptr(FerryPageset) set = ferry_pageset_new(nr_pages);

        for (uint64_t first = 0; first < nr_pages; first += TILE) {
            uint64_t longest = 1 + random_below(1 << random_below(17));
            uint64_t widest = 1 + random_below(1 << random_below(17));
            uint64_t page = first + random_below(widest);

            while (random_below(8) > 0 && page < first + TILE) {
                uint64_t length = 1 + random_below(longest);

                ferry_pageset_add(set, page, length);
                page += length + random_below(widest);
            }
        }
        check_round_trip(set, nr_pages);
    }
}

static void test_no_pages(void)
{
    g_autoptr(FerryPageset) set = ferry_pageset_new(0);
    g_autoptr(FerryCompactReader) reader = ferry_compact_reader_new(0);
    g_autoptr(GError) error = NULL;

    check_round_trip(set, 0);
    g_assert_true(ferry_compact_reader_finish(reader, &error));
    ferry_compact_writer_free(NULL);
    ferry_compact_reader_free(NULL);
}

/* However few pages there are, all of them are FULL. */
static void test_few(void)
{
    for (uint64_t nr_pages = 1; nr_pages < 50; nr_pages++) {
        g_autoptr(FerryPageset) set = ferry_pageset_new(nr_pages);
        g_autoptr(FerryCompactWriter) writer = ferry_compact_writer_new(set, nr_pages);
        g_autoptr(GPtrArray) segments = NULL;
        GByteArray *segment;

        fill_all(set, nr_pages);
        segments = write_all(writer, FERRY_COMPACT_BUFFER_MIN);
        segment = segments->pdata[0];
        g_assert_cmpuint(segment->len, ==, 4 + ITEM);
        g_assert_cmpuint(segment->data[4], ==, FERRY_COMPACT_FULL);
    }
}

/* 24 TiB: nothing, and a page at either end. */
static void test_huge(void)
{
    const uint64_t nr_pages = 24 * TIB_PAGES;
    g_autoptr(FerryPageset) set = ferry_pageset_new(nr_pages);
    g_autoptr(FerryPageset) read = ferry_pageset_new(nr_pages);
    g_autoptr(FerryCompactWriter) writer = ferry_compact_writer_new(set, nr_pages);
    g_autoptr(GPtrArray) empty = write_all(writer, 1 << 20);
    g_autoptr(GPtrArray) two = NULL;
    g_autoptr(GError) error = NULL;

    g_assert_cmpuint(empty->len, ==, 1);
    g_assert_cmpuint(((GByteArray *)empty->pdata[0])->len, ==, 4 + ITEM);
    g_assert_true(read_all(empty, nr_pages, read, &error));
    g_assert_cmpuint(ferry_pageset_count(read), ==, 0);

    g_assert_cmpuint(ferry_compact_ahead(writer, SIZE_MAX), ==, ferry_compact_nr_tiles(nr_pages));
    fill_ends(set, nr_pages);
    ferry_compact_mark(writer, 0, 1);
    ferry_compact_mark(writer, nr_pages - 1, 1);
    two = write_all(writer, 1 << 20);
    g_assert_cmpuint(two->len, ==, 1);
    g_assert_cmpuint(((GByteArray *)two->pdata[0])->len, <, 50);
    g_assert_true(read_all(two, nr_pages, read, &error));
    g_assert_cmpuint(ferry_pageset_count(read), ==, 2);
    g_assert_cmphex(ferry_pageset_get(read, 0), ==, 1);
    g_assert_cmphex(ferry_pageset_get(read, nr_pages / 64 - 1), ==, UINT64_C(1) << 63);
    /* Nothing but those two pages was touched. */
    g_assert_cmpuint(ferry_pageset_memory_bytes(read), <=, 64 * 1024);
}

/* The layout is a promise to other builds and versions: byte by byte. */
static void test_layout(void)
{
    static const uint8_t expected[] = {
        0,    0,    0,    0,                                  /* begins with tile 0 */
        1,    2,    0,    0,    0,    0xcc, 0xcc, 0xcc, 0xcc, /* 2 are empty */
        3,    7,    0,    0,    0,    0xcc, 0xcc, 0xcc, 0xcc, /* 1 in 7 bytes: */
        5,    1,    0x80, 0x01, 0xfa, 0xfe, 0x03, /* 5 not, 1 missing, 128 not, 65,402 missing */
        2,    3,    0,    0,    0,    0xcc, 0xcc, 0xcc, 0xcc, /* 3 are full */
        4,    2,    0,    0,    0,    0xcc, 0xcc, 0xcc, 0xcc, /* the last, of 9 pages, as it is: */
        0x81, 0x01,                                           /* pages 0, 7 and 8 */
    };
    static const uint8_t summed[] = {2, 0, 0, 0, 3, 7, 0, 0, 0, 5, 1, 0x80, 0x01, 0xfa, 0xfe, 0x03};
    static const size_t items[] = {4, 13, 29, 38};
    static const uint32_t tiles[] = {0, 2, 3, 6};
    const uint64_t nr_pages = 6 * TILE + 9;
    g_autoptr(FerryPageset) set = ferry_pageset_new(nr_pages);
    g_autoptr(FerryCompactWriter) writer = ferry_compact_writer_new(set, nr_pages);
    g_autoptr(GPtrArray) segments = NULL;
    GByteArray *segment;

    ferry_pageset_add(set, 2 * TILE + 5, 1);
    ferry_pageset_add(set, 2 * TILE + 134, TILE - 134);
    ferry_pageset_add(set, 3 * TILE, 3 * TILE);
    ferry_pageset_add_mask(set, 6 * TILE / 64, 0x181);
    segments = write_all(writer, 1 << 16);
    g_assert_cmpuint(segments->len, ==, 1);
    segment = segments->pdata[0];
    g_assert_cmphex(get32(segment->data + items[1] + 5), ==,
                    ferry_crc32c(0, summed, sizeof(summed)));
    for (size_t i = 0; i < G_N_ELEMENTS(items); i++) {
        uint8_t *item = segment->data + items[i];

        g_assert_cmphex(get32(item + 5), ==,
                        ferry_compact_item_crc(tiles[i], item, payload_bytes(item)));
        memset(item + 5, 0xcc, 4);
    }
    g_assert_cmpmem(segment->data, segment->len, expected, sizeof(expected));
}

/* How many items of each kind there are in @segment. */
static void kinds_of(const GByteArray *segment, unsigned counts[FERRY_COMPACT_ZSTD + 1])
{
    memset(counts, 0, (FERRY_COMPACT_ZSTD + 1) * sizeof(counts[0]));
    for (guint at = 4; at < segment->len; at += ITEM + payload_bytes(segment->data + at)) {
        uint8_t kind = segment->data[at];

        g_assert_cmpuint(kind, <=, FERRY_COMPACT_ZSTD);
        counts[kind]++;
    }
}

static void test_kinds(void)
{
    g_autoptr(FerryPageset) set = kinds_new();
    g_autoptr(FerryCompactWriter) writer = ferry_compact_writer_new(set, KINDS_PAGES);
    g_autoptr(GPtrArray) at_stop = write_all(writer, 1 << 16);
    g_autoptr(GPtrArray) ahead = NULL;
    unsigned counts[FERRY_COMPACT_ZSTD + 1];

    kinds_of(at_stop->pdata[0], counts);
    g_assert_cmpuint(counts[FERRY_COMPACT_EMPTY], ==, 1);
    g_assert_cmpuint(counts[FERRY_COMPACT_FULL], ==, 1);
    g_assert_cmpuint(counts[FERRY_COMPACT_RUNS], ==, 2);
    g_assert_cmpuint(counts[FERRY_COMPACT_RAW], ==, 2);
    g_assert_cmpuint(counts[FERRY_COMPACT_ZSTD], ==, 0);

    g_assert_cmpuint(ferry_compact_ahead(writer, 100), ==, 7);
    ahead = write_all(writer, 1 << 16);
    kinds_of(ahead->pdata[0], counts);
    g_assert_cmpuint(counts[FERRY_COMPACT_EMPTY], ==, 1);
    g_assert_cmpuint(counts[FERRY_COMPACT_FULL], ==, 1);
    g_assert_cmpuint(counts[FERRY_COMPACT_RUNS], ==, 2);
    g_assert_cmpuint(counts[FERRY_COMPACT_RAW], ==, 1);
    g_assert_cmpuint(counts[FERRY_COMPACT_ZSTD], ==, 1);
}

/* What was coded ahead is used, and only as long as nobody marks its tile. */
static void test_mark(void)
{
    const uint64_t nr_pages = 4 * TILE;
    g_autoptr(FerryPageset) set = ferry_pageset_new(nr_pages);
    g_autoptr(FerryPageset) before = ferry_pageset_new(nr_pages);
    g_autoptr(FerryCompactWriter) writer = ferry_compact_writer_new(set, nr_pages);

    fill_ends(set, nr_pages);
    fill_ends(before, nr_pages);
    ferry_compact_ahead(writer, SIZE_MAX);
    /* The positive control: who forgets to mark gets the old bits. */
    ferry_pageset_add(set, 2 * TILE - 1, 2);
    check_write(writer, before, nr_pages, 1 << 16);
    /* Both tiles that the range lies in. */
    ferry_compact_mark(writer, 2 * TILE - 1, 2);
    check_write(writer, set, nr_pages, 1 << 16);
    check_write(writer, set, nr_pages, 1 << 16);
    g_assert_cmpuint(ferry_compact_ahead(writer, SIZE_MAX), ==, 2);
    check_write(writer, set, nr_pages, 1 << 16);
    /* Pages that have gone, with none left and with one. */
    ferry_pageset_remove(set, 2 * TILE - 1, 1);
    ferry_pageset_remove(set, nr_pages - 1, 1);
    ferry_compact_mark(writer, 2 * TILE - 1, 1);
    ferry_compact_mark(writer, nr_pages - 1, 1);
    check_write(writer, set, nr_pages, 1 << 16);
    g_assert_cmpuint(ferry_compact_ahead(writer, SIZE_MAX), ==, 2);
    check_write(writer, set, nr_pages, 1 << 16);
    /* Marks of nothing, past the end, and reaching past it. */
    ferry_compact_mark(writer, 0, 0);
    ferry_compact_mark(writer, nr_pages, 1);
    g_assert_cmpuint(ferry_compact_ahead(writer, SIZE_MAX), ==, 0);
    ferry_compact_mark(writer, nr_pages - 1, UINT32_MAX * TILE);
    g_assert_cmpuint(ferry_compact_ahead(writer, SIZE_MAX), ==, 1);
}

/* Coding ahead a few at a time gets round to all of them. */
static void test_round(void)
{
    const uint64_t nr_pages = 150 * TILE - 5;
    g_autoptr(FerryPageset) set = ferry_pageset_new(nr_pages);
    g_autoptr(FerryCompactWriter) writer = ferry_compact_writer_new(set, nr_pages);

    for (int i = 0; i < 21; i++) {
        g_assert_cmpuint(ferry_compact_ahead(writer, 7), ==, 7);
        ferry_compact_mark(writer, 0,
                           TILE); /* changes all the time, and keeps none from its turn */
    }
    ferry_pageset_add(set, 140 * TILE, 1);
    ferry_pageset_add(set, 3 * TILE, 1);
    ferry_compact_mark(writer, 140 * TILE, 1);
    ferry_compact_mark(writer, 3 * TILE, 1);
    check_write(writer, set, nr_pages, 1 << 16);
    /* Three were never coded so far, three are marked again; it takes going round to find five. */
    g_assert_cmpuint(ferry_compact_ahead(writer, 5), ==, 5);
    g_assert_cmpuint(ferry_compact_ahead(writer, 5), ==, 1);
    g_assert_cmpuint(ferry_compact_ahead(writer, 5), ==, 0);
    check_write(writer, set, nr_pages, 1 << 16);
}

/* Change, mark, code ahead and write in any order. */
static void test_steps(void)
{
    const uint64_t nr_pages = 20 * TILE + 77;
    g_autoptr(FerryPageset) set = ferry_pageset_new(nr_pages);
    g_autoptr(FerryCompactWriter) writer = ferry_compact_writer_new(set, nr_pages);

    for (int i = 0; i < 2000; i++) {
        uint64_t first = random_below(nr_pages);
        uint64_t length = 1 + random_below(1 << random_below(18));

        switch (random_below(10)) {
        case 0 ... 2:
            ferry_pageset_add(set, first, length);
            ferry_compact_mark(writer, first, length);
            break;
        case 3 ... 5:
            ferry_pageset_remove(set, first, length);
            ferry_compact_mark(writer, first, length);
            break;
        case 6 ... 8:
            ferry_compact_ahead(writer, random_below(10));
            break;
        default:
            if (random_below(4) == 0) {
                check_write(writer, set, nr_pages, 1 << 20);
            }
        }
    }
    check_write(writer, set, nr_pages, 1 << 20);
}

/*
 * Writers and a sender change the set while the owner codes ahead without a pause. Once they have
 * been joined, what is written must be what is in the set: no tile may rest on older bits.
 */

#define NR_CHANGERS   3
#define NR_CHANGES    20000
#define NR_AWAITED    300 /* changers go on until as many tiles have been coded */
#define THREADS_PAGES (40 * TILE - 9)

typedef struct {
    FerryPageset *set;
    FerryCompactWriter *writer;
    uint64_t nr_hot; /* the fewer pages, the more often changer and owner meet in a tile */
    _Atomic unsigned nr_running;
    _Atomic uint64_t nr_coded;
} Shared;

typedef struct {
    Shared *shared;
    unsigned index;
    uint32_t seed;
} Thread;

static gpointer changer_thread(gpointer opaque)
{
    Thread *thread = opaque;
    Shared *shared = thread->shared;
    g_autoptr(GRand) rand = g_rand_new_with_seed(thread->seed);
    uint64_t words[FERRY_GRANULE_WORDS];

    for (int i = 0; i < NR_CHANGES || atomic_load(&shared->nr_coded) < NR_AWAITED; i++) {
        uint64_t page = g_rand_int(rand) % shared->nr_hot * (THREADS_PAGES / shared->nr_hot);
        uint64_t granule = page / FERRY_GRANULE_PAGES;

        if (thread->index == 0) {
            ferry_pageset_take(shared->set, granule, words);
            ferry_compact_mark(shared->writer, granule * FERRY_GRANULE_PAGES, FERRY_GRANULE_PAGES);
        } else if (i % 2) {
            ferry_pageset_add(shared->set, page, 1);
            ferry_compact_mark(shared->writer, page, 1);
        } else {
            ferry_pageset_add_runs(shared->set, &(FerryPageRun){page, 1}, 1);
            ferry_compact_mark(shared->writer, page, 1);
        }
    }
    atomic_fetch_sub(&shared->nr_running, 1);
    return NULL;
}

static void test_threads(gconstpointer data)
{
    g_autoptr(FerryPageset) set = ferry_pageset_new(THREADS_PAGES);
    g_autoptr(FerryCompactWriter) writer = ferry_compact_writer_new(set, THREADS_PAGES);
    Shared shared = {
        .set = set,
        .writer = writer,
        .nr_hot = GPOINTER_TO_SIZE(data),
        .nr_running = NR_CHANGERS,
    };
    Thread threads[NR_CHANGERS];
    GThread *handles[NR_CHANGERS];

    ferry_compact_ahead(writer, SIZE_MAX);
    for (unsigned i = 0; i < NR_CHANGERS; i++) {
        threads[i] = (Thread){&shared, i, (uint32_t)g_test_rand_int()};
        handles[i] = g_thread_new("changer", changer_thread, &threads[i]);
    }
    while (atomic_load(&shared.nr_running) > 0) {
        atomic_fetch_add(&shared.nr_coded, ferry_compact_ahead(writer, 3));
    }
    for (unsigned i = 0; i < NR_CHANGERS; i++) {
        g_thread_join(handles[i]);
    }
    g_test_message("%" G_GUINT64_FORMAT " tiles coded meanwhile", (uint64_t)shared.nr_coded);
    check_write(writer, set, THREADS_PAGES, 1 << 20);
    ferry_compact_ahead(writer, SIZE_MAX);
    check_write(writer, set, THREADS_PAGES, 1 << 20);
}

int main(int argc, char **argv)
{
    static const uint64_t hot[] = {1, 5, 300, THREADS_PAGES};

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/compact/patterns", test_patterns);
    g_test_add_func("/compact/densities", test_densities);
    g_test_add_func("/compact/mixed", test_mixed);
    g_test_add_func("/compact/no-pages", test_no_pages);
    g_test_add_func("/compact/few", test_few);
    g_test_add_func("/compact/huge", test_huge);
    g_test_add_func("/compact/layout", test_layout);
    g_test_add_func("/compact/kinds", test_kinds);
    g_test_add_func("/compact/mark", test_mark);
    g_test_add_func("/compact/round", test_round);
    g_test_add_func("/compact/steps", test_steps);
    for (size_t i = 0; i < G_N_ELEMENTS(hot); i++) {
        g_autofree char *path = g_strdup_printf("/compact/threads/%" G_GUINT64_FORMAT, hot[i]);

        g_test_add_data_func(path, GSIZE_TO_POINTER(hot[i]), test_threads);
    }
    return g_test_run();
}
