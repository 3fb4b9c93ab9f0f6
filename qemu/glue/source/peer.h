/*
 * The source's way to its peer.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_SOURCE_PEER_H
#define FERRY_GLUE_SOURCE_PEER_H

#include "qemu/typedefs.h"
#include "io/channel-socket.h"

#include "ferry/migration/wire/channel.h"

/* What QEMU calls the main channel when it dials it, rather than being handed it. */
#define FERRY_MAIN_CHANNEL_NAME "migration-socket-outgoing"

/* A new migration, or a new connection for one, begins.  Main thread. */
void ferry_peer_reset(void);

/*
 * Whether the peer has Ferry and speaks a @version of ours, with the token of its @session; if not, or not
 * until @deadline_us of g_get_monotonic_time(), @reason says why (the caller's to free).  Migration thread.
 */
bool ferry_peer_ask(MigrationState *s, gint64 deadline_us, uint8_t *version, uint64_t *session,
                    char **reason);

/*
 * The next three are for dialling, on the migration thread, once the peer has answered.  Whether it has a
 * listener of its own, and its @number.
 */
bool ferry_peer_listens(uint32_t *number);

/* The path as the user gave it, if QEMU itself has connected the main @socket to one; or NULL. */
const UnixSocketAddress *ferry_peer_path(const QIOChannelSocket *socket);

/* Whether ferry_peer_cancel() was called since the last reset.  Any thread. */
bool ferry_peer_is_cancelled(void);

/*
 * Connections to the peer, with TLS if the migration has it: a FerrySourceConfig's dial, with
 * the MigrationState as @opaque.  Migration thread.
 */
bool ferry_peer_dial(void *opaque, const char *const *names, unsigned nr, gint64 deadline_us,
                     FerryChannel **dialled, GError **errp);

/* How the destination has said that its part of a migration on QEMU's own path ended. */
typedef enum FerryLastWord {
    FERRY_LAST_WORD_NONE,    /* not yet */
    FERRY_LAST_WORD_LOADED,  /* the guest is there */
    FERRY_LAST_WORD_FAILED,  /* the guest is not */
    FERRY_LAST_WORD_MISSING, /* the return path broke before it said */
} FerryLastWord;

/* Wait for it until @deadline_us of g_get_monotonic_time().  Migration thread. */
FerryLastWord ferry_peer_wait_last_word(gint64 deadline_us);

/* Whether it is @expected from here on; before that, a broken return path is an error like any other. */
void ferry_peer_expect_last_word(bool expected);

/* From where it is expected the last of the stream is written: now it is.  Migration thread. */
void ferry_peer_has_stream(void);

/* Whether it is being written: who waits in it for a peer that has hung up, waits in vain.  Any thread. */
bool ferry_peer_lacks_stream(void);

/*
 * The return path is broken.  Whether whoever expects the last word says what it means that it is missing.  Any
 * thread.
 */
bool ferry_peer_miss_last_word(void);

/* Whether the destination has said nothing at all so far.  Any thread. */
bool ferry_peer_is_silent(void);

/* Say in @err that what it is about took the destination longer than network-timeout.  Any thread. */
void ferry_blame_network_timeout(Error **err);

/* End what waits in ferry_peer_ask() and ferry_peer_dial(), until the next reset.  Any thread. */
void ferry_peer_cancel(void);

/* --- attempt.c --- */

/* End multifd's channels, and their TLS handshakes: who is blocked in one fails.  Any thread. */
void ferry_outgoing_break_side(void);

/* The migration is about to be cancelled; what fails from here on is no error of its own.  Main thread. */
void ferry_outgoing_note_cancel(MigrationState *s);

#endif
