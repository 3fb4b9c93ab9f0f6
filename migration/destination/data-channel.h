/*
 * The destination's side of a session: pages, on data and fetch channels.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_DESTINATION_DATA_CHANNEL_H
#define FERRY_DESTINATION_DATA_CHANNEL_H

#include "internal.h"

/* The thread of a data or fetch channel: reads it to its end, which is an error. */
bool ferry_destination_run_data(ChannelReader *reader, bool is_fetch, GError **errp);

/* The table of a FerryFetch's calls, with the destination as @opaque. */
extern const FerryFetchOps ferry_destination_fetch_ops;

#endif
