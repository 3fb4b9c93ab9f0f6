/*
 * The destination's side of a session: what comes on the control channel.  See destination.h.
 *
 * Threads: the control channel's own, but for silent(), which the heartbeat's calls.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <inttypes.h>

#include "../wire/control.h"
#include "../clock.h"
#include "../error.h"
#include "../events.h"
#include "control-channel.h"
#include "data-channel.h"
#include "settle.h"
#include "state.h"

static bool out_of_turn(const FerryFrame *frame, GError **errp)
{
    g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL, "frame type %u out of turn", frame->type);
    return false;
}

/* --- Silence ---------------------------------------------------------------------------------- */

static void silent(void *opaque, GError *error)
{
    FerryDestination *destination = opaque;
    g_autoptr(GError) why = g_error_copy(error);
    bool cut_off, waits;

    /* The channels of a connection that broke are silent, and no reason to break the next one. */
    g_mutex_lock(&destination->lock);
    cut_off = ferry_destination_is_cut_off(destination);
    g_mutex_unlock(&destination->lock);
    if (cut_off) {
        g_error_free(error);
    } else {
        ferry_destination_fail(destination, error);
    }
    g_mutex_lock(&destination->lock);
    waits = ferry_destination_is_cut_off(destination) &&
            ferry_destination_is_content(destination) && !destination->stream_broke;
    g_mutex_unlock(&destination->lock);
    if (waits) {
        /* It may be done.  But whoever waits for its last word on the stream would for ever. */
        destination->ops.broken(destination->opaque, why);
    }
}

static GError *look_at_rest(void *opaque)
{
    FerryDestination *destination = opaque;
    unsigned timeout_ms = destination->config.timeout_ms;

    ferry_incoming_limit_look(destination->limit);
    return !destination->ops.stream_idle_ms ||
                   destination->ops.stream_idle_ms(destination->opaque) <= timeout_ms
               ? NULL
               : g_error_new(FERRY_ERROR, FERRY_ERROR_IO,
                             "the migration stream: nothing came for %u ms", timeout_ms);
}

/* From here on, silence on any channel is a failure. */
static void start_heartbeat(FerryDestination *destination)
{
    FerryHeartbeat *heartbeat =
        ferry_heartbeat_new(destination->config.timeout_ms, silent, destination);

    g_mutex_lock(&destination->lock);
    if (!ferry_destination_is_connected(destination)) {
        /* Already again: there may be no channels any more. */
        g_mutex_unlock(&destination->lock);
        ferry_heartbeat_free(heartbeat);
        return;
    }
    ferry_heartbeat_add(heartbeat, destination->control->channel, true, true);
    for (unsigned i = 0; i < destination->layout.nr_data; i++) {
        ferry_heartbeat_add(heartbeat, destination->data[i]->channel, false, true);
    }
    for (unsigned i = 0; i < destination->layout.nr_fetch; i++) {
        ferry_heartbeat_add(heartbeat, destination->fetch[i]->channel, true, true);
    }
    g_mutex_unlock(&destination->lock);
    ferry_heartbeat_set_watch(heartbeat, look_at_rest, destination);
    destination->heartbeat = heartbeat;
    ferry_heartbeat_start(heartbeat);
}

/* --- Regions ---------------------------------------------------------------------------------- */

static bool has_channels(const FerryDestination *destination, const FerryLayout *layout)
{
    /* A source may have opened others than it says. */
    for (unsigned i = 0; i < layout->nr_data; i++) {
        if (!destination->data[i]) {
            return false;
        }
    }
    for (unsigned i = 0; i < layout->nr_fetch; i++) {
        if (!destination->fetch[i]) {
            return false;
        }
    }
    return true;
}

/* Wait until the channels of @layout are all in; false when that will not be.  With the lock held. */
static bool wait_for_channels(ChannelReader *reader, const FerryLayout *layout)
{
    FerryDestination *destination = reader->destination;

    while (!has_channels(destination, layout) && destination->phase != FERRY_DESTINATION_FAILED &&
           !destination->closing && !reader->stale) {
        ferry_cond_wait(&destination->changed, &destination->lock);
    }
    return !reader->stale && has_channels(destination, layout);
}

