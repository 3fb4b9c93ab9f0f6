// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/savevm.c
// hooks: postcopy_ram_listen_thread
// why: a client that hears that post-copy is over may switch capabilities off at once (libvirt does):
//      not before channels that multifd opened have been cleaned up, which asks for the capability.
// places: 2
// adds: 1
// removes: 1

@@
@@
 postcopy_ram_listen_thread(...)
 {
 <...
+bql_lock();
 migrate_set_state(&mis->state, MIGRATION_STATUS_POSTCOPY_ACTIVE,
                   MIGRATION_STATUS_COMPLETED);
-bql_lock();
 migration_incoming_state_destroy();
 ...>
 }
