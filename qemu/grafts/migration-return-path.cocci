// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/migration.c
// hooks: migration_connect
// why: Ferry finds its peer over the return path, so it wants one on any socket, whether or not
//      a capability asks for it; and a file cannot answer, though post-copy be permitted.

@@
typedef MigrationState, Error;
identifier s, error_in;
@@
 void migration_connect(MigrationState *s, Error *error_in)
 {
 <...
-migrate_postcopy_ram()
+ferry_wants_return_path(s, migrate_postcopy_ram())
 || migrate_return_path()
 ...>
 }
