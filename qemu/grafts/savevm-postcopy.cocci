// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/savevm.c
// hooks: loadvm_postcopy_handle_advise, loadvm_postcopy_handle_listen, loadvm_postcopy_handle_run,
//        postcopy_pause_incoming
// why: with a session of Ferry's open, its own fetching stands in for what QEMU does with memory in
//      post-copy: emptying it, faulting on missing pages, and waiting when the connection broke.
//      The guest runs only once the source has let go of it.
// places: 5

@@
expression mis;
@@
 loadvm_postcopy_handle_advise(...)
 {
 <...
-ram_postcopy_incoming_init(mis)
+ferry_postcopy_init(mis)
 ...>
 }

@@
expression mis;
@@
 loadvm_postcopy_handle_listen(...)
 {
 <...
(
-postcopy_ram_prepare_discard(mis);
+ferry_postcopy_prepare(mis);
|
-postcopy_ram_incoming_setup(mis)
+ferry_postcopy_listen(mis)
)
 ...>
 }

@@
expression mis;
@@
 loadvm_postcopy_handle_run(...)
 {
 <...
-migration_bh_schedule(loadvm_postcopy_handle_run_bh, mis);
+ferry_incoming_run(loadvm_postcopy_handle_run_bh, mis);
 ...>
 }

@@
expression mis;
@@
 postcopy_pause_incoming(...)
 {
 <...
-postcopy_fault_thread_notify(mis);
+ferry_postcopy_paused(mis);
+ferry_listen_paused(mis);
 ...>
 }
