// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/savevm.c
// hooks: loadvm_process_command
// why: a PING with Ferry's magic is answered with Ferry's own PONGs; any other as before.

@@
expression mis, value;
@@
 loadvm_process_command(...)
 {
 <...
-migrate_send_rp_pong(mis, value);
+ferry_incoming_ping(mis, value);
 ...>
 }
