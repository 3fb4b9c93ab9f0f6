// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/migration.c
// hooks: migration_cancel
// why: breaks Ferry's channels as QEMU breaks its own, so that nobody waits in them; tells Ferry
//      beforehand; and where a connection is waited for, cleans up at once, because nobody else does once it
//      is not.  QEMU breaks its return path before its state says why, and the migration thread, which has the
//      same socket, took that for a failure now and then: it breaks with the stream, a moment later.
// places: 4
// adds: 5
// removes: 1

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
-qemu_file_shutdown(s->rp_state.from_dst_file);
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
