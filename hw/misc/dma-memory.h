/*
 * A storm's region of guest memory, in pages, by way of a device's DMA address space.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_DMA_MEMORY_H
#define FERRY_DMA_MEMORY_H

#include "exec/memory.h"

#include "storm.h"

typedef struct StormMemory StormMemory;

/*
 * The region from guest address @start on. @size bytes, all of which must be RAM, or 0: the machine's
 * own RAM from there on but for what firmware uses at its end below 4 GiB. With @forget not 0,
 * one write in so many is not marked dirty. NULL and @errp if it cannot be had.
 */
StormMemory *storm_memory_new(AddressSpace *as, uint64_t start, uint64_t size, uint32_t forget,
                              Error **errp);
void storm_memory_free(StormMemory *memory);

uint64_t storm_memory_nr_pages(const StormMemory *memory);

/* The guest address of a page of the region. */
uint64_t storm_memory_address(const StormMemory *memory, uint64_t page);

/* The address space goes away: nothing new is reached by it any more. Main thread. */
void storm_memory_cut_off(StormMemory *memory);

/*
 * From begin to end (in one thread), memory may be touched; it stays even if it is unplugged. End it
 * often. Returns why a page could not be reached, or NULL; to be freed.
 */
FerryStormMemory storm_memory_begin(StormMemory *memory, bool is_write);
char *storm_memory_end(StormMemory *memory);

#endif
