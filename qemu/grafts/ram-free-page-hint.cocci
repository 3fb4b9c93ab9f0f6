// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/ram.c
// hooks: qemu_guest_free_page_hint
// why: pages that the guest declares free (virtio-balloon) need not be sent.

@@
identifier addr, len;
@@
 void qemu_guest_free_page_hint(void *addr, size_t len)
 {
+    if (ferry_free_page_hint(addr, len)) {
+        return;
+    }
 ...
 }
