/*
 * The wire protocol's encoders and decoders: see frame.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "frame.h"

#include <inttypes.h>
#include <string.h>

#include "crc32c.h"
#include "../error.h"

#define HELLO_BYTES        16
#define REPORT_BYTES       24
#define LAYOUT_BYTES       8
#define COUNT_BYTES        8
#define REGIONS_HEAD_BYTES (4 + LAYOUT_BYTES + FERRY_HOST_ID_BYTES)
#define REGION_FIXED_BYTES 25 /* id length, length, page size, flags, offset in its file */
#define EXTENT_ZERO        (UINT32_C(1) << 31)

_Static_assert(FERRY_FRAME_BYTES == 4 + 1 + 1 + 2 + 4 + 4 + 8 + 4 + 4, "header layout");
_Static_assert(HELLO_BYTES == 8 + 2 + 1 + 1 + 4, "hello layout");
_Static_assert(REGION_FIXED_BYTES == 1 + 8 + 4 + 4 + 8, "region layout");
_Static_assert(FERRY_REGIONS_MAX *(REGION_FIXED_BYTES + FERRY_REGION_ID_MAX) < FERRY_BODY_MAX,
               "the longest list of regions fits a body");

static void put16(uint8_t *out, uint16_t value)
{
    value = GUINT16_TO_LE(value);
    memcpy(out, &value, sizeof(value));
}

static void put32(uint8_t *out, uint32_t value)
{
    value = GUINT32_TO_LE(value);
    memcpy(out, &value, sizeof(value));
}

static void put64(uint8_t *out, uint64_t value)
{
    value = GUINT64_TO_LE(value);
    memcpy(out, &value, sizeof(value));
}

static uint16_t get16(const uint8_t *in)
{
    uint16_t value;

    memcpy(&value, in, sizeof(value));
    return GUINT16_FROM_LE(value);
}

static uint32_t get32(const uint8_t *in)
{
    uint32_t value;

    memcpy(&value, in, sizeof(value));
    return GUINT32_FROM_LE(value);
}

static uint64_t get64(const uint8_t *in)
{
    uint64_t value;

    memcpy(&value, in, sizeof(value));
    return GUINT64_FROM_LE(value);
}

G_GNUC_PRINTF(2, 3) static bool protocol_error(GError **errp, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_propagate_error(errp, g_error_new_valist(FERRY_ERROR, FERRY_ERROR_PROTOCOL, format, args));
    va_end(args);
    return false;
}

void ferry_frame_encode(const FerryFrame *frame, uint8_t out[FERRY_FRAME_BYTES])
{
    put32(out, FERRY_WIRE_MAGIC);
    out[4] = frame->type;
    out[5] = frame->flags;
    put16(out + 6, frame->region);
    put32(out + 8, frame->nr_extents);
    put32(out + 12, frame->payload_bytes);
    put64(out + 16, frame->first_page);
    put32(out + 24, frame->payload_crc);
    put32(out + 28, ferry_crc32c(0, out, 28));
}

bool ferry_frame_decode(const uint8_t in[FERRY_FRAME_BYTES], FerryFrame *frame, GError **errp)
{
    uint32_t magic = get32(in);
    bool is_pages = in[4] == FERRY_FRAME_PAGES;
    uint32_t payload_max =
        is_pages ? (uint32_t)(FERRY_GRANULE_PAGES * FERRY_PAGE_BYTES) : FERRY_BODY_MAX;

    if (magic != FERRY_WIRE_MAGIC) {
        return protocol_error(errp, "not a Ferry frame (magic 0x%08x)", magic);
    }
    if (get32(in + 28) != ferry_crc32c(0, in, 28)) {
        return protocol_error(errp, "damaged frame header (type %u)", in[4]);
    }
    *frame = (FerryFrame){
        .type = in[4],
        .flags = in[5],
        .region = get16(in + 6),
        .nr_extents = get32(in + 8),
        .payload_bytes = get32(in + 12),
        .first_page = get64(in + 16),
        .payload_crc = get32(in + 24),
    };
    if (frame->type < FERRY_FRAME_HELLO || frame->type > FERRY_FRAME_LAST) {
        return protocol_error(errp, "unknown frame type %u", frame->type);
    }
    if (frame->flags & ~(FERRY_FRAME_PAYLOAD_CRC | (is_pages ? FERRY_FRAME_ZSTD : 0))) {
        return protocol_error(errp, "unknown flags 0x%02x in frame type %u", frame->flags,
                              frame->type);
    }
    if (is_pages ? frame->nr_extents == 0 || frame->nr_extents > FERRY_EXTENTS_MAX
                 : frame->nr_extents != 0) {
        return protocol_error(errp, "frame type %u with %u extents", frame->type,
                              frame->nr_extents);
    }
    if (frame->payload_bytes > payload_max) {
        return protocol_error(errp, "frame type %u with a payload of %u bytes, the limit is %u",
                              frame->type, frame->payload_bytes, payload_max);
    }
    return true;
}

