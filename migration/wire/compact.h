/*
 * The compact bitmap: which pages of a region are missing, in few bytes.
 *
 * A region is cut into tiles of 64 Ki pages (256 MiB).  A tile is coded on its own, as whatever
 * is smallest (zstd must save enough to be worth its time); stretches of tiles that are empty, or
 * full, are one item however long they are.  A bitmap of 24 TiB in which nothing is missing takes
 * 13 bytes, and none takes more than the bits themselves, 9 bytes a tile and 4 a segment: 0.11 %.
 *
 * On the wire a bitmap is one or more segments, each as long as the frame that carries it allows.
 * A segment is the number of its first tile, u32, and items up to its end:
 *
 *   kind u8, argument u32, CRC32C u32, payload
 *
 *   EMPTY, FULL   argument: how many tiles; no payload
 *   RUNS          one tile; argument: bytes of payload.  Payload: where pages that are missing
 *                 begin and end, in ascending order; each as the distance from the one before (the
 *                 first: from the tile's start), which makes it gap, length, gap, length...
 *   RAW           one tile; the bits themselves, page 0 of the tile is bit 0 of byte 0; the bits
 *                 after the region's last page are 0
 *   ZSTD          one tile; RAW, as one zstd frame that says how long its content is
 *
 * Distances are base-128 varints, lowest bits first, as short as they can be.  The checksum covers
 * the tile's number and the item, so an item is good only in its own place.  Items leave no
 * tile out and name none twice.  Numbers are little-endian.
 *
 * RUNS alone would be a trap: with 10 % of all pages missing at random it takes 1.6 times the bits,
 * with 50 % four times.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_COMPACT_H
#define FERRY_COMPACT_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../memory/pageset.h"

#define FERRY_COMPACT_TILE_PAGES UINT32_C(65536)
#define FERRY_COMPACT_TILE_BYTES (FERRY_COMPACT_TILE_PAGES / 8)

#define FERRY_COMPACT_SEGMENT_BYTES 4 /* of a segment, before its first item */
#define FERRY_COMPACT_ITEM_BYTES    9 /* of an item, before its payload */

/* The smallest buffer that ferry_compact_write() takes: there is always room for one more tile. */
#define FERRY_COMPACT_BUFFER_MIN (2 * FERRY_COMPACT_TILE_BYTES)

typedef enum {
    FERRY_COMPACT_INVALID = 0,
    FERRY_COMPACT_EMPTY = 1,
    FERRY_COMPACT_FULL = 2,
    FERRY_COMPACT_RUNS = 3,
    FERRY_COMPACT_RAW = 4,
    FERRY_COMPACT_ZSTD = 5,
} FerryCompactKind;

/* How many tiles a region of @nr_pages has. */
static inline uint64_t ferry_compact_nr_tiles(uint64_t nr_pages)
{
    return nr_pages / FERRY_COMPACT_TILE_PAGES + (nr_pages % FERRY_COMPACT_TILE_PAGES != 0);
}

/* How many pages @tile has: all but the region's last one are whole. */
static inline uint32_t ferry_compact_tile_pages(uint64_t nr_pages, uint64_t tile)
{
    return (uint32_t)MIN(nr_pages - tile * FERRY_COMPACT_TILE_PAGES, FERRY_COMPACT_TILE_PAGES);
}

/* The checksum of the item at @item with @payload_bytes, when it stands for @tile and on. */
uint32_t ferry_compact_item_crc(uint32_t tile, const uint8_t *item, size_t payload_bytes);

/*
 * The writing side keeps each tile as it was last coded, so that tiles are coded ahead while the
 * guest runs and the stop codes only those that changed since.
 *
 * Threads: ferry_compact_mark() from any thread at any time.  Everything else belongs to one owner,
 * one thread at a time.
 *
 * Whoever changes the page set marks the pages *after* changing it; then nothing is lost,
 * whatever the owner is coding meanwhile:
 *
 *   whoever changes pages             owner, coding ahead
 *   ---------------------             -------------------
 *   bits := new
 *   mark is up already?               mark := down
 *     no: mark := up                  reads bits
 *
 * All of these are sequentially consistent.  If the mark goes up, or is found up, before the owner
 * takes it down, the owner reads the new bits.  Otherwise the mark is up after the owner took it
 * down, and the tile is coded once more.  What the owner read in between may be a mixture of old
 * and new; it is never used, because the mark is up.
 *
 * ferry_compact_write() is exact when nobody changes the set any more: all changes and their
 * marks happened before it, in the sense of C11 (threads joined, or a lock).
 */
typedef struct FerryCompactWriter FerryCompactWriter;

/*
 * Over all @nr_pages of @set, which outlives the writer.  Every tile counts as changed.  A region
 * has at most INT32_MAX tiles (512 PiB).
 */
FerryCompactWriter *ferry_compact_writer_new(const FerryPageset *set, uint64_t nr_pages);
void ferry_compact_writer_free(FerryCompactWriter *writer);

/* Pages among @nr_pages from @first on have been added or removed.  Costs a load, mostly. */
void ferry_compact_mark(FerryCompactWriter *writer, uint64_t first, uint64_t nr_pages);

/*
 * Code up to @max_tiles tiles that changed, going round the region from call to call.  Returns
 * how many; fewer than @max_tiles when no more had changed.
 */
size_t ferry_compact_ahead(FerryCompactWriter *writer, size_t max_tiles);

/*
 * Write the next segment into @out, of at least FERRY_COMPACT_BUFFER_MIN bytes.  *@next_tile is
 * where to go on, 0 to begin with.  Returns its length, 0 when all is written.
 *
 * Tiles that have not been coded ahead are coded here, but not with zstd: in the blackout, the
 * 50 us that a tile takes are more than the 4 KiB saved, which are 32 us at 1 Gbit/s.
 */
size_t ferry_compact_write(FerryCompactWriter *writer, uint32_t *next_tile, uint8_t *out,
                           size_t out_bytes);

/*
 * The reading side; nothing of what it reads is believed.  One thread at a time; regions can be
 * read in parallel, and a segment while the next one is on its way.
 *
 * Most of the time goes to the page set's memory where that has never been used: the kernel
 * provides a page of it for every 32 Ki pages of guest that one is missing in.  Whoever cannot
 * afford that reads a bitmap into the set beforehand and takes all pages out again.
 */
typedef struct FerryCompactReader FerryCompactReader;

FerryCompactReader *ferry_compact_reader_new(uint64_t nr_pages);
void ferry_compact_reader_free(FerryCompactReader *reader);

/*
 * Read one segment and add the pages it names to @set, which has as many pages as the region;
 * other threads may use the set meanwhile.  Fails, with FERRY_ERROR_PROTOCOL and the tile, on
 * damage and on whatever is not a bitmap of this region from where the last segment ended.  Each
 * tile is checked completely before it is added, but those before the bad one may be in the set.
 * After an error the reader can only be freed.
 */
bool ferry_compact_read(FerryCompactReader *reader, const uint8_t *in, size_t nr_bytes,
                        FerryPageset *set, GError **errp);

/* Whether the region has been read to its end; an error otherwise. */
bool ferry_compact_reader_finish(const FerryCompactReader *reader, GError **errp);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(FerryCompactWriter, ferry_compact_writer_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FerryCompactReader, ferry_compact_reader_free)

#endif
