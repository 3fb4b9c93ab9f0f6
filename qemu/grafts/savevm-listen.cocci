// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/savevm.c
// hooks: postcopy_ram_listen_thread, qemu_loadvm_state_main, postcopy_pause_incoming
// why: the thread that reads the stream in post-copy ends when a person gives the migration up, and leaves
//      taking it apart, and ending the process, to the main thread when the device state does not load; a
//      stream that breaks while that is being loaded is a pause.
// places: 3
// adds: 6
// removes: 1

@@
expression f, mis, load_res;
@@
 postcopy_ram_listen_thread(...)
 {
 <...
 load_res = qemu_loadvm_state_main(f, mis);
+if (ferry_listen_ended(mis, load_res)) {
+    object_unref(OBJECT(migrate_get_current()));
+    return NULL;
+}
 ...>
 }

@@
expression f, ret;
@@
 qemu_loadvm_state_main(...)
 {
 <...
 qemu_file_set_error(f, ret);
 dirty_bitmap_mig_cancel_incoming();
+ferry_listen_broke();
 ...>
 }

@@
@@
 postcopy_pause_incoming(...)
 {
 <...
-return true;
+return ferry_listen_resumed();
 ...>
 }
