/*
 * Serving: answers the destination's requests for pages, on the channel they came on.
 *
 * An answer is the page that was asked for, at once and alone; then those next to it that are still
 * to be sent.  The sender that has the page's granule goes on from there.  A page that has been sent
 * already is sent once more: it may be stuck behind others on a slow channel, and two copies of it
 * are alike.
 *
 * Threads: one for each fetch channel.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_SERVE_H
#define FERRY_SERVE_H

#include <glib.h>
#include <stdatomic.h>
#include <stdint.h>

#include "../wire/channel.h"
#include "backlog.h"

typedef struct FerryServer FerryServer;

/* Starts the thread; @copy and @channel outlive it.  It counts what it is asked for. */
FerryServer *ferry_server_start(FerryCopy *copy, FerryChannel *channel, unsigned index,
                                _Atomic uint64_t *nr_requests);

/* Waits for the thread, which ends when its channel is shut down. */
void ferry_server_join(FerryServer *server);

#endif
