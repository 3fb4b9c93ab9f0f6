// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/socket.c
// hooks: socket_start_outgoing_migration
// why: the address to which Ferry opens its channels, and the connection that is waited for.
// places: 2

@@
typedef MigrationState, SocketAddress, Error;
identifier s, saddr, errp, data, ioc;
expression name;
@@
 void socket_start_outgoing_migration(MigrationState *s, SocketAddress *saddr, Error **errp)
 {
 <...
(
 data->s = s;
+ferry_outgoing_address(saddr);
|
 qio_channel_set_name(QIO_CHANNEL(ioc), name);
+ferry_outgoing_connecting(QIO_CHANNEL(ioc));
)
 ...>
 }
