// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/migration.c
// hooks: migrate_init
// why: a migration begins only when the last one has been cleaned up.
// adds: 3

@@
typedef MigrationState, Error;
identifier s, errp, ret;
@@
 int migrate_init(MigrationState *s, Error **errp)
 {
 int ret;
+if (!ferry_outgoing_wait_over(errp)) {
+    return -1;
+}
 ...
 }
