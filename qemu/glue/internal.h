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

#include "ferry/migration/tracker.h"
#include "ferry/migration/wire/channel.h"
#include "ferry/migration/destination/destination.h"
#include "ferry/migration/memory/region.h"
#include "ferry/migration/source/source.h"
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
    FerryCompression compression;
    uint8_t channels; /* 0: choose from the CPUs */
    FerryTrackerMode tracker;
    bool x_defer; /* put off pages that stay hot; off to measure what that saves */
    FerrySwitchoverMode switchover;
    uint32_t network_timeout_ms;
    uint32_t recovery_timeout_s; /* 0: none */
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

/*
 * QEMU's dirty bitmap.  open, close: keep a summary meanwhile, so that a harvest is quick.  forget:
 * what was written so far, of at most a chunk.  protect: have KVM protect pages whose writes it has
 * put into the bitmap.  harvest: take out what is in it, word by word, with `fn` as in
 * FerryTrackerClient; with the BQL.  mark_vga: pages that a display has to redraw.
 */
typedef void (*FerryBitmapFn)(void *opaque, uint32_t region, uint64_t word, uint64_t mask);
void ferry_bitmap_open(RAMBlock *const *blocks, size_t nr_blocks);
void ferry_bitmap_close(void);
void ferry_bitmap_forget(RAMBlock *block, uint64_t first_page, uint64_t nr_pages);
void ferry_bitmap_protect(RAMBlock *block, uint64_t first_page, uint64_t nr_pages);
void ferry_bitmap_harvest(RAMBlock *const *blocks, size_t nr_blocks, FerryBitmapFn fn,
                          void *opaque);
void ferry_bitmap_mark_vga(RAMBlock *block, uint64_t first_page, uint64_t nr_pages);

/*
 * A migration's dirty tracking.  open: a tracker for @regions, listed at the source, as the
 * user wants it or as it is best here; @regions must stay until it is closed, and so will the RAM
 * blocks.  begin, end: around the time when QEMU's dirty log for migration is on.
 */
bool ferry_tracker_open(FerryTrackerMode mode, const FerryRegions *regions, FerryTracker *tracker,
                        GError **errp);
void ferry_tracker_close(void);
void ferry_tracker_begin(void);
void ferry_tracker_end(void);

/* The tracker failed because of @why: if it is the rings, `auto` will not pick them again. */
void ferry_tracker_failed(const GError *why);

/* The same while the guest runs: go on with another tracker.  False if there is none. */
bool ferry_tracker_replace(const GError *why, FerryTracker *tracker);

/* What is in use, or was in the last migration; NULL if there was none. */
FerryTrackerInfo *ferry_tracker_query(void);

/* Source and destination, for the wrapped handlers and for reports. */
bool ferry_outgoing_active(void);
int ferry_save_setup(QEMUFile *f, Error **errp);
int ferry_save_iterate(QEMUFile *f);
int ferry_save_complete(QEMUFile *f);
void ferry_save_pending(bool exact, uint64_t *must_precopy, uint64_t *can_postcopy);
int ferry_save_complete_postcopy(QEMUFile *f);
int ferry_resume_prepare(MigrationState *s);
void ferry_save_cleanup(void);

/*
 * The source's parts.  source: the session; only while it is active, from the thread that drives it.
 * session_error: have the migration fail, or pause, with @error (taken over); returns -EIO.  count:
 * bring QEMU's counters up to date.  is_left: pages were left missing at the destination.
 * wants_postcopy: a round has ended with @pending bytes to go: go over to post-copy if it is time.
 * announce: it is: prepare the destination.  pending_postcopy: what to tell QEMU is left.
 */
FerrySource *ferry_outgoing_source(void);
int ferry_session_error(QEMUFile *f, GError *error);
void ferry_outgoing_count(void);
bool ferry_postcopy_is_left(void);
void ferry_postcopy_reset(void);
void ferry_postcopy_consider(bool round_ended, uint64_t pending);
uint64_t ferry_postcopy_pending(uint64_t limit);
int ferry_postcopy_push(QEMUFile *f, unsigned timeout_ms);

/* Whether the section that comes next is Ferry's; takes it in if so, with *@ret its result. */
bool ferry_load_state(QEMUFile *f, int *ret);
void ferry_load_cleanup(void);

/* The same for a session that was abandoned. */
void ferry_incoming_abandoned(void);

/* The session at the destination, or NULL.  Any thread; it stays until the migration ends. */
FerryDestination *ferry_incoming_destination(void);

/*
 * The destination's part of post-copy.  stand_down: the source goes on without Ferry.  why_not: why
 * post-copy, which the user has permitted, must be QEMU's own; NULL if it need not.  hold_stream: the
 * stream that is to be broken when Ferry's channels are, or NULL.  note_part: something has come on it.
 * The rest are FerryDestinationOps.
 */
void ferry_postcopy_hold_stream(MigrationIncomingState *mis);
void ferry_postcopy_note_part(void);
uint64_t ferry_postcopy_stream_idle_ms(void *opaque);
void ferry_postcopy_stand_down(void);
const char *ferry_postcopy_why_not(void);
void ferry_postcopy_list_vcpus(void *opaque, GArray *threads);
void ferry_postcopy_go(void *opaque);
void ferry_postcopy_broken(void *opaque, const GError *why);
void ferry_postcopy_damaged(void *opaque, const GError *why);

/*
 * The source is lost (begin), or back (end, a FerryDestinationOps'): see postcopy-lost.c.  Any thread.
 */
void ferry_lost_begin(void);
void ferry_lost_end(void *opaque);

/* Stop the guest so that only a reset gets it going again.  Main thread. */
void ferry_lost_stop_for_ever(void);

/* False when there is nothing to tell; *@reason says why Ferry is not in use, or is NULL. */
bool ferry_outgoing_query(FerryStats *stats, bool *active, uint8_t *version, char **reason);
bool ferry_incoming_query(FerryStats *stats, bool *active, uint8_t *version, char **reason);

#endif
