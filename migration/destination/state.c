/*
 * The destination's side of a session: how it stands with it, how it ends, and who waits for that.  See
 * state.h.
 *
 * Threads: any.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <stdatomic.h>

#include "../wire/control.h"
#include "../clock.h"
#include "../error.h"
#include "../events.h"
#include "../fault.h"
#include "state.h"

/* --- Phases ----------------------------------------------------------------------------------- */

typedef struct Phase {
    const char *name;
    unsigned next; /* those that may follow, a bit each */
} Phase;

#define TO(phase) (1U << FERRY_DESTINATION_##phase)

static const Phase phases[FERRY_DESTINATION_NR_PHASES] = {
    [FERRY_DESTINATION_OPENING] = {"opening", TO(COPYING) | TO(FAILED)},
    /* A draft that was only begun can be forgotten, and one that was taken in can grow. */
    [FERRY_DESTINATION_COPYING] = {"copying",
                                   TO(COPYING) | TO(DRAFTING) | TO(HANDED_OFF) | TO(FAILED)},
    [FERRY_DESTINATION_DRAFTING] = {"drafting",
                                    TO(COPYING) | TO(DRAFTING) | TO(HANDED_OFF) | TO(FAILED)},
    [FERRY_DESTINATION_HANDED_OFF] = {"handed-off", TO(IN_PLACE) | TO(FETCHING) | TO(FAILED)},
    [FERRY_DESTINATION_IN_PLACE] = {"in-place", TO(LOADED) | TO(FAILED)},
    [FERRY_DESTINATION_LOADED] = {"loaded", TO(DONE) | TO(FAILED)},
    /* As long as GO has not come, the source may say that it keeps the guest. */
    [FERRY_DESTINATION_FETCHING] = {"fetching", TO(PAUSED) | TO(DONE) | TO(FAILED)},
    [FERRY_DESTINATION_PAUSED] = {"paused", TO(FETCHING) | TO(PARTED) | TO(FAILED)},
    [FERRY_DESTINATION_DONE] = {"done", TO(PARTED) | TO(FAILED)},
    [FERRY_DESTINATION_PARTED] = {"parted", TO(DONE) | TO(FAILED)},
    [FERRY_DESTINATION_FAILED] = {"failed", 0},
};

#undef TO

const char *ferry_destination_phase_name(FerryDestinationPhase phase)
{
    return phases[phase].name;
}

bool ferry_destination_may_enter(const FerryDestination *destination, FerryDestinationPhase phase)
{
    return phases[destination->phase].next >> phase & 1;
}

bool ferry_destination_enter(FerryDestination *destination, FerryDestinationPhase phase)
{
    const char *from = phases[destination->phase].name, *to = phases[phase].name;

    if (!ferry_destination_may_enter(destination, phase)) {
        if (destination->phase != FERRY_DESTINATION_FAILED) {
            ferry_event(phase_refused, "destination", from, to);
        }
        return false;
    }
    ferry_event(phase, "destination", from, to);
    destination->phase = phase;
    ferry_fault_phase(DESTINATION, phase);
    /* Who waits for the end is not to clear up before the source has been told why it failed. */
    if (phase != FERRY_DESTINATION_FAILED) {
        g_cond_broadcast(&destination->changed);
    }
    return true;
}

bool ferry_destination_is_before_handoff(const FerryDestination *destination)
{
    return destination->phase == FERRY_DESTINATION_OPENING ||
           destination->phase == FERRY_DESTINATION_COPYING ||
           destination->phase == FERRY_DESTINATION_DRAFTING;
}

bool ferry_destination_is_committed(const FerryDestination *destination)
{
    return destination->phase == FERRY_DESTINATION_FETCHING ||
           ferry_destination_is_cut_off(destination) ||
           (destination->phase == FERRY_DESTINATION_DONE &&
            ferry_destination_has_left(destination));
}

bool ferry_destination_is_cut_off(const FerryDestination *destination)
{
    return destination->phase == FERRY_DESTINATION_PAUSED ||
           destination->phase == FERRY_DESTINATION_PARTED;
}

bool ferry_destination_is_connected(const FerryDestination *destination)
{
    return !ferry_destination_is_cut_off(destination) &&
           destination->phase != FERRY_DESTINATION_FAILED;
}

bool ferry_destination_has_all(const FerryDestination *destination)
{
    return destination->phase == FERRY_DESTINATION_IN_PLACE ||
           destination->phase == FERRY_DESTINATION_LOADED ||
           destination->phase == FERRY_DESTINATION_DONE ||
           destination->phase == FERRY_DESTINATION_PARTED;
}

