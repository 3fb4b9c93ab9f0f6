/*
 * Frames on the control channel, shared by both sides.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_CONTROL_H
#define FERRY_CONTROL_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "channel.h"
#include "frame.h"

/* Send a frame without extents: @type, @number in first_page, and a checksummed body or NULL. */
bool ferry_control_send(FerryChannel *channel, FerryFrameType type, uint64_t number,
                        const GByteArray *body, GError **errp);

/* The same, for a region's frame. */
bool ferry_control_send_for(FerryChannel *channel, FerryFrameType type, uint32_t region,
                            uint64_t number, const GByteArray *body, GError **errp);

/*
 * Send an ERROR frame as well as it goes; a failure to send it is of no interest.  Waits a quarter of a
 * second at most for others that write, or for room.
 */
void ferry_control_send_error(FerryChannel *channel, const char *text);

/*
 * Receive one frame and its whole body, checked.  A PAGES frame is a protocol error
 * here.
 * @body is the caller's to free; NULL when empty.
 */
bool ferry_control_receive(FerryChannel *channel, FerryFrame *frame, GByteArray **body,
                           GError **errp);

#endif
