/*
 * The senders: one thread for each data channel, which drains its share of the backlog into it.
 *
 * A granule (2 MiB) belongs to one sender for good (granule % senders), so copies of a page arrive
 * in the order they were read, with no barrier between rounds.
 *
 * Threads: the driver starts, ends and steers them; hints, interrupts and the rate come from any.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_SENDERS_H
#define FERRY_SENDERS_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "../wire/channel.h"
#include "../wire/pages-frame.h"
#include "backlog.h"

typedef struct FerrySenders FerrySenders;

typedef struct FerrySendersConfig {
    bool checksum; /* of each payload */
    bool compress; /* payloads, where that helps */
    bool weigh;    /* compress only while that is faster than not to, on each channel by itself */
    /* A sender's channel, the tracker, or a start failed with @error (taken over).  From that thread. */
    void (*failed)(void *opaque, GError *error);
    void *opaque;
} FerrySendersConfig;

/* @backlog must outlive them. */
FerrySenders *ferry_senders_new(FerryBacklog *backlog, const FerrySendersConfig *config);

/* Ends them, too. */
void ferry_senders_free(FerrySenders *senders);

/*
 * Start a sender for each of the channels, which stay the caller's.  If one cannot be started, config.failed is
 * told, and the answer is false.
 */
bool ferry_senders_start(FerrySenders *senders, FerryChannel **channels, unsigned nr_channels);

/*
 * End them: their channels must be shut down; what they had taken and not sent is nowhere.  They can
 * be started again, with other channels.
 */
void ferry_senders_end(FerrySenders *senders);

/* Something has failed: they take nothing more, and whoever waits for them goes on.  Any thread. */
void ferry_senders_interrupt(FerrySenders *senders);

/* Pages were added to the backlog. */
void ferry_senders_kick(FerrySenders *senders);

/* Wait until all are dry, or @timeout_ms; true if they are.  Returns early when interrupted. */
bool ferry_senders_wait_dry(FerrySenders *senders, unsigned timeout_ms);

/* The same without a limit; false when interrupted. */
bool ferry_senders_drain(FerrySenders *senders);

/* Have each send fence @number, larger than any before it, when it has run dry. */
void ferry_senders_fence(FerrySenders *senders, uint64_t number);

/* Wait until they all have sent it; false when interrupted. */
bool ferry_senders_wait_fenced(FerrySenders *senders);

/*
 * Have them stop taking pages, and wait until none of them sends; what one has taken it sends at
 * once, whatever the rate.  False when interrupted.
 */
bool ferry_senders_freeze(FerrySenders *senders);
void ferry_senders_unfreeze(FerrySenders *senders);

/* Bytes a second of all together; 0: no limit.  Any thread. */
void ferry_senders_set_rate(FerrySenders *senders, uint64_t bytes_per_second);

/* Whether the rate has held them up since this was asked before.  Any thread. */
bool ferry_senders_held_up(FerrySenders *senders);

/* The sender that has @granule is to go on from there.  Any thread. */
void ferry_senders_hint(FerrySenders *senders, uint32_t region, uint64_t granule);

/* A frame as the session wants its frames. */
void ferry_senders_init_frame(const FerrySenders *senders, FerryPagesFrame *frame);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(FerrySenders, ferry_senders_free)

#endif
