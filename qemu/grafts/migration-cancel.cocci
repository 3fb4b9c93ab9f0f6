// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/migration.c
// hooks: migration_cancel
// why: breaks Ferry's channels as QEMU breaks its own, so that nobody waits in them; and tells
//      Ferry beforehand, because QEMU breaks its channel before its state says that it does.
// places: 2

@@
expression s, old;
@@
 migration_cancel(...)
 {
 <...
(
 trace_migration_cancel();
+ferry_outgoing_cancelling();
|
 migrate_set_state(s, old, MIGRATION_STATUS_CANCELLING);
+ferry_outgoing_cancel();
)
 ...>
 }
