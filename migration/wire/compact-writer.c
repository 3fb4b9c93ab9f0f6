/*
 * The compact bitmap's writing side: see compact.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "compact.h"

#include <stdatomic.h>
#include <string.h>
#include <zstd.h>

#include "crc32c.h"

#define TILE_WORDS    (FERRY_COMPACT_TILE_PAGES / 64)
#define TILE_GRANULES (FERRY_COMPACT_TILE_PAGES / FERRY_GRANULE_PAGES)
#define TILE_STRIPES  (TILE_GRANULES / 64)

/* How far over its limit code_runs() may write: the edges of a granule, and of a run before it. */
#define RUNS_SLACK (FERRY_GRANULE_PAGES + 6)

/* One run from a tile's first page to its last. */
#define FULL_BYTES_MAX 4

#define ITEM_BYTES_MAX (FERRY_COMPACT_ITEM_BYTES + FERRY_COMPACT_TILE_BYTES)

/*
 * Expanding a tile takes zstd 10 to 20 us of the blackout.  What it saves must be worth that:
 * 2 KiB are 16 us at 1 Gbit/s.  No level saves much more than the first does.
 */
#define ZSTD_GAIN_BYTES 2048
#define ZSTD_LEVEL      1

/* How many tiles ahead the bits to be coded are asked for. */
#define PREFETCH_TILES 8

_Static_assert(2 * FERRY_COMPACT_ITEM_BYTES + FERRY_COMPACT_SEGMENT_BYTES +
                       FERRY_COMPACT_TILE_BYTES + RUNS_SLACK <=
                   FERRY_COMPACT_BUFFER_MIN,
               "a buffer has room for a stretch and a tile");

/* A tile's bits as they were read from the page set. */
typedef struct Tile {
    uint32_t nr_pages;
    uint64_t granules[TILE_STRIPES]; /* which granules hold a page */
    uint64_t words[TILE_WORDS];      /* of those granules; the others are left as they were */
} Tile;

/* A tile as it was last coded. */
typedef struct Slot {
    uint8_t *item; /* NULL for EMPTY and FULL */
    uint16_t nr_bytes;
    uint8_t kind;
} Slot;

struct FerryCompactWriter {
    const FerryPageset *set;
    uint64_t nr_pages;
    uint32_t nr_tiles;
    _Atomic uint64_t *changed; /* any thread: a bit per tile */

    /* The owner's. */
    Slot *slots;
    uint32_t cursor; /* where coding ahead goes on */
    ZSTD_CCtx *zstd;
    Tile tile;
    uint8_t raw[FERRY_COMPACT_TILE_BYTES];
    uint8_t squeezed[FERRY_COMPACT_TILE_BYTES];
    uint8_t item[ITEM_BYTES_MAX + RUNS_SLACK];
};

_Static_assert(ITEM_BYTES_MAX <= UINT16_MAX, "an item's length fits its slot");

static void put32(uint8_t *out, uint32_t value)
{
    value = GUINT32_TO_LE(value);
    memcpy(out, &value, sizeof(value));
}

static uint32_t tile_bytes(uint32_t nr_pages)
{
    return (nr_pages + 7) / 8;
}

uint32_t ferry_compact_item_crc(uint32_t tile, const uint8_t *item, size_t payload_bytes)
{
    uint8_t head[4 + 1 + 4];

    put32(head, tile);
    memcpy(head + 4, item, 1 + 4);
    return ferry_crc32c(ferry_crc32c(0, head, sizeof(head)), item + FERRY_COMPACT_ITEM_BYTES,
                        payload_bytes);
}

/* Write the head of an item whose payload is in place. */
static void seal(uint32_t tile, uint8_t *item, FerryCompactKind kind, uint32_t argument)
{
    bool has_payload = kind != FERRY_COMPACT_EMPTY && kind != FERRY_COMPACT_FULL;

    item[0] = (uint8_t)kind;
    put32(item + 1, argument);
    put32(item + 5, ferry_compact_item_crc(tile, item, has_payload ? argument : 0));
}

