/*
 * The destination's side, as qemu/glue/destination drives it: see fault-world.h.
 *
 * Threads: the main one loads; one accepts channels; those of fault-guest.c.  What the engine calls comes from its own.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "fault-world.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "migration/destination/state.h"
#include "migration/error.h"

#define LOOK_MS 5

/* How long nobody may come, after a session or a resumption was ordered. */
#define COME_MS 10000

static struct {
    const FaultPlugs *plugs;
    FakeMachine *machine;
    FaultCensus before;
    int stream;  /* or -1 */
    bool opened; /* the stream has said that the session carries memory */
    bool left;   /* the guest was handed off with pages missing */
    int quit_fd;
    GThread *acceptor;
    uint64_t
        *written[FAKE_REGIONS_MAX]; /* what the guest has written to each page here; 0: nothing */
    _Atomic gint64 part_us;         /* since when something is due on the stream; 0: nothing is */
    gint64 came_us;                 /* when something has come on the stream */

    GMutex lock; /* for what follows */
    FerryDestination *destination;
    unsigned nr_failing; /* threads that are about to have it fail */
    bool went, failed, broken;
} me;

/* --- What the engine asks, or tells ----------------------------------------------------------- */

static bool list_regions(void *opaque, const FerryRegions *remote, FerryRegions *local,
                         GError **errp)
{
    *local = fake_machine_list(me.machine);
    return true;
}

static void complete(void *opaque)
{
}

static void go(void *opaque)
{
    fault_set_runs(true);
    atomic_store(&fault_world->went, true);
    if (me.left) {
        atomic_store(&me.part_us, g_get_monotonic_time());
    }
    g_mutex_lock(&me.lock);
    if (me.went) {
        fault_complain("the destination was let go twice");
    }
    me.went = true;
    g_mutex_unlock(&me.lock);
}

static void failed(void *opaque, const GError *why)
{
    g_mutex_lock(&me.lock);
    me.failed = true;
    fault_set_reason(why->message);
    if (me.opened) {
        shutdown(me.stream, SHUT_RDWR);
    }
    g_mutex_unlock(&me.lock);
}

static void warn(void *opaque, const char *message)
{
    fault_add_warning(message);
}

static uint64_t stream_idle_ms(void *opaque)
{
    gint64 part_us = atomic_load(&me.part_us);

    return part_us ? (uint64_t)(g_get_monotonic_time() - part_us) / 1000 : 0;
}

/* Whoever reads the stream pauses the migration when that breaks. */
static void broken(void *opaque, const GError *why)
{
    g_mutex_lock(&me.lock);
    me.broken = true;
    fault_set_reason(why->message);
    shutdown(me.stream, SHUT_RDWR);
    g_mutex_unlock(&me.lock);
}

static void resumed(void *opaque)
{
    g_mutex_lock(&me.lock);
    me.broken = false;
    g_mutex_unlock(&me.lock);
}

/* The guest must stop: that was told, and is no wrong memory. */
static void damaged(void *opaque, const GError *why)
{
    fault_guest_let_stop(false);
    fault_add_warning(why->message);
}

static void fail_session(GError *error)
{
    FerryDestination *destination;

    g_mutex_lock(&me.lock);
    destination = me.destination;
    me.nr_failing += destination != NULL;
    g_mutex_unlock(&me.lock);
    if (!destination) {
        g_error_free(error);
        return;
    }
    ferry_destination_fail(destination, error);
    g_mutex_lock(&me.lock);
    me.nr_failing--;
    g_mutex_unlock(&me.lock);
}

/* --- Connections ------------------------------------------------------------------------------ */

static gpointer accept_run(gpointer opaque)
{
    struct pollfd fds[2] = {
        {.fd = me.plugs->listener[1], .events = POLLIN},
        {.fd = me.quit_fd, .events = POLLIN},
    };

    while (poll(fds, 2, -1) >= 0 && !fds[1].revents) {
        int fd = accept4(me.plugs->listener[1], NULL, NULL, SOCK_CLOEXEC);

        if (fd >= 0) {
            ferry_destination_add_channel(me.destination, ferry_channel_new_socket(fd, "new"));
        }
    }
    return NULL;
}

