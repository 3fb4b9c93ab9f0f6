// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/tls.c
// hooks: migration_tls_channel_process_incoming, migration_tls_incoming_handshake
// why: a handshake that hangs costs a descriptor and a TLS session, and QEMU neither counts nor ends
//      them.
// places: 2

@@
identifier tioc;
expression name;
@@
 migration_tls_channel_process_incoming(...)
 {
 <...
 qio_channel_set_name(QIO_CHANNEL(tioc), name);
+ferry_incoming_handshake(QIO_CHANNEL(tioc));
 ...>
 }

@@
identifier ioc, err, task, opaque;
typedef QIOTask, gpointer, QIOChannel, Error;
@@
 void migration_tls_incoming_handshake(QIOTask *task, gpointer opaque)
 {
 QIOChannel *ioc = QIO_CHANNEL(qio_task_get_source(task));
 Error *err = NULL;
+ferry_incoming_handshake_over(ioc);
 ...
 }
