/*
 * The wire protocol's frames and extents: what is encoded comes back, and nothing else is accepted
 *
 * Input is always passed in an allocation of exactly its size, so that AddressSanitizer
 * sees a decoder that reads past it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "decoding.h"
#include "migration/wire/crc32c.h"
#include "migration/wire/frame.h"

#include <string.h>

#define NR_RANDOM 2000

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
    return g_test_run();
}
