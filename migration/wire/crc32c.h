/*
 * CRC32C (Castagnoli), the checksum of Ferry's headers and payloads
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_CRC32C_H
#define FERRY_CRC32C_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * ferry_crc32c: the CRC32C of @nr_bytes at @data, going on from @crc
 *
 * Start with 0; feeding the result back in gives the checksum of the concatenation. @data needs
 * no alignment and may be guest memory that is being written to: the result then belongs to no
 * single state of it, but nothing worse happens. Uses the processor's CRC instruction when
 * there is one. Any thread.
 *
 * The polynomial and bit order are those of RFC 3720 (iSCSI), appendix B.4.
 */
uint32_t ferry_crc32c(uint32_t crc, const void *data, size_t nr_bytes);

/**
 * ferry_crc32c_portable: the same value, by tables only
 *
 * What ferry_crc32c() does on a processor without the instruction; apart so that tests can hold
 * the two against each other. Any thread.
 */
uint32_t ferry_crc32c_portable(uint32_t crc, const void *data, size_t nr_bytes);

/** ferry_crc32c_is_accelerated: whether ferry_crc32c() uses the processor's instruction */
bool ferry_crc32c_is_accelerated(void);

#endif
