/*
 * Frames on the control channel: see control.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "control.h"

#include <string.h>

#include "crc32c.h"
#include "../clock.h"
#include "../error.h"
#include "../fault.h"

/* How often, and after how long each, to try to send the reason of a failure. */
#define ERROR_TRIES  50
#define ERROR_TRY_MS 5

bool ferry_control_send_for(FerryChannel *channel, FerryFrameType type, uint32_t region,
                            uint64_t number, const GByteArray *body, GError **errp)
{
    FerryFrame frame = {.type = (uint8_t)type, .region = (uint16_t)region, .first_page = number};
    uint8_t head[FERRY_FRAME_BYTES];
    struct iovec iov[2] = {{.iov_base = head, .iov_len = sizeof(head)}};
    int nr_iov = 1;

    if (ferry_fault_frame(SAY, type, errp)) {
        ferry_channel_shutdown(channel);
        return false;
    }
    if (body && body->len) {
        frame.flags = FERRY_FRAME_PAYLOAD_CRC;
        frame.payload_bytes = body->len;
        frame.payload_crc = ferry_crc32c(0, body->data, body->len);
        iov[nr_iov++] = (struct iovec){.iov_base = body->data, .iov_len = body->len};
    }
    ferry_frame_encode(&frame, head);
    return ferry_channel_writev_all(channel, iov, nr_iov, errp);
}

bool ferry_control_send(FerryChannel *channel, FerryFrameType type, uint64_t number,
                        const GByteArray *body, GError **errp)
{
    return ferry_control_send_for(channel, type, 0, number, body, errp);
}

void ferry_control_send_error(FerryChannel *channel, const char *text)
{
    const uint32_t nr_bytes = (uint32_t)MIN(strlen(text), FERRY_ERROR_TEXT_MAX);
    const FerryFrame frame = {
        .type = FERRY_FRAME_ERROR,
        .flags = nr_bytes ? FERRY_FRAME_PAYLOAD_CRC : 0,
        .payload_bytes = nr_bytes,
        .payload_crc = nr_bytes ? ferry_crc32c(0, text, nr_bytes) : 0,
    };
    uint8_t whole[FERRY_FRAME_BYTES + FERRY_ERROR_TEXT_MAX];
    bool written = false;

    if (ferry_fault(FERRY_FAULT_SAY_ERROR, NULL)) {
        return;
    }
    ferry_frame_encode(&frame, whole);
    memcpy(whole + FERRY_FRAME_BYTES, text, nr_bytes);
    for (int i = 0; i < ERROR_TRIES && !written; i++) {
        if (!ferry_channel_try_write_all(channel, whole, FERRY_FRAME_BYTES + nr_bytes, &written,
                                         NULL)) {
            return;
        }
        if (!written) {
            ferry_sleep_us(ERROR_TRY_MS * 1000);
        }
    }
}

bool ferry_control_receive(FerryChannel *channel, FerryFrame *frame, GByteArray **body,
                           GError **errp)
{
    uint8_t head[FERRY_FRAME_BYTES];
    g_autoptr(GByteArray) received = NULL;

    *body = NULL;
    if (!ferry_channel_read_all(channel, head, sizeof(head), errp) ||
        !ferry_frame_decode(head, frame, errp) || ferry_fault_frame(HEAR, frame->type, errp)) {
        return false;
    }
    if (frame->type == FERRY_FRAME_PAGES) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL,
                    "channel '%s': pages where a control frame belongs", channel->name);
        return false;
    }
    if (frame->payload_bytes == 0) {
        return true;
    }
    if (!(frame->flags & FERRY_FRAME_PAYLOAD_CRC)) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL,
                    "channel '%s': body of frame type %u without a checksum", channel->name,
                    frame->type);
        return false;
    }
    received = g_byte_array_new();
    g_byte_array_set_size(received, frame->payload_bytes);
    if (!ferry_channel_read_all(channel, received->data, received->len, errp)) {
        return false;
    }
    if (ferry_crc32c(0, received->data, received->len) != frame->payload_crc) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL,
                    "channel '%s': damaged body of frame type %u", channel->name, frame->type);
        return false;
    }
    *body = g_steal_pointer(&received);
    return true;
}
