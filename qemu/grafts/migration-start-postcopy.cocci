// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/migration.c
// hooks: qmp_migrate_start_postcopy
// why: a migration to a file may be under way with the capability set, but nobody fetches pages from there.
// adds: 3

@@
typedef Error;
identifier errp;
expression s;
@@
 qmp_migrate_start_postcopy(Error **errp)
 {
 <...
+if (ferry_refuses_postcopy(s, errp)) {
+    return;
+}
 qatomic_set(&s->start_postcopy, true);
 ...>
 }
