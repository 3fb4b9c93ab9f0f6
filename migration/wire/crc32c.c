/*
 * CRC32C (Castagnoli), the checksum of Ferry's headers and payloads
 *
 * The crc32 instruction takes 3 cycles but can start one every cycle, so long buffers are cut
 * in three lanes that are summed side by side and then joined. Joining multiplies a lane's sum
 * by a power of x (that is, appends the zero bytes it has not seen), with one carry-less
 * multiplication. Both ideas: V. Gopal et al., "Fast CRC Computation for iSCSI Polynomial Using
 * CRC32 Instruction", Intel 2011. The portable path is slicing-by-8: M. Kounavis and F. Berry,
 * "A Systematic Approach to Building High Performance Software-Based CRC Generators", 2005.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "crc32c.h"

#include <glib.h>
#include <string.h>

#include "../memory/guest-memory.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* x^32 is implied; bit 31 stands for x^0, as everywhere in this file. */
#define POLYNOMIAL 0x82f63b78u

typedef uint32_t Table[256];

static const Table *tables_get(void)
{
    static Table tables[8];
    static gsize ready;

    if (g_once_init_enter(&ready)) {
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t sum = i;

            for (int bit = 0; bit < 8; bit++) {
                sum = (sum >> 1) ^ ((sum & 1) ? POLYNOMIAL : 0);
            }
            tables[0][i] = sum;
        }
        /* tables[n][i]: byte i, followed by n zero bytes */
        for (uint32_t i = 0; i < 256; i++) {
            for (int n = 1; n < 8; n++) {
                uint32_t before = tables[n - 1][i];

                tables[n][i] = (before >> 8) ^ tables[0][before & 0xff];
            }
        }
        g_once_init_leave(&ready, 1);
    }
    return (const Table *)tables;
}

READS_GUEST_MEMORY
uint32_t ferry_crc32c_portable(uint32_t crc, const void *data, size_t nr_bytes)
{
    const Table *t = tables_get();
    const uint8_t *p = data;

    crc = ~crc;
    while (nr_bytes >= 8) {
        uint64_t word;

        memcpy(&word, p, sizeof(word));
        word = GUINT64_FROM_LE(word) ^ crc;
        crc = t[7][word & 0xff] ^ t[6][(word >> 8) & 0xff] ^ t[5][(word >> 16) & 0xff] ^
              t[4][(word >> 24) & 0xff] ^ t[3][(word >> 32) & 0xff] ^ t[2][(word >> 40) & 0xff] ^
              t[1][(word >> 48) & 0xff] ^ t[0][word >> 56];
        p += 8;
        nr_bytes -= 8;
    }
    while (nr_bytes-- > 0) {
        crc = (crc >> 8) ^ t[0][(crc ^ *p++) & 0xff];
    }
    return ~crc;
}

#if defined(__x86_64__)

#define CRC_INSTRUCTIONS __attribute__((target("sse4.2,pclmul")))

/*
 * One way of cutting in three. For lanes of n bytes, join1 is x^(8n - 33) and join2 is
 * x^(16n - 33), both modulo the polynomial: the carry-less product of two 32-bit sums comes out
 * one bit short, and the crc32 instruction that reduces it multiplies by x^32.
 *
 * The sizes make a 4 KiB page one block and 16 bytes, and a 2 MiB granule 130 blocks and 32.
 */
typedef struct {
    size_t lane_bytes;
    uint64_t join1;
    uint64_t join2;
} Cut;

static const Cut cuts[] = {
    {.lane_bytes = 5440, .join1 = 0xfa0f2bd0, .join2 = 0x0c8774a7},
    {.lane_bytes = 1360, .join1 = 0x3f70cc6f, .join2 = 0x5aa1f3cf},
    {.lane_bytes = 168, .join1 = 0x1b3d8f29, .join2 = 0xa60ce07b},
};

CRC_INSTRUCTIONS READS_GUEST_MEMORY
static inline uint64_t sum_word(uint64_t crc, const uint8_t *p)
{
    uint64_t word;

    memcpy(&word, p, sizeof(word));
    return _mm_crc32_u64(crc, word);
}

CRC_INSTRUCTIONS
static inline uint64_t product(uint64_t a, uint64_t b)
{
    __m128i wide =
        _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)a), _mm_cvtsi64_si128((long long)b), 0);

    return (uint64_t)_mm_cvtsi128_si64(wide);
}

CRC_INSTRUCTIONS READS_GUEST_MEMORY
static uint32_t crc32c_instruction(uint32_t start, const void *data, size_t nr_bytes)
{
    const uint8_t *p = data;
    uint64_t crc = ~start;

    for (size_t i = 0; i < G_N_ELEMENTS(cuts); i++) {
        const size_t lane_bytes = cuts[i].lane_bytes;

        while (nr_bytes >= 3 * lane_bytes) {
            uint64_t crc1 = 0;
            uint64_t crc2 = 0;

            for (size_t at = 0; at < lane_bytes; at += 8) {
                crc = sum_word(crc, p + at);
                crc1 = sum_word(crc1, p + lane_bytes + at);
                crc2 = sum_word(crc2, p + 2 * lane_bytes + at);
            }
            crc =
                _mm_crc32_u64(0, product(crc, cuts[i].join2) ^ product(crc1, cuts[i].join1)) ^ crc2;
            p += 3 * lane_bytes;
            nr_bytes -= 3 * lane_bytes;
        }
    }
    while (nr_bytes >= 8) {
        crc = sum_word(crc, p);
        p += 8;
        nr_bytes -= 8;
    }
    while (nr_bytes-- > 0) {
        crc = _mm_crc32_u8((uint32_t)crc, *p++);
    }
    return ~(uint32_t)crc;
}

bool ferry_crc32c_is_accelerated(void)
{
    return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul");
}

uint32_t ferry_crc32c(uint32_t crc, const void *data, size_t nr_bytes)
{
    if (G_LIKELY(ferry_crc32c_is_accelerated())) {
        return crc32c_instruction(crc, data, nr_bytes);
    }
    return ferry_crc32c_portable(crc, data, nr_bytes);
}

#else

bool ferry_crc32c_is_accelerated(void)
{
    return false;
}

uint32_t ferry_crc32c(uint32_t crc, const void *data, size_t nr_bytes)
{
    return ferry_crc32c_portable(crc, data, nr_bytes);
}

#endif
