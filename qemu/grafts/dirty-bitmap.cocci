// SPDX-License-Identifier: GPL-2.0-or-later
// file: include/exec/ram_addr.h
// hooks: cpu_physical_memory_set_dirty_lebitmap
// why: the same summary, for what an accelerator's log adds.

@@
identifier bitmap, start, pages;
typedef ram_addr_t;
expression num_dirty;
@@
 cpu_physical_memory_set_dirty_lebitmap(unsigned long *bitmap, ram_addr_t start, ram_addr_t pages)
 {
 ...
+ferry_note_dirty_bitmap(bitmap, start, pages);
 return num_dirty;
 }
