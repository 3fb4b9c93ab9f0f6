/*
 * Channels: all channels of the source's side of a session.
 *
 * Threads: one thread opens and clears; everything else may be called from any thread meanwhile.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_CHANNELS_H
#define FERRY_CHANNELS_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "../wire/channel.h"
#include "../wire/frame.h"

typedef struct FerryChannels {
    GMutex lock; /* for the pointers; a channel, once there, stays until cleared */
    FerryLayout layout;
    FerryChannel *control;
    FerryChannel *data[FERRY_DATA_CHANNELS_MAX];
    FerryChannel *fetch[FERRY_FETCH_CHANNELS_MAX];
    uint64_t gone_bytes; /* sent on channels that have been cleared */
    bool shut;           /* what is opened from now on is shut down at once */
} FerryChannels;

/* How connections to the destination are opened: see FerrySourceConfig. */
typedef bool FerryDialFn(void *opaque, const char *const *names, unsigned nr, gint64 deadline_us,
                         FerryChannel **dialled, GError **errp);

void ferry_channels_init(FerryChannels *channels);

/*
 * Open @layout's channels until @deadline_us, of ferry_now_us(); then say hello on each, on the
 * control channel first: like @hello, with its own role and index.
 */
bool ferry_channels_open(FerryChannels *channels, const FerryLayout *layout,
                         const FerryHello *hello, FerryDialFn *dial, void *opaque,
                         gint64 deadline_us, GError **errp);

/* The name of a channel that the other side has closed or reset, or NULL.  Until it is cleared. */
const char *ferry_channels_find_hung_up(FerryChannels *channels);

/* Tell the peer why, as well as it goes. */
void ferry_channels_tell(FerryChannels *channels, const char *why);

/* Break all channels that exist, and those that are being opened. */
void ferry_channels_shutdown(FerryChannels *channels);

/* Free all channels, which nobody may be using, to open others. */
void ferry_channels_clear(FerryChannels *channels);

/* The end. */
void ferry_channels_destroy(FerryChannels *channels);

/* Bytes sent so far. */
uint64_t ferry_channels_sent_bytes(FerryChannels *channels);

/* Call @fn for each channel, with the lock held. */
typedef void FerryChannelFn(void *opaque, FerryChannel *channel);
void ferry_channels_foreach(FerryChannels *channels, FerryChannelFn *fn, void *opaque);

#endif
