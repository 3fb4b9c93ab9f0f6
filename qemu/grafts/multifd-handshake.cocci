// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/multifd.c
// hooks: multifd_tls_channel_connect, multifd_tls_handshake_thread, multifd_new_send_channel_async
// why: QEMU's migration thread waits until the TLS handshakes of all multifd channels are over, and
//      cancelling does not get at them: a peer that says nothing on one of them kept the migration for good.
//      One that is given up for that says so.
// places: 3
// adds: 3

@@
identifier tioc;
expression name;
@@
 multifd_tls_channel_connect(...)
 {
 <...
 qio_channel_set_name(QIO_CHANNEL(tioc), name);
+ferry_outgoing_side_handshake(QIO_CHANNEL(tioc));
 ...>
 }

@@
expression tioc;
@@
 multifd_tls_handshake_thread(...)
 {
 <...
 qio_channel_tls_handshake(tioc, ...);
+ferry_outgoing_side_handshake_over(tioc);
 ...>
 }

@@
identifier err;
expression id;
@@
 multifd_new_send_channel_async(...)
 {
 <...
+ferry_outgoing_side_failed(&err);
 trace_multifd_new_send_channel_async_error(id, err);
 ...>
 }
