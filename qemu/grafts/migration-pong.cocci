// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/migration.c
// hooks: source_return_path_thread
// why: the destination's Ferry answers with PONGs, which are not for QEMU to count.
// places: 2

@@
expression value;
identifier ms;
@@
 source_return_path_thread(...)
 {
 <...
 trace_source_return_path_thread_pong(value);
-qemu_sem_post(&ms->rp_state.rp_pong_acks);
+if (!ferry_outgoing_pong(value)) {
+    qemu_sem_post(&ms->rp_state.rp_pong_acks);
+}
 ...>
 }
