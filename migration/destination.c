/*
 * The destination's side of a session: see destination.h.
 *
 * Threads: one per channel (Link); what several of them touch is under `lock`.  Guest memory is
 * written by the data channels' threads without a lock: a granule always comes on the same channel,
 * so no two threads ever write the same page.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "destination.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

#include "control.h"
#include "error.h"
#include "receiver.h"

/* How long a destination that gives up waits for the source to take note of its reason. */
#define LAST_WORDS_US (G_USEC_PER_SEC / 2)

typedef struct Link {
    FerryDestination *destination;
    FerryChannel *channel;
    GThread *thread;
    bool proved;     /* its hello was good */
    bool dropped;    /* closed to make room, before it had proved itself */
    bool over;       /* its thread has ended, or is about to */
    uint64_t fenced; /* number of the last fence that came on it */
} Link;

struct FerryDestination {
    uint64_t session;
    FerryDestinationOps ops;
    void *opaque;
    FerryReceiver receiver; /* its regions do not change once ready */
    uint64_t start_ns;

    GMutex say_lock; /* held while a frame is sent on the control channel */

    GMutex lock; /* for all that follows */
    GCond changed;
    GPtrArray *links; /* of Link; they stay until the end */
    Link *control;
    Link *data[FERRY_DATA_CHANNELS_MAX];
    unsigned nr_data;     /* how many data links are in */
    unsigned nr_channels; /* how many there will be; 0 until the regions came */
    bool ready;           /* regions fit and memory is empty: pages may be written */
    bool closing;

    uint64_t reached;     /* the newest fence that has come on all data channels */
    uint64_t handed_over; /* number of the fence that ends it, or 0 */
    bool complete;
    bool told; /* ops.complete was called */
    bool reported;
    GError *error;

    uint64_t stopped_ns, complete_ns, loaded_ns, running_ns;
};

FerryDestination *ferry_destination_new(uint64_t session, const FerryDestinationOps *ops,
                                        void *opaque)
{
    FerryDestination *destination = g_new0(FerryDestination, 1);

    destination->session = session;
    destination->ops = *ops;
    destination->opaque = opaque;
    destination->receiver.scanner = ferry_scanner_new();
    destination->start_ns = ferry_now_ns();
    destination->links = g_ptr_array_new();
    g_mutex_init(&destination->say_lock);
    g_mutex_init(&destination->lock);
    g_cond_init(&destination->changed);
    return destination;
}

/*
 * Send the source a frame.  Several threads have things to say, so they take turns; nothing but
 * that waits for `say_lock`.
 */
static bool say(FerryDestination *destination, FerryChannel *control, FerryFrameType type,
                uint64_t number, const GByteArray *body, GError **errp)
{
    bool said;

    g_mutex_lock(&destination->say_lock);
    said = ferry_control_send(control, type, number, body, errp);
    g_mutex_unlock(&destination->say_lock);
    return said;
}

static void say_error(FerryDestination *destination, FerryChannel *control, const char *text)
{
    g_mutex_lock(&destination->say_lock);
    ferry_control_send_error(control, text);
    g_mutex_unlock(&destination->say_lock);
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
    for (guint i = 0; i < destination->links->len; i++) {
        Link *link = g_ptr_array_index(destination->links, i);

        ferry_channel_shutdown(link->channel);
    }
}

/* End the session with @error (taken over), and tell the source why. */
static void fail(FerryDestination *destination, GError *error)
{
    FerryChannel *control = NULL;

    g_mutex_lock(&destination->lock);
    if (!destination->error && !destination->complete) {
        destination->error = g_error_copy(error);
        control = destination->control ? destination->control->channel : NULL;
    }
    g_mutex_unlock(&destination->lock);

    /* Only the first failure gets here with a channel; links are freed last of all. */
    if (control) {
        say_error(destination, control, error->message);
    }
    g_error_free(error);

    g_mutex_lock(&destination->lock);
    if (destination->error) {
        shut_all_down_locked(destination);
    }
    announce(destination);
    g_mutex_unlock(&destination->lock);
}

