/*
 * What stands in the bodies of frames: what is encoded comes back, and nothing else is accepted
 *
 * Input is always passed in an allocation of exactly its size, so that AddressSanitizer
 * sees a decoder that reads past it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "decoding.h"
#include "migration/wire/frame.h"

#include <string.h>

#define NR_RANDOM 2000

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

static void test_answers(void)
{
    const uint8_t unknown[] = {FERRY_ANSWER_EMPTY, FERRY_ANSWER_SAME + 1};
    const uint8_t answers[] = {FERRY_ANSWER_SAME, FERRY_ANSWER_IN_FULL};
    g_autoptr(GError) error = NULL;
    uint8_t decoded[2];

    g_assert_true(ferry_answers_decode(answers, 2, decoded, 2, &error));
    g_assert_cmpmem(decoded, 2, answers, 2);
    assert_refused(ferry_answers_decode(unknown, 2, decoded, 2, &error), &error);
    assert_refused(ferry_answers_decode(answers, 1, decoded, 2, &error), &error);
    /* None at all: nothing is said of any. */
    g_assert_true(ferry_answers_decode(NULL, 0, decoded, 2, &error));
    g_assert_cmpuint(decoded[0], ==, FERRY_ANSWER_EMPTY);
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
    region->fd_offset_bytes = INT64_MAX;
    regions_refuse(&regions, 1); /* ends past the end of any file */
    region->fd_offset_bytes = 0;
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
        /* A kind that is not known, of the last one, whose flags stand before its offset and name. */
        body->data[body->len - strlen("vga.ram") - 9] = 0x80;
        assert_refused(ferry_regions_decode(body->data, body->len, &decoded, &layout, &error),
                       &error);
        body->data[body->len - strlen("vga.ram") - 9] = 0;
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
    g_test_add_func("/wire/hello/round-trip", test_hello);
    g_test_add_func("/wire/hello/refused", test_hello_refused);
    g_test_add_func("/wire/regions/round-trip", test_regions);
    g_test_add_func("/wire/regions/extremes", test_regions_extremes);
    g_test_add_func("/wire/regions/refused", test_regions_refused);
    g_test_add_func("/wire/answers", test_answers);
    g_test_add_func("/wire/layout", test_layout);
    g_test_add_func("/wire/count", test_count);
    g_test_add_func("/wire/report", test_report);
    g_test_add_func("/wire/error-text", test_error_text);
    return g_test_run();
}
