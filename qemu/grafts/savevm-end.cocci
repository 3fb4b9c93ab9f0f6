// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/savevm.c
// hooks: qemu_savevm_state_complete_precopy_non_iterable
// why: once this byte has come, the destination runs the guest, whether the rest comes or not: a connection that breaks
//      in the rest must not bring the guest back.  Where memory has not all been sent, it must not come.
// adds: 1

@@
expression f;
@@
 qemu_savevm_state_complete_precopy_non_iterable(...)
 {
 <...
+ferry_outgoing_end(f);
 qemu_put_byte(f, QEMU_VM_EOF);
 ...>
 }
