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
 * Under TCG a store marks its page by a slow path, and then has the vCPU's TLB let further ones by.  A
 * store may be anywhere on its way when bits are taken, so the order is:
 *
 *   take bits out of the bitmap
 *   wait until each vCPU has ended what it executes   slow paths that marked one of them are over:
 *                                                     memory is written, TLBs let stores by
 *   have TLBs let no store by
 *   wait again                                        stores that were let by are over
 *   report the pages
 *
 * With one wait less, a slow path between its mark and its last step makes a TLB let stores by whose
 * page nobody will ever report; without any, it is the store itself that comes after the copy.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "exec/cpu-common.h"
#include "exec/memory.h"
#include "exec/ram_addr.h"
#include "exec/ramblock.h"
#include "exec/ramlist.h"
#include "system/tcg.h"

#include "ferry/glue/tracker/dirty.h"
#include "ferry/migration/memory/pageset.h"
#include "../internal.h"
#include "bitmap.h"

QEMU_BUILD_BUG_ON(FERRY_CHUNK_PAGES % BITS_PER_LONG);

/* Log of how many bytes one word of the bitmap covers. */
#define WORD_SHIFT (TARGET_PAGE_BITS + 6)

bool ferry_dirty_wanted;
bool ferry_discards_count;

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

/* The guest may have cleared them just before: the destination still has what was in them then. */
void ferry_mark_discarded(ram_addr_t start, ram_addr_t nr_bytes)
{
    cpu_physical_memory_set_dirty_range(start, nr_bytes, 1 << DIRTY_MEMORY_MIGRATION);
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
    qatomic_set(&ferry_discards_count, false);
    qatomic_rcu_set(&summary, NULL);
    call_rcu(old, free_summary, rcu);
}

bool ferry_bitmap_has_news(void)
{
    return ferry_pageset_next(summary->words, 0, 0, 1) >= 0;
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

/* Wait until TCG's vCPUs have ended what they execute.  Not in an RCU section: they may wait for that. */
static void wait_for_vcpus(void)
{
    if (bql_locked()) {
        memory_global_after_dirty_log_sync();
    } else {
        BQL_LOCK_GUARD();
        memory_global_after_dirty_log_sync();
    }
}

void ferry_bitmap_forget(RAMBlock *block, uint64_t first_page, uint64_t nr_pages)
{
    ram_addr_t start = block->offset + (first_page << TARGET_PAGE_BITS);
    ram_addr_t nr_bytes = nr_pages << TARGET_PAGE_BITS;

    WITH_RCU_READ_LOCK_GUARD()
    {
        for (ram_addr_t i = 0; i < nr_bytes; i += (ram_addr_t)1 << WORD_SHIFT) {
            take_word(start + i);
        }
    }
    if (tcg_enabled()) {
        wait_for_vcpus();
        cpu_physical_memory_dirty_bits_cleared(start, nr_bytes);
        wait_for_vcpus();
    }
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

/* A word of a block that was taken and not told yet. */
typedef struct Taken {
    int region;
    ram_addr_t start;
    uint64_t pages;
} Taken;

/* Words that the summary names, in order. */
typedef struct Batch {
    RAMBlock *const *blocks;
    size_t nr_blocks;
    GArray *taken; /* of Taken */
} Batch;

static void take_named(Batch *batch, ram_addr_t start)
{
    Taken taken = {.region = find_block(batch->blocks, batch->nr_blocks, start), .start = start};

    if (taken.region >= 0) {
        taken.pages = take_word(start);
    }
    if (taken.pages) {
        g_array_append_val(batch->taken, taken);
    }
}

/* Have TCG's TLBs let no store to the pages of the batch by. */
static void reset_tlbs(const Batch *batch)
{
    const Taken *taken = (const Taken *)(void *)batch->taken->data;

    for (guint first = 0, next; first < batch->taken->len; first = next) {
        const RAMBlock *block = batch->blocks[taken[first].region];
        ram_addr_t end;

        /* In ranges as long as what the summary has in one piece: each costs a walk through all TLBs. */
        for (next = first + 1;
             next < batch->taken->len && taken[next].region == taken[first].region &&
             taken[next].start - taken[first].start < FERRY_GRANULE_PAGES << WORD_SHIFT;
             next++) {
        }
        end = MIN(taken[next - 1].start + ((ram_addr_t)1 << WORD_SHIFT),
                  block->offset + block->max_length);
        cpu_physical_memory_dirty_bits_cleared(taken[first].start, end - taken[first].start);
    }
}

static void tell(Batch *batch, FerryBitmapFn fn, void *opaque)
{
    for (guint i = 0; i < batch->taken->len; i++) {
        const Taken *taken = &g_array_index(batch->taken, Taken, i);

        fn(opaque, taken->region,
           (taken->start - batch->blocks[taken->region]->offset) >> WORD_SHIFT, taken->pages);
    }
    g_array_set_size(batch->taken, 0);
}

void ferry_bitmap_harvest(RAMBlock *const *blocks, size_t nr_blocks, bool last, FerryBitmapFn fn,
                          void *opaque)
{
    g_autoptr(GArray) taken = g_array_new(false, false, sizeof(Taken));
    Batch batch = {.blocks = blocks, .nr_blocks = nr_blocks, .taken = taken};
    const bool has_tlbs = tcg_enabled() && !last;
    uint64_t named[FERRY_GRANULE_WORDS];
    FerryPageset *words = summary->words;

    for (int64_t granule = ferry_pageset_next(words, 0, 0, 1); granule >= 0;
         granule = ferry_pageset_next(words, (uint64_t)granule + 1, 0, 1)) {
        ferry_pageset_take(words, (uint64_t)granule, named);
        WITH_RCU_READ_LOCK_GUARD()
        {
            for (uint64_t i = 0; i < FERRY_GRANULE_PAGES; i++) {
                if (named[i / 64] >> (i % 64) & 1) {
                    take_named(&batch, ((uint64_t)granule * FERRY_GRANULE_PAGES + i) << WORD_SHIFT);
                }
            }
        }
        if (!has_tlbs) {
            tell(&batch, fn, opaque);
        }
    }
    if (has_tlbs && taken->len > 0) {
        wait_for_vcpus();
        reset_tlbs(&batch);
        wait_for_vcpus();
        tell(&batch, fn, opaque);
    }
}

void ferry_bitmap_mark_vga(RAMBlock *block, uint64_t first_page, uint64_t nr_pages)
{
    cpu_physical_memory_set_dirty_range(block->offset + (first_page << TARGET_PAGE_BITS),
                                        nr_pages << TARGET_PAGE_BITS, 1 << DIRTY_MEMORY_VGA);
}
