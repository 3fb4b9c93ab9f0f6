// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/fd.c
// hooks: fd_start_incoming_migration
// why: a connection that was passed, and does not keep to the network that the user has given to migrations,
//      is refused in words at once.
// adds: 4
@@
typedef Error;
identifier name, ioc, errp;
@@
 void fd_start_incoming_migration(const char *name, Error **errp)
 {
 <...
 qio_channel_set_name(ioc, ...);
+if (!ferry_incoming_may_pass(ioc, errp)) {
+    object_unref(OBJECT(ioc));
+    return;
+}
 ...>
 }
