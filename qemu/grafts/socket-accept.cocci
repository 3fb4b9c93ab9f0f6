// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/socket.c
// hooks: socket_accept_incoming_migration
// why: after QEMU's own connections come Ferry's.

@@
@@
 socket_accept_incoming_migration(...)
 {
 <...
-migration_has_all_channels()
+ferry_has_all_channels(migration_has_all_channels())
 ...>
 }
