// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/migration.c
// hooks: migration_cancel
// why: breaks Ferry's channels as QEMU breaks its own, so that nobody waits in them.

@@
expression s, old;
@@
 migration_cancel(...)
 {
 <...
 migrate_set_state(s, old, MIGRATION_STATUS_CANCELLING);
+ferry_outgoing_cancel();
 ...>
 }
