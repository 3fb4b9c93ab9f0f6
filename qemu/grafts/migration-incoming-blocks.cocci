// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/migration.c
// hooks: migrate_prepare
// why: while post-copy still fills this guest's memory, it cannot be sent on: refused before anything has
//      changed, instead of leaving an outgoing migration in state 'setup' for ever.
// adds: 3

@@
expression errp;
@@
 migrate_prepare(...)
 {
 <...
+if (ferry_incoming_is_open(errp)) {
+    return false;
+}
 if (migration_is_blocked(errp)) {
     return false;
 }
 ...>
 }