/* With the lock held. */
static void check_complete(FerryDestination *destination)
{
    if (destination->handed_over && destination->reached >= destination->handed_over &&
        !destination->complete && !destination->error) {
        destination->complete = true;
        destination->complete_ns = ferry_now_ns();
        announce(destination);
    }
}

/* --- Data channels -------------------------------------------------------------------------- */

/* Wait until pages may be written; false when that will not be. */
static bool wait_ready(FerryDestination *destination)
{
    bool ready;

    g_mutex_lock(&destination->lock);
    while (!destination->ready && !destination->error && !destination->closing) {
        g_cond_wait(&destination->changed, &destination->lock);
    }
    ready = destination->ready && !destination->error && !destination->closing;
    g_mutex_unlock(&destination->lock);
    return ready;
}

/* A fence came on one channel: when it is the last one to bring it, tell the source. */
static bool take_fence(Link *link, uint64_t number, GError **errp)
{
    FerryDestination *destination = link->destination;
    FerryChannel *control = NULL;
    uint64_t reached = number;
    bool fine;

    g_mutex_lock(&destination->lock);
    fine = number > link->fenced;
    if (fine) {
        link->fenced = number;
        for (unsigned i = 0; i < destination->nr_channels; i++) {
            reached = MIN(reached, destination->data[i]->fenced);
        }
        if (reached > destination->reached) {
            destination->reached = reached;
            control = destination->control->channel;
            check_complete(destination);
        }
    }
    g_mutex_unlock(&destination->lock);
    if (!fine) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL, "channel '%s': fence out of turn",
                    link->channel->name);
        return false;
    }
    return !control || say(destination, control, FERRY_FRAME_REACHED, reached, NULL, errp);
}

static bool run_data(Link *link, GError **errp)
{
    FerryDestination *destination = link->destination;

    if (!wait_ready(destination)) {
        return true;
    }
    for (;;) {
        uint8_t head[FERRY_FRAME_BYTES];
        FerryFrame frame;

        if (!ferry_channel_read_all(link->channel, head, sizeof(head), errp) ||
            !ferry_frame_decode(head, &frame, errp)) {
            return false;
        }
        switch (frame.type) {
        case FERRY_FRAME_PAGES:
            if (!ferry_receive_pages(&destination->receiver, link->channel, &frame, errp)) {
                return false;
            }
            break;
        case FERRY_FRAME_FENCE:
            if (!take_fence(link, frame.first_page, errp)) {
                return false;
            }
            break;
        default:
            g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL,
                        "channel '%s': frame type %u on a data channel", link->channel->name,
                        frame.type);
            return false;
        }
    }
}

/* --- Control channel ------------------------------------------------------------------------ */

/* Make all of @regions read as zero: from here on, what the source does not send is zero. */
static bool empty_memory(FerryDestination *destination, const FerryRegions *regions, GError **errp)
{
    for (size_t i = 0; i < regions->nr; i++) {
        FerryScanTarget target = ferry_region_scan_target(&regions->list[i]);

        if (!ferry_scan_discard_populated(destination->receiver.scanner, &target, 0,
                                          regions->list[i].length_bytes, errp)) {
            g_prefix_error(errp, "RAM block '%s': ", regions->list[i].id);
            return false;
        }
    }
    return true;
}

