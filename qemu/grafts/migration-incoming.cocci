// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/migration.c
// hooks: migration_ioc_process_incoming
// why: connections that follow the first one are Ferry's, once its source has shown itself; and with
//      multifd, as many channels as QEMU expects need not come.
// places: 2
// adds: 4
// removes: 1

@@
typedef QIOChannel, Error;
identifier ioc, errp, ret;
@@
 void migration_ioc_process_incoming(QIOChannel *ioc, Error **errp)
 {
 <...
 int ret = 0;
+
+if (ferry_incoming_channel(ioc)) {
+    return;
+}
 ...>
 }

@@
expression main_channel;
@@
 migration_ioc_process_incoming(...)
 {
 <...
-migration_should_start_incoming(main_channel)
+ferry_incoming_may_start(migration_should_start_incoming(main_channel))
 ...>
 }
