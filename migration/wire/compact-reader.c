/*
 * The compact bitmap's reading side: see compact.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "compact.h"

#include <inttypes.h>
#include <string.h>
#include <zstd.h>

#include "../error.h"

#define TILE_GRANULES (FERRY_COMPACT_TILE_PAGES / FERRY_GRANULE_PAGES)
#define TILE_WORDS    (FERRY_COMPACT_TILE_PAGES / 64)

/* RUNS has a shorter payload than RAW, and takes two bytes a run. */
#define TILE_RUNS_MAX (FERRY_COMPACT_TILE_BYTES / 2)

/* Runs are added to the set so many at a time, however few a tile has. */
#define BATCH_RUNS 1024

struct FerryCompactReader {
    uint64_t nr_pages;
    uint32_t nr_tiles;
    uint32_t next; /* the tile that is due */
    ZSTD_DCtx *zstd;
    FerryPageRun runs[BATCH_RUNS + TILE_RUNS_MAX]; /* checked, and to be added to the set */
    size_t nr_runs;
    uint64_t words[TILE_WORDS];
};

/* An item whose lengths have been checked. */
typedef struct Item {
    FerryCompactKind kind;
    uint32_t argument;
    const uint8_t *payload;
    size_t payload_bytes;
    uint32_t tile;       /* the first it stands for */
    uint32_t nr_tiles;   /* how many it stands for */
    uint64_t first_page; /* of the region */
    uint32_t nr_pages;   /* of its tile, unless it stands for several */
} Item;

/* Of the bits of an item's only tile. */
static size_t raw_bytes(const Item *item)
{
    return (item->nr_pages + 7) / 8;
}

static uint32_t get32(const uint8_t *in)
{
    uint32_t value;

    memcpy(&value, in, sizeof(value));
    return GUINT32_FROM_LE(value);
}

/* Says in which tile @reader is. */
G_GNUC_PRINTF(3, 4)
static bool refuse(const FerryCompactReader *reader, GError **errp, const char *format, ...)
{
    g_autofree char *what = NULL;
    va_list args;

    va_start(args, format);
    what = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL, "bitmap, tile %u of %u: %s", reader->next,
                reader->nr_tiles, what);
    return false;
}

FerryCompactReader *ferry_compact_reader_new(uint64_t nr_pages)
{
    FerryCompactReader *reader = g_new(FerryCompactReader, 1);
    uint64_t nr_tiles = ferry_compact_nr_tiles(nr_pages);

    g_assert(nr_tiles <= INT32_MAX);
    reader->nr_pages = nr_pages;
    reader->nr_tiles = (uint32_t)nr_tiles;
    reader->next = 0;
    reader->nr_runs = 0;
    reader->zstd = ZSTD_createDCtx();
    return reader;
}

void ferry_compact_reader_free(FerryCompactReader *reader)
{
    if (reader) {
        ZSTD_freeDCtx(reader->zstd);
        g_free(reader);
    }
}