size_t ferry_extents_encoded_bytes(size_t nr_extents)
{
    return nr_extents * FERRY_EXTENT_BYTES + sizeof(uint32_t);
}

void ferry_extents_encode(const FerryExtent *extents, size_t nr_extents, uint8_t *out)
{
    size_t table_bytes = nr_extents * FERRY_EXTENT_BYTES;

    for (size_t i = 0; i < nr_extents; i++) {
        put32(out + i * FERRY_EXTENT_BYTES, extents[i].first);
        put32(out + i * FERRY_EXTENT_BYTES + 4,
              extents[i].nr_pages | (extents[i].zero ? EXTENT_ZERO : 0));
    }
    put32(out + table_bytes, ferry_crc32c(0, out, table_bytes));
}

bool ferry_extents_decode(const FerryFrame *frame, const uint8_t *in, uint64_t region_pages,
                          FerryExtent *extents, GError **errp)
{
    size_t table_bytes = (size_t)frame->nr_extents * FERRY_EXTENT_BYTES;
    uint64_t next = 0, payload_pages = 0;

    if (get32(in + table_bytes) != ferry_crc32c(0, in, table_bytes)) {
        return protocol_error(errp, "damaged table of extents");
    }
    if (frame->first_page % FERRY_GRANULE_PAGES != 0 || frame->first_page >= region_pages) {
        return protocol_error(errp,
                              "frame starts at page %" PRIu64 " of a region of %" PRIu64 " pages",
                              frame->first_page, region_pages);
    }
    for (size_t i = 0; i < frame->nr_extents; i++) {
        FerryExtent *extent = &extents[i];
        uint32_t word = get32(in + i * FERRY_EXTENT_BYTES + 4);
        uint64_t end;

        extent->first = get32(in + i * FERRY_EXTENT_BYTES);
        extent->nr_pages = word & ~EXTENT_ZERO;
        extent->zero = word & EXTENT_ZERO;
        end = (uint64_t)extent->first + extent->nr_pages;
        if (extent->nr_pages == 0 || extent->first < next || end > FERRY_GRANULE_PAGES ||
            frame->first_page + end > region_pages) {
            return protocol_error(errp,
                                  "extent %zu (page %u, %u pages) is out of order or out of bounds",
                                  i, extent->first, extent->nr_pages);
        }
        next = end;
        payload_pages += extent->zero ? 0 : extent->nr_pages;
    }
    if (frame->flags & FERRY_FRAME_ZSTD
            ? frame->payload_bytes == 0 || frame->payload_bytes >= payload_pages * FERRY_PAGE_BYTES
            : frame->payload_bytes != payload_pages * FERRY_PAGE_BYTES) {
        return protocol_error(errp, "extents of %" PRIu64 " pages with a payload of %u bytes",
                              payload_pages, frame->payload_bytes);
    }
    return true;
}

static GByteArray *body_new(size_t nr_bytes)
{
    GByteArray *body = g_byte_array_new();

    g_byte_array_set_size(body, (guint)nr_bytes);
    memset(body->data, 0, nr_bytes);
    return body;
}

GByteArray *ferry_hello_encode(const FerryHello *hello)
{
    GByteArray *body = body_new(HELLO_BYTES);

    put64(body->data, hello->session);
    put16(body->data + 8, hello->version);
    body->data[10] = hello->role;
    body->data[11] = hello->index;
    put32(body->data + 12, hello->attempt);
    return body;
}

bool ferry_hello_decode(const uint8_t *in, size_t nr_bytes, FerryHello *hello, GError **errp)
{
    unsigned max;

    if (nr_bytes != HELLO_BYTES) {
        return protocol_error(errp, "hello of %zu bytes, not %d", nr_bytes, HELLO_BYTES);
    }
    *hello = (FerryHello){
        .session = get64(in),
        .version = get16(in + 8),
        .role = in[10],
        .index = in[11],
        .attempt = get32(in + 12),
    };
    if (hello->version < FERRY_WIRE_VERSION_MIN || hello->version > FERRY_WIRE_VERSION_MAX) {
        return protocol_error(errp, "protocol version %u is not supported (%d to %d are)",
                              hello->version, FERRY_WIRE_VERSION_MIN, FERRY_WIRE_VERSION_MAX);
    }
    switch (hello->role) {
    case FERRY_ROLE_CONTROL:
        max = 1;
        break;
    case FERRY_ROLE_DATA:
        max = FERRY_DATA_CHANNELS_MAX;
        break;
    case FERRY_ROLE_FETCH:
        max = FERRY_FETCH_CHANNELS_MAX;
        break;
    default:
        return protocol_error(errp, "unknown channel role %u", hello->role);
    }
    if (hello->index >= max) {
        return protocol_error(errp, "channel number %u of role %u is over the limit", hello->index,
                              hello->role);
    }
    return true;
}