bool ferry_destination_has_left(const FerryDestination *destination)
{
    return ferry_fetch_is_live(destination->receiver.fetch);
}

bool ferry_destination_is_content(const FerryDestination *destination)
{
    return destination->told_taken && destination->told_complete;
}

/* --- The end ------------------------------------------------------------------------------------ */

/* With the lock held: tell the machine that all memory is in place, or that the session has failed. */
static void announce(FerryDestination *destination)
{
    if (!destination->closing) {
        destination->ops.complete(destination->opaque);
    }
}

/* None is missing, whatever the device state and the connection are up to. */
static bool has_last_page(const FerryDestination *destination)
{
    return ferry_destination_has_left(destination)
               ? destination->complete_ns != 0
               : destination->phase == FERRY_DESTINATION_HANDED_OFF &&
                     destination->reached >= destination->handed_off;
}

void ferry_destination_check_complete(FerryDestination *destination)
{
    bool paused = destination->phase == FERRY_DESTINATION_PAUSED;
    bool left = ferry_destination_has_left(destination);
    /* With pages missing, a session is not done before the source knows that the state is in. */
    bool may_end = paused || destination->phase == FERRY_DESTINATION_FETCHING ||
                   (destination->phase == FERRY_DESTINATION_HANDED_OFF && !left);

    if (may_end && has_last_page(destination) &&
        ferry_destination_enter(destination, paused ? FERRY_DESTINATION_PARTED
                                             : left ? FERRY_DESTINATION_DONE
                                                    : FERRY_DESTINATION_IN_PLACE)) {
        if (!destination->complete_ns) {
            destination->complete_ns = ferry_now_ns();
        }
        announce(destination);
    }
}

bool ferry_destination_tell(FerryDestination *destination, FerryFrameType type, GError **errp)
{
    bool *told = type == FERRY_FRAME_TAKEN ? &destination->told_taken : &destination->told_complete;
    FerryChannel *control = NULL;
    GError *error = NULL;
    bool first, breaks;

    g_mutex_lock(&destination->lock);
    if (ferry_destination_is_connected(destination) && !destination->stream_broke) {
        control = destination->control->channel;
    }
    first = control && !*told;
    *told |= first;
    g_mutex_unlock(&destination->lock);
    if (!control || ferry_control_send(control, type, 0, NULL, &error)) {
        return true;
    }
    g_mutex_lock(&destination->lock);
    *told &= !first;
    /* If the session broke meanwhile, that looked like the end of it. */
    breaks = first && ferry_destination_is_cut_off(destination) && !destination->stream_broke;
    g_mutex_unlock(&destination->lock);
    if (breaks) {
        destination->ops.broken(destination->opaque, error);
    }
    g_propagate_error(errp, error);
    return false;
}

void ferry_destination_shut_down_locked(FerryDestination *destination)
{
    for (guint i = 0; i < destination->readers->len; i++) {
        ChannelReader *reader = g_ptr_array_index(destination->readers, i);

        ferry_channel_shutdown(reader->channel);
    }
    ferry_incoming_limit_interrupt(destination->limit);
}

/*
 * The guest may be running here: the session waits for another connection.  With the lock held.  True if
 * that is news; then *@control, if not NULL, is to be told and shut down.
 */
static bool cut_off(FerryDestination *destination, const GError *error, ChannelReader **control)
{
    bool news;

    if (destination->closing) {
        news = false;
    } else if (ferry_destination_is_cut_off(destination)) {
        /* The next connection broke as well. */
        news = destination->resuming;
    } else {
        news = ferry_destination_enter(destination, destination->phase == FERRY_DESTINATION_DONE
                                                        ? FERRY_DESTINATION_PARTED
                                                        : FERRY_DESTINATION_PAUSED);
    }
    destination->resuming = false;
    g_cond_broadcast(&destination->changed);
    if (!news) {
        return false;
    }
    if (!ferry_destination_is_content(destination)) {
        ferry_event(paused, "destination", error->message);
    }
    if (!g_error_matches(error, FERRY_ERROR, FERRY_ERROR_IO)) {
        *control = destination->control;
    }
    /*
     * Only the session's own channels: some that have just come may be the next connection's.  And as long
     * as it is not known who has the guest, the control channel is read to its end: GO, or that the source
     * keeps it, may be on the way.
     */
    for (guint i = 0; i < destination->readers->len; i++) {
        ChannelReader *reader = g_ptr_array_index(destination->readers, i);
        bool may_tell = reader == destination->control && !destination->may_run;

        if (reader->proved && reader != *control && !may_tell) {
            ferry_channel_shutdown(reader->channel);
        }
    }
    ferry_incoming_limit_interrupt(destination->limit);
    return true;
}

