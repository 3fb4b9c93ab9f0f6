// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/migration.c
// hooks: migration_ioc_process_incoming
// why: connections that follow the first one are Ferry's, once its source has shown itself.

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
