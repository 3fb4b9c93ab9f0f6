// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/migration.c
// hooks: source_return_path_thread
// why: when the destination dies, the return path is often the first to notice, with nothing to
//      say but "I/O error"; Ferry's own channels know more.

@@
expression s, error;
@@
 source_return_path_thread(...)
 {
 <...
-migrate_set_error(s, error);
+ferry_return_path_error(s, error);
 ...>
 }
