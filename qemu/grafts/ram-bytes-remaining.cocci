// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/ram.c
// hooks: ram_bytes_remaining
// why: what query-migrate shows as remaining.

@@
@@
 ram_bytes_remaining(void)
 {
+    uint64_t ferry_remaining;
+    if (ferry_bytes_remaining(&ferry_remaining)) {
+        return ferry_remaining;
+    }
 ...
 }
