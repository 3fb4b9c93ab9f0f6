// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/migration.c
// hooks: process_incoming_migration_co
// why: before anything of a migration that could not be loaded is taken apart, nobody else may read its
//      stream any more; and query-migrate says what Ferry knows of the reason.
// adds: 2
// removes: 1

@@
expression mis;
identifier error;
@@
 process_incoming_migration_co(...)
 {
 <...
+ferry_incoming_failed(mis, &error);
 migrate_set_state(&mis->state, MIGRATION_STATUS_ACTIVE, MIGRATION_STATUS_FAILED);
 migrate_set_error(..., error);
 ...>
 }
