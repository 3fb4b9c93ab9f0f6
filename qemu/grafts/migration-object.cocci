// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/migration.c
// hooks: migration_object_init
// why: creates the object behind -global ferry.NAME=VALUE.

@@
@@
 migration_object_init(...)
 {
 ...
 ram_mig_init();
+ferry_object_init();
 ...
 }
