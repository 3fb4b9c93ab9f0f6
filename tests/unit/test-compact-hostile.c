/*
 * The compact bitmap: nothing is accepted but what a writer would have written
 *
 * Input is always passed in an allocation of exactly its size, so that AddressSanitizer
 * sees a reader that goes past it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "compact-segments.h"
#include "decoding.h"

#include "migration/error.h"

#include <string.h>
#include <zstd.h>

/* A segment as a peer would have to send it, whatever it says: with the right checksums. */

static GByteArray *segment_new(uint32_t first_tile)
{
    GByteArray *segment = g_byte_array_new();

    g_byte_array_set_size(segment, 4);
    put32(segment->data, first_tile);
    return segment;
}

static void segment_add(GByteArray *segment, uint32_t tile, uint8_t kind, uint32_t argument,
                        const void *payload, size_t nr_bytes)
{
    guint at = segment->len;
    uint8_t *item;

    g_byte_array_set_size(segment, (guint)(at + ITEM + nr_bytes));
    item = segment->data + at;
    item[0] = kind;
    put32(item + 1, argument);
    if (nr_bytes > 0) {
        memcpy(item + ITEM, payload, nr_bytes);
    }
    put32(item + 5, ferry_compact_item_crc(tile, item, nr_bytes));
}

/* Whether @segment alone is a whole bitmap; what it names is added to @set. */
static bool read_segment(const GByteArray *segment, size_t nr_bytes, uint64_t nr_pages,
                         FerryPageset *set, GError **errp)
{
    g_autoptr(FerryCompactReader) reader = ferry_compact_reader_new(nr_pages);
    g_autofree uint8_t *exact = g_malloc(nr_bytes);

    if (nr_bytes > 0) {
        memcpy(exact, segment->data, nr_bytes);
    }
    return ferry_compact_read(reader, exact, nr_bytes, set, errp) &&
           ferry_compact_reader_finish(reader, errp);
}

static GByteArray *all_kinds(FerryPageset **set)
{
    g_autoptr(FerryCompactWriter) writer = NULL;
    g_autoptr(GPtrArray) segments = NULL;

    *set = kinds_new();
    writer = ferry_compact_writer_new(*set, KINDS_PAGES);
    ferry_compact_ahead(writer, 100);
    segments = write_all(writer, 1 << 16);
    return g_byte_array_ref(segments->pdata[0]);
}

