// SPDX-License-Identifier: GPL-2.0-or-later
// file: system/runstate.c
// hooks: qemu_reset_requested
// why: a reset writes to memory.  While that of a stopped guest is being sent, and the monitor
//      answers meanwhile, it has to wait.

@@
expression checkpoint;
@@
 qemu_reset_requested(...)
 {
 <...
-replay_checkpoint(checkpoint)
+!ferry_delays_reset() && replay_checkpoint(checkpoint)
 ...>
 }
