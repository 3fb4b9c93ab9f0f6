// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/migration.c
// hooks: migration_cleanup
// why: no connection is waited for any more; what fails because a migration is cancelled is not
//      its error; and no device takes a guest back that the destination may run.
// places: 3

@@
expression s;
@@
 migration_cleanup(...)
 {
 <...
(
 trace_migration_cleanup();
+ferry_outgoing_connecting(NULL);
|
+ferry_outgoing_cancelled(s);
 migrate_set_state(&s->state, MIGRATION_STATUS_CANCELLING, MIGRATION_STATUS_CANCELLED);
|
-migration_has_failed(s)
+ferry_has_failed(s)
)
 ...>
 }
