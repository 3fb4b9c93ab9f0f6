/*
 * Compact bitmaps. The input is what the region says (struct Head), then one segment, or two if
 * split_bytes says so. The checksums of items, which no fuzzer would ever guess, are put right.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "fuzz.h"

#include "seal.h"

#define TILES_MAX 9

struct Head {
    uint32_t nr_pages;
    uint32_t split_bytes; /* where a second segment begins, unless that is past the end */
} __attribute__((packed));

/* Hand over a copy of its size; what was refused is never accepted later on. */
static bool read_segment(FerryCompactReader *reader, const uint8_t *in, size_t nr_bytes,
                         FerryPageset *set)
{
    g_autofree uint8_t *segment = fuzz_exact(in, nr_bytes);
    g_autoptr(GError) error = NULL;
    bool ok;

    if (nr_bytes > 0) {
        fuzz_seal_items(segment, nr_bytes);
    }
    ok = ferry_compact_read(reader, segment, nr_bytes, set, &error);
    fuzz_check(ok == (error == NULL));
    return ok;
}

/* What @writer says is what is in @set. */
static void check_write(FerryCompactWriter *writer, const FerryPageset *set, uint64_t nr_pages)
{
    g_autoptr(FerryCompactReader) reader = ferry_compact_reader_new(nr_pages);
    g_autoptr(FerryPageset) again = ferry_pageset_new(nr_pages);
    g_autofree uint8_t *out = g_malloc(FERRY_COMPACT_BUFFER_MIN);
    uint64_t total_bytes = 0;
    uint64_t nr_segments = 0;
    uint32_t next = 0;
    size_t nr_bytes;

    while ((nr_bytes = ferry_compact_write(writer, &next, out, FERRY_COMPACT_BUFFER_MIN)) > 0) {
        fuzz_check(nr_bytes <= FERRY_COMPACT_BUFFER_MIN);
        fuzz_check(ferry_compact_read(reader, out, nr_bytes, again, NULL));
        total_bytes += nr_bytes;
        nr_segments++;
    }
    fuzz_check(ferry_compact_reader_finish(reader, NULL));
    fuzz_check(total_bytes <= (nr_pages + 7) / 8 +
                                  ferry_compact_nr_tiles(nr_pages) * FERRY_COMPACT_ITEM_BYTES +
                                  nr_segments * FERRY_COMPACT_SEGMENT_BYTES);
    for (uint64_t word = 0; word * 64 < nr_pages; word++) {
        fuzz_check(ferry_pageset_get(again, word) == ferry_pageset_get(set, word));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nr_bytes)
{
    g_autoptr(FerryCompactReader) reader = NULL;
    g_autoptr(FerryCompactWriter) writer = NULL;
    g_autoptr(FerryPageset) set = NULL;
    struct Head head;
    uint64_t nr_pages;
    size_t split_bytes;

    if (nr_bytes < sizeof(head)) {
        return 0;
    }
    memcpy(&head, data, sizeof(head));
    data += sizeof(head);
    nr_bytes -= sizeof(head);
    nr_pages = GUINT32_FROM_LE(head.nr_pages) % (TILES_MAX * FERRY_COMPACT_TILE_PAGES + 1);
    split_bytes = MIN(GUINT32_FROM_LE(head.split_bytes), nr_bytes);

    reader = ferry_compact_reader_new(nr_pages);
    set = ferry_pageset_new(nr_pages);
    if (!read_segment(reader, data, split_bytes, set) ||
        (split_bytes < nr_bytes &&
         !read_segment(reader, data + split_bytes, nr_bytes - split_bytes, set)) ||
        !ferry_compact_reader_finish(reader, NULL)) {
        return 0;
    }
    writer = ferry_compact_writer_new(set, nr_pages);
    check_write(writer, set, nr_pages);
    ferry_compact_ahead(writer, SIZE_MAX);
    check_write(writer, set, nr_pages);
    return 0;
}