static void put_layout(uint8_t out[LAYOUT_BYTES], const FerryLayout *layout)
{
    put32(out, layout->nr_data);
    put32(out + 4, layout->nr_fetch);
}

static bool get_layout(const uint8_t in[LAYOUT_BYTES], FerryLayout *layout, GError **errp)
{
    *layout = (FerryLayout){.nr_data = get32(in), .nr_fetch = get32(in + 4)};
    if (layout->nr_data == 0 || layout->nr_data > FERRY_DATA_CHANNELS_MAX) {
        return protocol_error(errp, "%u data channels, the limit is %d", layout->nr_data,
                              FERRY_DATA_CHANNELS_MAX);
    }
    if (layout->nr_fetch > FERRY_FETCH_CHANNELS_MAX) {
        return protocol_error(errp, "%u fetch channels, the limit is %d", layout->nr_fetch,
                              FERRY_FETCH_CHANNELS_MAX);
    }
    return true;
}

GByteArray *ferry_layout_encode(const FerryLayout *layout)
{
    GByteArray *body = body_new(LAYOUT_BYTES);

    put_layout(body->data, layout);
    return body;
}

bool ferry_layout_decode(const uint8_t *in, size_t nr_bytes, FerryLayout *layout, GError **errp)
{
    if (nr_bytes != LAYOUT_BYTES) {
        return protocol_error(errp, "layout of %zu bytes, not %d", nr_bytes, LAYOUT_BYTES);
    }
    return get_layout(in, layout, errp);
}

GByteArray *ferry_count_encode(uint64_t nr_pages)
{
    GByteArray *body = body_new(COUNT_BYTES);

    put64(body->data, nr_pages);
    return body;
}

bool ferry_count_decode(const uint8_t *in, size_t nr_bytes, uint64_t *nr_pages, GError **errp)
{
    if (nr_bytes != COUNT_BYTES) {
        return protocol_error(errp, "count of %zu bytes, not %d", nr_bytes, COUNT_BYTES);
    }
    *nr_pages = get64(in);
    return true;
}

GByteArray *ferry_regions_encode(const FerryRegions *regions, const FerryLayout *layout)
{
    GByteArray *body = body_new(REGIONS_HEAD_BYTES);

    put32(body->data, (uint32_t)regions->nr);
    put_layout(body->data + 4, layout);
    memcpy(body->data + 4 + LAYOUT_BYTES, regions->host, FERRY_HOST_ID_BYTES);
    for (size_t i = 0; i < regions->nr; i++) {
        const FerryRegion *region = &regions->list[i];
        uint8_t id_length = (uint8_t)strlen(region->id);
        uint8_t fixed[REGION_FIXED_BYTES];

        fixed[0] = id_length;
        put64(fixed + 1, region->length_bytes);
        put32(fixed + 9, region->page_size_bytes);
        put32(fixed + 13, region->flags & FERRY_REGION_WIRE_FLAGS);
        put64(fixed + 17, region->fd_offset_bytes);
        g_byte_array_append(body, fixed, sizeof(fixed));
        g_byte_array_append(body, (const uint8_t *)region->id, id_length);
    }
    return body;
}