static void read_tile(const FerryCompactWriter *writer, uint32_t index, Tile *tile)
{
    tile->nr_pages = ferry_compact_tile_pages(writer->nr_pages, index);
    for (unsigned stripe = 0; stripe < TILE_STRIPES; stripe++) {
        uint64_t hints =
            ferry_pageset_granules(writer->set, (uint64_t)index * TILE_STRIPES + stripe);

        tile->granules[stripe] = 0;
        for (; hints; hints &= hints - 1) {
            unsigned bit = (unsigned)__builtin_ctzll(hints);
            size_t first = (stripe * 64 + bit) * FERRY_GRANULE_WORDS;
            uint64_t any = 0;

            for (size_t i = first; i < first + FERRY_GRANULE_WORDS; i++) {
                tile->words[i] = ferry_pageset_get(writer->set, (uint64_t)index * TILE_WORDS + i);
                any |= tile->words[i];
            }
            tile->granules[stripe] |= (uint64_t)(any != 0) << bit;
        }
    }
}

static uint8_t *put_varint(uint8_t *out, uint32_t value)
{
    for (; value >= 0x80; value >>= 7) {
        *out++ = (uint8_t)(value | 0x80);
    }
    *out++ = (uint8_t)value;
    return out;
}

/*
 * Code where runs begin and end; returns the length.  When it reaches @limit_bytes it gives up and
 * returns that; up to RUNS_SLACK more have been written then.
 */
static size_t code_runs(const Tile *tile, uint8_t *out, size_t limit_bytes)
{
    uint8_t *p = out;
    uint64_t before = 0;        /* 1 if the page before is in a run */
    uint32_t last = 0, end = 0; /* the last edge; the end of the last granule with pages */

    for (unsigned granule = 0; granule < TILE_GRANULES; granule++) {
        uint64_t rest = tile->granules[granule / 64] >> (granule % 64);

        if (!rest) {
            granule |= 63;
            continue;
        }
        granule += (unsigned)__builtin_ctzll(rest);
        if (before && end != granule * FERRY_GRANULE_PAGES) {
            p = put_varint(p, end - last);
            last = end;
            before = 0;
        }
        for (uint32_t i = 0; i < FERRY_GRANULE_WORDS; i++) {
            uint32_t word = granule * (uint32_t)FERRY_GRANULE_WORDS + i;
            uint64_t bits = tile->words[word];
            uint64_t edges = bits ^ (bits << 1 | before);

            before = bits >> 63;
            for (; edges; edges &= edges - 1) {
                uint32_t edge = word * 64 + (unsigned)__builtin_ctzll(edges);

                p = put_varint(p, edge - last);
                last = edge;
            }
        }
        end = (granule + 1) * FERRY_GRANULE_PAGES;
        if ((size_t)(p - out) >= limit_bytes) {
            return limit_bytes;
        }
    }
    if (before) {
        p = put_varint(p, end - last);
    }
    return MIN((size_t)(p - out), limit_bytes);
}

/* Whether @runs is a single run, of all @nr_pages. */
static bool is_full(const uint8_t *runs, size_t nr_bytes, uint32_t nr_pages)
{
    uint8_t full[FULL_BYTES_MAX] = {0};
    size_t full_bytes = (size_t)(put_varint(full + 1, nr_pages) - full);

    return nr_bytes == full_bytes && memcmp(runs, full, full_bytes) == 0;
}

static void code_raw(const Tile *tile, uint8_t out[FERRY_COMPACT_TILE_BYTES])
{
    for (unsigned granule = 0; granule < TILE_GRANULES; granule++) {
        bool has_pages = tile->granules[granule / 64] >> (granule % 64) & 1;

        for (unsigned i = 0; i < FERRY_GRANULE_WORDS; i++) {
            unsigned word = granule * (unsigned)FERRY_GRANULE_WORDS + i;
            uint64_t bits = GUINT64_TO_LE(has_pages ? tile->words[word] : 0);

            memcpy(out + word * sizeof(bits), &bits, sizeof(bits));
        }
    }
}