static bool take_regions(Link *link, const GByteArray *body, GError **errp)
{
    FerryDestination *destination = link->destination;
    FerryRegions remote = {0}, local = {0};
    unsigned nr_channels = 0;
    bool fine;

    if (destination->nr_channels) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL, "a second list of RAM blocks");
        return false;
    }
    if (!ferry_regions_decode(body ? body->data : NULL, body ? body->len : 0, &remote, &nr_channels,
                              errp)) {
        return false;
    }
    fine = destination->ops.list_regions(destination->opaque, &remote, &local, errp) &&
           ferry_regions_match(&local, &remote, errp) && empty_memory(destination, &local, errp);
    ferry_regions_clear(&remote);
    if (!fine) {
        ferry_regions_clear(&local);
        return false;
    }

    g_mutex_lock(&destination->lock);
    destination->receiver.regions = local;
    destination->nr_channels = nr_channels;
    while (destination->nr_data < nr_channels && !destination->error && !destination->closing) {
        g_cond_wait(&destination->changed, &destination->lock);
    }
    destination->ready = true;
    g_cond_broadcast(&destination->changed);
    g_mutex_unlock(&destination->lock);
    return say(destination, link->channel, FERRY_FRAME_READY, 0, NULL, errp);
}

static bool take_handoff(FerryDestination *destination, const FerryFrame *frame, GError **errp)
{
    bool fine;

    g_mutex_lock(&destination->lock);
    fine = destination->ready && frame->first_page != 0 && frame->payload_bytes == 0;
    if (fine) {
        destination->handed_over = frame->first_page;
        check_complete(destination);
    }
    g_mutex_unlock(&destination->lock);
    if (!fine) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL, "hand-off out of turn");
    }
    return fine;
}

static bool run_control(Link *link, GError **errp)
{
    FerryDestination *destination = link->destination;

    for (;;) {
        g_autoptr(GByteArray) body = NULL;
        g_autofree char *text = NULL;
        FerryFrame frame;

        if (!ferry_control_receive(link->channel, &frame, &body, errp)) {
            return false;
        }
        switch (frame.type) {
        case FERRY_FRAME_REGIONS:
            if (!take_regions(link, body, errp)) {
                return false;
            }
            break;
        case FERRY_FRAME_STOPPED:
            g_mutex_lock(&destination->lock);
            destination->stopped_ns = ferry_now_ns();
            g_mutex_unlock(&destination->lock);
            break;
        case FERRY_FRAME_HANDOFF:
            if (!take_handoff(destination, &frame, errp)) {
                return false;
            }
            break;
        case FERRY_FRAME_ERROR:
            text = ferry_error_text_decode(body ? body->data : NULL, body ? body->len : 0);
            g_set_error(errp, FERRY_ERROR, FERRY_ERROR_REFUSED, "the source says: %s", text);
            return false;
        default:
            g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL,
                        "the source sent frame type %u on the control channel", frame.type);
            return false;
        }
    }
}

/* --- Every channel -------------------------------------------------------------------------- */

/* Find out what the channel is for.  Nothing it says before that counts for anything. */
static bool admit(Link *link, FerryRole *role, GError **errp)
{
    FerryDestination *destination = link->destination;
    g_autoptr(GByteArray) body = NULL;
    FerryFrame frame;
    FerryHello hello = {0};
    Link **place;
    bool fine;

    if (!ferry_control_receive(link->channel, &frame, &body, errp)) {
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
    if (hello.session != destination->session) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL, "it belongs to another session");
        return false;
    }
    *role = hello.role;
    place =
        hello.role == FERRY_ROLE_CONTROL ? &destination->control : &destination->data[hello.index];

    g_mutex_lock(&destination->lock);
    fine = *place == NULL && !destination->closing && !link->dropped &&
           (hello.role == FERRY_ROLE_CONTROL || destination->nr_channels == 0 ||
            hello.index < destination->nr_channels);
    if (fine) {
        *place = link;
        link->proved = true;
        if (hello.role == FERRY_ROLE_DATA) {
            destination->nr_data++;
            g_snprintf(link->channel->name, sizeof(link->channel->name), "data %u", hello.index);
        } else {
            g_strlcpy(link->channel->name, "control", sizeof(link->channel->name));
        }
        g_cond_broadcast(&destination->changed);
    }
    g_mutex_unlock(&destination->lock);
    if (!fine) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL,
                    "the session has no room for a channel with role %u, index %u", hello.role,
                    hello.index);
    }
    return fine;
}

