/*
 * The source's side, as qemu/glue/source drives it: see fault-world.h.
 *
 * Threads: the main one drives; a monitor's cancels.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "fault-world.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "migration/error.h"
#include "migration/wire/heartbeat.h"

/* How many data channels; and how many rounds after the first pass. */
#define NR_CHANNELS 2
#define NR_ROUNDS   2

/* How many pages are written just before pages are left missing. */
#define NR_MISSING 700

/* For opening the session: what users have if they do not say otherwise. */
#define OPEN_MS 3000

/* So slow that there is time to break something, and for how long. */
#define SLOW_BYTES (4 << 20)
#define SLOW_MS    100

/* For the destination to take the guest on QEMU's own path. */
#define OWN_MS 5000

static struct {
    const FaultPlugs *plugs;
    FakeMachine *machine;
    FerryTracker tracker;
    int stream; /* or -1 */
    FaultCensus before;
    int leaked;
    bool stopped; /* the reference is what memory was then */

    GMutex lock; /* QEMU's: for the next one, and between looking and GO */
    FerrySource *source;
} me;

static bool is_fetching(void)
{
    return fault_world->mode == FAULT_POSTCOPY || fault_world->mode == FAULT_RESUME ||
           fault_world->mode == FAULT_CANCELLED;
}

/* --- What the engine asks, or tells ----------------------------------------------------------- */

static bool dial(void *opaque, const char *const *names, unsigned nr, gint64 deadline_us,
                 FerryChannel **dialled, GError **errp)
{
    for (unsigned i = 0; i < nr; i++) {
        int fd = fault_dial(me.plugs->dial[1]);

        if (fd < 0) {
            g_set_error(errp, FERRY_ERROR, FERRY_ERROR_IO, "nobody listens");
            while (i-- > 0) {
                g_clear_pointer(&dialled[i], ferry_channel_free);
            }
            return false;
        }
        dialled[i] = ferry_channel_new_socket(fd, names[i]);
    }
    return true;
}

static bool next_tracker(void *opaque, const GError *why, FerryTracker *next)
{
    fault_add_warning(why->message);
    *next = fake_machine_tracker(me.machine, false);
    return true;
}

/* Whoever reads or writes the stream gets to know. */
static void broken(void *opaque)
{
    shutdown(me.stream, SHUT_RDWR);
}

static void fail_session(GError *error)
{
    g_mutex_lock(&me.lock);
    if (me.source) {
        ferry_source_note_failure(me.source, error);
    } else {
        g_error_free(error);
    }
    g_mutex_unlock(&me.lock);
}

static gpointer monitor_run(gpointer opaque)
{
    for (;;) {
        if (atomic_load(&fault_world->cancel)) {
            g_mutex_lock(&me.lock);
            /* After GO it is refused. */
            if (me.source && !ferry_source_is_gone(me.source)) {
                ferry_source_cancel(me.source);
            }
            atomic_store(&fault_world->cancel, false);
            g_mutex_unlock(&me.lock);
        }
        g_usleep(500);
    }
    return NULL;
}

/* --- The guest -------------------------------------------------------------------------------- */

static void each_region(bool (*fn)(uint8_t *memory, uint8_t *reference, uint64_t nr_bytes))
{
    uint8_t *reference = fault_world->reference;

    for (size_t i = 0; i < me.machine->regions.nr; i++) {
        const FerryRegion *region = &me.machine->regions.list[i];

        if (!fn(region->host, reference, region->length_bytes)) {
            fault_complain("RAM block '%s' of the source was changed", region->id);
        }
        reference += region->length_bytes;
    }
}

static bool keep(uint8_t *memory, uint8_t *reference, uint64_t nr_bytes)
{
    memcpy(reference, memory, nr_bytes);
    return true;
}

static bool is_kept(uint8_t *memory, uint8_t *reference, uint64_t nr_bytes)
{
    return memcmp(reference, memory, nr_bytes) == 0;
}

static void stop_guest(void)
{
    if (me.machine->workload) {
        fake_machine_stop(me.machine);
    }
    if (!me.stopped) {
        fault_set_runs(false);
        each_region(keep);
        me.stopped = true;
        fault_world->reference[0] ^= fault_world->lie == FAULT_LIE_PAGE;
    }
}

/* Nothing else is done before: whoever has it runs it. */
static void take_guest_back(void)
{
    if (me.machine->workload) {
        fake_machine_stop(me.machine);
    }
    fault_set_runs(true);
    if (me.stopped) {
        each_region(is_kept);
    }
    me.stopped = false;
}

/* --- The end ---------------------------------------------------------------------------------- */

static void end_session(void)
{
    FerrySource *source;

    fault_doing("freeing the session");
    g_mutex_lock(&me.lock);
    source = g_steal_pointer(&me.source);
    g_mutex_unlock(&me.lock);
    ferry_source_free(source);
    if (me.stream >= 0) {
        close(me.stream);
        me.stream = -1;
    }
    fault_check_census(me.before);
}

