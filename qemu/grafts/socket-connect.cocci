// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/socket.c
// hooks: socket_send_channel_create
// why: QEMU's migration thread waits until its other channels, multifd's for example, are connected, and cancelling
//      does not get at them: where nobody answered, the kernel kept the migration for two minutes.

@@
expression socket, address, told, data;
@@
 socket_send_channel_create(...)
 {
 <...
-qio_channel_socket_connect_async(socket, address, told, data, NULL, NULL);
+ferry_outgoing_connect(socket, address, told, data);
 ...>
 }
