// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/migration.c
// hooks: migration_cancel
// why: breaks Ferry's channels as QEMU breaks its own, so that nobody waits in them; tells Ferry
//      beforehand, because QEMU breaks its channel before its state says that it does; and where a
//      connection is waited for, cleans up at once, because nobody else does once it is not.
// places: 3
// adds: 5

@@
expression s, old;
identifier setup;
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
|
 if (setup && !s->to_dst_file) {
+    if (ferry_outgoing_abandon()) {
+        migration_cleanup(s);
+    }
 ...
 }
)
 ...>
 }
