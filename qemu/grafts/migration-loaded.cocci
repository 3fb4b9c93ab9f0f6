// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/migration.c
// hooks: process_incoming_migration_bh
// why: the device state is loaded: a mark in the breakdown of the blackout.

@@
@@
 process_incoming_migration_bh(...)
 {
 <...
 trace_vmstate_downtime_checkpoint("dst-precopy-bh-enter");
+ferry_incoming_loaded();
 ...>
 }
