// SPDX-License-Identifier: GPL-2.0-or-later
// file: accel/kvm/kvm-all.c
// hooks: kvm_set_phys_mem, kvm_section_update_flags, kvm_physical_sync_dirty_bitmap, kvm_accel_has_memory
// why: memory slots are cut where chunks of memory begin, so that arming a chunk does not arm its
//      neighbour too.
// places: 5
// adds: 5
// removes: 5

@@
@@
 kvm_set_phys_mem(...)
 {
 <...
-MIN(kvm_max_slot_size, size)
+ferry_kvm_slot_size(section->mr, start_addr, size)
 ...>
 }

@@
@@
 kvm_section_update_flags(...)
 {
 <...
-MIN(kvm_max_slot_size, size)
+ferry_kvm_slot_size(section->mr, start_addr, size)
 ...>
 }

@@
@@
 kvm_physical_sync_dirty_bitmap(...)
 {
 <...
-MIN(kvm_max_slot_size, size)
+ferry_kvm_slot_size(section->mr, start_addr, size)
 ...>
 }

@@
@@
 kvm_accel_has_memory(...)
 {
 <...
-MIN(kvm_max_slot_size, size)
+ferry_kvm_found_slot_size(kvm->as[i].ml, start_addr, size)
 ...>
 }
