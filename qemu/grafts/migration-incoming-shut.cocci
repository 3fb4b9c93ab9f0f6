// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/migration.c
// hooks: migration_incoming_state_destroy
// why: a guest that runs has not failed to load, whatever came of the rest of the stream; the source would take its
//      word for it and have the guest run a second time.
// adds: 1
// removes: 1

@@
identifier mis;
expression failed;
@@
 migration_incoming_state_destroy(...)
 {
 <...
-migrate_send_rp_shut(mis, failed);
+migrate_send_rp_shut(mis, ferry_incoming_tells_failure(mis, failed));
 ...>
 }
