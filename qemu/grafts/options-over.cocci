// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/options.c
// hooks: qmp_migrate_set_capabilities, qmp_migrate_set_parameters
// why: cleaning up after a migration that has failed looks at capabilities and parameters: they change
//      when that is done.
// places: 2
// adds: 6

@@
typedef Error;
identifier errp;
@@
 void qmp_migrate_set_capabilities(..., Error **errp)
 {
+if (!ferry_outgoing_wait_over(errp)) {
+    return;
+}
 ...
 }

@@
identifier errp;
@@
 void qmp_migrate_set_parameters(..., Error **errp)
 {
+if (!ferry_outgoing_wait_over(errp)) {
+    return;
+}
 ...
 }
