/*
 * Shared between the glue's own files, whichever side they are on.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_INTERNAL_H
#define FERRY_GLUE_INTERNAL_H

/* As from gcc 14 on, in every compiler. */
#pragma GCC diagnostic error "-Wimplicit-function-declaration"

#include "qemu/typedefs.h"
#include "qapi/error.h"
#include "io/channel-socket.h"

#include "ferry/glue/parameters.h"
#include "ferry/migration/memory/region.h"
#include "ferry/migration/wire/channel.h"

/* Values of PING and PONG: 16 bits of magic, then what each says. */
#define FERRY_PING_MAGIC 0xf377u /* | oldest version << 8 | newest version */
#define FERRY_PONG_MAGIC 0xf378u /* | version chosen << 8 | FERRY_PONG_LISTENS */

/*
 * The destination opened a listener of its own, because its main channel was handed to it ready
 * connected.  One more PONG says where: the port, or the number in the abstract name.
 */
#define FERRY_PONG_LISTENS  1u
#define FERRY_ABSTRACT_NAME "ferry-%08x"

/* What stands in the "ram" sections of the migration stream when Ferry carries the memory. */
#define FERRY_STREAM_MAGIC 0x4665727279000000ull
#define FERRY_STREAM_SETUP (FERRY_STREAM_MAGIC | 1)
#define FERRY_STREAM_PART  (FERRY_STREAM_MAGIC | 2)
#define FERRY_STREAM_END   (FERRY_STREAM_MAGIC | 3)

/* Why post-copy is paused by migrate-pause, at either end. */
#define FERRY_PAUSED_BY_USER "the user has paused the migration (migrate-pause)"

/* Turn the engine's error into QEMU's; frees @error. */
void ferry_propagate_error(Error **errp, GError *error);

/* Why @s fails, unless it has a reason already: the first one counts.  Any thread. */
void ferry_set_migration_error(MigrationState *s, const GError *why);

/*
 * A channel over @ioc, which gets a reference.  Nothing that is said on it waits for the peer to acknowledge what was
 * said before: that may take a peer 40 ms, in the blackout as well.
 */
FerryChannel *ferry_channel_new_ioc(QIOChannel *ioc, const char *name);

/* The socket at the bottom of @ioc, plain or TLS; NULL if it is something else. */
QIOChannelSocket *ferry_underlying_socket(QIOChannel *ioc);

/*
 * Have QEMU's own connection @ioc break when its peer, or the way there, has been silent for network-timeout,
 * and when what was sent has not been taken for @more_ms longer.  Does nothing where it is not TCP.
 */
void ferry_watch_channel(QIOChannel *ioc, unsigned more_ms);

/* List this machine's RAM blocks that migrate; @outgoing: with what is unplugged of them. */
void ferry_list_ram(FerryRegions *regions, bool outgoing);

/*
 * The memory of @regions, which are there, stays until it is released, whatever is unplugged meanwhile: it is added
 * to @held.  Any thread; to release it takes the BQL, and frees @held.
 */
void ferry_hold_ram(const FerryRegions *regions, GPtrArray *held);
void ferry_release_ram(GPtrArray *held);

/* Make the RAM blocks that may change their size fit the source's, as QEMU does; any thread. */
bool ferry_resize_ram(const FerryRegions *remote, Error **errp);

#endif
