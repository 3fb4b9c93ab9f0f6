// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/options.c
// hooks: migrate_caps_check
// why: Ferry carries memory over many channels before and after the hand-off: for it the two
//      capabilities do not exclude each other.
// adds: 1
// removes: 1

@@
expression set;
@@
 migrate_caps_check(...)
 {
 <...
 if (set[MIGRATION_CAPABILITY_POSTCOPY_RAM]) {
 ...
 if (
-    set[MIGRATION_CAPABILITY_MULTIFD]
+    set[MIGRATION_CAPABILITY_MULTIFD] && !ferry_is_enabled()
    ) {
 ...
 }
 }
 ...>
 }
