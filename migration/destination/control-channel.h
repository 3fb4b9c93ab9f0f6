/*
 * The destination's side of a session: what comes on the control channel.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_DESTINATION_CONTROL_CHANNEL_H
#define FERRY_DESTINATION_CONTROL_CHANNEL_H

#include "internal.h"

/* The thread of the control channel: reads it to its end, which is an error. */
bool ferry_destination_run_control(ChannelReader *reader, GError **errp);

#endif
