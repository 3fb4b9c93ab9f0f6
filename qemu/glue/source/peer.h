/*
 * The source's way to its peer.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_SOURCE_PEER_H
#define FERRY_GLUE_SOURCE_PEER_H

#include "qemu/typedefs.h"

#include "ferry/migration/wire/channel.h"

/* A new migration, or a new connection for one, begins.  Main thread. */
void ferry_peer_reset(void);

/*
 * Whether the peer has Ferry and speaks a @version of ours, with the token of its @session; if not,
 * @reason says why (the caller's to free).  Migration thread.
 */
bool ferry_peer_ask(MigrationState *s, uint8_t *version, uint64_t *session, char **reason);

/*
 * One more connection to the peer, with TLS if the migration has it: a FerrySourceConfig's dial, with
 * the MigrationState as @opaque.  Migration thread.
 */
FerryChannel *ferry_peer_dial(void *opaque, const char *name, GError **errp);

/*
 * If the destination has never said a word on the return path, and only Ferry wanted one, have QEMU's thread
 * that reads it end, as none will come.  Migration thread.
 */
void ferry_peer_end_silence(MigrationState *s);

/* Whether that was done.  Any thread. */
bool ferry_peer_is_given_up(void);

/* End what blocks in ferry_peer_ask() and ferry_peer_dial(), until the next reset.  Any thread. */
void ferry_peer_cancel(void);

#endif