/*
 * Code tile @index as it is in the page set now.  Returns its kind; unless that is EMPTY or FULL,
 * the item is in @item, which has room for ITEM_BYTES_MAX + RUNS_SLACK.
 */
static FerryCompactKind code_tile(FerryCompactWriter *writer, uint32_t index, bool with_zstd,
                                  uint8_t *item, size_t *nr_bytes)
{
    Tile *tile = &writer->tile;
    uint8_t *payload = item + FERRY_COMPACT_ITEM_BYTES;
    FerryCompactKind kind = FERRY_COMPACT_RUNS;
    size_t raw_bytes, payload_bytes;

    read_tile(writer, index, tile);
    raw_bytes = tile_bytes(tile->nr_pages);
    payload_bytes = code_runs(tile, payload, MAX(raw_bytes, FULL_BYTES_MAX + 1));
    if (payload_bytes == 0) {
        return FERRY_COMPACT_EMPTY;
    }
    if (is_full(payload, payload_bytes, tile->nr_pages)) {
        return FERRY_COMPACT_FULL;
    }
    if (payload_bytes >= raw_bytes) {
        kind = FERRY_COMPACT_RAW;
        payload_bytes = raw_bytes;
        code_raw(tile, payload);
    }
    if (with_zstd && payload_bytes > ZSTD_GAIN_BYTES) {
        size_t n;

        code_raw(tile, writer->raw);
        n = ZSTD_compressCCtx(writer->zstd, writer->squeezed, payload_bytes - ZSTD_GAIN_BYTES,
                              writer->raw, raw_bytes, ZSTD_LEVEL);
        if (!ZSTD_isError(n)) {
            kind = FERRY_COMPACT_ZSTD;
            payload_bytes = n;
            memcpy(payload, writer->squeezed, n);
        }
    }
    seal(index, item, kind, (uint32_t)payload_bytes);
    *nr_bytes = FERRY_COMPACT_ITEM_BYTES + payload_bytes;
    return kind;
}

FerryCompactWriter *ferry_compact_writer_new(const FerryPageset *set, uint64_t nr_pages)
{
    FerryCompactWriter *writer = g_new0(FerryCompactWriter, 1);
    uint64_t nr_tiles = ferry_compact_nr_tiles(nr_pages);

    g_assert(nr_tiles <= INT32_MAX);
    writer->set = set;
    writer->nr_pages = nr_pages;
    writer->nr_tiles = (uint32_t)nr_tiles;
    writer->changed = g_new0(_Atomic uint64_t, nr_tiles / 64 + 1);
    writer->slots = g_new0(Slot, nr_tiles);
    writer->zstd = ZSTD_createCCtx();
    ferry_compact_mark(writer, 0, nr_pages);
    return writer;
}

void ferry_compact_writer_free(FerryCompactWriter *writer)
{
    if (writer) {
        for (uint32_t i = 0; i < writer->nr_tiles; i++) {
            g_free(writer->slots[i].item);
        }
        ZSTD_freeCCtx(writer->zstd);
        g_free(writer->slots);
        g_free((void *)writer->changed);
        g_free(writer);
    }
}

void ferry_compact_mark(FerryCompactWriter *writer, uint64_t first, uint64_t nr_pages)
{
    uint64_t end = ferry_compact_nr_tiles(MIN(first + nr_pages, writer->nr_pages));

    for (uint64_t tile = first / FERRY_COMPACT_TILE_PAGES; tile < end; tile++) {
        uint64_t mask = UINT64_C(1) << (tile % 64);

        if (!(atomic_load(&writer->changed[tile / 64]) & mask)) {
            atomic_fetch_or(&writer->changed[tile / 64], mask);
        }
    }
}

/* The first tile from @from on, before @end, that has changed; @end if there is none. */
static uint32_t next_changed(const FerryCompactWriter *writer, uint32_t from, uint32_t end)
{
    while (from < end) {
        uint64_t rest = atomic_load(&writer->changed[from / 64]) >> (from % 64);

        if (rest) {
            return MIN(from + (unsigned)__builtin_ctzll(rest), end);
        }
        from = (from | 63) + 1;
    }
    return end;
}