/* Read and check the head of the item at @in: after that its payload is there, and undamaged. */
static bool item_parse(const FerryCompactReader *reader, const uint8_t *in, size_t nr_bytes,
                       Item *item, GError **errp)
{
    uint32_t left = reader->nr_tiles - reader->next;
    size_t bits_bytes;

    if (left == 0) {
        return refuse(reader, errp, "%zu bytes after the last tile", nr_bytes);
    }
    if (nr_bytes < FERRY_COMPACT_ITEM_BYTES) {
        return refuse(reader, errp, "cut short (%zu bytes)", nr_bytes);
    }
    *item = (Item){
        .kind = in[0],
        .argument = get32(in + 1),
        .payload = in + FERRY_COMPACT_ITEM_BYTES,
        .tile = reader->next,
        .nr_tiles = 1,
        .first_page = (uint64_t)reader->next * FERRY_COMPACT_TILE_PAGES,
        .nr_pages = ferry_compact_tile_pages(reader->nr_pages, reader->next),
    };
    bits_bytes = raw_bytes(item);

    switch (item->kind) {
    case FERRY_COMPACT_EMPTY:
    case FERRY_COMPACT_FULL:
        if (item->argument == 0 || item->argument > left) {
            return refuse(reader, errp, "a stretch of %u tiles, and %u are left", item->argument,
                          left);
        }
        item->nr_tiles = item->argument;
        break;
    case FERRY_COMPACT_RUNS:
    case FERRY_COMPACT_ZSTD:
        if (item->argument == 0 || item->argument >= bits_bytes) {
            return refuse(reader, errp, "kind %u with %u bytes for %zu bytes of bits", item->kind,
                          item->argument, bits_bytes);
        }
        item->payload_bytes = item->argument;
        break;
    case FERRY_COMPACT_RAW:
        if (item->argument != bits_bytes) {
            return refuse(reader, errp, "%u bytes of bits, not %zu", item->argument, bits_bytes);
        }
        item->payload_bytes = item->argument;
        break;
    default:
        return refuse(reader, errp, "unknown kind %u", in[0]);
    }
    if (nr_bytes - FERRY_COMPACT_ITEM_BYTES < item->payload_bytes) {
        return refuse(reader, errp, "cut short (%zu bytes of %zu)",
                      nr_bytes - FERRY_COMPACT_ITEM_BYTES, item->payload_bytes);
    }
    if (get32(in + 5) != ferry_compact_item_crc(item->tile, in, item->payload_bytes)) {
        return refuse(reader, errp, "damaged (kind %u, argument %u)", item->kind, item->argument);
    }
    return true;
}

/*
 * The varint at *@in, which moves on.  Returns UINT32_MAX when it is cut short, longer than
 * needed, or has more than three bytes.
 */
static inline uint32_t get_varint(const uint8_t **in, const uint8_t *end)
{
    uint32_t value = 0;

    for (unsigned shift = 0; shift < 21 && *in < end; shift += 7) {
        uint8_t byte = *(*in)++;

        value |= (uint32_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            return byte == 0 && shift ? UINT32_MAX : value;
        }
    }
    return UINT32_MAX;
}

static void flush_runs(FerryCompactReader *reader, FerryPageset *set)
{
    ferry_pageset_add_runs(set, reader->runs, reader->nr_runs);
    reader->nr_runs = 0;
}

static void add_full(const FerryCompactReader *reader, const Item *item, FerryPageset *set)
{
    uint64_t nr_pages = (uint64_t)item->nr_tiles * FERRY_COMPACT_TILE_PAGES;
    FerryPageRun run = {
        .first = item->first_page,
        .nr_pages = MIN(nr_pages, reader->nr_pages - item->first_page),
    };

    ferry_pageset_add_runs(set, &run, 1);
}

static bool add_runs(FerryCompactReader *reader, const Item *item, FerryPageset *set, GError **errp)
{
    const uint8_t *p = item->payload;
    const uint8_t *end = p + item->payload_bytes;
    FerryPageRun *run = &reader->runs[reader->nr_runs];
    uint32_t page = 0;

    while (p < end) {
        uint32_t gap = get_varint(&p, end);
        uint32_t length = get_varint(&p, end);

        if (gap == UINT32_MAX || length == UINT32_MAX) {
            return refuse(reader, errp, "no proper number before byte %zu of %zu of its runs",
                          (size_t)(p - item->payload), item->payload_bytes);
        }
        if ((gap == 0 && run != &reader->runs[reader->nr_runs]) || length == 0) {
            return refuse(reader, errp, "a gap of %u and a run of %u at page %u", gap, length,
                          page);
        }
        if (gap > item->nr_pages - page || length > item->nr_pages - page - gap) {
            return refuse(reader, errp, "a gap of %u and a run of %u at page %u of %u", gap, length,
                          page, item->nr_pages);
        }
        *run++ = (FerryPageRun){.first = item->first_page + page + gap, .nr_pages = length};
        page += gap + length;
    }
    reader->nr_runs = (size_t)(run - reader->runs);
    if (reader->nr_runs >= BATCH_RUNS) {
        flush_runs(reader, set);
    }
    return true;
}

