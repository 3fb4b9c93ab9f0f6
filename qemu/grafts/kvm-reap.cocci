// SPDX-License-Identifier: GPL-2.0-or-later
// file: accel/kvm/kvm-all.c
// hooks: kvm_dirty_ring_reap_locked
// why: while Ferry looks after the rings, nobody else may; and a ring that was overrun must not end
//      QEMU.

@@
typedef KVMState, CPUState;
identifier s, cpu;
@@
 kvm_dirty_ring_reap_locked(KVMState *s, CPUState *cpu)
 {
+    if (ferry_kvm_reaps_rings()) {
+        return ferry_kvm_reap_rings(s, cpu);
+    }
 ...
 }
