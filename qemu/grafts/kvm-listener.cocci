// SPDX-License-Identifier: GPL-2.0-or-later
// file: accel/kvm/kvm-all.c
// hooks: kvm_memory_listener_register
// why: logging is switched on and off slot by slot, syncs kick no vCPU, and changes of slots are
//      known to whoever looks after the rings.

@@
identifier kml;
expression as;
@@
 kvm_memory_listener_register(...)
 {
 <...
+ferry_kvm_wrap_listener(kml);
 memory_listener_register(&kml->listener, as);
 ...>
 }
