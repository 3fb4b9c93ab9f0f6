// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/socket.c
// hooks: socket_start_outgoing_migration
// why: the address to which Ferry opens its channels.

@@
typedef MigrationState, SocketAddress, Error;
identifier s, saddr, errp, data;
@@
 void socket_start_outgoing_migration(MigrationState *s, SocketAddress *saddr, Error **errp)
 {
 <...
 data->s = s;
+ferry_outgoing_address(saddr);
 ...>
 }
