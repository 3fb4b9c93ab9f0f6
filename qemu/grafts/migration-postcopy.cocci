// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/migration.c
// hooks: postcopy_start, fill_destination_migration_info, postcopy_resume_handshake
// why: where QEMU tells the destination which pages to discard, Ferry hands off its bitmap; after the
//      device state it waits until that is loaded, until when the guest can be taken back; and the
//      times that vCPUs wait for pages are Ferry's; and the last word of a recovery is not waited for
//      without end.
// places: 4

@@
expression ms, data, nr_bytes;
@@
 postcopy_start(...)
 {
 <...
(
-ram_postcopy_send_discard_bitmap(ms);
+ferry_postcopy_leave(ms);
|
-qemu_savevm_send_packaged(ms->to_dst_file, data, nr_bytes)
+ferry_send_packaged(ms, data, nr_bytes)
)
 ...>
 }

@@
expression info;
@@
 fill_destination_migration_info(...)
 {
 <...
 fill_destination_postcopy_migration_info(info);
+ferry_fill_blocktime(info);
 ...>
 }

@@
expression s;
@@
 postcopy_resume_handshake(...)
 {
 <...
-migration_rp_wait(s)
+ferry_resume_wait(s)
 ...>
 }
