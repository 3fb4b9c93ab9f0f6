// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/tls.c
// hooks: migration_tls_channel_connect, migration_tls_outgoing_handshake
// why: QEMU shakes hands on the main thread, where nobody must wait for a peer; nor does a migration wait for
//      one for ever.
// places: 3

@@
identifier tioc;
expression name;
@@
 migration_tls_channel_connect(...)
 {
 <...
 qio_channel_set_name(QIO_CHANNEL(tioc), name);
+ferry_outgoing_handshake(QIO_CHANNEL(tioc));
 ...>
 }

@@
identifier s, ioc, err, task, opaque;
typedef QIOTask, gpointer, QIOChannel, Error, MigrationState;
@@
 void migration_tls_outgoing_handshake(QIOTask *task, gpointer opaque)
 {
 MigrationState *s = opaque;
 QIOChannel *ioc = QIO_CHANNEL(qio_task_get_source(task));
 Error *err = NULL;
+ferry_outgoing_handshake_over(ioc);
 ...
 }

@@
identifier err;
@@
 migration_tls_outgoing_handshake(...)
 {
 <...
+ferry_outgoing_handshake_failed(&err);
 trace_migration_tls_outgoing_handshake_error(error_get_pretty(err));
 ...>
 }