/* What waits on a listener belongs to an attempt that is over. */
static void forget_callers(int listener)
{
    struct pollfd pollfd = {.fd = listener, .events = POLLIN};

    while (poll(&pollfd, 1, 0) > 0) {
        close(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
    }
}

static bool await_stream(void)
{
    struct pollfd pollfd = {.fd = me.plugs->listener[0], .events = POLLIN};
    int fd;

    fault_doing("waiting for the source");
    if (poll(&pollfd, 1, COME_MS) <= 0) {
        return false;
    }
    fd = accept4(me.plugs->listener[0], NULL, NULL, SOCK_CLOEXEC);
    g_mutex_lock(&me.lock);
    me.stream = fd;
    g_mutex_unlock(&me.lock);
    return fd >= 0;
}

static void close_stream(void)
{
    g_mutex_lock(&me.lock);
    if (me.stream >= 0) {
        close(me.stream);
    }
    me.stream = -1;
    g_mutex_unlock(&me.lock);
}

/* --- The end ---------------------------------------------------------------------------------- */

static void end_session(const char *reason)
{
    const uint64_t one = 1;
    FerryDestination *destination;

    fault_doing("freeing the session");
    g_mutex_lock(&me.lock);
    destination = me.destination;
    me.destination = NULL;
    while (me.nr_failing) {
        g_mutex_unlock(&me.lock);
        g_usleep(100);
        g_mutex_lock(&me.lock);
    }
    g_mutex_unlock(&me.lock);
    if (me.acceptor) {
        if (write(me.quit_fd, &one, sizeof(one)) != sizeof(one)) {
            g_assert_not_reached();
        }
        g_thread_join(g_steal_pointer(&me.acceptor));
        close(me.quit_fd);
    }
    ferry_destination_free(destination, reason);
}

static FaultOutcome failed_to_load(const char *why)
{
    FaultTold *told = &fault_world->told[FAULT_DESTINATION];

    /* Before anybody looks: what has been told counts more. */
    g_mutex_lock(&me.lock);
    if (!told->reason[0]) {
        fault_set_reason(why);
    }
    g_mutex_unlock(&me.lock);
    fault_guest_stop();
    end_session("it could not load the state of the guest");
    close_stream();
    fault_check_census(me.before);
    return FAULT_FAILED;
}

static FaultOutcome completed(void)
{
    fault_doing("comparing memory");
    fault_guest_stop();
    fault_guest_check();
    ferry_destination_send_report(me.destination);
    end_session(NULL);
    close_stream();
    fault_check_census(me.before);
    fault_set_reason("");
    return FAULT_COMPLETED;
}

/* --- QEMU's own path, in a few lines ---------------------------------------------------------- */

static FaultOutcome load_own_path(void)
{
    char word = 0;

    /* That its channels failed does not matter any more. */
    end_session(NULL);
    fault_doing("loading on QEMU's own path");
    for (size_t i = 0; i < me.machine->regions.nr; i++) {
        const FerryRegion *region = &me.machine->regions.list[i];

        if (!fault_read(me.stream, region->host, region->length_bytes, fault_keepalive_ms())) {
            return failed_to_load("QEMU's own path: the stream broke");
        }
    }
    if (!fault_write_byte(me.stream, STREAM_LOADED) ||
        !fault_read(me.stream, &word, 1, fault_keepalive_ms()) || word != STREAM_GO) {
        return failed_to_load("QEMU's own path: the stream broke");
    }
    fault_set_runs(true);
    fault_write_byte(me.stream, STREAM_TAKEN);
    fault_guest_check();
    close_stream();
    fault_check_census(me.before);
    fault_set_reason("");
    return FAULT_COMPLETED;
}

/* --- A migration ------------------------------------------------------------------------------ */

/* With pages missing. */
static FaultOutcome stream_broke(void)
{
    atomic_store(&me.part_us, 0);
    if (ferry_destination_stream_broke(me.destination, "the stream broke")) {
        close_stream();
        return FAULT_PAUSED;
    }
    return ferry_destination_is_complete(me.destination, NULL) &&
                   ferry_destination_has_guest(me.destination)
               ? completed()
               : failed_to_load("the stream broke");
}

static FaultOutcome take_word(void)
{
    char word = 0;

    if (recv(me.stream, &word, 1, 0) == 1) {
        if (word == STREAM_PART) {
            atomic_store(&me.part_us, g_get_monotonic_time());
            return FAULT_UNDECIDED;
        }
        if (word == STREAM_END && ferry_destination_is_complete(me.destination, NULL) &&
            ferry_destination_has_guest(me.destination)) {
            return completed();
        }
    }
    return stream_broke();
}

/* A source that keeps the guest may have said so since. */
static bool has_failed(void)
{
    bool failed_since;

    g_mutex_lock(&me.lock);
    failed_since = me.failed;
    g_mutex_unlock(&me.lock);
    return failed_since;
}

/* While the session is open, it is the one that breaks a stream that stalls; else the kernel's keep-alive. */
static bool is_stalled(void)
{
    bool cut_off;

    g_mutex_lock(&me.destination->lock);
    cut_off = ferry_destination_is_cut_off(me.destination);
    g_mutex_unlock(&me.destination->lock);
    return cut_off && g_get_monotonic_time() - me.came_us > (gint64)fault_keepalive_ms() * 1000;
}

/* The state of the devices is in. */
static FaultOutcome run(void)
{
    FaultOutcome outcome = FAULT_UNDECIDED;

    fault_doing("waiting for GO");
    me.came_us = g_get_monotonic_time();
    while (outcome == FAULT_UNDECIDED) {
        struct pollfd pollfd = {.fd = me.left ? me.stream : -1, .events = POLLIN};
        bool went;

        g_mutex_lock(&me.lock);
        went = me.went;
        g_mutex_unlock(&me.lock);
        if (went) {
            fault_doing("running");
            fault_guest_start();
        }
        if (has_failed()) {
            return failed_to_load("the session failed");
        }
        if (went && !me.left) {
            return completed();
        }
        if (poll(&pollfd, 1, LOOK_MS) > 0) {
            me.came_us = g_get_monotonic_time();
            outcome = take_word();
        } else if (me.left && is_stalled()) {
            outcome = stream_broke();
        }
    }
    return outcome;
}

static FaultOutcome load(bool fetches)
{
    uint8_t state[1 + FAULT_STATE_BYTES];
    GError *error = NULL;
    FaultOutcome outcome;
    bool ok;

    fault_doing("waiting for the state of the devices");
    g_mutex_lock(&me.lock);
    me.opened = true;
    ok = !me.failed;
    g_mutex_unlock(&me.lock);
    if (!ok || !fault_read(me.stream, state, sizeof(state), UINT_MAX) ||
        state[0] != STREAM_DEVICES) {
        return failed_to_load("the stream ended");
    }
    fault_doing("waiting for memory");
    ok = fetches ? ferry_destination_wait_left(me.destination, &error)
                 : ferry_destination_wait_complete(me.destination, &error);
    me.left = fetches;
    if (!ok || !ferry_destination_loaded(me.destination, &error)) {
        outcome = failed_to_load(error ? error->message : "");
        g_clear_error(&error);
        return outcome;
    }
    return run();
}

static void tell_ready(void)
{
    const char ready = 'k';

    if (write(me.plugs->order, &ready, 1) != 1) {
        g_assert_not_reached();
    }
}

static FaultOutcome attempt(void)
{
    static const FerryDestinationOps ops = {
        .list_regions = list_regions,
        .complete = complete,
        .go = go,
        .failed = failed,
        .warn = warn,
        .stream_idle_ms = stream_idle_ms,
        .broken = broken,
        .resumed = resumed,
        .damaged = damaged,
    };
    bool fetches = fault_world->mode == FAULT_POSTCOPY || fault_world->mode == FAULT_RESUME ||
                   fault_world->mode == FAULT_CANCELLED;
    char word = 0;

    forget_callers(me.plugs->listener[0]);
    forget_callers(me.plugs->listener[1]);
    me.before = fault_census();
    me.opened = me.left = me.went = me.failed = me.broken = false;
    me.part_us = 0;
    fault_guest_begin();
    me.quit_fd = eventfd(0, EFD_CLOEXEC);
    me.destination = ferry_destination_new(
        &(FerryDestinationConfig){
            .session = fault_world->session,
            .timeout_ms = fault_world->timeout_ms,
        },
        &ops, NULL);
    me.acceptor = g_thread_new("accept", accept_run, NULL);
    tell_ready();
    if (!await_stream()) {
        return failed_to_load("nobody came");
    }
    fault_doing("waiting for the stream to begin");
    if (!fault_read(me.stream, &word, 1, fault_keepalive_ms())) {
        return failed_to_load("the stream ended before it began");
    }
    return word == STREAM_FERRY ? load(fetches) : load_own_path();
}

static FaultOutcome resume(void)
{
    g_mutex_lock(&me.lock);
    me.broken = false;
    g_mutex_unlock(&me.lock);
    forget_callers(me.plugs->listener[0]);
    tell_ready();
    if (!await_stream()) {
        return FAULT_PAUSED;
    }
    ferry_destination_stream_came(me.destination);
    atomic_store(&me.part_us, me.went ? g_get_monotonic_time() : 0);
    return run();
}

/* The guest is not to run here, or not to run on. */
static FaultOutcome abandon(void)
{
    g_autoptr(GError) error = NULL;
    bool whole;

    fault_doing("abandoning");
    if (has_failed()) {
        return failed_to_load("");
    }
    whole = ferry_destination_is_complete(me.destination, NULL) &&
            ferry_destination_has_guest(me.destination);
    fault_guest_let_stop(!whole);
    if (!ferry_destination_abandon(me.destination, &error)) {
        fault_complain("it cannot be abandoned: %s (%s)", error->message,
                       ferry_destination_phase_name(me.destination->phase));
    }
    if (whole) {
        return completed();
    }
    fault_set_runs(false);
    end_session(NULL);
    fault_guest_stop();
    fault_check_census(me.before);
    return FAULT_FAILED;
}

int fault_destination_run(const FaultPlugs *plugs)
{
    FaultTold *told = &fault_world->told[FAULT_DESTINATION];
    char order = 0;

    me.plugs = plugs;
    me.stream = -1;
    me.machine = fault_machine_new(1);
    fault_guest_init(me.machine);
    fault_fail_session = fail_session;
    g_mutex_init(&me.lock);
    while (read(plugs->order, &order, 1) == 1 && order != ORDER_QUIT) {
        FaultOutcome outcome = order == ORDER_ATTEMPT  ? attempt()
                               : order == ORDER_RESUME ? resume()
                                                       : abandon();

        fault_doing("nothing");
        atomic_store(&told->outcome, outcome);
        if (write(plugs->order, &order, 1) != 1) {
            return 1;
        }
    }
    if (me.destination) {
        end_session("QEMU ends");
    }
    return 0;
}
