/*
 * A sender: the thread that drains its share of the page sets into one data channel.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_SENDER_H
#define FERRY_SENDER_H

#include "../wire/channel.h"
#include "backlog.h"

/* Starts the thread.  @index is its share: granules whose number leaves this rest. */
FerrySender *ferry_sender_start(FerryCopy *copy, FerryChannel *channel, unsigned index);

/* Waits for the thread, which ends when copy->quit is set or something failed. */
void ferry_sender_join(FerrySender *sender);

#endif