/*
 * All channels are in: whoever has not proved itself is a stranger, and is not kept.  Nobody reads data
 * channels yet, so one that broke has to be looked for; NULL if none has.  With the lock held.
 */
static const char *look_at_channels(FerryDestination *destination)
{
    const char *lost = NULL;

    for (guint i = 0; i < destination->readers->len; i++) {
        ChannelReader *reader = g_ptr_array_index(destination->readers, i);

        if (!reader->proved) {
            reader->dropped = true;
            ferry_channel_shutdown(reader->channel);
        } else if (!reader->stale && reader != destination->control &&
                   ferry_channel_hung_up(reader->channel)) {
            lost = reader->channel->name;
        }
    }
    return lost;
}

static void cannot_tell(void *opaque, GError *error)
{
    ferry_destination_fail(opaque, error);
}

/* While memory is emptied, which may take long, the source is to hear that this side is at work. */
static FerryHeartbeat *begin_work(ChannelReader *reader)
{
    FerryDestination *destination = reader->destination;
    FerryHeartbeat *heartbeat =
        ferry_heartbeat_new(destination->config.timeout_ms, cannot_tell, destination);

    ferry_heartbeat_add(heartbeat, reader->channel, true, false);
    ferry_heartbeat_start(heartbeat);
    return heartbeat;
}

/* Make ready for pages to be left missing, or say why that cannot be; *@fetch is NULL if none can. */
static bool prepare_fetch(FerryDestination *destination, const FerryLayout *layout,
                          FerryFetch **fetch, GError **errp)
{
    g_autoptr(GError) error = NULL;

    *fetch = NULL;
    if (layout->nr_fetch == 0) {
        return true;
    }
    *fetch = ferry_fetch_new(&destination->receiver.regions, layout->nr_fetch,
                             &ferry_destination_fetch_ops, destination, &error);
    if (!*fetch) {
        /* QEMU's own path could not do it either, and would not say so before the guest has left. */
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_REFUSED, "post-copy is not possible: %s",
                    error->message);
        return false;
    }
    return true;
}

static void set_settling(FerryDestination *destination, bool settling)
{
    g_mutex_lock(&destination->lock);
    destination->settling = settling;
    g_mutex_unlock(&destination->lock);
}

static bool take_regions(ChannelReader *reader, const FerryFrame *frame, const GByteArray *body,
                         GError **errp)
{
    FerryDestination *destination = reader->destination;
    FerryRegions remote = {0}, local = {0};
    g_autoptr(GByteArray) answer = NULL;
    g_autofree uint8_t *answers = NULL;
    FerryHeartbeat *working;
    const char *lost;
    FerryLayout layout;
    FerryFetch *fetch;
    bool ok;

    if (destination->layout.nr_data) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL, "a second list of RAM blocks");
        return false;
    }
    if (!ferry_regions_decode(body ? body->data : NULL, body ? body->len : 0, &remote, &layout,
                              errp)) {
        return false;
    }
    set_settling(destination, true);
    working = begin_work(reader);
    if (destination->ops.list_regions(destination->opaque, &remote, &local, errp)) {
        answers = ferry_settle(destination->receiver.scanner, &local, &remote,
                               destination->config.session, layout.nr_fetch > 0, errp);
    }
    ok = answers != NULL;
    ferry_heartbeat_free(working);
    set_settling(destination, false);
    ferry_regions_clear(&remote);
    if (!ok) {
        ferry_regions_clear(&local);
        return false;
    }

    g_mutex_lock(&destination->lock);
    ferry_receiver_set_regions(&destination->receiver, &local);
    g_mutex_unlock(&destination->lock);
    if (!prepare_fetch(destination, &layout, &fetch, errp)) {
        return false;
    }
    g_mutex_lock(&destination->lock);
    destination->receiver.fetch = fetch;
    destination->layout = layout;
    ok = wait_for_channels(reader, &layout);
    lost = ok ? look_at_channels(destination) : NULL;
    ok = ok && !lost && ferry_destination_enter(destination, FERRY_DESTINATION_COPYING);
    g_mutex_unlock(&destination->lock);
    if (lost) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_IO, "channel '%s': the other side closed it",
                    lost);
        return false;
    }
    if (!ok) {
        return out_of_turn(frame, errp);
    }
    answer = ferry_answers_encode(answers, destination->receiver.regions.nr);
    if (!ferry_control_send(reader->channel, FERRY_FRAME_READY, 0, answer, errp)) {
        return false;
    }
    start_heartbeat(destination);
    return true;
}

