/*
 * QEMU's dirty bitmap, as trackers use it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_BITMAP_H
#define FERRY_GLUE_BITMAP_H

#include "qemu/typedefs.h"

/* Takes written pages, 64 at a time, like the functions of a FerryTrackerClient. */
typedef void (*FerryBitmapFn)(void *opaque, uint32_t region, uint64_t word, uint64_t mask);

/* Keep a summary from here on, so that a harvest is quick. */
void ferry_bitmap_open(RAMBlock *const *blocks, size_t nr_blocks);

/* Keep it no longer. */
void ferry_bitmap_close(void);

/* Whether anything was noted since the last harvest. */
bool ferry_bitmap_has_news(void);

/* Forget what was written so far, of at most a chunk.  Not in an RCU section. */
void ferry_bitmap_forget(RAMBlock *block, uint64_t first_page, uint64_t nr_pages);

/* Have KVM protect pages whose writes it has put into the bitmap. */
void ferry_bitmap_protect(RAMBlock *block, uint64_t first_page, uint64_t nr_pages);

/*
 * Take out what is in it, word by word.  Under TCG it waits for the vCPUs twice, unless they have stopped
 * (@last).  With the BQL or without, not in an RCU section; one thread at a time.
 */
void ferry_bitmap_harvest(RAMBlock *const *blocks, size_t nr_blocks, bool last, FerryBitmapFn fn,
                          void *opaque);

/* A display has to redraw these pages. */
void ferry_bitmap_mark_vga(RAMBlock *block, uint64_t first_page, uint64_t nr_pages);

#endif