static bool decode_region(const uint8_t **in, size_t *left, FerryRegion *region, GError **errp)
{
    size_t id_length;

    if (*left < REGION_FIXED_BYTES || *left - REGION_FIXED_BYTES < (*in)[0]) {
        return protocol_error(errp, "list of RAM blocks is cut short");
    }
    id_length = (*in)[0];
    *region = (FerryRegion){
        .length_bytes = get64(*in + 1),
        .page_size_bytes = get32(*in + 9),
        .flags = get32(*in + 13),
        .fd_offset_bytes = get64(*in + 17),
        .fd = -1,
    };
    memcpy(region->id, *in + REGION_FIXED_BYTES, id_length);
    *in += REGION_FIXED_BYTES + id_length;
    *left -= REGION_FIXED_BYTES + id_length;

    if (id_length == 0 || strlen(region->id) != id_length ||
        !g_utf8_validate(region->id, -1, NULL)) {
        return protocol_error(errp, "RAM block with an invalid name");
    }
    if (region->length_bytes % FERRY_PAGE_BYTES != 0 || region->length_bytes > INT64_MAX) {
        return protocol_error(errp, "RAM block '%s' of %" PRIu64 " bytes", region->id,
                              region->length_bytes);
    }
    if (region->fd_offset_bytes > (uint64_t)INT64_MAX - region->length_bytes) {
        return protocol_error(errp, "RAM block '%s' at 0x%" PRIx64 " of a file", region->id,
                              region->fd_offset_bytes);
    }
    if (region->flags & ~(uint32_t)FERRY_REGION_WIRE_FLAGS) {
        return protocol_error(errp, "RAM block '%s' of an unknown kind, 0x%" PRIx32, region->id,
                              region->flags);
    }
    return true;
}

bool ferry_regions_decode(const uint8_t *in, size_t nr_bytes, FerryRegions *regions,
                          FerryLayout *layout, GError **errp)
{
    g_autofree FerryRegion *list = NULL;
    g_autoptr(GHashTable) names = g_hash_table_new(g_str_hash, g_str_equal);
    size_t nr, left;

    if (nr_bytes < REGIONS_HEAD_BYTES) {
        return protocol_error(errp, "list of RAM blocks is cut short");
    }
    nr = get32(in);
    if (nr > FERRY_REGIONS_MAX) {
        return protocol_error(errp, "%zu RAM blocks, the limit is %d", nr, FERRY_REGIONS_MAX);
    }
    if (!get_layout(in + 4, layout, errp)) {
        return false;
    }
    list = g_new0(FerryRegion, nr + 1);
    memcpy(regions->host, in + 4 + LAYOUT_BYTES, FERRY_HOST_ID_BYTES);
    in += REGIONS_HEAD_BYTES;
    left = nr_bytes - REGIONS_HEAD_BYTES;
    for (size_t i = 0; i < nr; i++) {
        if (!decode_region(&in, &left, &list[i], errp)) {
            return false;
        }
        if (!g_hash_table_add(names, list[i].id)) {
            return protocol_error(errp, "RAM block '%s' is listed twice", list[i].id);
        }
    }
    if (left != 0) {
        return protocol_error(errp, "%zu bytes too many after the list of RAM blocks", left);
    }
    regions->list = g_steal_pointer(&list);
    regions->nr = nr;
    return true;
}

GByteArray *ferry_answers_encode(const uint8_t *answers, size_t nr_regions)
{
    return g_byte_array_append(g_byte_array_new(), answers, (guint)nr_regions);
}

bool ferry_answers_decode(const uint8_t *in, size_t nr_bytes, uint8_t *answers, size_t nr_regions,
                          GError **errp)
{
    memset(answers, FERRY_ANSWER_EMPTY, nr_regions);
    if (nr_bytes != 0 && nr_bytes != nr_regions) {
        return protocol_error(errp, "answers for %zu of %zu RAM blocks", nr_bytes, nr_regions);
    }
    for (size_t i = 0; i < nr_bytes; i++) {
        if (in[i] > FERRY_ANSWER_SAME) {
            return protocol_error(errp, "answer %u for RAM block %zu", in[i], i);
        }
        answers[i] = in[i];
    }
    return true;
}

GByteArray *ferry_report_encode(const FerryReport *report)
{
    GByteArray *body = body_new(REPORT_BYTES);

    put64(body->data, report->memory_ns);
    put64(body->data + 8, report->loaded_ns);
    put64(body->data + 16, report->running_ns);
    return body;
}

bool ferry_report_decode(const uint8_t *in, size_t nr_bytes, FerryReport *report, GError **errp)
{
    if (nr_bytes != REPORT_BYTES) {
        return protocol_error(errp, "report of %zu bytes, not %d", nr_bytes, REPORT_BYTES);
    }
    *report = (FerryReport){
        .memory_ns = get64(in),
        .loaded_ns = get64(in + 8),
        .running_ns = get64(in + 16),
    };
    return true;
}

char *ferry_error_text_decode(const uint8_t *in, size_t nr_bytes)
{
    char *text = g_strndup(in ? (const char *)in : "", MIN(nr_bytes, FERRY_ERROR_TEXT_MAX));

    for (char *c = text; *c; c++) {
        if (!g_ascii_isprint(*c)) {
            *c = '?';
        }
    }
    return text;
}