/* --- What will be missing, and what is --------------------------------------------------------- */

/* The missing pages may still be changed by what comes on the control channel. */
static bool may_draft(FerryDestination *destination)
{
    bool may;

    g_mutex_lock(&destination->lock);
    may = destination->receiver.fetch &&
          ferry_destination_may_enter(destination, FERRY_DESTINATION_DRAFTING);
    g_mutex_unlock(&destination->lock);
    return may;
}

/* What was taken in, or taken back, makes it @phase. */
static bool enter(FerryDestination *destination, FerryDestinationPhase phase,
                  const FerryFrame *frame, GError **errp)
{
    bool ok;

    g_mutex_lock(&destination->lock);
    ok = ferry_destination_enter(destination, phase);
    g_mutex_unlock(&destination->lock);
    return ok || out_of_turn(frame, errp);
}

static bool take_missing(FerryDestination *destination, const FerryFrame *frame,
                         const GByteArray *body, GError **errp)
{
    FerryReceiver *receiver = &destination->receiver;

    if (!may_draft(destination)) {
        return out_of_turn(frame, errp);
    }
    if (frame->region < receiver->regions.nr &&
        (receiver->regions.list[frame->region].flags & FERRY_REGION_SAME)) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL,
                    "missing pages of RAM block '%s', which both ends map",
                    receiver->regions.list[frame->region].id);
        return false;
    }
    return ferry_missing_take(&destination->missing_reader, frame, body, &receiver->regions,
                              ferry_fetch_incoming(receiver->fetch), errp);
}

static bool forget_draft(ChannelReader *reader, const FerryFrame *frame, GError **errp)
{
    FerryDestination *destination = reader->destination;

    if (!may_draft(destination)) {
        return out_of_turn(frame, errp);
    }
    ferry_missing_clear(&destination->missing_reader);
    ferry_fetch_forget(destination->receiver.fetch);
    ferry_receiver_forget_provided(&destination->receiver);
    if (!enter(destination, FERRY_DESTINATION_COPYING, frame, errp)) {
        return false;
    }
    ferry_event(undraft, "destination");
    return ferry_control_send(reader->channel, FERRY_FRAME_DRAFTED, 0, NULL, errp);
}

/* Both sides must mean the same pages. */
static bool check_missing(FerryDestination *destination, uint64_t nr_pages, GError **errp)
{
    FerryReceiver *receiver = &destination->receiver;
    uint64_t here = ferry_missing_count(&receiver->regions, ferry_fetch_missing(receiver->fetch)) +
                    ferry_missing_count(&receiver->regions, ferry_fetch_incoming(receiver->fetch));

    if (!ferry_missing_finish(&destination->missing_reader, errp)) {
        return false;
    }
    if (here != nr_pages) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL,
                    "the bitmap has %" PRIu64 " missing pages, the source says %" PRIu64, here,
                    nr_pages);
        return false;
    }
    return true;
}

/* No pages are on their way: what the source has drafted can be discarded. */
static bool take_draft(ChannelReader *reader, const FerryFrame *frame, GError **errp)
{
    FerryDestination *destination = reader->destination;
    FerryReceiver *receiver = &destination->receiver;

    if (!may_draft(destination)) {
        return out_of_turn(frame, errp);
    }
    if (!check_missing(destination, frame->first_page, errp) ||
        !ferry_fetch_draft(receiver->fetch, errp) ||
        !enter(destination, FERRY_DESTINATION_DRAFTING, frame, errp)) {
        return false;
    }
    ferry_event(draft, "destination", frame->first_page);
    return ferry_control_send(reader->channel, FERRY_FRAME_DRAFTED, 0, NULL, errp);
}

static void set_vcpus(FerryDestination *destination)
{
    g_autoptr(GArray) threads = g_array_new(FALSE, FALSE, sizeof(uint32_t));

    if (destination->ops.list_vcpus) {
        destination->ops.list_vcpus(destination->opaque, threads);
    }
    ferry_fetch_set_vcpus(destination->receiver.fetch, (const uint32_t *)threads->data,
                          threads->len);
}

