// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/migration.c
// hooks: migration_completion, migration_completion_precopy, postcopy_start, migration_detect_error,
//        migration_thread, migration_iteration_run, migration_iteration_finish, qmp_migrate_pause
// why: the destination runs the guest when Ferry tells it to, and from then on nothing that QEMU
//      meets on its own connection may make this side take the guest back, or end the session; and
//      what waits for the network before that does not hold the BQL; and that a person pauses the
//      migration is known before its connection breaks.
// places: 13

@@
expression s;
@@
 migration_completion(...)
 {
 <...
(
-close_return_path_on_source(s)
+ferry_let_go(s) || (close_return_path_on_source(s) && !ferry_is_gone())
|
-qemu_file_get_error(s->to_dst_file)
+ferry_stream_error(s)
)
 ...>
 }

@@
expression s;
@@
 migration_completion_precopy(...)
 {
 <...
-qemu_savevm_state_complete_precopy(s->to_dst_file, false)
+ferry_save_devices(s->to_dst_file)
 ...>
 }

@@
expression ms;
@@
 postcopy_start(...)
 {
 <...
-qemu_file_get_error(ms->to_dst_file)
+ferry_stream_error(ms)
 ...>
 }

@@
expression errp;
@@
 migration_iteration_finish(...)
 {
 <...
-migration_block_activate(errp)
+ferry_take_blocks_back(errp)
 ...>
 }

@@
typedef MigrationState;
expression errp, other;
identifier s;
@@
 migration_detect_error(MigrationState *s)
 {
 <...
-qemu_file_get_error_obj_any(s->to_dst_file, other, errp)
+ferry_has_sent_all(s) ? 0 : qemu_file_get_error_obj_any(s->to_dst_file, other, errp)
 ...>
 }

@@
expression must, can;
identifier s;
@@
 migration_iteration_run(MigrationState *s)
 {
 <...
(
-qatomic_read(&s->start_postcopy)
+ferry_starts_postcopy(s)
|
-qemu_savevm_state_pending_estimate(must, can)
+ferry_pending(false, must, can)
|
-qemu_savevm_state_pending_exact(must, can)
+ferry_pending(true, must, can)
)
 ...>
 }

@@
expression s, error, mis;
@@
 qmp_migrate_pause(...)
 {
 <...
(
+ferry_outgoing_pause();
 migrate_set_error(s, error);
|
+ferry_incoming_pause();
 ret = qemu_file_shutdown(mis->from_src_file);
)
 ...>
 }

@@
expression file;
@@
 migration_thread(...)
 {
 <...
-migration_rate_exceeded(file)
+ferry_rate_exceeded(file)
 ...>
 }
