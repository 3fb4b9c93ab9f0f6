// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/migration.c
// hooks: process_incoming_migration_co
// why: the device state is loaded: the guest runs when the source has let go of it, not before.
// adds: 1
// removes: 1

@@
@@
 process_incoming_migration_co(...)
 {
 <...
-migration_bh_schedule(process_incoming_migration_bh, mis);
+ferry_incoming_run(process_incoming_migration_bh, mis);
 ...>
 }
