/*
 * The wire protocol: what is encoded comes back, and nothing else is accepted
 *
 * Input is always handed over in an allocation of exactly its size, so that AddressSanitizer
 * sees a decoder that reads past it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/wire/crc32c.h"
#include "migration/error.h"
#include "migration/wire/frame.h"

#include <string.h>

#define NR_RANDOM 2000

static uint64_t random64(void)
{
    return (uint64_t)(uint32_t)g_test_rand_int() << 32 | (uint32_t)g_test_rand_int();
}

/* From 0 to @max. */
static uint32_t random_upto(uint32_t max)
{
    return (uint32_t)(random64() % ((uint64_t)max + 1));
}

static void assert_refused(bool accepted, GError **error)
{
    g_assert_false(accepted);
    g_assert_error(*error, FERRY_ERROR, FERRY_ERROR_PROTOCOL);
    g_clear_error(error);
}

/* A frame as a peer would have to send it, whatever it says: with the right checksum. */
static void seal_header(uint8_t header[FERRY_FRAME_BYTES])
{
    uint32_t crc = GUINT32_TO_LE(ferry_crc32c(0, header, FERRY_FRAME_BYTES - 4));

    memcpy(header + FERRY_FRAME_BYTES - 4, &crc, sizeof(crc));
}

static FerryFrame random_frame(uint8_t type)
{
    bool is_pages = type == FERRY_FRAME_PAGES;

    return (FerryFrame){
        .type = type,
        .flags = g_test_rand_bit() ? FERRY_FRAME_PAYLOAD_CRC : 0,
        .region = (uint16_t)random_upto(UINT16_MAX),
        .nr_extents = is_pages ? 1 + random_upto(FERRY_EXTENTS_MAX - 1) : 0,
        .payload_bytes = random_upto(is_pages ? (uint32_t)(FERRY_GRANULE_PAGES * FERRY_PAGE_BYTES)
                                              : FERRY_BODY_MAX),
        .first_page = random64(),
        .payload_crc = (uint32_t)random64(),
    };
}

static void assert_same_frame(const FerryFrame *a, const FerryFrame *b)
{
    g_assert_cmpuint(a->type, ==, b->type);
    g_assert_cmpuint(a->flags, ==, b->flags);
    g_assert_cmpuint(a->region, ==, b->region);
    g_assert_cmpuint(a->nr_extents, ==, b->nr_extents);
    g_assert_cmpuint(a->payload_bytes, ==, b->payload_bytes);
    g_assert_cmpuint(a->first_page, ==, b->first_page);
    g_assert_cmpuint(a->payload_crc, ==, b->payload_crc);
}

/* The layout is a promise to other builds and versions: byte by byte. */
static void test_frame_layout(void)
{
    static const uint8_t expected[FERRY_FRAME_BYTES - 4] = {
        'F',  'R',  'R',  'Y',                          /* magic */
        5,    1,                                        /* type, flags */
        0x34, 0x12,                                     /* region */
        0x02, 0x01, 0,    0,                            /* extents */
        0x00, 0x20, 0x1f, 0,                            /* payload bytes */
        0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, /* first page */
        0xef, 0xbe, 0xad, 0xde,                         /* payload's checksum */
    };
    FerryFrame frame = {
        .type = FERRY_FRAME_PAGES,
        .flags = FERRY_FRAME_PAYLOAD_CRC,
        .region = 0x1234,
        .nr_extents = 0x102,
        .payload_bytes = 0x1f2000,
        .first_page = UINT64_C(0x1122334455667788),
        .payload_crc = 0xdeadbeef,
    };
    uint8_t header[FERRY_FRAME_BYTES];
    uint32_t crc;

    ferry_frame_encode(&frame, header);
    g_assert_cmpmem(header, sizeof(expected), expected, sizeof(expected));
    memcpy(&crc, header + sizeof(expected), sizeof(crc));
    g_assert_cmphex(GUINT32_FROM_LE(crc), ==, ferry_crc32c(0, expected, sizeof(expected)));
}

static void test_frame_round_trip(void)
{
    for (int i = 0; i < NR_RANDOM; i++) {
        FerryFrame frame = random_frame(
            (uint8_t)(FERRY_FRAME_HELLO + i % (FERRY_FRAME_LAST - FERRY_FRAME_HELLO + 1)));
        g_autofree uint8_t *header = g_malloc(FERRY_FRAME_BYTES);
        g_autoptr(GError) error = NULL;
        FerryFrame decoded;

        ferry_frame_encode(&frame, header);
        g_assert_true(ferry_frame_decode(header, &decoded, &error));
        g_assert_no_error(error);
        assert_same_frame(&frame, &decoded);
    }
}