/* Every bit matters. */
static void test_damaged(void)
{
    g_autoptr(FerryPageset) set = NULL;
    g_autoptr(FerryPageset) read = ferry_pageset_new(KINDS_PAGES);
    g_autoptr(GByteArray) segment = all_kinds(&set);
    g_autoptr(GError) error = NULL;

    for (size_t bit = 0; bit < segment->len * 8; bit += bit < 200 * 8 ? 1 : 37) {
        segment->data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_refused(read_segment(segment, segment->len, KINDS_PAGES, read, &error), &error);
        segment->data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    g_assert_true(read_segment(segment, segment->len, KINDS_PAGES, read, &error));
    /* Whatever was in the set before the damage was found was right. */
    assert_same(set, read, KINDS_PAGES);
}

/* Cut short anywhere, or longer than it should be. */
static void test_cut(void)
{
    g_autoptr(FerryPageset) set = NULL;
    g_autoptr(FerryPageset) read = ferry_pageset_new(KINDS_PAGES);
    g_autoptr(GByteArray) segment = all_kinds(&set);
    g_autoptr(GError) error = NULL;
    guint nr_bytes = segment->len;

    for (guint n = 0; n < nr_bytes; n += n < 500 ? 1 : 13) {
        assert_refused(read_segment(segment, n, KINDS_PAGES, read, &error), &error);
    }
    g_assert_true(read_segment(segment, nr_bytes, KINDS_PAGES, read, &error));
    assert_same(set, read, KINDS_PAGES);
    segment_add(segment, 7, FERRY_COMPACT_EMPTY, 1, NULL, 0);
    for (guint n = nr_bytes + 1; n <= segment->len; n++) {
        assert_refused(read_segment(segment, n, KINDS_PAGES, read, &error), &error);
    }
}

/* Segments that are lost, come twice, or come in another order; and items from elsewhere. */
static void test_order(void)
{
    const uint64_t nr_pages = 9 * TILE;
    g_autoptr(FerryPageset) set = ferry_pageset_new(nr_pages);
    g_autoptr(FerryPageset) read = ferry_pageset_new(nr_pages);
    g_autoptr(FerryCompactWriter) writer = ferry_compact_writer_new(set, nr_pages);
    g_autoptr(GByteArray) moved = NULL;
    g_autoptr(GPtrArray) segments = NULL;
    g_autoptr(GError) error = NULL;

    for (uint64_t word = 0; word * 64 < nr_pages; word++) {
        ferry_pageset_add_mask(set, word, random_below(UINT64_MAX));
    }
    segments = write_all(writer, FERRY_COMPACT_BUFFER_MIN);
    g_assert_cmpuint(segments->len, >=, 4);
    for (unsigned a = 0; a < segments->len; a++) {
        for (unsigned b = 0; b < segments->len; b++) {
            g_autoptr(FerryCompactReader) reader = ferry_compact_reader_new(nr_pages);
            GByteArray *first = segments->pdata[a];
            GByteArray *second = segments->pdata[b];

            if (a != 0) {
                assert_refused(ferry_compact_read(reader, first->data, first->len, read, &error),
                               &error);
                continue;
            }
            g_assert_true(ferry_compact_read(reader, first->data, first->len, read, &error));
            if (b != 1) {
                assert_refused(ferry_compact_read(reader, second->data, second->len, read, &error),
                               &error);
            } else {
                g_assert_true(ferry_compact_read(reader, second->data, second->len, read, &error));
                assert_refused(ferry_compact_reader_finish(reader, &error), &error);
            }
        }
    }
    /* A segment that pretends to be the first one. */
    moved = g_byte_array_ref(segments->pdata[1]);
    put32(moved->data, 0);
    assert_refused(read_segment(moved, moved->len, nr_pages, read, &error), &error);
}

/* A segment that says it begins elsewhere, with checksums that are right for where it is read. */
static void test_first_tile(void)
{
    static const uint32_t wrong[] = {0, 2, 3, 4, UINT32_MAX};
    const uint64_t nr_pages = 3 * TILE;
    g_autoptr(FerryPageset) set = ferry_pageset_new(nr_pages);
    g_autoptr(GByteArray) first = segment_new(0);
    g_autoptr(GByteArray) second = segment_new(1);
    g_autoptr(GError) error = NULL;

    segment_add(first, 0, FERRY_COMPACT_EMPTY, 1, NULL, 0);
    segment_add(second, 1, FERRY_COMPACT_EMPTY, 2, NULL, 0);
    for (size_t i = 0; i <= G_N_ELEMENTS(wrong); i++) {
        g_autoptr(FerryCompactReader) reader = ferry_compact_reader_new(nr_pages);
        bool is_right = i == G_N_ELEMENTS(wrong);
        bool ok;

        put32(second->data, is_right ? 1 : wrong[i]);
        g_assert_true(ferry_compact_read(reader, first->data, first->len, set, &error));
        ok = ferry_compact_read(reader, second->data, second->len, set, &error);
        if (is_right) {
            g_assert_true(ok && ferry_compact_reader_finish(reader, &error));
        } else {
            assert_refused(ok, &error);
        }
    }
}

/* Every kind, once more after the last tile. */
static void test_after_end(void)
{
    static const uint8_t bits[FERRY_COMPACT_TILE_BYTES] = {1, 1};
    static const struct {
        uint8_t kind;
        uint32_t argument;
        size_t payload_bytes;
    } more[] = {
        {FERRY_COMPACT_EMPTY, 1, 0}, {FERRY_COMPACT_EMPTY, UINT32_MAX, 0},
        {FERRY_COMPACT_FULL, 1, 0},  {FERRY_COMPACT_RUNS, 2, 2},
        {FERRY_COMPACT_RAW, 2, 2},   {FERRY_COMPACT_RAW, sizeof(bits), sizeof(bits)},
    };
    const uint64_t sizes[] = {10, TILE, TILE + 10};

    for (size_t i = 0; i < G_N_ELEMENTS(sizes) * G_N_ELEMENTS(more); i++) {
        uint64_t nr_pages = sizes[i / G_N_ELEMENTS(more)];
        size_t n = i % G_N_ELEMENTS(more);
        uint32_t nr_tiles = (uint32_t)ferry_compact_nr_tiles(nr_pages);
        g_autoptr(FerryPageset) set = ferry_pageset_new(nr_pages);
        g_autoptr(GByteArray) segment = segment_new(0);
        g_autoptr(GError) error = NULL;

        segment_add(segment, 0, FERRY_COMPACT_EMPTY, nr_tiles, NULL, 0);
        segment_add(segment, nr_tiles, more[n].kind, more[n].argument, bits, more[n].payload_bytes);
        assert_refused(read_segment(segment, segment->len, nr_pages, set, &error), &error);
        g_assert_cmpuint(ferry_pageset_count(set), ==, 0);
    }
}

/* One tile of a region, said wrongly but with a good checksum, and where the error says it is. */
typedef struct {
    const char *what;
    uint64_t nr_pages;
    uint8_t kind;
    uint32_t argument;
    uint8_t payload[16];
    size_t payload_bytes;
    const char *message;
} Bad;

/* clang-format off */
static const Bad bad_items[] = {
    {"kind 0", TILE, FERRY_COMPACT_INVALID, 1, {0}, 0, "*tile 0 of 1: unknown kind 0"},
    {"kind after the last", TILE, FERRY_COMPACT_ZSTD + 1, 1, {0}, 1, "*unknown kind 6"},
    {"kind 255", TILE, 255, 1, {0}, 1, "*unknown kind 255"},
    {"no tiles", TILE, FERRY_COMPACT_EMPTY, 0, {0}, 0, "*a stretch of 0 tiles, and 1 are left"},
    {"past the end", TILE, FERRY_COMPACT_FULL, 2, {0}, 0, "*a stretch of 2 tiles, and 1 are left"},
    {"far past it", 3 * TILE + 1, FERRY_COMPACT_FULL, UINT32_MAX, {0}, 0, "*and 4 are left"},
    {"skips far", 3 * TILE + 1, FERRY_COMPACT_EMPTY, UINT32_MAX, {0}, 0, "*and 4 are left"},
    {"no runs", TILE, FERRY_COMPACT_RUNS, 0, {0}, 0, "*kind 3 with 0 bytes*"},
    {"runs as long as bits", 64, FERRY_COMPACT_RUNS, 8, {1, 1, 1, 1, 1, 1, 1, 1}, 8, "*kind 3 with 8 bytes for 8*"},
    {"runs longer than bits", TILE, FERRY_COMPACT_RUNS, UINT32_MAX, {1, 1}, 2, "*kind 3 with 4294967295 bytes*"},
    {"run of none", TILE, FERRY_COMPACT_RUNS, 2, {5, 0}, 2, "*a run of 0 at page 0"},
    {"second run of none", TILE, FERRY_COMPACT_RUNS, 4, {5, 1, 2, 0}, 4, "*a run of 0 at page 6"},
    {"gap of none", TILE, FERRY_COMPACT_RUNS, 4, {5, 1, 0, 1}, 4, "*a gap of 0 and a run of 1 at page 6"},
    {"no length", TILE, FERRY_COMPACT_RUNS, 1, {5}, 1, "*before byte 1 of 1*"},
    {"no second length", TILE, FERRY_COMPACT_RUNS, 3, {5, 1, 9}, 3, "*before byte 3 of 3*"},
    {"number cut short", TILE, FERRY_COMPACT_RUNS, 2, {5, 0x81}, 2, "*before byte 2 of 2*"},
    {"number longer than needed", TILE, FERRY_COMPACT_RUNS, 3, {5, 0x81, 0}, 3, "*before byte 3 of 3*"},
    {"zero longer than needed", TILE, FERRY_COMPACT_RUNS, 3, {0x80, 0, 1}, 3, "*no proper number*"},
    {"number of four bytes", TILE, FERRY_COMPACT_RUNS, 5, {0x81, 0x80, 0x80, 1, 1}, 5, "*no proper number*"},
    {"number without an end", TILE, FERRY_COMPACT_RUNS, 12, {[0 ... 11] = 0xff}, 12, "*no proper number*"},
    {"run past the tile", TILE, FERRY_COMPACT_RUNS, 4, {1, 0x80, 0x80, 4}, 4, "*a run of 65536 at page 0 of 65536"},
    {"gap past the tile", TILE, FERRY_COMPACT_RUNS, 4, {0x81, 0x80, 4, 1}, 4, "*a gap of 65537*"},
    {"gap to the end", TILE, FERRY_COMPACT_RUNS, 4, {0x80, 0x80, 4, 1}, 4, "*a gap of 65536*"},
    {"largest numbers", TILE, FERRY_COMPACT_RUNS, 6, {0xff, 0xff, 0x7f, 0xff, 0xff, 0x7f}, 6, "*a gap of 2097151*"},
    {"second gap past it", TILE, FERRY_COMPACT_RUNS, 6, {1, 1, 0xff, 0xff, 3, 1}, 6, "*at page 2 of 65536"},
    {"run past the region", 100, FERRY_COMPACT_RUNS, 2, {99, 2}, 2, "*a run of 2 at page 0 of 100"},
    {"gap past the region", 100, FERRY_COMPACT_RUNS, 2, {101, 1}, 2, "*at page 0 of 100"},
    {"bits too short", 100, FERRY_COMPACT_RAW, 12, {1}, 12, "*12 bytes of bits, not 13"},
    {"bits too long", 100, FERRY_COMPACT_RAW, 14, {1}, 14, "*14 bytes of bits, not 13"},
    {"bits of none", 100, FERRY_COMPACT_RAW, 0, {0}, 0, "*0 bytes of bits, not 13"},
    {"bits in whole words", 100, FERRY_COMPACT_RAW, 16, {1}, 16, "*16 bytes of bits, not 13"},
    {"bit after the region", 100, FERRY_COMPACT_RAW, 13, {[12] = 0x10}, 13, "*pages after the region's last"},
    {"last bit after it", 100, FERRY_COMPACT_RAW, 13, {[12] = 0x8f}, 13, "*pages after the region's last"},
    {"bit after the only page", 1, FERRY_COMPACT_RAW, 1, {2}, 1, "*pages after the region's last"},
    {"bits cut short", TILE, FERRY_COMPACT_RAW, FERRY_COMPACT_TILE_BYTES, {1}, 16, "*cut short (16 bytes of 8192)"},
    {"runs cut short", TILE, FERRY_COMPACT_RUNS, 8191, {1, 1}, 2, "*cut short (2 bytes of 8191)"},
    {"zstd without bytes", TILE, FERRY_COMPACT_ZSTD, 0, {0}, 0, "*kind 5 with 0 bytes*"},
    {"zstd as long as bits", 64, FERRY_COMPACT_ZSTD, 8, {0}, 8, "*kind 5 with 8 bytes for 8*"},
    {"zstd cut short", TILE, FERRY_COMPACT_ZSTD, 100, {0}, 16, "*cut short (16 bytes of 100)"},
    {"zstd of three bytes", TILE, FERRY_COMPACT_ZSTD, 3, {0x28, 0xb5, 0x2f}, 3, "*not one zstd frame*"},
    {"zstd of zeros", TILE, FERRY_COMPACT_ZSTD, 16, {0}, 16, "*not one zstd frame*"},
    {"an early zstd", TILE, FERRY_COMPACT_ZSTD, 12, {0x27, 0xb5, 0x2f, 0xfd, 1, 2, 3}, 12, "*not one zstd frame*"},
    {"zstd to be skipped", TILE, FERRY_COMPACT_ZSTD, 12, {0x50, 0x2a, 0x4d, 0x18, 4}, 12, "*not one zstd frame*"},
};
/* clang-format on */

static void test_item(gconstpointer data)
{
    const Bad *bad = data;
    g_autoptr(FerryPageset) set = ferry_pageset_new(bad->nr_pages);
    g_autoptr(GByteArray) segment = segment_new(0);
    g_autoptr(GError) error = NULL;

    segment_add(segment, 0, bad->kind, bad->argument, bad->payload, bad->payload_bytes);
    g_assert_false(read_segment(segment, segment->len, bad->nr_pages, set, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_PROTOCOL);
    if (!g_pattern_match_simple(bad->message, error->message)) {
        g_error("%s, but: %s", bad->message, error->message);
    }
    /* Nothing of a bad tile gets into the set. */
    g_assert_cmpuint(ferry_pageset_count(set), ==, 0);
}

/* @bits, compressed; with the length of the content or without it. */
static GByteArray *squeeze(const uint8_t *bits, size_t nr_bytes, bool with_length)
{
    GByteArray *out = g_byte_array_new();
    ZSTD_CCtx *zstd = ZSTD_createCCtx();
    size_t n;

    g_byte_array_set_size(out, (guint)ZSTD_compressBound(nr_bytes));
    ZSTD_CCtx_setParameter(zstd, ZSTD_c_contentSizeFlag, with_length);
    n = ZSTD_compress2(zstd, out->data, out->len, bits, nr_bytes);
    g_assert_false(ZSTD_isError(n));
    g_byte_array_set_size(out, (guint)n);
    ZSTD_freeCCtx(zstd);
    return out;
}

static bool read_zstd(const GByteArray *frame, uint64_t nr_pages, FerryPageset *set, GError **errp)
{
    g_autoptr(GByteArray) segment = segment_new(0);

    segment_add(segment, 0, FERRY_COMPACT_ZSTD, frame->len, frame->data, frame->len);
    return read_segment(segment, segment->len, nr_pages, set, errp);
}

/* Frames that zstd itself would take, and that could be anything once expanded. */
static void test_zstd(void)
{
    static const uint8_t skipped[] = {0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 0};
    uint8_t bits[2 * FERRY_COMPACT_TILE_BYTES] = {[100] = 1};
    const size_t tile_bytes = FERRY_COMPACT_TILE_BYTES;
    g_autoptr(FerryPageset) set = ferry_pageset_new(TILE);
    g_autoptr(GByteArray) good = squeeze(bits, tile_bytes, true);
    g_autoptr(GByteArray) nameless = squeeze(bits, tile_bytes, false);
    g_autoptr(GByteArray) longer = squeeze(bits, tile_bytes + 1, true);
    g_autoptr(GByteArray) twice_as_long = squeeze(bits, 2 * tile_bytes, true);
    g_autoptr(GByteArray) shorter = squeeze(bits, tile_bytes - 1, true);
    g_autoptr(GByteArray) nothing = squeeze(bits, 0, true);
    g_autoptr(GByteArray) halves = squeeze(bits, tile_bytes / 2, true);
    g_autoptr(GByteArray) trailing = squeeze(bits, tile_bytes, true);
    g_autoptr(GByteArray) damaged = squeeze(bits, tile_bytes, true);
    g_autoptr(GByteArray) and_nothing = squeeze(bits, tile_bytes, true);
    g_autoptr(GByteArray) and_skipped = squeeze(bits, tile_bytes, true);
    g_autoptr(GByteArray) last_bit = NULL;
    g_autoptr(GError) error = NULL;

    g_byte_array_append(halves, halves->data, halves->len);
    g_byte_array_append(trailing, (const uint8_t *)"", 1);
    g_byte_array_append(and_nothing, nothing->data, nothing->len);
    g_byte_array_append(and_skipped, skipped, sizeof(skipped));
    damaged->data[damaged->len - 1] ^= 0xff;
    for (guint n = 0; n < good->len; n++) {
        g_autoptr(GByteArray) cut = g_byte_array_new();

        g_byte_array_append(cut, good->data, n);
        assert_refused(read_zstd(cut, TILE, set, &error), &error);
    }
    assert_refused(read_zstd(nameless, TILE, set, &error), &error);
    assert_refused(read_zstd(longer, TILE, set, &error), &error);
    assert_refused(read_zstd(twice_as_long, TILE, set, &error), &error);
    assert_refused(read_zstd(shorter, TILE, set, &error), &error);
    assert_refused(read_zstd(nothing, TILE, set, &error), &error);
    assert_refused(read_zstd(halves, TILE, set, &error), &error);
    assert_refused(read_zstd(trailing, TILE, set, &error), &error);
    assert_refused(read_zstd(and_nothing, TILE, set, &error), &error);
    assert_refused(read_zstd(and_skipped, TILE, set, &error), &error);
    assert_refused(read_zstd(damaged, TILE, set, &error), &error);
    /* A bit after the region's end, inside the frame. */
    bits[tile_bytes - 1] = 0x80;
    last_bit = squeeze(bits, tile_bytes, true);
    assert_refused(read_zstd(last_bit, TILE - 1, set, &error), &error);
    g_assert_cmpuint(ferry_pageset_count(set), ==, 0);

    g_assert_true(read_zstd(last_bit, TILE, set, &error));
    g_assert_cmpuint(ferry_pageset_count(set), ==, 2);
    g_assert_cmphex(ferry_pageset_get(set, 100 / 8), ==, UINT64_C(1) << 100 % 8 * 8);
}

/* A region without pages has no bitmap. */
static void test_no_pages(void)
{
    g_autoptr(FerryPageset) set = ferry_pageset_new(0);
    g_autoptr(GByteArray) segment = segment_new(0);
    g_autoptr(GError) error = NULL;

    segment_add(segment, 0, FERRY_COMPACT_EMPTY, 1, NULL, 0);
    assert_refused(read_segment(segment, segment->len, 0, set, &error), &error);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/compact-hostile/damaged", test_damaged);
    g_test_add_func("/compact-hostile/cut", test_cut);
    g_test_add_func("/compact-hostile/order", test_order);
    g_test_add_func("/compact-hostile/first-tile", test_first_tile);
    g_test_add_func("/compact-hostile/after-end", test_after_end);
    for (size_t i = 0; i < G_N_ELEMENTS(bad_items); i++) {
        g_autofree char *path = g_strdup_printf("/compact-hostile/item/%s", bad_items[i].what);

        g_test_add_data_func(path, &bad_items[i], test_item);
    }
    g_test_add_func("/compact-hostile/zstd", test_zstd);
    g_test_add_func("/compact-hostile/no-pages", test_no_pages);
    return g_test_run();
}
