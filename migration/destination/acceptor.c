/*
 * The destination's side of a session: connections that come in, and which of them belong to it.  See
 * acceptor.h.
 *
 * Threads: whoever owns the session adds connections; each has a thread of its own, which lets the
 * source's say hello and then reads what they are for, and turns all others away.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <string.h>

#include "../wire/control.h"
#include "../clock.h"
#include "../error.h"
#include "../events.h"
#include "../fault.h"
#include "../thread.h"
#include "acceptor.h"
#include "control-channel.h"
#include "data-channel.h"
#include "state.h"

/*
 * How long channels of a new connection wait for its control channel, which is opened first, and for what is
 * left of the connection before: as long as the source waits for the answer to RESUME.
 */
#define ORDER_US (10 * G_USEC_PER_SEC)

/* Where a channel with this hello belongs. */
static ChannelReader **place_of(FerryDestination *destination, const FerryHello *hello)
{
    switch (hello->role) {
    case FERRY_ROLE_CONTROL:
        return &destination->control;
    case FERRY_ROLE_DATA:
        return &destination->data[hello->index];
    default:
        return &destination->fetch[hello->index];
    }
}

/* Whether any channel of the old connection is still being read.  With the lock held. */
static bool is_any_stale_alive(FerryDestination *destination)
{
    for (guint i = 0; i < destination->readers->len; i++) {
        const ChannelReader *reader = g_ptr_array_index(destination->readers, i);

        if (reader->stale && !reader->over) {
            return true;
        }
    }
    return false;
}

/* Whether a channel of another connection than the one in use belongs to the next one. */
static bool is_next(const FerryDestination *destination, const FerryHello *hello)
{
    return destination->resuming && destination->attempt == hello->attempt;
}

/* The connection is broken, and a channel of a new one has come.  With the lock held. */
static void make_way(FerryDestination *destination, const FerryHello *hello)
{
    gint64 deadline = ferry_now_us() + ORDER_US;

    while (hello->role != FERRY_ROLE_CONTROL && ferry_destination_is_cut_off(destination) &&
           !is_next(destination, hello) && !destination->closing &&
           ferry_cond_wait_until(&destination->changed, &destination->lock, deadline)) {
    }
    if (hello->role != FERRY_ROLE_CONTROL) {
        return;
    }
    destination->attempt = hello->attempt;
    destination->resuming = false;
    for (guint i = 0; i < destination->readers->len; i++) {
        ChannelReader *reader = g_ptr_array_index(destination->readers, i);

        if (reader->proved) {
            reader->stale = true;
            ferry_channel_shutdown(reader->channel);
        }
    }
    g_cond_broadcast(&destination->changed);
    destination->control = NULL;
    memset(destination->data, 0, sizeof(destination->data));
    memset(destination->fetch, 0, sizeof(destination->fetch));
    destination->nr_data = destination->nr_fetch = 0;
    /* What they have read, they still place. */
    while (is_any_stale_alive(destination) && !destination->closing) {
        ferry_cond_wait(&destination->changed, &destination->lock);
    }
    destination->resuming = ferry_destination_is_cut_off(destination);
    g_cond_broadcast(&destination->changed);
}

static bool has_room(const FerryDestination *destination, const FerryHello *hello)
{
    const FerryLayout *layout = &destination->layout;
    /* How many there will be, the source has not said, or will say again. */
    bool is_open = layout->nr_data == 0 || ferry_destination_is_cut_off(destination);

    if (hello->attempt != destination->attempt) {
        return false;
    }
    switch (hello->role) {
    case FERRY_ROLE_CONTROL:
        return true;
    case FERRY_ROLE_DATA:
        return is_open || hello->index < layout->nr_data;
    default:
        return is_open || hello->index < layout->nr_fetch;
    }
}

static void settle(ChannelReader *reader, const FerryHello *hello)
{
    FerryDestination *destination = reader->destination;
    char *name = reader->channel->name;

    *place_of(destination, hello) = reader;
    reader->proved = true;
    /* Only now: a stranger is to cost no memory. */
    reader->unpacker = ferry_unpacker_new();
    switch (hello->role) {
    case FERRY_ROLE_CONTROL:
        g_strlcpy(name, "control", sizeof(reader->channel->name));
        break;
    case FERRY_ROLE_DATA:
        destination->nr_data++;
        g_snprintf(name, sizeof(reader->channel->name), "data %u", hello->index);
        break;
    default:
        destination->nr_fetch++;
        g_snprintf(name, sizeof(reader->channel->name), "fetch %u", hello->index);
        break;
    }
    ferry_event(channel_proved, name);
    g_cond_broadcast(&destination->changed);
}

/* Find out what the channel is for.  Nothing it says before that counts for anything. */
static bool admit(ChannelReader *reader, FerryRole *role, GError **errp)
{
    FerryDestination *destination = reader->destination;
    g_autoptr(GByteArray) body = NULL;
    FerryFrame frame;
    FerryHello hello = {0};
    bool ok;

    if (!ferry_control_receive(reader->channel, &frame, &body, errp)) {
        return false;
    }
    if (frame.type != FERRY_FRAME_HELLO) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL, "frame type %u instead of a hello",
                    frame.type);
        return false;
    }
    if (!ferry_hello_decode(body ? body->data : NULL, body ? body->len : 0, &hello, errp)) {
        return false;
    }
    if (hello.session != destination->config.session) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL, "it belongs to another session");
        return false;
    }
    *role = hello.role;

    g_mutex_lock(&destination->lock);
    if (ferry_destination_is_cut_off(destination)) {
        make_way(destination, &hello);
    }
    ok = *place_of(destination, &hello) == NULL && !destination->closing &&
         destination->phase != FERRY_DESTINATION_FAILED && !reader->dropped &&
         has_room(destination, &hello);
    if (ok) {
        settle(reader, &hello);
    }
    g_mutex_unlock(&destination->lock);
    if (!ok) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL,
                    "the session has no room for a channel with role %u, index %u", hello.role,
                    hello.index);
    }
    return ok;
}

