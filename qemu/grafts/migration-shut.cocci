// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/migration.c
// hooks: source_return_path_thread
// why: a return path that breaks without the destination's last word, or with it, makes the difference between a
//      guest that may run there and one that does not.
// adds: 1

@@
expression word;
@@
 source_return_path_thread(...)
 {
 <...
 trace_source_return_path_thread_shut(word);
+ferry_outgoing_shut(word);
 ...>
 }
