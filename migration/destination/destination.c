/*
 * The destination's side of a session: its life.  See destination.h and internal.h.
 *
 * Threads: whoever owns the session.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "../wire/control.h"
#include "../clock.h"
#include "../events.h"
#include "acceptor.h"
#include "state.h"

/* How long a destination that gives up waits for the source to take note of its reason. */
#define LAST_WORDS_US (G_USEC_PER_SEC / 2)

FerryDestination *ferry_destination_new(const FerryDestinationConfig *config,
                                        const FerryDestinationOps *ops, void *opaque)
{
    FerryDestination *destination = g_new0(FerryDestination, 1);

    destination->config = *config;
    destination->ops = *ops;
    destination->opaque = opaque;
    destination->receiver.scanner = ferry_scanner_new();
    destination->start_ns = ferry_now_ns();
    destination->limit = ferry_incoming_limit_new(config->bytes_per_second, config->shares);
    destination->readers = g_ptr_array_new();
    g_mutex_init(&destination->lock);
    g_cond_init(&destination->changed);
    return destination;
}

void ferry_destination_shutdown(FerryDestination *destination)
{
    g_mutex_lock(&destination->lock);
    ferry_destination_shut_down_locked(destination);
    g_mutex_unlock(&destination->lock);
}

bool ferry_destination_loaded(FerryDestination *destination, GError **errp)
{
    FerryChannel *control = NULL;
    bool ok;

    g_mutex_lock(&destination->lock);
    destination->loaded_ns = ferry_now_ns();
    if (destination->phase != FERRY_DESTINATION_FAILED &&
        ferry_destination_enter(destination, ferry_destination_has_left(destination)
                                                 ? FERRY_DESTINATION_FETCHING
                                                 : FERRY_DESTINATION_LOADED)) {
        control = destination->control->channel;
        /* Loading it may have needed the last page. */
        ferry_destination_check_complete(destination);
    }
    ok = destination->phase != FERRY_DESTINATION_FAILED;
    if (!ok) {
        g_propagate_error(errp, g_error_copy(destination->error));
    }
    g_mutex_unlock(&destination->lock);
    if (control) {
        ferry_event(loaded, "destination");
        ferry_control_send(control, FERRY_FRAME_LOADED, 0, NULL, NULL);
    }
    return ok;
}

char *ferry_destination_describe_missing(FerryDestination *destination)
{
    return ferry_fetch_describe(destination->receiver.fetch);
}

GArray *ferry_destination_waiting(FerryDestination *destination)
{
    return ferry_fetch_waiting(destination->receiver.fetch);
}

void ferry_destination_running(FerryDestination *destination)
{
    g_mutex_lock(&destination->lock);
    destination->running_ns = ferry_now_ns();
    g_mutex_unlock(&destination->lock);
}

void ferry_destination_free(FerryDestination *destination, const char *reason)
{
    gint64 deadline = ferry_now_us() + LAST_WORDS_US;
    ChannelReader *control = NULL;

    if (!destination) {
        return;
    }
    ferry_scanner_stop(destination->receiver.scanner);
    g_mutex_lock(&destination->lock);
    destination->closing = true;
    if (!destination->reported && destination->phase != FERRY_DESTINATION_FAILED && reason) {
        control = destination->control;
    }
    g_cond_broadcast(&destination->changed);
    g_mutex_unlock(&destination->lock);
    if (control) {
        ferry_control_send_error(control->channel, reason);
    }
    g_mutex_lock(&destination->lock);
    /* The source hangs up when it has read the reason; before that we would drown it. */
    while (control && !control->over &&
           ferry_cond_wait_until(&destination->changed, &destination->lock, deadline)) {
    }
    ferry_destination_shut_down_locked(destination);
    g_mutex_unlock(&destination->lock);

    for (guint i = 0; i < destination->readers->len; i++) {
        ChannelReader *reader = g_ptr_array_index(destination->readers, i);

        g_thread_join(reader->thread);
    }
    ferry_heartbeat_free(destination->heartbeat);
    ferry_incoming_limit_free(destination->limit);
    ferry_shares_leave(destination->config.shares);
    ferry_missing_clear(&destination->missing_reader);
    ferry_receiver_clear(&destination->receiver);
    for (guint i = 0; i < destination->readers->len; i++) {
        ferry_destination_free_reader(g_ptr_array_index(destination->readers, i));
    }
    g_ptr_array_unref(destination->readers);
    g_clear_error(&destination->error);
    g_mutex_clear(&destination->lock);
    g_cond_clear(&destination->changed);
    g_free(destination);
}
