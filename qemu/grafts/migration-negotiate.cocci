// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/migration.c
// hooks: migration_thread
// why: looks for Ferry on the other side once the return path is open, before anything else is
//      sent.

@@
identifier s;
@@
 migration_thread(...)
 {
 <...
 qemu_savevm_send_ping(s->to_dst_file, 1);
+ferry_negotiate(s);
 ...>
 }
