// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/migration.c
// hooks: qmp_migrate_cancel
// why: a guest that the destination was told to run cannot be kept any more, in precopy either.

@@
typedef Error;
identifier errp;
@@
 void qmp_migrate_cancel(Error **errp)
 {
+    if (ferry_refuses_cancel(errp)) {
+        return;
+    }
 ...
 }
