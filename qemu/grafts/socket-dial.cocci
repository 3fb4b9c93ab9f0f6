// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/socket.c
// hooks: socket_start_outgoing_migration
// why: QEMU's main connection, which QEMU makes itself, leaves from the network that the user has given to
//      migrations.
@@
expression socket, address, told, data, destroy;
@@
 socket_start_outgoing_migration(...)
 {
 <...
-qio_channel_socket_connect_async(socket, address, told, data, destroy, NULL)
+ferry_outgoing_dial(socket, address, told, data, destroy)
 ...>
 }
