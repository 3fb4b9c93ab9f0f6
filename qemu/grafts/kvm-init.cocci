// SPDX-License-Identifier: GPL-2.0-or-later
// file: accel/kvm/kvm-all.c
// hooks: kvm_setup_dirty_ring
// why: dirty rings by default, and memory slots small enough to be traced one at a time.

@@
typedef KVMState;
identifier s;
@@
 kvm_setup_dirty_ring(KVMState *s)
 {
 ...
+ferry_kvm_init(s);
 ret = kvm_dirty_ring_init(s);
 ...
 }
