/*
 * Watch: makes a connection that hangs show like one that broke.
 *
 * Both sides let something be heard on every channel at least each FERRY_BEAT_MS; whoever hears
 * nothing for longer than its time-out, or cannot get rid of what it writes, gives up.
 *
 * Threads: one that sends beats and one that looks; everything is called from the owner's thread.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_WATCH_H
#define FERRY_WATCH_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "channel.h"

#define FERRY_BEAT_MS 500

/* Two beats must be lost, and then some, before a connection is taken for broken. */
#define FERRY_NETWORK_TIMEOUT_MIN_MS 2000

typedef struct FerryWatch FerryWatch;

/* Called once, from a thread of the watch's, with what is wrong; takes over @error. */
typedef void FerryWatchFn(void *opaque, GError *error);

FerryWatch *ferry_watch_new(unsigned timeout_ms, FerryWatchFn *silent, void *opaque);

/* Before it starts.  @channel stays the caller's.  @writes, @reads: what this side does with it. */
void ferry_watch_add(FerryWatch *watch, FerryChannel *channel, bool writes, bool reads);

/*
 * Something else that must be heard, called @name in messages: for how long it has been silent, in ms.
 * Before it starts; called from a thread of the watch's.
 */
typedef uint64_t FerryWatchProbe(void *opaque);
void ferry_watch_set_probe(FerryWatch *watch, const char *name, FerryWatchProbe *probe,
                           void *opaque);

void ferry_watch_start(FerryWatch *watch);

/* Ends the threads; the channels must be shut down, or their peers alive.  NULL is allowed. */
void ferry_watch_free(FerryWatch *watch);

#endif
