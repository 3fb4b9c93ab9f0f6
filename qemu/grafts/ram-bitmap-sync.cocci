// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/ram.c
// hooks: migration_bitmap_sync_precopy
// why: auto-converge's timer asks for a sync of the dirty bitmap, which is Ferry's harvest when
//      Ferry carries the memory.

@@
typedef bool;
identifier stage;
@@
 void migration_bitmap_sync_precopy(bool stage)
 {
+    if (ferry_bitmap_sync(stage)) {
+        return;
+    }
 ...
 }
