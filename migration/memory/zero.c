/*
 * Is this memory all zero?
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "zero.h"

#include <glib.h>
#include <stdint.h>
#include <string.h>

#include "guest-memory.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* Two machine words at any address: SSE2 on x86-64, NEON on arm64. */
typedef uint64_t Pair __attribute__((vector_size(16), aligned(1), may_alias));

/* Shorter than this, setting up the vector loop costs more than it saves. */
#define SHORT_BYTES 256

READS_GUEST_MEMORY
static inline uint64_t word_at(const uint8_t *p)
{
    uint64_t word;

    memcpy(&word, p, sizeof(word));
    return word;
}

/*
 * Pages in use nearly always give themselves away at one of their ends or in the middle: headers
 * and small objects start pages, stacks and strings end them.  Most do at their start, so the
 * other places, each a cache miss of its own, are looked at only after that. @nr_bytes is at
 * least 8.
 */
static inline bool looks_zero(const uint8_t *p, size_t nr_bytes)
{
    return word_at(p) == 0 && (word_at(p + nr_bytes - 8) | word_at(p + (nr_bytes - 8) / 2)) == 0;
}

READS_GUEST_MEMORY
bool ferry_is_zero_portable(const void *data, size_t nr_bytes)
{
    const uint8_t *p = data;

    if (nr_bytes >= 8) {
        if (!looks_zero(p, nr_bytes)) {
            return false;
        }
        for (; nr_bytes >= 64; p += 64, nr_bytes -= 64) {
            const Pair *pair = (const Pair *)p;
            Pair any = (pair[0] | pair[1]) | (pair[2] | pair[3]);

            if ((any[0] | any[1]) != 0) {
                return false;
            }
        }
        for (; nr_bytes >= 8; p += 8, nr_bytes -= 8) {
            if (word_at(p) != 0) {
                return false;
            }
        }
    }
    for (; nr_bytes > 0; p++, nr_bytes--) {
        if (*p != 0) {
            return false;
        }
    }
    return true;
}

#if defined(__x86_64__)

#define AVX2_INSTRUCTIONS __attribute__((target("avx2")))

/* At least SHORT_BYTES. The last, overlapping block spares a loop for the rest. */
AVX2_INSTRUCTIONS READS_GUEST_MEMORY
static bool is_zero_avx2(const uint8_t *p, size_t nr_bytes)
{
    const uint8_t *last = p + nr_bytes - 128;

    for (;;) {
        __m256i a = _mm256_or_si256(_mm256_loadu_si256((const void *)p),
                                    _mm256_loadu_si256((const void *)(p + 32)));
        __m256i b = _mm256_or_si256(_mm256_loadu_si256((const void *)(p + 64)),
                                    _mm256_loadu_si256((const void *)(p + 96)));
        __m256i any = _mm256_or_si256(a, b);

        if (!_mm256_testz_si256(any, any)) {
            return false;
        }
        if (p == last) {
            return true;
        }
        p = last - p > 128 ? p + 128 : last;
    }
}

bool ferry_is_zero(const void *data, size_t nr_bytes)
{
    if (nr_bytes < SHORT_BYTES || !__builtin_cpu_supports("avx2")) {
        return ferry_is_zero_portable(data, nr_bytes);
    }
    return looks_zero(data, nr_bytes) && is_zero_avx2(data, nr_bytes);
}

#else

bool ferry_is_zero(const void *data, size_t nr_bytes)
{
    return ferry_is_zero_portable(data, nr_bytes);
}

#endif
