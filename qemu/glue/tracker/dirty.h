/*
 * A summary of QEMU's dirty bitmap, so that a harvest looks only where something was written.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_DIRTY_H
#define FERRY_GLUE_DIRTY_H

#include "qemu/atomic.h"

/* Whether anybody wants the summary. */
extern bool ferry_dirty_wanted;

/* This memory was written: note it in the summary.  Any thread. */
void ferry_dirty_add(ram_addr_t start, ram_addr_t nr_bytes);
/* The same for the pages whose bits are set in @bitmap. */
void ferry_dirty_add_bitmap(const unsigned long *bitmap, ram_addr_t start, ram_addr_t nr_pages);

/* Whether pages that are discarded count as written. */
extern bool ferry_discards_count;
/* Mark them so. */
void ferry_mark_discarded(ram_addr_t start, ram_addr_t nr_bytes);

/* This memory is about to be discarded.  Any thread. */
static inline void ferry_note_discard(ram_addr_t start, ram_addr_t nr_bytes)
{
    if (unlikely(qatomic_read(&ferry_discards_count))) {
        ferry_mark_discarded(start, nr_bytes);
    }
}

/* QEMU has marked this memory as dirty for the clients in @mask.  Any thread. */
static inline void ferry_note_dirty(ram_addr_t start, ram_addr_t nr_bytes, uint8_t mask)
{
    if (unlikely(qatomic_read(&ferry_dirty_wanted)) && (mask & (1 << DIRTY_MEMORY_MIGRATION))) {
        ferry_dirty_add(start, nr_bytes);
    }
}

/* The same for the pages whose bits are set in @bitmap. */
static inline void ferry_note_dirty_bitmap(const unsigned long *bitmap, ram_addr_t start,
                                           ram_addr_t nr_pages)
{
    if (unlikely(qatomic_read(&ferry_dirty_wanted))) {
        ferry_dirty_add_bitmap(bitmap, start, nr_pages);
    }
}

#endif
