// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/socket.c
// hooks: socket_start_incoming_migration
// why: Ferry's channels are dialled in quick succession; with a backlog of one, TCP would drop
//      some of them and try again a second later.  And a migration is awaited on the network that the
//      user has given to migrations.
@@
expression listener, address, backlog, errp;
@@
 socket_start_incoming_migration(...)
 {
 <...
-qio_net_listener_open_sync(listener, address, backlog, errp)
+ferry_listen(listener, address, backlog, errp)
 ...>
 }
