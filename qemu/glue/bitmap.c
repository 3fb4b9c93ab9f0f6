/*
 * The tracker over QEMU's own dirty bitmap: TCG, KVM, device DMA and vhost all end up there.
 *
 * Arming or resetting a range makes KVM protect its pages again (KVM_CLEAR_DIRTY_LOG); under TCG
 * the bits and the TLBs are dealt with when bits are taken out.  The order that matters:
 *
 *   take bits out of the bitmap -> TLBs no longer let writes by unnoticed -> report the pages
 *
 * so that a page is never read between the first two.
 *
 * Threads: arm and harvest on the migration thread (harvest with the BQL; auto-converge's timer
 * may call it from the main thread, with the BQL too), reset on the engine's sending threads.
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

#include "internal.h"

QEMU_BUILD_BUG_ON(FERRY_CHUNK_PAGES % BITS_PER_LONG);

typedef struct BitmapTracker {
    RAMBlock **blocks; /* one for each region */
    size_t nr_blocks;
} BitmapTracker;

/*
 * Move the migration bits of some pages of @block to @taken, at most a chunk.  Returns whether
 * there were any.  Blocks start at a word of the bitmap.
 */
static bool take_bits(RAMBlock *block, uint64_t first_page, uint64_t nr_pages, uint64_t *taken)
{
    uint64_t page = (block->offset >> TARGET_PAGE_BITS) + first_page;
    uint64_t nr_words = DIV_ROUND_UP(nr_pages, BITS_PER_LONG);
    bool any = false;

    RCU_READ_LOCK_GUARD();
    unsigned long *const *bits =
        qatomic_rcu_read(&ram_list.dirty_memory[DIRTY_MEMORY_MIGRATION])->blocks;

    for (uint64_t i = 0; i < nr_words; i++, page += BITS_PER_LONG) {
        unsigned long *word =
            &bits[page / DIRTY_MEMORY_BLOCK_SIZE][BIT_WORD(page % DIRTY_MEMORY_BLOCK_SIZE)];

        taken[i] = qatomic_read(word) ? qatomic_xchg(word, 0) : 0;
        any |= taken[i] != 0;
    }
    if (any) {
        ram_addr_t start = block->offset + (first_page << TARGET_PAGE_BITS);

        cpu_physical_memory_dirty_bits_cleared(start, nr_pages << TARGET_PAGE_BITS);
    }
    return any;
}

/* Have KVM protect the pages again whose writes it has reported. */
static void protect(RAMBlock *block, uint64_t first_page, uint64_t nr_pages)
{
    RCU_READ_LOCK_GUARD();
    memory_region_clear_dirty_bitmap(block->mr, first_page << TARGET_PAGE_BITS,
                                     nr_pages << TARGET_PAGE_BITS);
}

static void bitmap_arm(void *opaque, uint32_t region, uint64_t first_page, uint64_t nr_pages)
{
    BitmapTracker *tracker = opaque;
    uint64_t forget[FERRY_CHUNK_PAGES / BITS_PER_LONG];

    /* What was written so far is of no interest: all of the chunk is about to be copied. */
    take_bits(tracker->blocks[region], first_page, nr_pages, forget);
    protect(tracker->blocks[region], first_page, nr_pages);
}

static void bitmap_reset(void *opaque, uint32_t region, uint64_t first_page, uint64_t nr_pages)
{
    BitmapTracker *tracker = opaque;

    /* The engine's threads are not QEMU's: RCU does not know them. */
    rcu_register_thread();
    protect(tracker->blocks[region], first_page, nr_pages);
    rcu_unregister_thread();
}

static bool bitmap_harvest(void *opaque, bool last, FerryDirtyFn report, void *report_opaque,
                           GError **errp)
{
    BitmapTracker *tracker = opaque;
    uint64_t taken[FERRY_CHUNK_PAGES / BITS_PER_LONG];

    memory_global_dirty_log_sync(last);
    for (uint32_t region = 0; region < tracker->nr_blocks; region++) {
        RAMBlock *block = tracker->blocks[region];
        uint64_t nr_pages = block->used_length >> TARGET_PAGE_BITS;

        for (uint64_t first = 0; first < nr_pages; first += FERRY_CHUNK_PAGES) {
            uint64_t nr = MIN(FERRY_CHUNK_PAGES, nr_pages - first);

            if (!take_bits(block, first, nr, taken)) {
                continue;
            }
            for (uint64_t i = 0; i < DIV_ROUND_UP(nr, BITS_PER_LONG); i++) {
                if (taken[i]) {
                    report(report_opaque, region, first / BITS_PER_LONG + i, taken[i]);
                }
            }
        }
    }
    memory_global_after_dirty_log_sync();
    return true;
}

FerryTracker ferry_bitmap_tracker_new(const FerryRegions *regions)
{
    static const FerryTrackerOps ops = {
        .name = "qemu-bitmap",
        .arm = bitmap_arm,
        .reset = bitmap_reset,
        .harvest = bitmap_harvest,
    };
    BitmapTracker *tracker = g_new0(BitmapTracker, 1);

    tracker->blocks = g_new0(RAMBlock *, regions->nr);
    tracker->nr_blocks = regions->nr;
    for (size_t i = 0; i < regions->nr; i++) {
        tracker->blocks[i] = qemu_ram_block_by_name(regions->list[i].id);
    }
    return (FerryTracker){.ops = &ops, .opaque = tracker};
}

void ferry_bitmap_tracker_free(FerryTracker *tracker)
{
    BitmapTracker *bitmap = tracker->opaque;

    if (bitmap) {
        g_free(bitmap->blocks);
        g_free(bitmap);
        *tracker = (FerryTracker){0};
    }
}
