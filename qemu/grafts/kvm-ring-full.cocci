// SPDX-License-Identifier: GPL-2.0-or-later
// file: accel/kvm/kvm-all.c
// hooks: kvm_cpu_exec
// why: a full ring is drained by its own vCPU, without the BQL and without the others.

@@
expression cpu;
@@
 kvm_cpu_exec(...)
 {
 <...
 trace_kvm_dirty_ring_full(cpu->cpu_index);
+if (ferry_kvm_ring_is_full(cpu)) {
+    ret = 0;
+    break;
+}
 bql_lock();
 ...>
 }
