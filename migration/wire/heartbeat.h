/*
 * Heartbeat: makes a connection that hangs show like one that broke.
 *
 * Both sides let something be heard on every channel at least each FERRY_BEAT_MS; whoever hears
 * nothing for longer than its time-out while it reads, or writes what nobody takes (see progress.h), gives
 * up.  Bytes count, not frames: a slow path is not a silent one.
 *
 * Threads: one that sends beats and one that looks; everything is called from the owner's thread.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_HEARTBEAT_H
#define FERRY_HEARTBEAT_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "channel.h"

#define FERRY_BEAT_MS 500

/* Two beats must be lost, and then some, before a connection is taken for broken. */
#define FERRY_NETWORK_TIMEOUT_MIN_MS 2000

typedef struct FerryHeartbeat FerryHeartbeat;

/* Called once, from a thread of its own or as it starts, with what is wrong; takes over @error. */
typedef void FerrySilentFn(void *opaque, GError *error);

FerryHeartbeat *ferry_heartbeat_new(unsigned timeout_ms, FerrySilentFn *silent, void *opaque);

/* Before it starts.  @channel stays the caller's.  @writes, @reads: what this side does with it. */
void ferry_heartbeat_add(FerryHeartbeat *heartbeat, FerryChannel *channel, bool writes, bool reads);

/*
 * Something else to look at as often: what is wrong with it, or NULL.  Before it starts; called from a
 * thread of its own.
 */
typedef GError *FerryWatchFn(void *opaque);
void ferry_heartbeat_set_watch(FerryHeartbeat *heartbeat, FerryWatchFn *watch, void *opaque);

void ferry_heartbeat_start(FerryHeartbeat *heartbeat);

/* Ends the threads; the channels must be shut down, or their peers alive.  NULL is allowed. */
void ferry_heartbeat_free(FerryHeartbeat *heartbeat);

#endif
