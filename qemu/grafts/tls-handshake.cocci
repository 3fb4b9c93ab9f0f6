// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/tls.c
// hooks: migration_tls_channel_process_incoming
// why: QEMU waits for the other end in the main loop; and a handshake that hangs costs a descriptor and a
//      TLS session, and QEMU neither counts nor ends them.
// places: 1

@@
expression tls, told;
@@
 migration_tls_channel_process_incoming(...)
 {
 <...
-qio_channel_tls_handshake(tls, told, NULL, NULL, NULL);
+ferry_incoming_handshake(tls, told);
 ...>
 }
