// SPDX-License-Identifier: GPL-2.0-or-later
// file: system/physmem.c
// hooks: ram_block_discard_range
// why: where writes are noticed in page tables, what was noted of a page is lost with the page.

@@
typedef RAMBlock;
type A, B;
identifier rb, start, length;
@@
 ram_block_discard_range(RAMBlock *rb, A start, B length)
 {
+    ferry_note_discard(rb->offset + start, length);
 ...
 }
