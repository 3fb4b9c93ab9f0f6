// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/multifd.c
// hooks: multifd_recv_cleanup_channel
// why: with Ferry, or where a migration fails early, some of the channels may never have come.
// places: 2
// adds: 2

@@
expression p;
@@
 multifd_recv_cleanup_channel(...)
 {
 <...
+if (p->c) {
 migration_ioc_unregister_yank(p->c);
 object_unref(OBJECT(p->c));
+}
 ...>
 }