static bool add_words(FerryCompactReader *reader, const Item *item, FerryPageset *set,
                      GError **errp)
{
    uint64_t *words = reader->words;
    unsigned nr_words = (item->nr_pages + 63) / 64;
    uint64_t first_granule = item->first_page / FERRY_GRANULE_PAGES;

    /* Whole granules. */
    memset((uint8_t *)words + raw_bytes(item), 0, sizeof(reader->words) - raw_bytes(item));
    for (unsigned i = 0; i < nr_words; i++) {
        words[i] = GUINT64_FROM_LE(words[i]);
    }
    if (item->nr_pages % 64 && words[nr_words - 1] >> (item->nr_pages % 64)) {
        return refuse(reader, errp, "names pages after the region's last");
    }
    for (unsigned i = 0; i * FERRY_GRANULE_PAGES < item->nr_pages; i++) {
        ferry_pageset_add_granule(set, first_granule + i, words + i * FERRY_GRANULE_WORDS);
    }
    return true;
}

/*
 * Expand into reader->words.  Only a single frame that says how long its content is will do: the
 * library would take several in a row, and perhaps frames of its early formats.
 */
static bool expand(FerryCompactReader *reader, const Item *item, GError **errp)
{
    size_t nr_bytes = raw_bytes(item);

    if (item->payload_bytes < 4 || get32(item->payload) != ZSTD_MAGICNUMBER ||
        ZSTD_findFrameCompressedSize(item->payload, item->payload_bytes) != item->payload_bytes ||
        ZSTD_getFrameContentSize(item->payload, item->payload_bytes) != nr_bytes) {
        return refuse(reader, errp, "not one zstd frame of %zu bytes", nr_bytes);
    }
    if (ZSTD_decompressDCtx(reader->zstd, reader->words, nr_bytes, item->payload,
                            item->payload_bytes) != nr_bytes) {
        return refuse(reader, errp, "zstd cannot expand it to %zu bytes", nr_bytes);
    }
    return true;
}

static bool item_add(FerryCompactReader *reader, const Item *item, FerryPageset *set, GError **errp)
{
    switch (item->kind) {
    case FERRY_COMPACT_FULL:
        add_full(reader, item, set);
        return true;
    case FERRY_COMPACT_RUNS:
        return add_runs(reader, item, set, errp);
    case FERRY_COMPACT_RAW:
        memcpy(reader->words, item->payload, item->payload_bytes);
        return add_words(reader, item, set, errp);
    case FERRY_COMPACT_ZSTD:
        return expand(reader, item, errp) && add_words(reader, item, set, errp);
    default:
        return true; /* nothing is missing */
    }
}

bool ferry_compact_read(FerryCompactReader *reader, const uint8_t *in, size_t nr_bytes,
                        FerryPageset *set, GError **errp)
{
    const uint8_t *end;
    Item item;

    if (nr_bytes <= FERRY_COMPACT_SEGMENT_BYTES) {
        return refuse(reader, errp, "a segment of %zu bytes", nr_bytes);
    }
    if (get32(in) != reader->next) {
        return refuse(reader, errp, "a segment that begins with tile %u", get32(in));
    }
    end = in + nr_bytes;
    for (in += FERRY_COMPACT_SEGMENT_BYTES; in < end;
         in += FERRY_COMPACT_ITEM_BYTES + item.payload_bytes) {
        if (!item_parse(reader, in, (size_t)(end - in), &item, errp) ||
            !item_add(reader, &item, set, errp)) {
            return false;
        }
        reader->next += item.nr_tiles;
    }
    flush_runs(reader, set);
    return true;
}

bool ferry_compact_reader_finish(const FerryCompactReader *reader, GError **errp)
{
    if (reader->next != reader->nr_tiles) {
        return refuse(reader, errp, "the bitmap ends before it");
    }
    return true;
}
