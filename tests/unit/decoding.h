/*
 * Input as a peer may send it: at random, cut short, and refused
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_TESTS_UNIT_DECODING_H
#define FERRY_TESTS_UNIT_DECODING_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

uint64_t random64(void);

/* From 0 to @max. */
uint32_t random_upto(uint32_t max);

/* A decoder has refused what it got as not the protocol. Clears @error. */
void assert_refused(bool accepted, GError **error);

/*
 * The first @nr_bytes of @body, in an allocation of that size. What is past the end of @body is
 * zero.
 */
uint8_t *cut(const GByteArray *body, size_t nr_bytes);

#endif