static FaultOutcome kept(GError *error)
{
    take_guest_back();
    fault_set_reason(error && fault_world->lie != FAULT_LIE_REASON ? error->message : "");
    g_clear_error(&error);
    end_session();
    return FAULT_KEPT;
}

static FaultOutcome completed(void)
{
    if (fault_world->lie == FAULT_LIE_BOTH) {
        fault_set_runs(true);
    } else if (fault_world->lie == FAULT_LIE_LEAK) {
        me.leaked = dup(me.stream);
    }
    while (fault_world->lie == FAULT_LIE_WAIT) {
        g_usleep(1000);
    }
    end_session();
    return FAULT_COMPLETED;
}

/* --- QEMU's own path, in a few lines ---------------------------------------------------------- */

static FaultOutcome go_own_path(GError *why)
{
    uint8_t answer = 0;
    FerrySource *source;

    fault_add_warning(why->message);
    g_clear_error(&why);
    g_mutex_lock(&me.lock);
    source = g_steal_pointer(&me.source);
    g_mutex_unlock(&me.lock);
    ferry_source_free(source);

    fault_doing("going QEMU's own path");
    stop_guest();
    if (!fault_write_byte(me.stream, STREAM_OWN) ||
        !fault_write(me.stream, fault_world->reference, fault_memory_bytes(),
                     fault_keepalive_ms()) ||
        !fault_read(me.stream, &answer, 1, fault_keepalive_ms() + OWN_MS) ||
        answer != STREAM_LOADED) {
        return kept(
            g_error_new_literal(FERRY_ERROR, FERRY_ERROR_IO, "QEMU's own path: the stream broke"));
    }
    if (!fault_write_byte(me.stream, STREAM_GO) ||
        !fault_read(me.stream, &answer, 1, fault_keepalive_ms()) || answer != STREAM_TAKEN) {
        fault_set_reason("QEMU's own path: the stream broke after the guest was let go");
        end_session();
        return FAULT_IN_DOUBT;
    }
    return completed();
}

/* --- A migration ------------------------------------------------------------------------------ */

/* Whether the session has to last until it beats. */
static bool is_beat(void)
{
    const FaultSpec *fault = &fault_world->fault;

    return fault->effect == FAULT_NOTHING || fault->point == FERRY_FAULT_SAY_BEAT ||
           fault->point == FERRY_FAULT_HEAR_BEAT;
}

static bool copy(GError **errp)
{
    fault_doing("copying");
    for (unsigned round = 0; round <= NR_ROUNDS; round++) {
        while (!ferry_source_may_harvest(me.source)) {
            if (!ferry_source_step(me.source, 20, errp)) {
                return false;
            }
        }
        for (uint64_t page = 0; page < 40; page++) {
            fake_machine_write(me.machine, 0, round + page * 7, page + round + 1);
        }
        if (round == 0 && is_beat()) {
            g_usleep(2 * FERRY_BEAT_MS * 1000);
        }
        if (round < NR_ROUNDS && !ferry_source_harvest(me.source, NULL, errp)) {
            return false;
        }
    }
    return true;
}

/* The guest is in nobody's hand, or this side's. */
static bool hand_off(GError **errp)
{
    uint8_t state[1 + FAULT_STATE_BYTES] = {STREAM_DEVICES};
    bool ok;

    if (is_fetching()) {
        fault_doing("drafting");
        /* Once for nothing. */
        if (!ferry_source_draft(me.source, errp) || !ferry_source_step(me.source, 5, errp)) {
            return false;
        }
        /* Enough that some are missing for a while. */
        for (uint64_t page = 0; page < NR_MISSING; page++) {
            fake_machine_write(me.machine, 0, page * 2, page + 77);
        }
        if (!ferry_source_draft(me.source, errp)) {
            return false;
        }
    }
    fault_doing("handing off");
    stop_guest();
    if (!ferry_source_stopped(me.source, fault_world->timeout_ms * 2, errp) ||
        !(is_fetching() ? ferry_source_leave(me.source, errp)
                        : ferry_source_hand_off(me.source, errp))) {
        return false;
    }
    /* What cannot be written is seen by the session. */
    fault_write(me.stream, state, sizeof(state), fault_keepalive_ms());
    if (is_fetching()) {
        ferry_source_set_bandwidth(me.source, SLOW_BYTES);
    }
    fault_doing("waiting for LOADED");
    if (!ferry_source_wait_loaded(me.source, errp)) {
        return false;
    }
    g_mutex_lock(&me.lock);
    ok = ferry_source_go(me.source);
    g_mutex_unlock(&me.lock);
    return ok || ferry_source_fail(me.source, errp);
}

