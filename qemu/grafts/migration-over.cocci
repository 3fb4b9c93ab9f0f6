// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/migration.c
// hooks: migration_iteration_finish, bg_migration_iteration_finish
// why: a migration that has failed is cleaned up later, in the main loop: Ferry does it earlier when
//      the next one begins before that.
// places: 2

@@
expression s;
@@
(
 migration_iteration_finish
|
 bg_migration_iteration_finish
)
 (...)
 {
 <...
-migration_bh_schedule(migration_cleanup_bh, s);
+ferry_outgoing_over(migration_cleanup_bh, s);
 ...>
 }
