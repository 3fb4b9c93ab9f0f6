// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/multifd.c
// hooks: multifd_recv_initial_packet, multifd_recv_new_channel
// why: a source may have more multifd channels than there are here; with Ferry that is no error, and
//      there is no place for them among QEMU's.
// places: 2
// adds: 4
// removes: 1

@@
expression id, nr;
@@
 multifd_recv_initial_packet(...)
 {
 <...
-id > nr
+ferry_incoming_refuses_multifd(id)
 ...>
 }

@@
typedef QIOChannel, Error;
identifier ioc, errp;
expression id;
@@
 void multifd_recv_new_channel(QIOChannel *ioc, Error **errp)
 {
 <...
 trace_multifd_recv_new_channel(id);
+if (ferry_incoming_extra_multifd(ioc, id)) {
+    return;
+}
 ...>
 }