static FaultOutcome await_taken(void)
{
    g_autoptr(GError) error = NULL;

    fault_doing("waiting for TAKEN");
    if (!ferry_source_wait_taken(me.source, &error)) {
        fault_set_reason(error->message);
        return FAULT_IN_DOUBT;
    }
    fault_doing("waiting for the report");
    ferry_source_finish(me.source, fault_world->timeout_ms);
    return completed();
}

static FaultOutcome push(void)
{
    const bool breaks =
        fault_world->mode == FAULT_RESUME && !fault_world->event_fired && fault_world->event_armed;
    gint64 slow_until = g_get_monotonic_time() + SLOW_MS * 1000;
    g_autoptr(GError) error = NULL;

    fault_doing("pushing");
    ferry_source_set_bandwidth(me.source, SLOW_BYTES);
    while (!ferry_source_is_complete(me.source)) {
        /* That the stream breaks is for the destination to see. */
        fault_write_byte(me.stream, STREAM_PART);
        if (!ferry_source_push(me.source, 20, &error)) {
            fault_set_reason(error->message);
            shutdown(me.stream, SHUT_RDWR);
            return FAULT_PAUSED;
        }
        if (g_get_monotonic_time() > slow_until) {
            if (breaks && !atomic_exchange(&fault_world->event_fired, true)) {
                atomic_store(&fault_world->armed, true);
                fault_ask_network(FAULT_CUT_BOTH);
            }
            ferry_source_set_bandwidth(me.source, 0);
        }
    }
    fault_write_byte(me.stream, STREAM_END);
    fault_doing("waiting for the report");
    ferry_source_finish(me.source, fault_world->timeout_ms);
    return completed();
}

static FaultOutcome attempt(void)
{
    FerrySourceConfig config = {
        .session = fault_world->session,
        .version = FERRY_WIRE_VERSION_MAX,
        .nr_channels = NR_CHANNELS,
        .nr_fetch = is_fetching() ? 1 : 0,
        .timeout_ms = fault_world->timeout_ms,
        .switchover_ms = fault_world->timeout_ms * 2,
        .open_deadline_us = g_get_monotonic_time() + OPEN_MS * 1000,
        .open_timeout_ms = OPEN_MS,
        .dial = dial,
        .next_tracker = next_tracker,
        .broken = broken,
    };
    FerryRegions regions = fake_machine_list(me.machine);
    GError *error = NULL;

    fault_doing("opening");
    me.before = fault_census();
    me.stream = fault_dial(me.plugs->dial[0]);
    me.stopped = false;
    fault_set_reason("");
    me.tracker = fake_machine_tracker(me.machine, is_fetching());
    g_mutex_lock(&me.lock);
    me.source = ferry_source_new(&config, &regions, &me.tracker);
    g_mutex_unlock(&me.lock);
    fault_set_runs(true);
    fake_machine_run(me.machine);
    if (!ferry_source_connect(me.source, &error)) {
        return g_error_matches(error, FERRY_ERROR, FERRY_ERROR_REFUSED) ||
                       g_error_matches(error, FERRY_ERROR, FERRY_ERROR_CANCELLED)
                   ? kept(error)
                   : go_own_path(error);
    }
    fault_write_byte(me.stream, STREAM_FERRY);
    if (!copy(&error) || !hand_off(&error)) {
        return kept(error);
    }
    return is_fetching() ? push() : await_taken();
}

static FaultOutcome resume(void)
{
    GError *error = NULL;

    fault_doing("reconnecting");
    close(me.stream);
    me.stream = fault_dial(me.plugs->dial[0]);
    if (!ferry_source_reconnect(me.source, FERRY_WIRE_VERSION_MAX, fault_world->session, &error)) {
        fault_set_reason(error ? error->message : "");
        g_clear_error(&error);
        shutdown(me.stream, SHUT_RDWR);
        return FAULT_PAUSED;
    }
    return push();
}

int fault_source_run(const FaultPlugs *plugs)
{
    FaultTold *told = &fault_world->told[FAULT_SOURCE];
    char order = 0;

    me.plugs = plugs;
    me.stream = -1;
    me.machine = fault_machine_new(7);
    fault_fail_session = fail_session;
    g_mutex_init(&me.lock);
    g_thread_unref(g_thread_new("monitor", monitor_run, NULL));
    while (read(plugs->order, &order, 1) == 1 && order != ORDER_QUIT) {
        FaultOutcome outcome = order == ORDER_ATTEMPT ? attempt()
                               : order == ORDER_RESUME
                                   ? resume()
                                   : kept(g_error_new_literal(FERRY_ERROR, FERRY_ERROR_LOST,
                                                              "the guest was let go on by hand"));

        fault_doing("nothing");
        atomic_store(&told->outcome, outcome);
        if (write(plugs->order, &order, 1) != 1) {
            return 1;
        }
    }
    if (me.source) {
        end_session();
    }
    return 0;
}