static gpointer link_run(gpointer opaque)
{
    Link *link = opaque;
    FerryDestination *destination = link->destination;
    FerryRole role = FERRY_ROLE_INVALID;
    GError *error = NULL;
    bool closing;

    if (admit(link, &role, &error)) {
        if (!(role == FERRY_ROLE_CONTROL ? run_control(link, &error) : run_data(link, &error))) {
            fail(destination, error);
        }
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
        ferry_channel_shutdown(link->channel);
    }
    g_mutex_lock(&destination->lock);
    link->over = true;
    g_cond_broadcast(&destination->changed);
    g_mutex_unlock(&destination->lock);
    return NULL;
}

/* Free strangers that are gone.  With the lock held; the threads are past using it. */
static void reap_strangers(FerryDestination *destination)
{
    for (guint i = destination->links->len; i-- > 0;) {
        Link *link = g_ptr_array_index(destination->links, i);

        if (link->over && !link->proved) {
            g_ptr_array_remove_index(destination->links, i);
            g_thread_join(link->thread);
            ferry_channel_free(link->channel);
            g_free(link);
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
    Link *oldest = NULL;

    for (guint i = 0; i < destination->links->len; i++) {
        Link *link = g_ptr_array_index(destination->links, i);

        if (!link->proved && !link->dropped) {
            oldest = oldest ? oldest : link;
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
        Link *link = g_new0(Link, 1);

        link->destination = destination;
        link->channel = channel;
        g_ptr_array_add(destination->links, link);
        link->thread = g_thread_new("ferry-receive", link_run, link);
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
    all = destination->nr_channels && destination->nr_data == destination->nr_channels;
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

void ferry_destination_loaded(FerryDestination *destination)
{
    g_mutex_lock(&destination->lock);
    destination->loaded_ns = ferry_now_ns();
    g_mutex_unlock(&destination->lock);
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
        say(destination, destination->control->channel, FERRY_FRAME_REPORT, 0, body, NULL);
    }
}

void ferry_destination_free(FerryDestination *destination, const char *reason)
{
    gint64 deadline = g_get_monotonic_time() + LAST_WORDS_US;
    Link *control = NULL;

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
        say_error(destination, control->channel, reason);
    }
    g_mutex_lock(&destination->lock);
    /* The source hangs up when it has read the reason; before that we would drown it. */
    while (control && !control->over &&
           g_cond_wait_until(&destination->changed, &destination->lock, deadline)) {
    }
    shut_all_down_locked(destination);
    g_mutex_unlock(&destination->lock);

    for (guint i = 0; i < destination->links->len; i++) {
        Link *link = g_ptr_array_index(destination->links, i);

        g_thread_join(link->thread);
    }
    for (guint i = 0; i < destination->links->len; i++) {
        Link *link = g_ptr_array_index(destination->links, i);

        ferry_channel_free(link->channel);
        g_free(link);
    }
    g_ptr_array_unref(destination->links);
    ferry_regions_clear(&destination->receiver.regions);
    ferry_scanner_free(destination->receiver.scanner);
    g_clear_error(&destination->error);
    g_mutex_clear(&destination->say_lock);
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
                   : destination->stopped_ns ? FERRY_SESSION_HAND_OFF
                   : destination->ready      ? FERRY_SESSION_COPY
                                             : FERRY_SESSION_CONNECT;
    stats->has_report = destination->complete;
    stats->report = make_report(destination);
    for (guint i = 0; i < destination->links->len; i++) {
        const Link *link = g_ptr_array_index(destination->links, i);
        FerryChannelStats channel = {.bytes = link->channel->received_bytes};

        if (link->proved) {
            g_strlcpy(channel.name, link->channel->name, sizeof(channel.name));
            channel.bytes_per_second =
                elapsed_ns ? (uint64_t)((double)channel.bytes * 1e9 / (double)elapsed_ns) : 0;
            stats->sent_bytes += channel.bytes;
            g_array_append_val(stats->channels, channel);
        }
    }
    g_mutex_unlock(&destination->lock);
}
