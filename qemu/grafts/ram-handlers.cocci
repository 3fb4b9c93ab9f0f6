// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/ram.c
// hooks: ram_mig_init
// why: the "ram" section's handlers; Ferry's stand before QEMU's and pass on to them whatever
//      does not go through Ferry.

@@
expression list[3] before;
expression handlers, opaque;
@@
 ram_mig_init(...)
 {
 <...
 register_savevm_live(before,
-                     handlers,
+                     ferry_ram_handlers(handlers),
                      opaque)
 ...>
 }
