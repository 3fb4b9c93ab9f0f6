// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/migration.c
// hooks: postcopy_pause
// why: whoever learns that post-copy is paused at the source may resume it at once, and must not meet a thread
//      that still tells of the connection that broke.
// adds: 1

@@
expression s;
@@
 postcopy_pause(...)
 {
 <...
+ferry_outgoing_paused();
 migrate_set_state(&s->state, s->state, MIGRATION_STATUS_POSTCOPY_PAUSED);
 ...>
 }
