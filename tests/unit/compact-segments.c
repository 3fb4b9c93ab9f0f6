/*
 * See compact-segments.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "compact-segments.h"

#include <string.h>

uint64_t random_below(uint64_t end)
{
    return ((uint64_t)(uint32_t)g_test_rand_int() << 32 | (uint32_t)g_test_rand_int()) % end;
}

uint32_t get32(const uint8_t *in)
{
    uint32_t value;

    memcpy(&value, in, sizeof(value));
    return GUINT32_FROM_LE(value);
}

void put32(uint8_t *out, uint32_t value)
{
    value = GUINT32_TO_LE(value);
    memcpy(out, &value, sizeof(value));
}

size_t payload_bytes(const uint8_t *item)
{
    return item[0] >= FERRY_COMPACT_RUNS ? get32(item + 1) : 0;
}

void assert_same(const FerryPageset *a, const FerryPageset *b, uint64_t nr_pages)
{
    g_assert_cmpuint(ferry_pageset_count(a), ==, ferry_pageset_count(b));
    for (uint64_t word = 0; word * 64 < nr_pages; word++) {
        g_assert_cmphex(ferry_pageset_get(a, word), ==, ferry_pageset_get(b, word));
    }
}

FerryPageset *kinds_new(void)
{
    FerryPageset *set = ferry_pageset_new(KINDS_PAGES);

    ferry_pageset_add(set, 2 * TILE, TILE);
    for (uint64_t page = 3 * TILE; page < 4 * TILE; page += 700) {
        ferry_pageset_add(set, page, 64);
    }
    for (uint64_t page = 4 * TILE; page < 6 * TILE; page++) {
        if (random_below(10) < (page < 5 * TILE ? 1 : 5)) {
            ferry_pageset_add(set, page, 1);
        }
    }
    ferry_pageset_add(set, 6 * TILE + 7, 300);
    return set;
}

GPtrArray *write_all(FerryCompactWriter *writer, size_t out_bytes)
{
    GPtrArray *segments = g_ptr_array_new_with_free_func((GDestroyNotify)g_byte_array_unref);
    uint32_t next = 0;

    for (;;) {
        uint8_t *out = g_malloc(out_bytes);
        size_t nr_bytes = ferry_compact_write(writer, &next, out, out_bytes);

        g_assert_cmpuint(nr_bytes, <=, out_bytes);
        if (nr_bytes == 0) {
            g_free(out);
            return segments;
        }
        out = g_realloc(out, nr_bytes);
        g_ptr_array_add(segments, g_byte_array_new_take(out, nr_bytes));
    }
}

bool read_all(const GPtrArray *segments, uint64_t nr_pages, FerryPageset *set, GError **errp)
{
    g_autoptr(FerryCompactReader) reader = ferry_compact_reader_new(nr_pages);

    for (unsigned i = 0; i < segments->len; i++) {
        const GByteArray *segment = segments->pdata[i];

        if (!ferry_compact_read(reader, segment->data, segment->len, set, errp)) {
            return false;
        }
    }
    return ferry_compact_reader_finish(reader, errp);
}
