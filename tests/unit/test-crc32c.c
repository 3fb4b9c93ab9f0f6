/*
 * CRC32C: known answers, and the two implementations against a third
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/wire/crc32c.h"

#include <glib.h>
#include <string.h>

/* Bit by bit, straight from the definition. */
static uint32_t crc_by_definition(uint32_t crc, const uint8_t *data, size_t nr_bytes)
{
    crc = ~crc;
    for (size_t i = 0; i < nr_bytes; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ ((crc & 1) ? 0x82f63b78u : 0);
        }
    }
    return ~crc;
}

static uint8_t *random_bytes(size_t nr_bytes)
{
    uint8_t *data = g_malloc(nr_bytes);

    for (size_t i = 0; i < nr_bytes; i++) {
        data[i] = (uint8_t)g_test_rand_int_range(0, 256);
    }
    return data;
}

static void assert_crc(const void *data, size_t nr_bytes, uint32_t expected)
{
    g_assert_cmphex(ferry_crc32c(0, data, nr_bytes), ==, expected);
    g_assert_cmphex(ferry_crc32c_portable(0, data, nr_bytes), ==, expected);
}

static void test_known(void)
{
    uint8_t data[32];

    assert_crc("", 0, 0);
    assert_crc("123456789", 9, 0xe3069283);
    /* RFC 3720, appendix B.4 */
    memset(data, 0, sizeof(data));
    assert_crc(data, sizeof(data), 0x8a9136aa);
    memset(data, 0xff, sizeof(data));
    assert_crc(data, sizeof(data), 0x62a8ab43);
    for (size_t i = 0; i < sizeof(data); i++) {
        data[i] = (uint8_t)i;
    }
    assert_crc(data, sizeof(data), 0x46dd794e);
    for (size_t i = 0; i < sizeof(data); i++) {
        data[i] = (uint8_t)(31 - i);
    }
    assert_crc(data, sizeof(data), 0x113fdb5c);
}

static void test_lengths(void)
{
    /* Around every block size of the three-lane code, at every alignment. */
    static const size_t edges[] = {0, 8, 168, 504, 512, 1360, 4080, 4096, 5440, 16320, 20480};
    g_autofree uint8_t *data = random_bytes(32768);

    for (size_t e = 0; e < G_N_ELEMENTS(edges); e++) {
        for (size_t align = 0; align < 9; align++) {
            for (size_t more = 0; more < 18; more++) {
                size_t nr_bytes = edges[e] + more;

                assert_crc(data + align, nr_bytes, crc_by_definition(0, data + align, nr_bytes));
            }
        }
    }
}

static void test_granule(void)
{
    const size_t nr_bytes = 2 * 1024 * 1024;
    g_autofree uint8_t *data = random_bytes(nr_bytes);

    assert_crc(data, nr_bytes, crc_by_definition(0, data, nr_bytes));
}

static void test_goes_on(void)
{
    const size_t nr_bytes = 30000;
    g_autofree uint8_t *data = random_bytes(nr_bytes);
    uint32_t whole = crc_by_definition(0, data, nr_bytes);

    for (int i = 0; i < 500; i++) {
        size_t cut = (size_t)g_test_rand_int_range(0, (gint32)nr_bytes);
        uint32_t crc = ferry_crc32c(0, data, cut);

        g_assert_cmphex(ferry_crc32c(crc, data + cut, nr_bytes - cut), ==, whole);
        crc = ferry_crc32c_portable(0, data, cut);
        g_assert_cmphex(ferry_crc32c_portable(crc, data + cut, nr_bytes - cut), ==, whole);
    }
}

static void test_flipped_bits(void)
{
    g_autofree uint8_t *data = random_bytes(4096);
    uint32_t whole = ferry_crc32c(0, data, 4096);

    for (size_t bit = 0; bit < 4096 * 8; bit++) {
        data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        g_assert_cmphex(ferry_crc32c(0, data, 4096), !=, whole);
        data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    g_assert_cmphex(ferry_crc32c(0, data, 4096), ==, whole);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_message("instruction used: %s", ferry_crc32c_is_accelerated() ? "yes" : "no");
    g_test_add_func("/crc32c/known", test_known);
    g_test_add_func("/crc32c/lengths", test_lengths);
    g_test_add_func("/crc32c/granule", test_granule);
    g_test_add_func("/crc32c/goes-on", test_goes_on);
    g_test_add_func("/crc32c/flipped-bits", test_flipped_bits);
    return g_test_run();
}
