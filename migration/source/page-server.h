/*
 * Page servers: each answers the destination's requests for pages, on the channel they came on.
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
#ifndef FERRY_PAGE_SERVER_H
#define FERRY_PAGE_SERVER_H

#include <glib.h>
#include <stdatomic.h>
#include <stdint.h>

#include "../wire/channel.h"
#include "backlog.h"
#include "senders.h"

typedef struct FerryPageServer FerryPageServer;

typedef struct FerryPageServerConfig {
    FerryBacklog *backlog; /* it and the next two outlive the server */
    FerrySenders *senders;
    FerryChannel *channel;
    /* The channel failed, as it does when it is shut down; takes over @error.  From its thread. */
    void (*failed)(void *opaque, GError *error);
    void *opaque;
    _Atomic uint64_t *nr_requests; /* counts what is asked for */
} FerryPageServerConfig;

/* Starts the thread of server @index; if there is none to be had, config.failed is told. */
FerryPageServer *ferry_page_server_start(const FerryPageServerConfig *config, unsigned index);

/* Waits for the thread, which ends when its channel is shut down. */
void ferry_page_server_join(FerryPageServer *server);

#endif
