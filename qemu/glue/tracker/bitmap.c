/*
 * QEMU's own dirty bitmap, where writes by devices, by vhost and by TCG end up, and by KVM when
 * nothing better is in use; and its summary.
 *
 * The summary has one bit for each word of the bitmap.  It is set after the word:
 *
 *   writer                         harvest
 *   ------                         -------
 *   set bits in the word
 *                                  take the summary's bit, then the word's      sees them, or ...
 *   set the summary's bit                                       ... the next harvest does
 *
 * The order that matters when bits are taken:
 *
 *   take them out of the bitmap -> TLBs no longer let writes by unnoticed -> report the pages
 *
 * so that a page is never read between the first two.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/rcu.h"
#include "exec/cpu-common.h"
#include "exec/memory.h"
#include "exec/ram_addr.h"
#include "exec/ramblock.h"
#include "exec/ramlist.h"

#include "ferry/glue/tracker/dirty.h"
#include "ferry/migration/memory/pageset.h"
#include "../internal.h"
#include "bitmap.h"

QEMU_BUILD_BUG_ON(FERRY_CHUNK_PAGES % BITS_PER_LONG);

/* Log of how many bytes one word of the bitmap covers. */
#define WORD_SHIFT (TARGET_PAGE_BITS + 6)

bool ferry_dirty_wanted;

/* The summary: a set of words, not of pages.  RCU. */
typedef struct Summary {
    struct rcu_head rcu;
    FerryPageset *words;
} Summary;

static Summary *summary;

void ferry_dirty_add(ram_addr_t start, ram_addr_t nr_bytes)
{
    uint64_t first = start >> WORD_SHIFT;

    RCU_READ_LOCK_GUARD();
    const Summary *now = qatomic_rcu_read(&summary);

    if (now && nr_bytes) {
        ferry_pageset_add(now->words, first, ((start + nr_bytes - 1) >> WORD_SHIFT) - first + 1);
    }
}

void ferry_dirty_add_bitmap(const unsigned long *bitmap, ram_addr_t start, ram_addr_t nr_pages)
{
    for (ram_addr_t i = 0; i < DIV_ROUND_UP(nr_pages, BITS_PER_LONG); i++) {
        if (bitmap[i]) {
            ferry_dirty_add(start + (i << WORD_SHIFT), (ram_addr_t)1 << WORD_SHIFT);
        }
    }
}

void ferry_bitmap_open(RAMBlock *const *blocks, size_t nr_blocks)
{
    Summary *now = g_new0(Summary, 1);
    ram_addr_t end = 0;

    for (size_t i = 0; i < nr_blocks; i++) {
        end = MAX(end, blocks[i]->offset + blocks[i]->max_length);
    }
    now->words = ferry_pageset_new((end >> WORD_SHIFT) + 1);
    qatomic_rcu_set(&summary, now);
    qatomic_set(&ferry_dirty_wanted, true);
}

static void free_summary(Summary *old)
{
    ferry_pageset_free(old->words);
    g_free(old);
}

/* Nobody waits here for the readers: they may be waiting for the BQL. */
void ferry_bitmap_close(void)
{
    Summary *old = summary;

    qatomic_set(&ferry_dirty_wanted, false);
    qatomic_rcu_set(&summary, NULL);
    call_rcu(old, free_summary, rcu);
}

/*
 * Take one word, which begins at @start, out of the bitmap.  In an RCU section.
 */
static uint64_t take_word(ram_addr_t start)
{
    uint64_t page = start >> TARGET_PAGE_BITS;
    unsigned long *const *bits =
        qatomic_rcu_read(&ram_list.dirty_memory[DIRTY_MEMORY_MIGRATION])->blocks;
    unsigned long *word =
        &bits[page / DIRTY_MEMORY_BLOCK_SIZE][BIT_WORD(page % DIRTY_MEMORY_BLOCK_SIZE)];

    return qatomic_read(word) ? qatomic_xchg(word, 0) : 0;
}