static void code_ahead(FerryCompactWriter *writer, uint32_t index)
{
    Slot *slot = &writer->slots[index];
    size_t nr_bytes = 0;

    atomic_fetch_and(&writer->changed[index / 64], ~(UINT64_C(1) << (index % 64)));
    slot->kind = (uint8_t)code_tile(writer, index, true, writer->item, &nr_bytes);
    g_free(slot->item);
    slot->item = nr_bytes ? g_memdup2(writer->item, nr_bytes) : NULL;
    slot->nr_bytes = (uint16_t)nr_bytes;
}

/* Code changed tiles from the cursor to @end; returns how many. */
static size_t ahead_until(FerryCompactWriter *writer, uint32_t end, size_t max_tiles)
{
    size_t nr = 0;

    while (nr < max_tiles) {
        writer->cursor = next_changed(writer, writer->cursor, end);
        if (writer->cursor == end) {
            break;
        }
        code_ahead(writer, writer->cursor++);
        nr++;
    }
    return nr;
}

size_t ferry_compact_ahead(FerryCompactWriter *writer, size_t max_tiles)
{
    uint32_t start = writer->cursor;
    size_t nr = ahead_until(writer, writer->nr_tiles, max_tiles);

    if (writer->cursor == writer->nr_tiles) {
        writer->cursor = 0;
        nr += ahead_until(writer, start, max_tiles - nr);
    }
    return nr;
}

static bool has_changed(const FerryCompactWriter *writer, uint32_t index)
{
    return next_changed(writer, index, index + 1) == index;
}

/* Tile @index will be coded soon, unless it is past the end or has been coded ahead. */
static void prefetch(const FerryCompactWriter *writer, uint32_t index)
{
    if (index < writer->nr_tiles && has_changed(writer, index)) {
        for (unsigned stripe = 0; stripe < TILE_STRIPES; stripe++) {
            ferry_pageset_prefetch(writer->set, (uint64_t)index * TILE_STRIPES + stripe);
        }
    }
}

/* EMPTY or FULL tiles in a row, whose item is sealed when it is known how many they are. */
typedef struct Stretch {
    uint8_t *item; /* NULL when there is none */
    FerryCompactKind kind;
    uint32_t first, nr;
} Stretch;

static void stretch_end(Stretch *stretch)
{
    if (stretch->item) {
        seal(stretch->first, stretch->item, stretch->kind, stretch->nr);
        stretch->item = NULL;
    }
}

size_t ferry_compact_write(FerryCompactWriter *writer, uint32_t *next_tile, uint8_t *out,
                           size_t out_bytes)
{
    uint8_t *limit = out + out_bytes - (ITEM_BYTES_MAX + RUNS_SLACK);
    uint8_t *p = out + FERRY_COMPACT_SEGMENT_BYTES;
    uint32_t index = *next_tile;
    Stretch stretch = {0};

    g_assert(out_bytes >= FERRY_COMPACT_BUFFER_MIN);
    if (index == writer->nr_tiles) {
        return 0;
    }
    put32(out, index);
    for (; index < writer->nr_tiles && p <= limit; index++) {
        const Slot *slot = &writer->slots[index];
        FerryCompactKind kind = slot->kind;
        size_t nr_bytes = slot->nr_bytes;

        prefetch(writer, index + PREFETCH_TILES);
        if (has_changed(writer, index)) {
            nr_bytes = 0;
            kind = code_tile(writer, index, false, p, &nr_bytes);
        } else if (nr_bytes) {
            memcpy(p, slot->item, nr_bytes);
        }
        if (nr_bytes) {
            stretch_end(&stretch);
            p += nr_bytes;
            continue;
        }
        if (!stretch.item || stretch.kind != kind) {
            stretch_end(&stretch);
            stretch = (Stretch){.item = p, .kind = kind, .first = index};
            p += FERRY_COMPACT_ITEM_BYTES;
        }
        stretch.nr++;
    }
    stretch_end(&stretch);
    *next_tile = index;
    return (size_t)(p - out);
}
