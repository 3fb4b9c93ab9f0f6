/*
 * Compression of pages: what is packed comes out again; what is not worth it is left alone.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <string.h>

#include "migration/wire/compress.h"
#include "migration/error.h"
#include "migration/memory/region.h"
#include "migration/wire/pages-frame.h"

#define GRANULE_BYTES ((uint32_t)(FERRY_GRANULE_PAGES * FERRY_PAGE_BYTES))

static void fill(uint8_t *to, uint32_t nr_bytes, unsigned noise)
{
    uint64_t random = 88172645463325252;

    for (uint32_t i = 0; i < nr_bytes; i++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        to[i] = random % 100 < noise ? (uint8_t)(random >> 32) : (uint8_t)(i / 64);
    }
}

static void test_round_trip(void)
{
    static const uint32_t lengths[] = {4096, 8192, 100 * 4096, GRANULE_BYTES};
    FerryPacker *packer = ferry_packer_new();
    FerryUnpacker *unpacker = ferry_unpacker_new();
    g_autofree uint8_t *in = g_malloc(GRANULE_BYTES);
    g_autoptr(GError) error = NULL;

    for (size_t i = 0; i < G_N_ELEMENTS(lengths); i++) {
        const uint8_t *packed;
        uint32_t packed_bytes;

        fill(in, lengths[i], 5);
        packed = ferry_packer_pack(packer, in, lengths[i], &packed_bytes);
        g_assert_nonnull(packed);
        g_assert_cmpuint(packed_bytes, <, lengths[i]);
        memcpy(ferry_unpacker_packed(unpacker), packed, packed_bytes);
        g_assert_true(ferry_unpacker_unpack(unpacker, packed_bytes, lengths[i], &error));
        g_assert_cmpmem(ferry_unpacker_plain(unpacker), lengths[i], in, lengths[i]);

        /* Longer or shorter than it is said to be, or cut. */
        g_assert_false(ferry_unpacker_unpack(unpacker, packed_bytes, lengths[i] - 4096, &error));
        g_assert_error(error, FERRY_ERROR, FERRY_ERROR_PROTOCOL);
        g_clear_error(&error);
        if (lengths[i] < GRANULE_BYTES) {
            g_assert_false(
                ferry_unpacker_unpack(unpacker, packed_bytes, lengths[i] + 4096, &error));
            g_assert_error(error, FERRY_ERROR, FERRY_ERROR_PROTOCOL);
            g_clear_error(&error);
        }
        g_assert_false(ferry_unpacker_unpack(unpacker, packed_bytes - 1, lengths[i], &error));
        g_assert_error(error, FERRY_ERROR, FERRY_ERROR_PROTOCOL);
        g_clear_error(&error);
    }
    ferry_packer_free(packer);
    ferry_unpacker_free(unpacker);
}

/* It is tried less and less often, but tried. */
static void test_noise(void)
{
    FerryPacker *packer = ferry_packer_new();
    g_autofree uint8_t *noise = g_malloc(GRANULE_BYTES), *text = g_malloc(GRANULE_BYTES);
    uint32_t packed_bytes;
    unsigned nr = 0;

    fill(noise, GRANULE_BYTES, 100);
    fill(text, GRANULE_BYTES, 5);
    for (unsigned i = 0; i < 200; i++) {
        g_assert_null(ferry_packer_pack(packer, noise, GRANULE_BYTES, &packed_bytes));
    }
    while (!ferry_packer_pack(packer, text, GRANULE_BYTES, &packed_bytes)) {
        nr++;
        g_assert_cmpuint(nr, <=, 32);
    }
    g_assert_nonnull(ferry_packer_pack(packer, text, GRANULE_BYTES, &packed_bytes));
    ferry_packer_free(packer);
}

/* Some pages here and there, with zero ones between. */
static void pick(uint64_t pages[FERRY_GRANULE_WORDS], uint8_t *memory)
{
    fill(memory, GRANULE_BYTES, 5);
    memset(pages, 0, FERRY_GRANULE_WORDS * sizeof(*pages));
    for (unsigned page = 0; page < FERRY_GRANULE_PAGES; page += 3) {
        pages[page / 64] |= UINT64_C(1) << (page % 64);
        if (page % 2) {
            memset(memory + page * FERRY_PAGE_BYTES, 0, FERRY_PAGE_BYTES);
        }
    }
}

/* A part of a frame is tried: what it would gain is told, and the frame goes as it was built. */
static void test_try(gconstpointer data)
{
    const bool checksum = GPOINTER_TO_INT(data);
    static const uint32_t parts[] = {1, 4096, 5000, 128 * 1024, GRANULE_BYTES};
    g_autofree uint8_t *memory = g_malloc(GRANULE_BYTES);
    FerryRegion region = {.id = "ram", .host = memory, .length_bytes = GRANULE_BYTES};
    uint64_t pages[FERRY_GRANULE_WORDS];
    FerryPagesFrame frame = {0};

    pick(pages, memory);
    ferry_pages_frame_init(&frame, checksum, true);
    frame.packs = false;
    for (size_t i = 0; i < G_N_ELEMENTS(parts); i++) {
        uint32_t nr_bytes = parts[i], left;
        g_autofree uint8_t *before = NULL;
        struct iovec iov[FERRY_EXTENTS_MAX + 1];

        ferry_pages_frame_build(&frame, &region, 0, 0, pages);
        g_assert_cmpint(frame.frame.flags & FERRY_FRAME_ZSTD, ==, 0);
        g_assert_cmpuint(frame.content_bytes, ==, 86 * FERRY_PAGE_BYTES);
        memcpy(iov, frame.iov, sizeof(iov[0]) * frame.nr_iov);
        before = g_memdup2(frame.iov[1].iov_base, frame.iov[1].iov_len);
        left = ferry_pages_frame_try(&frame, &nr_bytes);
        g_assert_cmpuint(nr_bytes, ==, MIN(parts[i], frame.content_bytes));
        g_assert_cmpuint(left, <=, nr_bytes);
        if (nr_bytes >= 4096) {
            g_assert_cmpuint(left, <, nr_bytes / 2);
        }
        g_assert_cmpmem(iov, sizeof(iov[0]) * frame.nr_iov, frame.iov,
                        sizeof(iov[0]) * frame.nr_iov);
        g_assert_cmpmem(before, iov[1].iov_len, frame.iov[1].iov_base, frame.iov[1].iov_len);
    }
    /* Nothing but zero pages: nothing to be tried. */
    memset(memory, 0, GRANULE_BYTES);
    ferry_pages_frame_build(&frame, &region, 0, 0, pages);
    g_assert_cmpuint(ferry_pages_frame_try(&frame, &(uint32_t){4096}), ==, 0);
    /* And it packs when it is told to. */
    pick(pages, memory);
    frame.packs = true;
    ferry_pages_frame_build(&frame, &region, 0, 0, pages);
    g_assert_cmpint(frame.frame.flags & FERRY_FRAME_ZSTD, !=, 0);
    ferry_pages_frame_clear(&frame);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/compress/round-trip", test_round_trip);
    g_test_add_func("/compress/noise", test_noise);
    g_test_add_data_func("/compress/try", GINT_TO_POINTER(false), test_try);
    g_test_add_data_func("/compress/try-checksum", GINT_TO_POINTER(true), test_try);
    return g_test_run();
}
