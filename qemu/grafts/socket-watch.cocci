// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/socket.c
// hooks: socket_start_incoming_migration
// why: a connection that cannot be taken, as no file descriptor is left, is there again at once, and the
//      main loop would do nothing else.

@@
expression listener;
@@
 socket_start_incoming_migration(...)
 {
 <...
 qio_net_listener_set_client_func_full(listener, ...);
+ferry_watch_listener(listener);
 ...>
 }
