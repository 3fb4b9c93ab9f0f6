/*
 * What the tests of the compact bitmap share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_TESTS_COMPACT_SEGMENTS_H
#define FERRY_TESTS_COMPACT_SEGMENTS_H

#include "migration/wire/compact.h"

#define TILE ((uint64_t)FERRY_COMPACT_TILE_PAGES)
#define ITEM FERRY_COMPACT_ITEM_BYTES

/* A region with a tile of every kind, the last one in part; see kinds_new(). */
#define KINDS_PAGES (6 * TILE + 1000)

/* From 0 to before @end. */
uint64_t random_below(uint64_t end);

/* Little-endian. */
uint32_t get32(const uint8_t *in);
void put32(uint8_t *out, uint32_t value);

/* How long the payload of @item says it is. */
size_t payload_bytes(const uint8_t *item);

void assert_same(const FerryPageset *a, const FerryPageset *b, uint64_t nr_pages);

/* Empty, empty, full, runs, 10 % at random, 50 % at random, runs in a part of a tile. */
FerryPageset *kinds_new(void);

/*
 * All segments (GByteArray) of what @writer has to say, in buffers of @out_bytes. Each is in an
 * allocation of its size, so that AddressSanitizer sees a reader that goes past it.
 */
GPtrArray *write_all(FerryCompactWriter *writer, size_t out_bytes);

/* Whether @segments are a whole bitmap; what they name is added to @set. */
bool read_all(const GPtrArray *segments, uint64_t nr_pages, FerryPageset *set, GError **errp);

#endif