/* CRC32C finds every error of up to 32 bits in a row; two flips anywhere too, at this length. */
static void test_frame_damaged(void)
{
    FerryFrame frame = random_frame(FERRY_FRAME_PAGES);
    g_autofree uint8_t *header = g_malloc(FERRY_FRAME_BYTES);
    g_autoptr(GError) error = NULL;
    FerryFrame decoded;

    ferry_frame_encode(&frame, header);
    for (size_t at = 0; at < FERRY_FRAME_BYTES; at++) {
        for (unsigned flip = 1; flip < 256; flip++) {
            header[at] ^= (uint8_t)flip;
            assert_refused(ferry_frame_decode(header, &decoded, &error), &error);
            header[at] ^= (uint8_t)flip;
        }
    }
    for (size_t a = 0; a < FERRY_FRAME_BYTES * 8; a++) {
        for (size_t b = 0; b < a; b++) {
            header[a / 8] ^= (uint8_t)(1 << a % 8);
            header[b / 8] ^= (uint8_t)(1 << b % 8);
            assert_refused(ferry_frame_decode(header, &decoded, &error), &error);
            header[a / 8] ^= (uint8_t)(1 << a % 8);
            header[b / 8] ^= (uint8_t)(1 << b % 8);
        }
    }
    g_assert_true(ferry_frame_decode(header, &decoded, &error));
}

/* Well-formed frames that say what must not be said. */
static void test_frame_refused(void)
{
    static const FerryFrame bad[] = {
        {.type = FERRY_FRAME_INVALID},
        {.type = FERRY_FRAME_LAST + 1},
        {.type = UINT8_MAX},
        {.type = FERRY_FRAME_READY, .flags = FERRY_FRAME_ZSTD},
        {.type = FERRY_FRAME_READY, .flags = 0x80},
        {.type = FERRY_FRAME_READY, .nr_extents = 1},
        {.type = FERRY_FRAME_HELLO, .payload_bytes = FERRY_BODY_MAX + 1},
        {.type = FERRY_FRAME_REGIONS, .payload_bytes = UINT32_MAX},
        {.type = FERRY_FRAME_PAGES, .nr_extents = 0},
        {.type = FERRY_FRAME_PAGES, .nr_extents = FERRY_EXTENTS_MAX + 1},
        {.type = FERRY_FRAME_PAGES, .nr_extents = UINT32_MAX},
        {
            .type = FERRY_FRAME_PAGES,
            .nr_extents = 1,
            .payload_bytes = FERRY_GRANULE_PAGES * FERRY_PAGE_BYTES + 1,
        },
    };
    g_autofree uint8_t *header = g_malloc(FERRY_FRAME_BYTES);
    g_autoptr(GError) error = NULL;
    FerryFrame good = random_frame(FERRY_FRAME_PAGES);
    FerryFrame decoded;

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        ferry_frame_encode(&bad[i], header);
        assert_refused(ferry_frame_decode(header, &decoded, &error), &error);
    }
    ferry_frame_encode(&good, header);
    header[0] = 'G';
    seal_header(header);
    assert_refused(ferry_frame_decode(header, &decoded, &error), &error);
}

#define REGION_PAGES (4 * FERRY_GRANULE_PAGES - 100)

typedef struct {
    FerryFrame frame;
    FerryExtent extents[FERRY_EXTENTS_MAX];
} Pages;

/* The frame that goes with @pages' extents. */
static void pages_set_frame(Pages *pages, uint64_t granule, uint32_t nr_extents)
{
    uint32_t payload_pages = 0;

    for (uint32_t i = 0; i < nr_extents; i++) {
        payload_pages += pages->extents[i].zero ? 0 : pages->extents[i].nr_pages;
    }
    pages->frame = (FerryFrame){
        .type = FERRY_FRAME_PAGES,
        .nr_extents = nr_extents,
        .payload_bytes = payload_pages * (uint32_t)FERRY_PAGE_BYTES,
        .first_page = granule * FERRY_GRANULE_PAGES,
    };
}

