// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/savevm.c
// hooks: load_snapshot
// why: while post-copy still fills this guest's memory, no snapshot can be loaded: refused before the disks
//      have gone back to another moment.
// adds: 3

@@
expression has_devices, devices, errp;
@@
 load_snapshot(...)
 {
 <...
+if (ferry_incoming_is_open(errp)) {
+    return false;
+}
 if (!bdrv_all_can_snapshot(has_devices, devices, errp)) {
     return false;
 }
 ...>
 }
