// SPDX-License-Identifier: GPL-2.0-or-later
// file: include/exec/ram_addr.h
// hooks: cpu_physical_memory_set_dirty_range
// why: a summary of the dirty bitmap, so that looking for what devices wrote does not cost a walk
//      over all of it.

@@
expression start, length;
@@
 cpu_physical_memory_set_dirty_range(...)
 {
 <...
+ferry_note_dirty(start, length, mask);
 xen_hvm_modified_memory(start, length);
 ...>
 }
