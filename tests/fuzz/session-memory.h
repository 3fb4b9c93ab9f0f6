/*
 * Guest memory for the fuzzer of a destination, with guards around it, and what has been sent for each page.
 *
 * Threads: the fuzzer's own; the destination writes the memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_TESTS_FUZZ_SESSION_MEMORY_H
#define FERRY_TESTS_FUZZ_SESSION_MEMORY_H

#include "session.h"

#include <stdatomic.h>

#define FUZZ_REGIONS      3
#define FUZZ_RAM_PAGES    576 /* a granule, and something */
#define FUZZ_SHARED_PAGES 64

typedef struct FuzzMemory {
    uint8_t *map;
    uint64_t map_bytes;
    int fd;
    FerryRegions regions;                        /* pc.ram, shared, perhaps rom */
    uint16_t sent[FUZZ_REGIONS][FUZZ_RAM_PAGES]; /* which contents; bit FUZZ_CONTENTS for zero */
    _Atomic bool emptied;                        /* or may have been */
} FuzzMemory;

void fuzz_memory_init(FuzzMemory *memory, bool with_rom);

/* These pages are sent. */
void fuzz_memory_note(FuzzMemory *memory, const FuzzPages *pages);

/*
 * Guards are as they were, and each page what was sent for it, or what it was, or zero once emptied.  @torn: what was
 * sent may be anything.  Nothing may be missing any more.
 */
void fuzz_memory_check(const FuzzMemory *memory, bool torn);

void fuzz_memory_clear(FuzzMemory *memory);

#endif
