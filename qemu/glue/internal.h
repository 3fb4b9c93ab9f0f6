/*
 * Shared between the glue's own files.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_INTERNAL_H
#define FERRY_GLUE_INTERNAL_H

/* As from gcc 14 on, in every compiler. */
#pragma GCC diagnostic error "-Wimplicit-function-declaration"

#include "qapi/error.h"
#include "qapi/qapi-types-ferry.h"
#include "io/channel-socket.h"
#include "migration/register.h"

#include "ferry/accel/tracker.h"
#include "ferry/migration/channel.h"
#include "ferry/migration/region.h"
#include "ferry/migration/stats.h"

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

/* The user's parameters: `-global ferry.NAME=VALUE`, ferry-set-parameters. */
typedef struct FerrySettings {
    bool enabled;
    bool checksum;
    uint8_t channels; /* 0: choose from the CPUs */
} FerrySettings;

FerrySettings *ferry_settings(void);

/* Turn the engine's error into QEMU's; frees @error. */
void ferry_propagate_error(Error **errp, GError *error);

/* A channel over @ioc, which gets a reference. */
FerryChannel *ferry_channel_new_ioc(QIOChannel *ioc, const char *name);

/* The socket at the bottom of @ioc, plain or TLS; NULL if it is something else. */
QIOChannelSocket *ferry_underlying_socket(QIOChannel *ioc);

/*
 * The way to the peer.  reset: a new migration begins.  ask: whether the peer has Ferry and speaks
 * a version of ours, or for which @reason not (the caller's to free).  dial: one more connection
 * to it, with TLS if the migration has it; a FerrySourceConfig's dial, with the MigrationState as
 * @opaque.  cancel: ends what blocks in ask and dial; any thread.
 */
void ferry_peer_reset(void);
bool ferry_peer_ask(MigrationState *s, uint8_t *version, uint64_t *session, char **reason);
FerryChannel *ferry_peer_dial(void *opaque, const char *name, GError **errp);
void ferry_peer_cancel(void);

/* List this machine's RAM blocks that migrate. */
void ferry_list_ram(FerryRegions *regions);

/* Make the RAM blocks that may change their size fit the source's, as QEMU does; any thread. */
bool ferry_resize_ram(const FerryRegions *remote, Error **errp);

/* A tracker over QEMU's dirty bitmap; @regions is as listed at the source. */
FerryTracker ferry_bitmap_tracker_new(const FerryRegions *regions);
void ferry_bitmap_tracker_free(FerryTracker *tracker);

/* Source and destination, for the wrapped handlers and for reports. */
bool ferry_outgoing_active(void);
int ferry_save_setup(QEMUFile *f, Error **errp);
int ferry_save_iterate(QEMUFile *f);
int ferry_save_complete(QEMUFile *f);
void ferry_save_pending(bool exact, uint64_t *must_precopy);
void ferry_save_cleanup(void);

/* Whether the section that comes next is Ferry's; takes it in if so, with *@ret its result. */
bool ferry_load_state(QEMUFile *f, int *ret);
void ferry_load_cleanup(void);

/* False when there is nothing to tell; *@reason says why Ferry is not in use, or is NULL. */
bool ferry_outgoing_query(FerryStats *stats, bool *active, uint8_t *version, char **reason);
bool ferry_incoming_query(FerryStats *stats, bool *active, uint8_t *version, char **reason);

#endif
