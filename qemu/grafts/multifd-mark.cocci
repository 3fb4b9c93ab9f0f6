// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/multifd.c
// hooks: multifd_new_send_channel_async
// why: what multifd's connections send is to be marked as the user says, from before a TLS handshake on.
// adds: 1

@@
identifier ioc;
@@
 multifd_new_send_channel_async(...)
 {
 <...
 trace_multifd_set_outgoing_channel(ioc, ...);
+ferry_mark_connection(ioc);
 ...>
 }