static void pages_random(Pages *pages)
{
    uint64_t granule = random_upto(3);
    uint32_t end = granule == 3 ? FERRY_GRANULE_PAGES - 100 : FERRY_GRANULE_PAGES;
    uint32_t longest = 1 + random_upto(end - 1);
    uint32_t nr_extents = 0;
    uint32_t page = 0;

    while (page < end) {
        FerryExtent *extent = &pages->extents[nr_extents++];

        extent->first = page + random_upto(MIN(longest, end - page) - 1);
        extent->nr_pages = 1 + random_upto(MIN(longest, end - extent->first) - 1);
        extent->zero = g_test_rand_bit();
        page = extent->first + extent->nr_pages;
    }
    pages_set_frame(pages, granule, nr_extents);
}

static uint8_t *pages_encode(const Pages *pages)
{
    uint8_t *table = g_malloc(ferry_extents_encoded_bytes(pages->frame.nr_extents));

    ferry_extents_encode(pages->extents, pages->frame.nr_extents, table);
    return table;
}

static void test_extents_round_trip(void)
{
    g_autofree Pages *pages = g_new0(Pages, 1);
    g_autoptr(GError) error = NULL;

    for (int i = 0; i < NR_RANDOM; i++) {
        g_autofree uint8_t *table = NULL;
        g_autofree FerryExtent *decoded = NULL;

        pages_random(pages);
        table = pages_encode(pages);
        decoded = g_new0(FerryExtent, pages->frame.nr_extents);
        g_assert_true(ferry_extents_decode(&pages->frame, table, REGION_PAGES, decoded, &error));
        g_assert_no_error(error);
        for (uint32_t n = 0; n < pages->frame.nr_extents; n++) {
            g_assert_cmpuint(decoded[n].first, ==, pages->extents[n].first);
            g_assert_cmpuint(decoded[n].nr_pages, ==, pages->extents[n].nr_pages);
            g_assert_true(decoded[n].zero == pages->extents[n].zero);
        }
    }
}

