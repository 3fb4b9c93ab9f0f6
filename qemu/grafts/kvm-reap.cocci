// SPDX-License-Identifier: GPL-2.0-or-later
// file: accel/kvm/kvm-all.c
// hooks: kvm_dirty_ring_reap_locked
// why: while Ferry looks after the rings, nobody else may.

@@
@@
 kvm_dirty_ring_reap_locked(...)
 {
+    if (ferry_kvm_owns_rings()) {
+        return 0;
+    }
 ...
 }
