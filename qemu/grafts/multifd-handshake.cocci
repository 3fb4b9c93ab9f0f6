// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/multifd.c
// hooks: multifd_tls_channel_connect, multifd_tls_handshake_thread
// why: QEMU's migration thread waits until the TLS handshakes of all multifd channels are over, and
//      cancelling does not get at them: a peer that says nothing on one of them kept the migration for good.
// places: 2
// adds: 2

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
