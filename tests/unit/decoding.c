/*
 * Input as a peer may send it: at random, cut short, and refused
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "decoding.h"

#include "migration/error.h"

#include <string.h>

uint64_t random64(void)
{
    return (uint64_t)(uint32_t)g_test_rand_int() << 32 | (uint32_t)g_test_rand_int();
}

uint32_t random_upto(uint32_t max)
{
    return (uint32_t)(random64() % ((uint64_t)max + 1));
}

void assert_refused(bool accepted, GError **error)
{
    g_assert_false(accepted);
    g_assert_error(*error, FERRY_ERROR, FERRY_ERROR_PROTOCOL);
    g_clear_error(error);
}

uint8_t *cut(const GByteArray *body, size_t nr_bytes)
{
    uint8_t *part = g_malloc0(nr_bytes); /* NULL for nothing, as a frame without a body has */

    if (nr_bytes > 0) {
        memcpy(part, body->data, MIN(nr_bytes, body->len));
    }
    return part;
}
