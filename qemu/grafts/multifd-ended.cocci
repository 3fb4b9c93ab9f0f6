// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/multifd.c
// hooks: multifd_send_thread, multifd_recv_setup, multifd_recv_thread, multifd_recv_sync_main
// why: where some of multifd's channels break while QEMU waits for all of them, a thread that ends for that without an
//      error of its own told nobody: the source's migration thread waited for good after its state said 'failed', and
//      so did the destination's main thread.
// places: 5
// adds: 8
// removes: 1

@@
identifier p;
@@
 multifd_send_thread(...)
 {
 <...
 migration_threads_remove(...);
+multifd_send_kick_main(p);
 trace_multifd_send_thread_end(p->id, ...);
 ...>
 }

@@
@@
 multifd_recv_setup(...)
 {
 <...
 qemu_sem_init(&multifd_recv_state->sem_sync, 0);
+ferry_incoming_multifd_begins();
 ...>
 }

@@
@@
 multifd_recv_thread(...)
 {
 <...
 ret = multifd_recv_unfill_packet(...);
+ferry_incoming_multifd_gets_on();
 ...>
 }

@@
@@
 multifd_recv_thread(...)
 {
 <...
 rcu_unregister_thread();
+ferry_incoming_multifd_thread_ends();
+qemu_sem_post(&multifd_recv_state->sem_sync);
 ...>
 }

@@
@@
 multifd_recv_sync_main(...)
 {
 <...
-qemu_sem_wait(&multifd_recv_state->sem_sync);
+if (!ferry_incoming_sync_multifd(&multifd_recv_state->sem_sync)) {
+    return;
+}
 ...>
 }
