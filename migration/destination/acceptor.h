/*
 * The destination's side of a session: connections that come in, and which of them belong to it.
 *
 * Most of it is in destination.h: ferry_destination_add_channel, ferry_destination_has_all_channels.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_DESTINATION_ACCEPTOR_H
#define FERRY_DESTINATION_ACCEPTOR_H

#include "internal.h"

/* Its thread has ended. */
void ferry_destination_free_reader(ChannelReader *reader);

#endif