static void test_extents_damaged(void)
{
    g_autofree Pages *pages = g_new0(Pages, 1);
    g_autofree FerryExtent *decoded = g_new0(FerryExtent, FERRY_EXTENTS_MAX);
    g_autoptr(GError) error = NULL;

    for (int i = 0; i < 20; i++) {
        g_autofree uint8_t *table = NULL;
        size_t nr_bytes;

        pages_random(pages);
        table = pages_encode(pages);
        nr_bytes = ferry_extents_encoded_bytes(pages->frame.nr_extents);
        for (size_t bit = 0; bit < nr_bytes * 8; bit++) {
            table[bit / 8] ^= (uint8_t)(1 << bit % 8);
            assert_refused(
                ferry_extents_decode(&pages->frame, table, REGION_PAGES, decoded, &error), &error);
            table[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
    }
}

static void test_extents_refused(void)
{
    static const struct {
        uint64_t granule;
        FerryExtent extents[2];
        uint32_t nr_extents;
    } bad[] = {
        {0, {{3, 0, false}}, 1},                 /* empty */
        {0, {{3, 0, true}}, 1},                  /* empty */
        {0, {{3, 2, false}, {4, 1, false}}, 2},  /* overlapping */
        {0, {{3, 2, false}, {3, 2, true}}, 2},   /* twice the same */
        {0, {{8, 1, false}, {3, 1, false}}, 2},  /* descending */
        {0, {{512, 1, true}}, 1},                /* in the next granule */
        {0, {{500, 13, false}}, 1},              /* reaching into it */
        {0, {{0, 513, true}}, 1},                /* longer than one */
        {0, {{UINT32_MAX, 1, true}}, 1},         /* far beyond */
        {0, {{1, INT32_MAX, true}}, 1},          /* wraps when added carelessly */
        {0, {{UINT32_MAX, INT32_MAX, true}}, 1}, /* the same */
        {3, {{412, 1, true}}, 1},                /* past the region's end */
        {3, {{400, 13, false}}, 1},              /* reaching past it */
        {4, {{0, 1, true}}, 1},                  /* granule past it */
        {UINT64_MAX / 512, {{0, 1, true}}, 1},   /* granule far past it */
        {UINT64_MAX / 512, {{511, 1, true}}, 1}, /* the same, at its end */
    };
    g_autofree Pages *pages = g_new0(Pages, 1);
    g_autofree FerryExtent *decoded = g_new0(FerryExtent, FERRY_EXTENTS_MAX);
    g_autoptr(GError) error = NULL;
    g_autofree uint8_t *table = NULL;

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree uint8_t *bad_table = NULL;

        memcpy(pages->extents, bad[i].extents, sizeof(bad[i].extents));
        pages_set_frame(pages, bad[i].granule, bad[i].nr_extents);
        bad_table = pages_encode(pages);
        assert_refused(
            ferry_extents_decode(&pages->frame, bad_table, REGION_PAGES, decoded, &error), &error);
    }

    pages->extents[0] = (FerryExtent){.first = 3, .nr_pages = 2};
    pages_set_frame(pages, 1, 1);
    table = pages_encode(pages);
    /* Compressed, it must be shorter; and not nothing. */
    pages->frame.flags = FERRY_FRAME_ZSTD;
    assert_refused(ferry_extents_decode(&pages->frame, table, REGION_PAGES, decoded, &error),
                   &error);
    pages->frame.payload_bytes--;
    g_assert_true(ferry_extents_decode(&pages->frame, table, REGION_PAGES, decoded, &error));
    pages->frame.payload_bytes = 0;
    assert_refused(ferry_extents_decode(&pages->frame, table, REGION_PAGES, decoded, &error),
                   &error);
    g_clear_pointer(&table, g_free);
    pages_set_frame(pages, 1, 1);
    table = pages_encode(pages);
    g_assert_true(ferry_extents_decode(&pages->frame, table, REGION_PAGES, decoded, &error));
    /* The payload is not what the extents need. */
    pages->frame.payload_bytes -= 1;
    assert_refused(ferry_extents_decode(&pages->frame, table, REGION_PAGES, decoded, &error),
                   &error);
    pages->frame.payload_bytes += 1 + (uint32_t)FERRY_PAGE_BYTES;
    assert_refused(ferry_extents_decode(&pages->frame, table, REGION_PAGES, decoded, &error),
                   &error);
    pages->frame.payload_bytes -= (uint32_t)FERRY_PAGE_BYTES;
    /* The frame does not start where a granule does. */
    pages->frame.first_page += 1;
    assert_refused(ferry_extents_decode(&pages->frame, table, REGION_PAGES, decoded, &error),
                   &error);
    /* The region has no pages. */
    pages->frame.first_page = 0;
    assert_refused(ferry_extents_decode(&pages->frame, table, 0, decoded, &error), &error);
}

/*
 * The first @nr_bytes of @body, in an allocation of that size. What is past the end of @body is
 * zero.
 */
static uint8_t *cut(const GByteArray *body, size_t nr_bytes)
{
    uint8_t *part = g_malloc0(nr_bytes); /* NULL for nothing, as a frame without a body has */

    if (nr_bytes > 0) {
        memcpy(part, body->data, MIN(nr_bytes, body->len));
    }
    return part;
}

static void test_hello(void)
{
    g_autoptr(GError) error = NULL;

    for (int i = 0; i < NR_RANDOM; i++) {
        FerryHello hello = {
            .session = random64(),
            .attempt = (uint32_t)random64(),
            .version = FERRY_WIRE_VERSION_MIN,
            .role = (uint8_t)g_test_rand_int_range(FERRY_ROLE_DATA, FERRY_ROLE_FETCH + 1),
            .index = (uint8_t)random_upto(FERRY_FETCH_CHANNELS_MAX - 1),
        };
        g_autoptr(GByteArray) body = ferry_hello_encode(&hello);
        FerryHello decoded;

        for (size_t nr_bytes = 0; nr_bytes < body->len + 3; nr_bytes++) {
            g_autofree uint8_t *part = cut(body, nr_bytes);

            if (nr_bytes != body->len) {
                assert_refused(ferry_hello_decode(part, nr_bytes, &decoded, &error), &error);
                continue;
            }
            g_assert_true(ferry_hello_decode(part, nr_bytes, &decoded, &error));
            g_assert_cmpuint(decoded.session, ==, hello.session);
            g_assert_cmpuint(decoded.attempt, ==, hello.attempt);
            g_assert_cmpuint(decoded.version, ==, hello.version);
            g_assert_cmpuint(decoded.role, ==, hello.role);
            g_assert_cmpuint(decoded.index, ==, hello.index);
        }
    }
}

static void test_hello_refused(void)
{
    static const FerryHello bad[] = {
        {.version = FERRY_WIRE_VERSION_MIN - 1, .role = FERRY_ROLE_DATA},
        {.version = FERRY_WIRE_VERSION_MAX + 1, .role = FERRY_ROLE_DATA},
        {.version = UINT16_MAX, .role = FERRY_ROLE_DATA},
        {.version = FERRY_WIRE_VERSION_MIN, .role = FERRY_ROLE_INVALID},
        {.version = FERRY_WIRE_VERSION_MIN, .role = FERRY_ROLE_FETCH + 1},
        {.version = FERRY_WIRE_VERSION_MIN, .role = UINT8_MAX},
        {
            .version = FERRY_WIRE_VERSION_MIN,
            .role = FERRY_ROLE_DATA,
            .index = FERRY_DATA_CHANNELS_MAX,
        },
        {.version = FERRY_WIRE_VERSION_MIN, .role = FERRY_ROLE_DATA, .index = UINT8_MAX},
        {.version = FERRY_WIRE_VERSION_MIN, .role = FERRY_ROLE_CONTROL, .index = 1},
        {
            .version = FERRY_WIRE_VERSION_MIN,
            .role = FERRY_ROLE_FETCH,
            .index = FERRY_FETCH_CHANNELS_MAX,
        },
    };
    g_autoptr(GError) error = NULL;

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GByteArray) body = ferry_hello_encode(&bad[i]);
        FerryHello decoded;

        assert_refused(ferry_hello_decode(body->data, body->len, &decoded, &error), &error);
    }
}

