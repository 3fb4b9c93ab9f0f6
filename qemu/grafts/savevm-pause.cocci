// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/savevm.c
// hooks: qemu_loadvm_state_main, postcopy_ram_listen_thread
// why: when the stream breaks in post-copy, the destination must not give up what the source may have
//      let go of, nor wait when nothing more is to come.
// places: 2
// adds: 2
// removes: 2

@@
@@
 qemu_loadvm_state_main(...)
 {
 <...
-postcopy_state_get() == POSTCOPY_INCOMING_RUNNING
+ferry_postcopy_pauses(postcopy_state_get() == POSTCOPY_INCOMING_RUNNING)
 ...>
 }

@@
expression f, mis;
identifier result;
@@
 postcopy_ram_listen_thread(...)
 {
 <...
-result = qemu_loadvm_state_main(f, mis);
+result = ferry_postcopy_listened(qemu_loadvm_state_main(f, mis));
 ...>
 }
