/*
 * What a fuzz target is
 *
 * A target is one file, fuzz-NAME.c, that defines LLVMFuzzerTestOneInput(): it hands the input
 * to a decoder and checks what comes back. It is linked with libFuzzer, which makes up inputs,
 * or with replay.c, which only goes through the files of corpus/NAME/. Inputs that once broke
 * something, and some to start from, are kept there.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_TESTS_FUZZ_H
#define FERRY_TESTS_FUZZ_H

#include <glib.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/**
 * LLVMFuzzerTestOneInput: try @nr_bytes of input at @data; libFuzzer's name and signature
 *
 * Returns 0. Anything found is a crash: of a sanitizer, or by fuzz_check().
 */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nr_bytes);

/* Crash unless @condition holds. */
#define fuzz_check(condition)                                             \
    do {                                                                  \
        if (!(condition)) {                                               \
            g_error("%s:%d: not so: %s", __FILE__, __LINE__, #condition); \
        }                                                                 \
    } while (0)

/* A copy in an allocation of exactly its size; NULL for no bytes. Free with g_free(). */
static inline uint8_t *fuzz_exact(const uint8_t *data, size_t nr_bytes)
{
    uint8_t *copy = g_malloc(nr_bytes);

    if (nr_bytes > 0) {
        memcpy(copy, data, nr_bytes);
    }
    return copy;
}

#endif
