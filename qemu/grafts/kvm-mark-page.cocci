// SPDX-License-Identifier: GPL-2.0-or-later
// file: accel/kvm/kvm-all.c
// hooks: kvm_dirty_ring_mark_page
// places: 2
// why: an entry may be older than the slot that has its number now; one that has never been logged
//      has no bitmap.

@@
expression offset;
identifier mem;
@@
 kvm_dirty_ring_mark_page(...)
 {
 <...
-set_bit(offset, mem->dirty_bmap);
+if (mem->dirty_bmap) {
+    set_bit(offset, mem->dirty_bmap);
+}
 ...>
 }
