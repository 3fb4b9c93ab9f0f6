// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/channel.c
// hooks: migration_channel_process_incoming, migration_channel_connect
// why: what QEMU's own connections send is to be marked as the user says, from before a TLS handshake on.
// places: 2
// adds: 2

@@
identifier ioc;
@@
 migration_channel_process_incoming(...)
 {
 <...
 trace_migration_set_incoming_channel(ioc, ...);
+ferry_mark_connection(ioc);
 ...>
 }

@@
identifier ioc;
@@
 migration_channel_connect(...)
 {
 <...
 trace_migration_set_outgoing_channel(ioc, ...);
+ferry_mark_connection(ioc);
 ...>
 }
