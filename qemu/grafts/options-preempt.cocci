// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/options.c
// hooks: migrate_postcopy_preempt
// why: Ferry always has a channel for pages that are waited for: the capability is accepted, and
//      QEMU's own extra channel is not opened when Ferry carries the memory.

@@
typedef bool;
@@
 bool migrate_postcopy_preempt(void)
 {
+    if (ferry_has_session()) {
+        return false;
+    }
 ...
 }