/* Whether anything of the guest's memory has come. */
static bool has_memory(const FerryDestination *destination)
{
    return destination->reached > 0 || atomic_load(&destination->receiver.normal_pages) > 0 ||
           atomic_load(&destination->receiver.zero_pages) > 0;
}

/*
 * Whether the source is to be told that it failed, so that the migration does.  Before READY only of what no
 * other way would get around: else the source sees that channels break, and goes QEMU's own path.
 */
static bool counts_for_source(bool opening, const GError *error)
{
    return !opening || g_error_matches(error, FERRY_ERROR, FERRY_ERROR_REFUSED);
}

/*
 * The session fails, unless it is over, or the guest is this side's.  With the lock held.  True if it
 * does; tell *@control then.
 */
static bool give_up(FerryDestination *destination, const GError *error, ChannelReader **control)
{
    bool opening = destination->phase == FERRY_DESTINATION_OPENING;
    bool keeps =
        destination->may_run && !g_error_matches(error, FERRY_ERROR, FERRY_ERROR_CANCELLED);

    if (keeps || !ferry_destination_may_enter(destination, FERRY_DESTINATION_FAILED) ||
        !ferry_destination_enter(destination, FERRY_DESTINATION_FAILED)) {
        return false;
    }
    /* Before memory has come, the source can go on without Ferry: then a break is no reason to tell. */
    if (counts_for_source(opening, error) &&
        (has_memory(destination) || !g_error_matches(error, FERRY_ERROR, FERRY_ERROR_IO))) {
        *control = destination->control;
    }
    destination->error = g_error_copy(error);
    destination->failed_opening = opening;
    ferry_event(cause, "destination", error->message);
    return true;
}

/* Only once the source has been told: with the channels, its reason would be lost. */
static void finish_giving_up(FerryDestination *destination, bool news)
{
    g_mutex_lock(&destination->lock);
    if (destination->phase == FERRY_DESTINATION_FAILED) {
        ferry_destination_shut_down_locked(destination);
        /* The thread that loads the device state may wait for a page; it must get to know. */
        if (destination->receiver.fetch) {
            ferry_fetch_release(destination->receiver.fetch);
        }
    }
    if (news) {
        announce(destination);
    }
    g_cond_broadcast(&destination->changed);
    g_mutex_unlock(&destination->lock);
}

void ferry_destination_fail(FerryDestination *destination, GError *error)
{
    ChannelReader *control = NULL;
    bool closing, committed, news, pauses, may_run;

    g_mutex_lock(&destination->lock);
    /*
     * Decided once: LOADED may be about to be sent.  A source that says that it keeps the guest, before GO,
     * will not come back.
     */
    committed = ferry_destination_is_committed(destination) &&
                (destination->may_run || !g_error_matches(error, FERRY_ERROR, FERRY_ERROR_REFUSED));
    news =
        committed ? cut_off(destination, error, &control) : give_up(destination, error, &control);
    /* A source that is done closes its channels; the stream has an end to bring. */
    pauses = committed && news && !ferry_destination_is_content(destination);
    destination->telling_why |= pauses;
    may_run = destination->may_run;
    /* Who ends it has heard what there is to hear. */
    closing = destination->closing;
    g_mutex_unlock(&destination->lock);

    if (!committed && news && !closing && destination->ops.failed) {
        destination->ops.failed(destination->opaque, error);
    }
    /* Only the first failure gets here with a channel; readers are freed last of all. */
    if (control) {
        ferry_control_send_error(control->channel, error->message);
    }
    if (!committed) {
        finish_giving_up(destination, news);
    } else if (control && may_run) {
        ferry_channel_shutdown(control->channel);
    }
    if (pauses) {
        destination->ops.broken(destination->opaque, error);
        g_mutex_lock(&destination->lock);
        destination->telling_why = false;
        g_cond_broadcast(&destination->changed);
        g_mutex_unlock(&destination->lock);
    }
    g_error_free(error);
}

