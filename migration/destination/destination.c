/*
 * The destination's side of a session: its life, its channels, reports.  See destination.h and
 * destination-internal.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

#include "../wire/control.h"
#include "../error.h"
#include "internal.h"

/* How long channels of a new connection wait for its control channel, which is opened first. */
#define ORDER_US (2 * G_USEC_PER_SEC)

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
    destination->readers = g_ptr_array_new();
    g_mutex_init(&destination->lock);
    g_cond_init(&destination->changed);
    return destination;
}

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

static void shut_all_down_locked(FerryDestination *destination)
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
        shut_all_down_locked(destination);
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

/* --- Every channel -------------------------------------------------------------------------- */

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
    gint64 deadline = g_get_monotonic_time() + ORDER_US;

    while (hello->role != FERRY_ROLE_CONTROL && destination->broken &&
           !is_next(destination, hello) && !destination->closing &&
           g_cond_wait_until(&destination->changed, &destination->lock, deadline)) {
    }
    if (hello->role != FERRY_ROLE_CONTROL) {
        return;
    }
    destination->attempt = hello->attempt;
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
        g_cond_wait(&destination->changed, &destination->lock);
    }
    destination->resuming = true;
    g_cond_broadcast(&destination->changed);
}

static bool has_room(const FerryDestination *destination, const FerryHello *hello)
{
    const FerryLayout *layout = &destination->layout;

    if (hello->attempt != destination->attempt) {
        return false;
    }
    switch (hello->role) {
    case FERRY_ROLE_CONTROL:
        return true;
    case FERRY_ROLE_DATA:
        return layout->nr_data == 0 || destination->broken || hello->index < layout->nr_data;
    default:
        return layout->nr_data == 0 || destination->broken || hello->index < layout->nr_fetch;
    }
}

static void settle(ChannelReader *reader, const FerryHello *hello)
{
    FerryDestination *destination = reader->destination;
    char *name = reader->channel->name;

    *place_of(destination, hello) = reader;
    reader->proved = true;
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
    if (destination->broken) {
        make_way(destination, &hello);
    }
    ok = *place_of(destination, &hello) == NULL && !destination->closing && !destination->error &&
         !reader->dropped && has_room(destination, &hello);
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
    g_mutex_unlock(&destination->lock);
    if (stale) {
        g_error_free(error);
    } else {
        ferry_destination_fail(destination, error);
    }
}

static gpointer link_run(gpointer opaque)
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

/* Its thread has ended. */
static void link_free(ChannelReader *reader)
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
            link_free(reader);
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
    bool refused;

    g_mutex_lock(&destination->lock);
    reap_strangers(destination);
    make_room(destination);
    refused = destination->closing;
    if (!refused) {
        ChannelReader *reader = g_new0(ChannelReader, 1);

        reader->destination = destination;
        reader->channel = channel;
        reader->unpacker = ferry_unpacker_new();
        g_ptr_array_add(destination->readers, reader);
        reader->thread = g_thread_new("ferry-receive", link_run, reader);
    }
    g_mutex_unlock(&destination->lock);
    if (refused) {
        ferry_channel_shutdown(channel);
        ferry_channel_free(channel);
    }
}

void ferry_destination_shutdown(FerryDestination *destination)
{
    g_mutex_lock(&destination->lock);
    shut_all_down_locked(destination);
    g_mutex_unlock(&destination->lock);
}