void ferry_bitmap_forget(RAMBlock *block, uint64_t first_page, uint64_t nr_pages)
{
    ram_addr_t start = block->offset + (first_page << TARGET_PAGE_BITS);
    ram_addr_t nr_bytes = nr_pages << TARGET_PAGE_BITS;

    RCU_READ_LOCK_GUARD();
    for (ram_addr_t i = 0; i < nr_bytes; i += (ram_addr_t)1 << WORD_SHIFT) {
        take_word(start + i);
    }
    cpu_physical_memory_dirty_bits_cleared(start, nr_bytes);
}

void ferry_bitmap_protect(RAMBlock *block, uint64_t first_page, uint64_t nr_pages)
{
    RCU_READ_LOCK_GUARD();
    memory_region_clear_dirty_bitmap(block->mr, first_page << TARGET_PAGE_BITS,
                                     nr_pages << TARGET_PAGE_BITS);
}

/* Which of @blocks a word of the bitmap belongs to (they begin at a word); -1 if none. */
static int find_block(RAMBlock *const *blocks, size_t nr_blocks, ram_addr_t start)
{
    for (size_t i = 0; i < nr_blocks; i++) {
        if (start >= blocks[i]->offset && start - blocks[i]->offset < blocks[i]->used_length) {
            return (int)i;
        }
    }
    return -1;
}

/* Words of one block, taken and not yet told. */
typedef struct Batch {
    RAMBlock *const *blocks;
    FerryBitmapFn fn;
    void *opaque;
    int region;
    size_t nr;
    ram_addr_t starts[FERRY_GRANULE_PAGES];
    uint64_t taken[FERRY_GRANULE_PAGES];
} Batch;

static void tell(Batch *batch)
{
    if (batch->nr == 0) {
        return;
    }
    cpu_physical_memory_dirty_bits_cleared(batch->starts[0], batch->starts[batch->nr - 1] -
                                                                 batch->starts[0] +
                                                                 ((ram_addr_t)1 << WORD_SHIFT));
    for (size_t i = 0; i < batch->nr; i++) {
        batch->fn(batch->opaque, batch->region,
                  (batch->starts[i] - batch->blocks[batch->region]->offset) >> WORD_SHIFT,
                  batch->taken[i]);
    }
    batch->nr = 0;
}

/* Collect the words of @nr_blocks blocks that the summary names, one stretch of it at a time. */
void ferry_bitmap_harvest(RAMBlock *const *blocks, size_t nr_blocks, FerryBitmapFn fn, void *opaque)
{
    g_autofree Batch *batch = g_new0(Batch, 1);
    uint64_t named[FERRY_GRANULE_WORDS];
    FerryPageset *words = summary->words;

    batch->blocks = blocks;
    batch->fn = fn;
    batch->opaque = opaque;
    RCU_READ_LOCK_GUARD();
    for (int64_t granule = ferry_pageset_next(words, 0, 0, 1); granule >= 0;
         granule = ferry_pageset_next(words, (uint64_t)granule + 1, 0, 1)) {
        ferry_pageset_take(words, (uint64_t)granule, named);
        for (uint64_t i = 0; i < FERRY_GRANULE_PAGES; i++) {
            ram_addr_t start = ((uint64_t)granule * FERRY_GRANULE_PAGES + i) << WORD_SHIFT;
            int region;

            if (!(named[i / 64] >> (i % 64) & 1)) {
                continue;
            }
            region = find_block(blocks, nr_blocks, start);
            if (region != batch->region) {
                tell(batch);
                batch->region = region;
            }
            batch->taken[batch->nr] = region < 0 ? 0 : take_word(start);
            batch->starts[batch->nr] = start;
            batch->nr += batch->taken[batch->nr] != 0;
        }
        tell(batch);
    }
}

void ferry_bitmap_mark_vga(RAMBlock *block, uint64_t first_page, uint64_t nr_pages)
{
    cpu_physical_memory_set_dirty_range(block->offset + (first_page << TARGET_PAGE_BITS),
                                        nr_pages << TARGET_PAGE_BITS, 1 << DIRTY_MEMORY_VGA);
}
