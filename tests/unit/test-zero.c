/*
 * Zero detection: every length, every alignment, every single non-zero byte
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/memory/zero.h"

#include <glib.h>
#include <stdint.h>
#include <string.h>

static void assert_zero(const uint8_t *data, size_t nr_bytes, bool expected)
{
    g_assert_true(ferry_is_zero(data, nr_bytes) == expected);
    g_assert_true(ferry_is_zero_portable(data, nr_bytes) == expected);
}

/* Non-zero bytes right before and right after must not matter. */
static void test_lengths(void)
{
    static uint8_t buffer[2048];

    for (size_t align = 1; align < 66; align += 3) {
        for (size_t nr_bytes = 0; nr_bytes < 1200; nr_bytes++) {
            uint8_t *data = buffer + align;

            data[-1] = 0xff;
            data[nr_bytes] = 0xff;
            assert_zero(data, nr_bytes, true);
            if (nr_bytes > 0) {
                size_t at = (size_t)g_test_rand_int_range(0, (gint32)nr_bytes);

                data[at] = 0x80;
                assert_zero(data, nr_bytes, false);
                data[at] = 0;
            }
            data[-1] = 0;
            data[nr_bytes] = 0;
        }
    }
}

static void test_every_byte(void)
{
    static const size_t sizes[] = {1, 7, 8, 9, 31, 63, 255, 256, 257, 300, 511, 4096, 4099};
    static uint8_t data[8192];

    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        for (size_t at = 0; at < sizes[i]; at++) {
            data[at] = 1;
            assert_zero(data, sizes[i], false);
            data[at] = 0;
        }
        assert_zero(data, sizes[i], true);
    }
}

static void test_granule(void)
{
    const size_t nr_bytes = 2 * 1024 * 1024;
    g_autofree uint8_t *data = g_malloc0(nr_bytes);

    assert_zero(data, nr_bytes, true);
    for (int i = 0; i < 50; i++) {
        size_t at = (size_t)g_test_rand_int_range(0, (gint32)nr_bytes);

        data[at] = 1;
        assert_zero(data, nr_bytes, false);
        data[at] = 0;
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/zero/lengths", test_lengths);
    g_test_add_func("/zero/every-byte", test_every_byte);
    g_test_add_func("/zero/granule", test_granule);
    return g_test_run();
}
