/*
 * The destination's side of a session: how it stands with it, how it ends, and who waits for that.  See
 * state.h.
 *
 * Threads: any; all of it is under the session's lock.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../wire/control.h"
#include "../error.h"
#include "state.h"

/* With the lock held: tell everybody, and the machine once. */
static void announce(FerryDestination *destination)
{
    bool tell = (destination->complete || destination->error) && !destination->told;

    destination->told |= tell;
    g_cond_broadcast(&destination->changed);
    if (tell && !destination->closing) {
        destination->ops.complete(destination->opaque);
    }
}

void ferry_destination_shut_down_locked(FerryDestination *destination)
{
    for (guint i = 0; i < destination->readers->len; i++) {
        ChannelReader *reader = g_ptr_array_index(destination->readers, i);

        ferry_channel_shutdown(reader->channel);
    }
}

/* The guest may be running here: the session waits for another connection. */
static void break_off(FerryDestination *destination, const GError *error)
{
    ChannelReader *control = NULL;
    bool news, complete;

    g_mutex_lock(&destination->lock);
    complete = destination->complete;
    news = !destination->closing && (!destination->broken || destination->resuming);
    destination->broken = true;
    destination->resuming = false;
    if (news && !g_error_matches(error, FERRY_ERROR, FERRY_ERROR_IO)) {
        control = destination->control;
    }
    /* Only the session's own channels: some that have just come may be the next connection's. */
    for (guint i = 0; news && i < destination->readers->len; i++) {
        ChannelReader *reader = g_ptr_array_index(destination->readers, i);

        if (reader->proved && reader != control) {
            ferry_channel_shutdown(reader->channel);
        }
    }
    g_cond_broadcast(&destination->changed);
    g_mutex_unlock(&destination->lock);
    if (control) {
        ferry_control_send_error(control->channel, error->message);
        ferry_channel_shutdown(control->channel);
    }
    /* With all pages in, the source closes them when it is content. */
    if (news && !complete) {
        destination->ops.broken(destination->opaque, error);
    }
}

/* Nothing is lost yet: the session fails, and the source is told why. */
static void give_up(FerryDestination *destination, const GError *error)
{
    FerryChannel *control = NULL;

    g_mutex_lock(&destination->lock);
    if (!destination->error && !destination->complete) {
        destination->error = g_error_copy(error);
        control = destination->control ? destination->control->channel : NULL;
    }
    g_mutex_unlock(&destination->lock);

    /* Only the first failure gets here with a channel; readers are freed last of all. */
    if (control) {
        ferry_control_send_error(control, error->message);
    }
    g_mutex_lock(&destination->lock);
    if (destination->error) {
        ferry_destination_shut_down_locked(destination);
        /* The thread that loads the device state may wait for a page; it must get to know. */
        if (destination->receiver.fetch) {
            ferry_fetch_release(destination->receiver.fetch);
        }
    }
    announce(destination);
    g_mutex_unlock(&destination->lock);
}

void ferry_destination_fail(FerryDestination *destination, GError *error)
{
    bool committed;

    g_mutex_lock(&destination->lock);
    committed = destination->committed;
    g_mutex_unlock(&destination->lock);
    if (committed) {
        break_off(destination, error);
    } else {
        give_up(destination, error);
    }
    g_error_free(error);
}

void ferry_destination_check_complete(FerryDestination *destination)
{
    if (destination->handed_off && !destination->left &&
        destination->reached >= destination->handed_off && !destination->complete &&
        !destination->error) {
        destination->complete = true;
        destination->complete_ns = ferry_now_ns();
    }
    announce(destination);
}

void ferry_destination_break(FerryDestination *destination)
{
    g_autoptr(GError) error =
        g_error_new_literal(FERRY_ERROR, FERRY_ERROR_IO, "the migration stream broke");

    break_off(destination, error);
}

bool ferry_destination_abandon(FerryDestination *destination, GError **errp)
{
    g_autoptr(GError) error =
        g_error_new_literal(FERRY_ERROR, FERRY_ERROR_CANCELLED, "abandoned, with pages missing");
    bool broken;

    g_mutex_lock(&destination->lock);
    broken =
        destination->left && destination->broken && !destination->complete && !destination->error;
    g_mutex_unlock(&destination->lock);
    if (!broken) {
        g_set_error_literal(errp, FERRY_ERROR, FERRY_ERROR_REFUSED,
                            "no broken connection is waited for");
        return false;
    }
    give_up(destination, error);
    return true;
}

static bool is_complete_locked(FerryDestination *destination, GError **errp)
{
    if (destination->error && errp) {
        *errp = g_error_copy(destination->error);
    }
    return destination->complete;
}

bool ferry_destination_is_complete(FerryDestination *destination, GError **errp)
{
    bool complete;

    g_mutex_lock(&destination->lock);
    complete = is_complete_locked(destination, errp);
    g_mutex_unlock(&destination->lock);
    return complete;
}

bool ferry_destination_wait_complete(FerryDestination *destination, GError **errp)
{
    bool complete;

    g_mutex_lock(&destination->lock);
    while (!destination->complete && !destination->error) {
        g_cond_wait(&destination->changed, &destination->lock);
    }
    complete = is_complete_locked(destination, errp);
    g_mutex_unlock(&destination->lock);
    return complete;
}

bool ferry_destination_wait_left(FerryDestination *destination, GError **errp)
{
    bool left;

    g_mutex_lock(&destination->lock);
    while (!destination->handed_off && !destination->error && !destination->closing) {
        g_cond_wait(&destination->changed, &destination->lock);
    }
    left = destination->left;
    if (!left) {
        if (destination->error) {
            g_propagate_error(errp, g_error_copy(destination->error));
        } else {
            g_set_error_literal(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL,
                                "the source did not say which pages are missing");
        }
    }
    g_mutex_unlock(&destination->lock);
    return left;
}

bool ferry_destination_is_left(FerryDestination *destination)
{
    bool left;

    g_mutex_lock(&destination->lock);
    left = destination->left;
    g_mutex_unlock(&destination->lock);
    return left;
}