/* The guest is to run here with pages missing. */
static bool take_over(FerryDestination *destination, uint64_t nr_missing, GError **errp)
{
    FerryReceiver *receiver = &destination->receiver;

    if (!receiver->fetch) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL,
                    "pages are missing, and there is no channel to fetch them");
        return false;
    }
    if (!check_missing(destination, nr_missing, errp)) {
        return false;
    }
    set_vcpus(destination);
    return ferry_fetch_go_live(receiver->fetch, errp);
}

static bool take_handoff(FerryDestination *destination, const FerryFrame *frame,
                         const GByteArray *body, GError **errp)
{
    uint64_t nr_missing;
    bool ok;

    if (!ferry_count_decode(body ? body->data : NULL, body ? body->len : 0, &nr_missing, errp)) {
        return false;
    }
    g_mutex_lock(&destination->lock);
    /* What is missing is exact once nothing is on its way; and what was drafted is missing unless it was forgotten. */
    ok = ferry_destination_may_enter(destination, FERRY_DESTINATION_HANDED_OFF) &&
         frame->first_page != 0 &&
         (nr_missing ? destination->reached >= frame->first_page
                     : destination->phase != FERRY_DESTINATION_DRAFTING);
    g_mutex_unlock(&destination->lock);
    if (!ok) {
        return out_of_turn(frame, errp);
    }
    if (nr_missing && !take_over(destination, nr_missing, errp)) {
        return false;
    }
    g_mutex_lock(&destination->lock);
    ok = ferry_destination_enter(destination, FERRY_DESTINATION_HANDED_OFF);
    if (ok) {
        destination->handed_off = frame->first_page;
        ferry_event(handoff, "destination", nr_missing);
        ferry_destination_check_complete(destination);
    }
    g_mutex_unlock(&destination->lock);
    if (ok && nr_missing && destination->ops.handed_off) {
        destination->ops.handed_off(destination->opaque);
    }
    return ok || out_of_turn(frame, errp);
}

static bool take_go(FerryDestination *destination, const FerryFrame *frame, GError **errp)
{
    bool ok, first;

    g_mutex_lock(&destination->lock);
    ok = ferry_destination_is_committed(destination) ||
         ferry_destination_may_enter(destination, FERRY_DESTINATION_DONE);
    first = ok && !destination->may_run;
    destination->may_run |= first;
    if (destination->phase == FERRY_DESTINATION_LOADED) {
        ok = ferry_destination_enter(destination, FERRY_DESTINATION_DONE);
    }
    destination->telling_go = ok && first;
    g_mutex_unlock(&destination->lock);
    if (!ok) {
        return out_of_turn(frame, errp);
    }
    /*
     * If it cannot be said any more, the guest is this side's all the same.  First of all, because the
     * session may be over as soon as the guest runs.
     */
    ferry_destination_tell(destination, FERRY_FRAME_TAKEN, NULL);
    if (first) {
        /* What is missing comes while the guest runs. */
        ferry_incoming_limit_lift(destination->limit, false);
        ferry_event(go, "destination");
        destination->ops.go(destination->opaque);
        g_mutex_lock(&destination->lock);
        destination->telling_go = false;
        g_cond_broadcast(&destination->changed);
        g_mutex_unlock(&destination->lock);
    }
    return true;
}

/* --- After a broken connection ----------------------------------------------------------------- */

