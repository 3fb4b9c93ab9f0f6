// SPDX-License-Identifier: GPL-2.0-or-later
// file: accel/kvm/kvm-all.c
// hooks: do_kvm_destroy_vcpu
// why: the ring is about to be unmapped.

@@
typedef CPUState;
identifier cpu;
expression ret;
@@
 do_kvm_destroy_vcpu(CPUState *cpu)
 {
 ...
+ferry_kvm_vcpu_gone(cpu);
 ret = kvm_arch_destroy_vcpu(cpu);
 ...
 }
