// SPDX-License-Identifier: GPL-2.0-or-later
// file: system/runstate.c
// hooks: qemu_system_reset_request, qemu_system_shutdown_request, qemu_system_suspend_request
// places: 3
// why: a guest that is given up reads zeros where pages are missing, until it is stopped: what it asks for
//      then, as a triple fault does, would lose what is to be looked at.

@@
typedef ShutdownCause;
identifier reason;
@@
 qemu_system_reset_request(ShutdownCause reason)
 {
+    if (shutdown_caused_by_guest(reason) && ferry_gives_guest_up()) {
+        return;
+    }
 ...
 }

@@
identifier reason;
@@
 qemu_system_shutdown_request(ShutdownCause reason)
 {
+    if (shutdown_caused_by_guest(reason) && ferry_gives_guest_up()) {
+        return;
+    }
 ...
 }

@@
@@
 qemu_system_suspend_request(...)
 {
+    if (ferry_gives_guest_up()) {
+        return;
+    }
 ...
 }