bool ferry_destination_abandon(FerryDestination *destination, GError **errp)
{
    g_autoptr(GError) error = NULL;
    ChannelReader *control = NULL;
    bool parted, whole, given_up;

    g_mutex_lock(&destination->lock);
    /* After it has failed, nobody is to be told to run the guest any more. */
    while (destination->telling_go) {
        ferry_cond_wait(&destination->changed, &destination->lock);
    }
    /* Without GO the guest is not this side's, whatever has come; with it and all pages nobody is needed. */
    parted = destination->phase == FERRY_DESTINATION_PARTED;
    whole = parted && destination->may_run;
    destination->told_taken |= whole;
    destination->told_complete |= whole;
    error = g_error_new_literal(FERRY_ERROR, FERRY_ERROR_CANCELLED,
                                parted ? "abandoned, before the source had let go of the guest"
                                       : "abandoned, with pages missing");
    given_up = !whole && (parted || destination->phase == FERRY_DESTINATION_PAUSED) &&
               give_up(destination, error, &control);
    g_mutex_unlock(&destination->lock);
    if (whole) {
        return true;
    }
    if (!given_up) {
        g_set_error_literal(errp, FERRY_ERROR, FERRY_ERROR_REFUSED,
                            "no broken connection is waited for");
        return false;
    }
    if (control) {
        ferry_control_send_error(control->channel, error->message);
    }
    finish_giving_up(destination, true);
    return true;
}

/* --- Waiting ------------------------------------------------------------------------------------ */

static bool is_complete_locked(FerryDestination *destination, GError **errp)
{
    if (destination->error && errp) {
        *errp = g_error_copy(destination->error);
    }
    return ferry_destination_has_all(destination);
}

bool ferry_destination_is_complete(FerryDestination *destination, GError **errp)
{
    bool complete;

    g_mutex_lock(&destination->lock);
    complete = is_complete_locked(destination, errp);
    g_mutex_unlock(&destination->lock);
    return complete;
}

char *ferry_destination_opening_failure(FerryDestination *destination)
{
    char *why;

    g_mutex_lock(&destination->lock);
    why = destination->failed_opening ? g_strdup(destination->error->message) : NULL;
    g_mutex_unlock(&destination->lock);
    return why;
}

bool ferry_destination_wait_complete(FerryDestination *destination, GError **errp)
{
    bool complete;

    g_mutex_lock(&destination->lock);
    while (!ferry_destination_has_all(destination) &&
           destination->phase != FERRY_DESTINATION_FAILED) {
        ferry_cond_wait(&destination->changed, &destination->lock);
    }
    complete = is_complete_locked(destination, errp);
    g_mutex_unlock(&destination->lock);
    return complete;
}

bool ferry_destination_awaits_handoff(FerryDestination *destination)
{
    bool awaits;

    g_mutex_lock(&destination->lock);
    awaits = ferry_destination_is_before_handoff(destination) && !destination->closing;
    g_mutex_unlock(&destination->lock);
    return awaits;
}

bool ferry_destination_wait_left(FerryDestination *destination, GError **errp)
{
    bool left;

    g_mutex_lock(&destination->lock);
    while (ferry_destination_is_before_handoff(destination) && !destination->closing) {
        ferry_cond_wait(&destination->changed, &destination->lock);
    }
    left =
        destination->phase != FERRY_DESTINATION_FAILED && ferry_destination_has_left(destination);
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

uint64_t ferry_destination_resuming_bytes(FerryDestination *destination)
{
    uint64_t nr_bytes = 0;

    g_mutex_lock(&destination->lock);
    if (destination->resuming && destination->control) {
        const FerryChannel *channel = destination->control->channel;

        nr_bytes = channel->received_bytes + channel->sent_bytes;
    }
    g_mutex_unlock(&destination->lock);
    return nr_bytes;
}

bool ferry_destination_has_guest(FerryDestination *destination)
{
    bool has_guest;

    g_mutex_lock(&destination->lock);
    has_guest = destination->may_run;
    g_mutex_unlock(&destination->lock);
    return has_guest;
}

void ferry_destination_stream_came(FerryDestination *destination)
{
    g_mutex_lock(&destination->lock);
    destination->stream_broke = false;
    g_mutex_unlock(&destination->lock);
}

bool ferry_destination_stream_broke(FerryDestination *destination, const char *why)
{
    bool over, waits;

    g_mutex_lock(&destination->lock);
    over = ferry_destination_is_content(destination);
    destination->stream_broke = !over;
    g_mutex_unlock(&destination->lock);
    if (over) {
        return false;
    }
    ferry_destination_fail(destination, g_error_new_literal(FERRY_ERROR, FERRY_ERROR_IO, why));
    g_mutex_lock(&destination->lock);
    /* Whoever sees that it is paused finds out why: another thread may be about to say so. */
    while (destination->telling_why) {
        ferry_cond_wait(&destination->changed, &destination->lock);
    }
    waits = ferry_destination_is_cut_off(destination);
    g_mutex_unlock(&destination->lock);
    return waits;
}

bool ferry_destination_is_left(FerryDestination *destination)
{
    bool left;

    g_mutex_lock(&destination->lock);
    left = ferry_destination_has_left(destination);
    g_mutex_unlock(&destination->lock);
    return left;
}
