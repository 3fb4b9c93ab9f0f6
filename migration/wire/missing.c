/*
 * Bitmaps of missing pages: see missing.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "missing.h"

#include "control.h"
#include "../error.h"

/* One frame's body: many tiles, yet soon on its way. */
#define SEGMENT_BYTES (UINT32_C(256) * 1024)

static bool send_region(FerryChannel *control, uint32_t region, FerryPageset *set,
                        uint64_t nr_pages, bool ahead, GByteArray *body, GError **errp)
{
    g_autoptr(FerryCompactWriter) writer = ferry_compact_writer_new(set, nr_pages);
    uint32_t next_tile = 0;

    if (ahead) {
        ferry_compact_ahead(writer, ferry_compact_nr_tiles(nr_pages));
    }
    for (;;) {
        size_t nr_bytes;

        g_byte_array_set_size(body, SEGMENT_BYTES);
        nr_bytes = ferry_compact_write(writer, &next_tile, body->data, SEGMENT_BYTES);
        if (nr_bytes == 0) {
            return true;
        }
        g_byte_array_set_size(body, (guint)nr_bytes);
        if (!ferry_control_send_for(control, FERRY_FRAME_MISSING, region, 0, body, errp)) {
            return false;
        }
    }
}

bool ferry_missing_send(FerryChannel *control, const FerryRegions *regions,
                        FerryPageset *const *sets, bool ahead, GError **errp)
{
    g_autoptr(GByteArray) body = g_byte_array_new();

    for (uint32_t region = 0; region < regions->nr; region++) {
        if (ferry_pageset_count(sets[region]) &&
            !send_region(control, region, sets[region],
                         ferry_region_nr_pages(&regions->list[region]), ahead, body, errp)) {
            return false;
        }
    }
    return true;
}

bool ferry_missing_take(FerryMissingReader *reader, const FerryFrame *frame, const GByteArray *body,
                        const FerryRegions *regions, FerryPageset *const *sets, GError **errp)
{
    if (frame->region >= regions->nr) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL, "bitmap of region %u of %zu",
                    frame->region, regions->nr);
        return false;
    }
    if (!reader->reader || reader->region != frame->region) {
        if (!ferry_missing_finish(reader, errp)) {
            return false;
        }
        reader->region = frame->region;
        reader->reader =
            ferry_compact_reader_new(ferry_region_nr_pages(&regions->list[frame->region]));
    }
    if (!ferry_compact_read(reader->reader, body ? body->data : NULL, body ? body->len : 0,
                            sets[frame->region], errp)) {
        g_prefix_error(errp, "RAM block '%s': ", regions->list[frame->region].id);
        return false;
    }
    return true;
}

bool ferry_missing_finish(FerryMissingReader *reader, GError **errp)
{
    bool ok = !reader->reader || ferry_compact_reader_finish(reader->reader, errp);

    ferry_missing_clear(reader);
    return ok;
}

void ferry_missing_clear(FerryMissingReader *reader)
{
    g_clear_pointer(&reader->reader, ferry_compact_reader_free);
}

uint64_t ferry_missing_count(const FerryRegions *regions, FerryPageset *const *sets)
{
    uint64_t count = 0;

    for (size_t region = 0; region < regions->nr; region++) {
        count += ferry_pageset_count(sets[region]);
    }
    return count;
}
