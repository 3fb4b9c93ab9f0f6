// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/multifd.c
// hooks: multifd_channel_connect, multifd_send_shutdown
// why: QEMU's migration thread waits for multifd's, which wait for a peer that reads nothing; cancelling breaks the
//      main channel only, and the migration stayed in 'cancelling' for as long as the peer was silent.
// places: 2
// adds: 2

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
@@
 multifd_send_shutdown(...)
 {
 ...
+ferry_outgoing_side_over();
 for (i = 0; i < migrate_multifd_channels(); i++) {
 ...
 }
 multifd_send_terminate_threads();
 ...
 }
