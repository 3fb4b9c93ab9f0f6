/*
 * The destination's side of a session: pages, on data and fetch channels.  See destination.h.
 *
 * Threads: each channel's own.  What a FerryFetch calls comes from its fault threads, and from whatever
 * thread places a page.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../wire/control.h"
#include "../clock.h"
#include "../error.h"
#include "../events.h"
#include "../fault.h"
#include "data-channel.h"
#include "state.h"

/* Wait until pages may be written; false when that will not be. */
static bool wait_ready(ChannelReader *reader)
{
    FerryDestination *destination = reader->destination;
    bool ready;

    g_mutex_lock(&destination->lock);
    while ((destination->phase == FERRY_DESTINATION_OPENING ||
            ferry_destination_is_cut_off(destination)) &&
           !destination->closing && !reader->stale) {
        ferry_cond_wait(&destination->changed, &destination->lock);
    }
    ready =
        destination->phase != FERRY_DESTINATION_FAILED && !destination->closing && !reader->stale;
    g_mutex_unlock(&destination->lock);
    return ready;
}

/* A fence came on one channel: when it is the last one to bring it, tell the source. */
static bool take_fence(ChannelReader *reader, uint64_t number, GError **errp)
{
    FerryDestination *destination = reader->destination;
    FerryChannel *control = NULL;
    uint64_t reached = number;
    bool ok;

    g_mutex_lock(&destination->lock);
    ok = number > reader->fenced;
    if (ok) {
        reader->fenced = number;
        for (unsigned i = 0; i < destination->layout.nr_data; i++) {
            reached = MIN(reached, destination->data[i]->fenced);
        }
        if (reached > destination->reached) {
            destination->reached = reached;
            control = destination->control->channel;
            ferry_destination_check_complete(destination);
        }
    }
    g_mutex_unlock(&destination->lock);
    if (!ok) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL, "channel '%s': fence out of turn",
                    reader->channel->name);
        return false;
    }
    return !control || ferry_control_send(control, FERRY_FRAME_REACHED, reached, NULL, errp);
}

/* Until these pages may come. */
static bool wait_turn(ChannelReader *reader, const FerryFrame *frame, GError **errp)
{
    FerryIncomingLimit *limit = reader->destination->limit;

    if (!ferry_incoming_limit_take(limit, FERRY_FRAME_BYTES + frame->payload_bytes)) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_IO, "channel '%s': closed",
                    reader->channel->name);
        return false;
    }
    return true;
}

static bool take_frame(ChannelReader *reader, bool is_fetch, const FerryFrame *frame, GError **errp)
{
    FerryReceiver *receiver = &reader->destination->receiver;

    switch (frame->type) {
    case FERRY_FRAME_PAGES:
        if (is_fetch && !ferry_fetch_is_live(receiver->fetch)) {
            break;
        }
        if (!is_fetch && !wait_turn(reader, frame, errp)) {
            return false;
        }
        return ferry_receive_pages(receiver, reader->channel, frame, reader->unpacker, errp);
    case FERRY_FRAME_FENCE:
        if (is_fetch || ferry_fetch_is_live(receiver->fetch)) {
            break;
        }
        return take_fence(reader, frame->first_page, errp);
    case FERRY_FRAME_BEAT:
        return true;
    default:
        break;
    }
    g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL,
                "channel '%s': frame type %u does not belong here", reader->channel->name,
                frame->type);
    return false;
}

bool ferry_destination_run_data(ChannelReader *reader, bool is_fetch, GError **errp)
{
    if (!wait_ready(reader)) {
        return true;
    }
    for (;;) {
        uint8_t head[FERRY_FRAME_BYTES];
        FerryFrame frame;

        if (!ferry_channel_read_all(reader->channel, head, sizeof(head), errp) ||
            !ferry_frame_decode(head, &frame, errp) || ferry_fault_frame(HEAR, frame.type, errp) ||
            !take_frame(reader, is_fetch, &frame, errp)) {
            return false;
        }
    }
}

/* --- Pages that the guest waits for -------------------------------------------------------------- */

static void want(void *opaque, unsigned index, uint32_t region, uint64_t page)
{
    FerryDestination *destination = opaque;
    FerryFrame frame = {
        .type = FERRY_FRAME_FETCH,
        .region = (uint16_t)region,
        .first_page = page,
    };
    uint8_t head[FERRY_FRAME_BYTES];
    FerryChannel *channel = NULL;

    g_mutex_lock(&destination->lock);
    /* While the connection is broken there is nobody to ask; what is wanted is remembered. */
    if (ferry_destination_is_connected(destination)) {
        channel = destination->fetch[index % destination->layout.nr_fetch]->channel;
    }
    g_mutex_unlock(&destination->lock);
    if (channel) {
        ferry_event(fault_asked, region, page);
        ferry_frame_encode(&frame, head);
        if (ferry_fault(FERRY_FAULT_SAY_FETCH, NULL)) {
            ferry_channel_shutdown(channel);
        }
        /* A channel that broke shows where it is read. */
        ferry_channel_write_all(channel, head, sizeof(head), NULL);
    }
}

static void fetched_all(void *opaque)
{
    FerryDestination *destination = opaque;

    g_mutex_lock(&destination->lock);
    destination->complete_ns = ferry_now_ns();
    ferry_event(complete, "destination");
    ferry_destination_check_complete(destination);
    g_mutex_unlock(&destination->lock);
    ferry_destination_tell(destination, FERRY_FRAME_COMPLETE, NULL);
}

static void fetch_failed(void *opaque, GError *error)
{
    FerryDestination *destination = opaque;

    destination->ops.damaged(destination->opaque, error);
    ferry_destination_fail(destination, error);
}

static void fetch_starved(void *opaque, GError *error)
{
    ferry_destination_fail(opaque, error);
}

const FerryFetchOps ferry_destination_fetch_ops = {
    .want = want,
    .complete = fetched_all,
    .failed = fetch_failed,
    .starved = fetch_starved,
};
