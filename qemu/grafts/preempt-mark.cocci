// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/postcopy-ram.c
// hooks: postcopy_preempt_send_channel_done
// why: what this connection of QEMU's own post-copy sends is to be marked as the user says.
// adds: 1

@@
identifier ioc;
@@
 postcopy_preempt_send_channel_done(...)
 {
 <...
 migration_ioc_register_yank(ioc);
+ferry_mark_connection(ioc);
 ...>
 }
