// SPDX-License-Identifier: GPL-2.0-or-later
// file: hw/virtio/virtio-mem.c
// hooks: virtio_mem_post_load_early
// why: before post-copy, QEMU gives back what it has just allocated in advance, which with Ferry may
//      hold pages that have come. Ferry itself takes away those that are left missing.

@@
@@
 virtio_mem_post_load_early(...)
 {
 <...
-migration_incoming_postcopy_advised()
+ferry_postcopy_empties()
 ...>
 }