static bool take_resume(ChannelReader *reader, const FerryFrame *frame, const GByteArray *body,
                        GError **errp)
{
    FerryDestination *destination = reader->destination;
    FerryReceiver *receiver = &destination->receiver;
    FerryPageset *const *missing = ferry_fetch_missing(receiver->fetch);
    FerryLayout layout;
    bool ok, stream_broke, parted = false;
    uint64_t nr_missing;

    if (!ferry_layout_decode(body ? body->data : NULL, body ? body->len : 0, &layout, errp)) {
        return false;
    }
    g_mutex_lock(&destination->lock);
    ok = ferry_destination_is_cut_off(destination) && destination->control == reader &&
         layout.nr_fetch > 0;
    if (ok) {
        destination->layout = layout;
        ok = wait_for_channels(reader, &layout);
    }
    if (ok) {
        ferry_incoming_limit_resume(destination->limit);
    }
    g_mutex_unlock(&destination->lock);
    if (!ok) {
        return out_of_turn(frame, errp);
    }
    g_mutex_lock(&destination->lock);
    look_at_channels(destination);
    g_mutex_unlock(&destination->lock);
    g_clear_pointer(&destination->heartbeat, ferry_heartbeat_free);
    nr_missing = ferry_missing_count(&receiver->regions, missing);
    if (!ferry_missing_send(reader->channel, &receiver->regions, missing, true, errp) ||
        !ferry_control_send(reader->channel, FERRY_FRAME_RESUMED, nr_missing, NULL, errp)) {
        return false;
    }
    g_mutex_lock(&destination->lock);
    /* Not if this connection has broken meanwhile, too, or another one takes its place. */
    ok = destination->resuming && !reader->stale;
    stream_broke = destination->stream_broke;
    if (ok && !stream_broke) {
        parted = destination->phase == FERRY_DESTINATION_PARTED;
        ok = ferry_destination_enter(destination,
                                     parted ? FERRY_DESTINATION_DONE : FERRY_DESTINATION_FETCHING);
    }
    if (ok && !stream_broke) {
        destination->resuming = false;
        destination->nr_recoveries++;
    }
    g_mutex_unlock(&destination->lock);
    if (!ok) {
        return out_of_turn(frame, errp);
    }
    if (stream_broke) {
        /* The source would push all pages and be done, and who reads the stream would wait to be resumed. */
        g_set_error_literal(errp, FERRY_ERROR, FERRY_ERROR_LOST,
                            "the migration stream broke while it was resumed: resume it again");
        return false;
    }
    start_heartbeat(destination);
    ferry_event(resumed, "destination", nr_missing);
    destination->ops.resumed(destination->opaque);
    if (parted) {
        return ferry_destination_tell(destination, FERRY_FRAME_COMPLETE, errp);
    }
    ferry_fetch_ask_again(receiver->fetch);
    return true;
}

/* --- The channel -------------------------------------------------------------------------------- */

static bool take_frame(ChannelReader *reader, const FerryFrame *frame, const GByteArray *body,
                       GError **errp)
{
    FerryDestination *destination = reader->destination;
    g_autofree char *text = NULL;

    switch (frame->type) {
    case FERRY_FRAME_REGIONS:
        return take_regions(reader, frame, body, errp);
    case FERRY_FRAME_FORGET:
        return forget_draft(reader, frame, errp);
    case FERRY_FRAME_MISSING:
        return take_missing(destination, frame, body, errp);
    case FERRY_FRAME_DRAFT:
        return take_draft(reader, frame, errp);
    case FERRY_FRAME_STOPPED:
        g_mutex_lock(&destination->lock);
        destination->stopped_ns = ferry_now_ns();
        g_mutex_unlock(&destination->lock);
        ferry_incoming_limit_lift(destination->limit, true);
        return true;
    case FERRY_FRAME_HANDOFF:
        return take_handoff(destination, frame, body, errp);
    case FERRY_FRAME_GO:
        return take_go(destination, frame, errp);
    case FERRY_FRAME_RESUME:
        return destination->receiver.fetch ? take_resume(reader, frame, body, errp)
                                           : out_of_turn(frame, errp);
    case FERRY_FRAME_BEAT:
        return true;
    case FERRY_FRAME_ERROR:
        text = ferry_error_text_decode(body ? body->data : NULL, body ? body->len : 0);
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_REFUSED, "the source says: %s", text);
        return false;
    default:
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL,
                    "the source sent frame type %u on the control channel", frame->type);
        return false;
    }
}

bool ferry_destination_run_control(ChannelReader *reader, GError **errp)
{
    for (;;) {
        g_autoptr(GByteArray) body = NULL;
        FerryFrame frame;

        if (!ferry_control_receive(reader->channel, &frame, &body, errp) ||
            !take_frame(reader, &frame, body, errp)) {
            return false;
        }
    }
}
