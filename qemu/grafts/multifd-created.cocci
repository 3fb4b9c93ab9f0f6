// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/multifd.c
// hooks: multifd_new_send_channel_async
// why: QEMU counts a channel that has failed before it says so.  Whoever waited for all of them then went on without
//      it, and waited for good; or was done, and had freed what the failure was to be noted in.
// places: 2
// adds: 3
// removes: 2

@@
identifier ret;
@@
 multifd_new_send_channel_async(...)
 {
 <...
-multifd_send_channel_created();
 if (ret) {
+    multifd_send_channel_created();
     return;
 }
 ...>
 }

@@
expression err;
@@
 multifd_new_send_channel_async(...)
 {
 <...
 multifd_send_set_error(err);
+multifd_send_channel_created();
 ...>
 }