static FerryRegions regions_new(size_t nr)
{
    return (FerryRegions){.list = g_new0(FerryRegion, nr + 1), .nr = nr};
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(FerryRegions, ferry_regions_clear)

static void assert_same_regions(const FerryRegions *a, const FerryRegions *b)
{
    g_assert_cmpuint(a->nr, ==, b->nr);
    for (size_t i = 0; i < a->nr; i++) {
        g_assert_cmpstr(a->list[i].id, ==, b->list[i].id);
        g_assert_cmpuint(a->list[i].length_bytes, ==, b->list[i].length_bytes);
        g_assert_cmpuint(a->list[i].page_size_bytes, ==, b->list[i].page_size_bytes);
        g_assert_cmpuint(a->list[i].flags, ==, b->list[i].flags);
    }
}

static void test_regions(void)
{
    g_auto(FerryRegions) regions = regions_new(5);
    g_autoptr(GByteArray) body = NULL;
    g_autoptr(GError) error = NULL;

    for (size_t i = 0; i < regions.nr; i++) {
        regions.list[i].length_bytes = (random64() >> 1) & ~(FERRY_PAGE_BYTES - 1);
        regions.list[i].page_size_bytes = UINT32_C(1) << (12 + i);
        regions.list[i].flags = i % 2 ? FERRY_REGION_SHARED : FERRY_REGION_HUGETLB;
        memset(regions.list[i].id, 'a' + (int)i, i == 0 ? FERRY_REGION_ID_MAX : i);
    }
    regions.list[1].length_bytes = 0;
    regions.list[2].length_bytes = (uint64_t)INT64_MAX & ~(FERRY_PAGE_BYTES - 1);
    g_strlcpy(regions.list[3].id, "/räm/µ", sizeof(regions.list[3].id));

    body = ferry_regions_encode(&regions, &(FerryLayout){.nr_data = FERRY_DATA_CHANNELS_MAX,
                                                         .nr_fetch = FERRY_FETCH_CHANNELS_MAX});
    for (size_t nr_bytes = 0; nr_bytes < body->len + 3; nr_bytes++) {
        g_autofree uint8_t *part = cut(body, nr_bytes);
        g_auto(FerryRegions) decoded = {0};
        FerryLayout layout = {0};

        if (nr_bytes != body->len) {
            assert_refused(ferry_regions_decode(part, nr_bytes, &decoded, &layout, &error), &error);
            continue;
        }
        g_assert_true(ferry_regions_decode(part, nr_bytes, &decoded, &layout, &error));
        g_assert_cmpuint(layout.nr_data, ==, FERRY_DATA_CHANNELS_MAX);
        g_assert_cmpuint(layout.nr_fetch, ==, FERRY_FETCH_CHANNELS_MAX);
        assert_same_regions(&regions, &decoded);
    }
}

/* The longest list there can be is sendable, and none at all is a list too. */
static void test_regions_extremes(void)
{
    for (size_t nr = 0; nr <= FERRY_REGIONS_MAX; nr += FERRY_REGIONS_MAX) {
        g_auto(FerryRegions) regions = regions_new(nr);
        g_auto(FerryRegions) decoded = {0};
        g_autoptr(GByteArray) body = NULL;
        g_autoptr(GError) error = NULL;
        FerryLayout layout = {0};

        for (size_t i = 0; i < nr; i++) {
            g_snprintf(regions.list[i].id, sizeof(regions.list[i].id), "%0*zu", FERRY_REGION_ID_MAX,
                       i);
            regions.list[i].page_size_bytes = FERRY_PAGE_BYTES;
        }
        body = ferry_regions_encode(&regions, &(FerryLayout){.nr_data = 1});
        g_assert_cmpuint(body->len, <=, FERRY_BODY_MAX);
        g_assert_true(ferry_regions_decode(body->data, body->len, &decoded, &layout, &error));
        g_assert_cmpuint(layout.nr_data, ==, 1);
        g_assert_cmpuint(layout.nr_fetch, ==, 0);
        assert_same_regions(&regions, &decoded);
    }
}

static void test_layout(void)
{
    const FerryLayout layout = {.nr_data = 3, .nr_fetch = 2};
    g_autoptr(GByteArray) body = ferry_layout_encode(&layout);
    g_autoptr(GError) error = NULL;
    FerryLayout decoded;

    for (size_t nr_bytes = 0; nr_bytes < body->len; nr_bytes++) {
        g_autofree uint8_t *part = cut(body, nr_bytes);

        assert_refused(ferry_layout_decode(part, nr_bytes, &decoded, &error), &error);
    }
    g_assert_true(ferry_layout_decode(body->data, body->len, &decoded, &error));
    g_assert_cmpuint(decoded.nr_data, ==, layout.nr_data);
    g_assert_cmpuint(decoded.nr_fetch, ==, layout.nr_fetch);
}

static void test_count(void)
{
    g_autoptr(GByteArray) body = ferry_count_encode(UINT64_C(0x123456789abc));
    g_autoptr(GError) error = NULL;
    uint64_t count;

    assert_refused(ferry_count_decode(body->data, body->len - 1, &count, &error), &error);
    g_assert_true(ferry_count_decode(body->data, body->len, &count, &error));
    g_assert_cmpuint(count, ==, UINT64_C(0x123456789abc));
}

static void regions_refuse_layout(const FerryRegions *regions, const FerryLayout *layout)
{
    g_autoptr(GByteArray) body = ferry_regions_encode(regions, layout);
    g_autofree uint8_t *exact = cut(body, body->len);
    g_auto(FerryRegions) decoded = {0};
    g_autoptr(GError) error = NULL;
    FerryLayout decoded_layout;

    assert_refused(ferry_regions_decode(exact, body->len, &decoded, &decoded_layout, &error),
                   &error);
    g_assert_null(decoded.list);
}

static void regions_refuse(const FerryRegions *regions, unsigned nr_data)
{
    regions_refuse_layout(regions, &(FerryLayout){.nr_data = nr_data});
}

static void test_regions_refused(void)
{
    g_auto(FerryRegions) regions = regions_new(2);
    g_auto(FerryRegions) many = regions_new(FERRY_REGIONS_MAX + 1);
    g_autoptr(GByteArray) body = NULL;
    g_autoptr(GError) error = NULL;
    FerryRegion *region = &regions.list[1];

    for (size_t i = 0; i < many.nr; i++) {
        g_snprintf(many.list[i].id, sizeof(many.list[i].id), "%zu", i);
    }
    regions_refuse(&many, 1);

    g_strlcpy(regions.list[0].id, "pc.ram", sizeof(regions.list[0].id));
    regions_refuse(&regions, 1); /* the second has no name */
    g_strlcpy(region->id, "pc.ram", sizeof(region->id));
    regions_refuse(&regions, 1); /* both have the same */
    g_strlcpy(region->id, "v\xc3", sizeof(region->id));
    regions_refuse(&regions, 1); /* not UTF-8 */
    g_strlcpy(region->id, "vga.ram", sizeof(region->id));
    region->length_bytes = FERRY_PAGE_BYTES + 1;
    regions_refuse(&regions, 1); /* part of a page */
    region->length_bytes = UINT64_C(1) << 63;
    regions_refuse(&regions, 1); /* longer than an address space */
    region->length_bytes = UINT64_MAX & ~(FERRY_PAGE_BYTES - 1);
    regions_refuse(&regions, 1);
    region->length_bytes = FERRY_PAGE_BYTES;
    regions_refuse(&regions, 0);
    regions_refuse(&regions, FERRY_DATA_CHANNELS_MAX + 1);
    regions_refuse(&regions, UINT32_MAX);
    regions_refuse_layout(&regions,
                          &(FerryLayout){.nr_data = 1, .nr_fetch = FERRY_FETCH_CHANNELS_MAX + 1});
    regions_refuse_layout(&regions, &(FerryLayout){.nr_data = 1, .nr_fetch = UINT32_MAX});

    /* A name that ends before its end. */
    body = ferry_regions_encode(&regions, &(FerryLayout){.nr_data = 1});
    g_assert_cmpint(body->data[body->len - 2], ==, 'a');
    body->data[body->len - 2] = 0;
    {
        g_auto(FerryRegions) decoded = {0};
        FerryLayout layout;

        assert_refused(ferry_regions_decode(body->data, body->len, &decoded, &layout, &error),
                       &error);
        body->data[body->len - 2] = 'a';
        g_assert_true(ferry_regions_decode(body->data, body->len, &decoded, &layout, &error));
    }
}

static void test_report(void)
{
    FerryReport report = {
        .memory_ns = random64(), .loaded_ns = random64(), .running_ns = random64()};
    g_autoptr(GByteArray) body = ferry_report_encode(&report);
    g_autoptr(GError) error = NULL;

    for (size_t nr_bytes = 0; nr_bytes < body->len + 3; nr_bytes++) {
        g_autofree uint8_t *part = cut(body, nr_bytes);
        FerryReport decoded;

        if (nr_bytes != body->len) {
            assert_refused(ferry_report_decode(part, nr_bytes, &decoded, &error), &error);
            continue;
        }
        g_assert_true(ferry_report_decode(part, nr_bytes, &decoded, &error));
        g_assert_cmpuint(decoded.memory_ns, ==, report.memory_ns);
        g_assert_cmpuint(decoded.loaded_ns, ==, report.loaded_ns);
        g_assert_cmpuint(decoded.running_ns, ==, report.running_ns);
    }
}

static void assert_text(const void *bytes, size_t nr_bytes, const char *expected)
{
    g_autofree uint8_t *exact = g_memdup2(bytes, nr_bytes); /* NULL for nothing */
    g_autofree char *text = NULL;

    text = ferry_error_text_decode(exact, nr_bytes);
    g_assert_cmpstr(text, ==, expected);
}

static void test_error_text(void)
{
    g_autofree char *longest = g_strnfill(FERRY_ERROR_TEXT_MAX, 'x');
    g_autofree char *longer = g_strnfill(FERRY_ERROR_TEXT_MAX + 10, 'x');

    assert_text("", 0, "");
    assert_text("no such guest", 13, "no such guest");
    assert_text("a\nb\x1b[2Jc\x7f\xff", 9, "a?b?[2Jc?");
    assert_text("cut\0short", 9, "cut");
    assert_text(longest, strlen(longest), longest);
    assert_text(longer, strlen(longer), longest);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/wire/frame/layout", test_frame_layout);
    g_test_add_func("/wire/frame/round-trip", test_frame_round_trip);
    g_test_add_func("/wire/frame/damaged", test_frame_damaged);
    g_test_add_func("/wire/frame/refused", test_frame_refused);
    g_test_add_func("/wire/extents/round-trip", test_extents_round_trip);
    g_test_add_func("/wire/extents/damaged", test_extents_damaged);
    g_test_add_func("/wire/extents/refused", test_extents_refused);
    g_test_add_func("/wire/hello/round-trip", test_hello);
    g_test_add_func("/wire/hello/refused", test_hello_refused);
    g_test_add_func("/wire/regions/round-trip", test_regions);
    g_test_add_func("/wire/regions/extremes", test_regions_extremes);
    g_test_add_func("/wire/regions/refused", test_regions_refused);
    g_test_add_func("/wire/layout", test_layout);
    g_test_add_func("/wire/count", test_count);
    g_test_add_func("/wire/report", test_report);
    g_test_add_func("/wire/error-text", test_error_text);
    return g_test_run();
}