/* A channel of the session's, to its end. */
static void run(ChannelReader *reader, FerryRole role)
{
    FerryDestination *destination = reader->destination;
    GError *error = NULL;
    bool stale, ok = role == FERRY_ROLE_CONTROL
                         ? ferry_destination_run_control(reader, &error)
                         : ferry_destination_run_data(reader, role == FERRY_ROLE_FETCH, &error);

    if (ok) {
        return;
    }
    g_mutex_lock(&destination->lock);
    stale = reader->stale;
    if (!destination->closing) {
        ferry_event(channel_lost, "destination", error->message);
    }
    g_mutex_unlock(&destination->lock);
    if (stale) {
        g_error_free(error);
    } else {
        ferry_destination_fail(destination, error);
    }
}

static gpointer reader_run(gpointer opaque)
{
    ChannelReader *reader = opaque;
    FerryDestination *destination = reader->destination;
    FerryRole role = FERRY_ROLE_INVALID;
    GError *error = NULL;
    bool closing;

    if (admit(reader, &role, &error)) {
        run(reader, role);
    } else {
        g_mutex_lock(&destination->lock);
        closing = destination->closing;
        g_mutex_unlock(&destination->lock);
        if (!closing) {
            g_autofree char *message = g_strdup_printf(
                "a connection that is not the source's was closed: %s", error->message);

            ferry_event(channel_refused, reader->channel->name, error->message);
            destination->ops.warn(destination->opaque, message);
        }
        g_error_free(error);
        ferry_channel_shutdown(reader->channel);
    }
    g_mutex_lock(&destination->lock);
    reader->over = true;
    g_cond_broadcast(&destination->changed);
    g_mutex_unlock(&destination->lock);
    return NULL;
}

void ferry_destination_free_reader(ChannelReader *reader)
{
    ferry_unpacker_free(reader->unpacker);
    ferry_channel_free(reader->channel);
    g_free(reader);
}

/* Free strangers that are gone.  With the lock held; the threads are past using it. */
static void reap_strangers(FerryDestination *destination)
{
    for (guint i = destination->readers->len; i-- > 0;) {
        ChannelReader *reader = g_ptr_array_index(destination->readers, i);

        if (reader->over && !reader->proved) {
            g_ptr_array_remove_index(destination->readers, i);
            g_thread_join(reader->thread);
            ferry_destination_free_reader(reader);
        }
    }
}

/*
 * Close the oldest stranger if there are too many.  The source says hello as soon as it is
 * connected, so whoever has been silent for longest is not the source.  With the lock held.
 */
static void make_room(FerryDestination *destination)
{
    unsigned nr_strangers = 0;
    ChannelReader *oldest = NULL;

    for (guint i = 0; i < destination->readers->len; i++) {
        ChannelReader *reader = g_ptr_array_index(destination->readers, i);

        if (!reader->proved && !reader->dropped) {
            oldest = oldest ? oldest : reader;
            nr_strangers++;
        }
    }
    if (nr_strangers >= FERRY_STRANGERS_MAX) {
        oldest->dropped = true;
        ferry_channel_shutdown(oldest->channel);
    }
}

void ferry_destination_add_channel(FerryDestination *destination, FerryChannel *channel)
{
    g_autoptr(GError) error = NULL;
    ChannelReader *unread = NULL;
    bool refused;

    g_mutex_lock(&destination->lock);
    reap_strangers(destination);
    make_room(destination);
    refused = destination->closing;
    ferry_event(channel_opened, "destination", channel->name);
    if (!refused) {
        ChannelReader *reader = g_new0(ChannelReader, 1);

        reader->destination = destination;
        reader->channel = channel;
        if (!ferry_fault(FERRY_FAULT_THREAD_RECEIVER, &error)) {
            reader->thread = ferry_thread_new("ferry-receive", reader_run, reader, &error);
        }
        if (reader->thread) {
            g_ptr_array_add(destination->readers, reader);
        } else {
            unread = reader;
        }
    }
    g_mutex_unlock(&destination->lock);
    if (unread) {
        g_autofree char *message = g_strdup_printf("a connection was closed: %s", error->message);

        /* Whoever sees that it is closed finds the reason in the log. */
        destination->ops.warn(destination->opaque, message);
        ferry_channel_shutdown(channel);
        ferry_destination_free_reader(unread);
    }
    if (refused) {
        ferry_channel_shutdown(channel);
        ferry_channel_free(channel);
    }
}

bool ferry_destination_is_met(FerryDestination *destination)
{
    bool met;

    g_mutex_lock(&destination->lock);
    met = destination->control && !destination->error &&
          (destination->settling || destination->phase != FERRY_DESTINATION_OPENING);
    g_mutex_unlock(&destination->lock);
    return met;
}

bool ferry_destination_has_all_channels(FerryDestination *destination)
{
    bool all;

    g_mutex_lock(&destination->lock);
    all = destination->layout.nr_data && !ferry_destination_is_cut_off(destination) &&
          destination->nr_data == destination->layout.nr_data &&
          destination->nr_fetch == destination->layout.nr_fetch;
    g_mutex_unlock(&destination->lock);
    return all;
}
