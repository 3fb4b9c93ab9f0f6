// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/multifd.c
// hooks: multifd_channel_connect, multifd_send_shutdown
// why: QEMU's migration thread waits for multifd's, which wait for a peer that reads nothing; cancelling breaks the
//      main channel only, and the migration stayed in 'cancelling' for as long as the peer was silent.  Nobody says
//      goodbye on what has been broken: the thread that was blocked in it may be in the same TLS session still.
// places: 3
// adds: 3
// removes: 1

@@
identifier p, ioc;
@@
 multifd_channel_connect(..., QIOChannel *ioc)
 {
 <...
 p->c = ioc;
+ferry_outgoing_side_open(ioc);
 ...>
 }

@@
identifier i;
expression p;
@@
 multifd_send_shutdown(...)
 {
 ...
+ferry_outgoing_side_over();
 for (i = 0; i < migrate_multifd_channels(); i++) {
 ...
-if (p->tls_thread_created && p->thread_created) {
+if (p->tls_thread_created && p->thread_created && ferry_outgoing_says_goodbye()) {
 ...
 }
 }
 multifd_send_terminate_threads();
 ...
 }