bool ferry_destination_has_all_channels(FerryDestination *destination)
{
    bool all;

    g_mutex_lock(&destination->lock);
    all = destination->layout.nr_data && !destination->broken &&
          destination->nr_data == destination->layout.nr_data &&
          destination->nr_fetch == destination->layout.nr_fetch;
    g_mutex_unlock(&destination->lock);
    return all;
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

bool ferry_destination_loaded(FerryDestination *destination, GError **errp)
{
    FerryChannel *control = NULL;
    bool ok;

    g_mutex_lock(&destination->lock);
    destination->loaded_ns = ferry_now_ns();
    if (destination->left && !destination->error && !destination->committed) {
        destination->committed = true;
        control = destination->control->channel;
    }
    ok = !destination->error;
    if (!ok) {
        g_propagate_error(errp, g_error_copy(destination->error));
    }
    g_mutex_unlock(&destination->lock);
    if (control) {
        ferry_control_send(control, FERRY_FRAME_LOADED, 0, NULL, NULL);
    }
    return ok;
}

bool ferry_destination_is_left(FerryDestination *destination)
{
    bool left;

    g_mutex_lock(&destination->lock);
    left = destination->left;
    g_mutex_unlock(&destination->lock);
    return left;
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

char *ferry_destination_describe_missing(FerryDestination *destination)
{
    return ferry_fetch_describe(destination->receiver.fetch);
}

void ferry_destination_running(FerryDestination *destination)
{
    g_mutex_lock(&destination->lock);
    destination->running_ns = ferry_now_ns();
    g_mutex_unlock(&destination->lock);
}

/* Nanoseconds from the notice that the vCPUs stopped to @when_ns; 0 if either did not happen. */
static uint64_t since_stop(const FerryDestination *destination, uint64_t when_ns)
{
    return destination->stopped_ns && when_ns > destination->stopped_ns
               ? when_ns - destination->stopped_ns
               : 0;
}

static FerryReport make_report(const FerryDestination *destination)
{
    return (FerryReport){
        .memory_ns = since_stop(destination, destination->complete_ns),
        .loaded_ns = since_stop(destination, destination->loaded_ns),
        .running_ns = since_stop(destination, destination->running_ns),
    };
}

void ferry_destination_send_report(FerryDestination *destination)
{
    g_autoptr(GByteArray) body = NULL;
    FerryReport report;
    bool send;

    g_mutex_lock(&destination->lock);
    send = destination->complete && !destination->reported;
    destination->reported |= send;
    report = make_report(destination);
    g_mutex_unlock(&destination->lock);
    if (send) {
        body = ferry_report_encode(&report);
        /* The guest runs here now: a source that cannot be told is no reason to stop it. */
        ferry_control_send(destination->control->channel, FERRY_FRAME_REPORT, 0, body, NULL);
    }
}

void ferry_destination_free(FerryDestination *destination, const char *reason)
{
    gint64 deadline = g_get_monotonic_time() + LAST_WORDS_US;
    ChannelReader *control = NULL;

    if (!destination) {
        return;
    }
    g_mutex_lock(&destination->lock);
    destination->closing = true;
    if (!destination->reported && !destination->error && reason) {
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
           g_cond_wait_until(&destination->changed, &destination->lock, deadline)) {
    }
    shut_all_down_locked(destination);
    g_mutex_unlock(&destination->lock);

    for (guint i = 0; i < destination->readers->len; i++) {
        ChannelReader *reader = g_ptr_array_index(destination->readers, i);

        g_thread_join(reader->thread);
    }
    ferry_heartbeat_free(destination->heartbeat);
    ferry_missing_clear(&destination->missing_reader);
    ferry_receiver_clear(&destination->receiver);
    for (guint i = 0; i < destination->readers->len; i++) {
        link_free(g_ptr_array_index(destination->readers, i));
    }
    g_ptr_array_unref(destination->readers);
    g_clear_error(&destination->error);
    g_mutex_clear(&destination->lock);
    g_cond_clear(&destination->changed);
    g_free(destination);
}

void ferry_destination_query(FerryDestination *destination, FerryStats *stats)
{
    uint64_t elapsed_ns = ferry_now_ns() - destination->start_ns;

    *stats = (FerryStats){
        .normal_pages = atomic_load(&destination->receiver.normal_pages),
        .zero_pages = atomic_load(&destination->receiver.zero_pages),
        .elapsed_ns = elapsed_ns,
        .channels = g_array_new(FALSE, FALSE, sizeof(FerryChannelStats)),
        .rounds = g_array_new(FALSE, FALSE, sizeof(FerryRoundStats)),
    };
    g_mutex_lock(&destination->lock);
    stats->total_bytes = ferry_regions_total_bytes(&destination->receiver.regions);
    stats->phase = destination->error        ? FERRY_SESSION_FAILED
                   : destination->complete   ? FERRY_SESSION_DONE
                   : destination->broken     ? FERRY_SESSION_PAUSED
                   : destination->left       ? FERRY_SESSION_FETCH
                   : destination->stopped_ns ? FERRY_SESSION_HAND_OFF
                   : destination->ready      ? FERRY_SESSION_COPY
                                             : FERRY_SESSION_CONNECT;
    stats->has_report = destination->complete;
    stats->report = make_report(destination);
    stats->has_fetch = destination->left;
    if (destination->left) {
        stats->vcpu_blocked_ms = g_array_new(FALSE, FALSE, sizeof(uint64_t));
        ferry_fetch_query(destination->receiver.fetch, &stats->fetch, stats->vcpu_blocked_ms);
        stats->fetch.nr_recoveries = destination->nr_recoveries;
        stats->remaining_bytes = stats->fetch.missing_pages * FERRY_PAGE_BYTES;
    }
    for (guint i = 0; i < destination->readers->len; i++) {
        const ChannelReader *reader = g_ptr_array_index(destination->readers, i);
        FerryChannelStats channel = {.bytes = reader->channel->received_bytes};

        if (reader->proved && !reader->stale) {
            g_strlcpy(channel.name, reader->channel->name, sizeof(channel.name));
            channel.bytes_per_second =
                elapsed_ns ? (uint64_t)((double)channel.bytes * 1e9 / (double)elapsed_ns) : 0;
            stats->sent_bytes += channel.bytes;
            g_array_append_val(stats->channels, channel);
        }
    }
    g_mutex_unlock(&destination->lock);
}
