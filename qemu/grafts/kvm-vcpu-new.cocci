// SPDX-License-Identifier: GPL-2.0-or-later
// file: accel/kvm/kvm-all.c
// hooks: kvm_init_vcpu
// why: a CPU that is plugged in again finds its ring where it left it.

@@
typedef CPUState;
identifier cpu;
expression ret;
@@
 kvm_init_vcpu(CPUState *cpu, ...)
 {
 ...
+ferry_kvm_vcpu_new(cpu);
 ret = kvm_arch_init_vcpu(cpu);
 ...
 }
