// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/channel.c
// hooks: migration_channel_connect
// why: a connection that was being made when its migration was cancelled comes all the same; it must
//      start nothing, least of all beside the next migration.  And a session is not resumed over what Ferry cannot
//      break, nor find its peer by; nor does a connection that was passed leave the network that the user
//      has given to migrations.
// adds: 5

@@
typedef MigrationState, QIOChannel, Error;
identifier s, ioc, hostname, error;
@@
 void migration_channel_connect(MigrationState *s, QIOChannel *ioc, const char *hostname,
                                Error *error)
 {
 trace_migration_set_outgoing_channel(...);
+if (ferry_outgoing_is_late(ioc)) {
+    error_free(error);
+    return;
+}
+ferry_outgoing_check(ioc, &error);
 ...
 }
