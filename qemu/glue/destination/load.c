/*
 * The destination: answering the source's Ferry, and binding the engine to QEMU's incoming side.
 *
 * Threads: everything runs on the main thread, except the callbacks that the engine calls on its
 * own threads (marked).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/coroutine.h"
#include "qemu/error-report.h"
#include "qemu/guest-random.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "qemu/yank.h"
#include "block/aio.h"
#include "exec/cpu-common.h"
#include "io/channel-socket.h"
#include "io/net-listener.h"
#include "qapi/qapi-types-sockets.h"
#include "system/runstate.h"
#include "migration/channel.h"
#include "migration/migration.h"
#include "migration/qemu-file.h"
#include "migration/yank_functions.h"

#include "ferry/glue/ferry.h"
#include "ferry/migration/destination/destination.h"
#include "ferry/migration/error.h"
#include "../internal.h"

static struct {
    FerryDestination *destination;
    uint8_t version;
    uint64_t token;           /* of the session */
    bool active;              /* the source's stream says that Ferry carries the memory */
    Coroutine *waiting;       /* for the memory to be complete */
    QIONetListener *listener; /* our own, when QEMU has none */
    VMChangeStateEntry *vm_change;
    char *reason; /* why Ferry is not in use */
    bool has_last;
    FerryStats last;
} incoming;

/* --- Called on the engine's threads ----------------------------------------------------------- */

static bool list_regions(void *opaque, const FerryRegions *remote, FerryRegions *local,
                         GError **errp)
{
    Error *err = NULL;
    bool ok;

    rcu_register_thread();
    ok = ferry_resize_ram(remote, &err);
    if (ok) {
        ferry_list_ram(local);
    } else {
        g_set_error_literal(errp, FERRY_ERROR, FERRY_ERROR_REFUSED, error_get_pretty(err));
        error_free(err);
    }
    rcu_unregister_thread();
    return ok;
}

static void wake(void *opaque)
{
    Coroutine *waiting = incoming.waiting;

    if (waiting) {
        incoming.waiting = NULL;
        aio_co_wake(waiting);
    }
}

static void complete(void *opaque)
{
    aio_bh_schedule_oneshot(qemu_get_aio_context(), wake, NULL);
}

static void warn(void *opaque, const char *message)
{
    warn_report("ferry: %s", message);
}

FerryDestination *ferry_incoming_destination(void)
{
    return qatomic_read(&incoming.destination);
}

/* --- Negotiation ------------------------------------------------------------------------------ */

static void set_reason(const char *reason)
{
    g_free(incoming.reason);
    incoming.reason = g_strdup(reason);
}

static void accepted(QIONetListener *listener, QIOChannelSocket *socket, gpointer opaque)
{
    migration_channel_process_incoming(QIO_CHANNEL(socket));
}

/* Where to listen, so that whoever is at the other end of @address can dial; @number tells where. */
static bool choose_address(SocketAddress *address, uint32_t *number)
{
    switch (address->type) {
    case SOCKET_ADDRESS_TYPE_INET:
        g_free(address->u.inet.port);
        address->u.inet.port = g_strdup("0");
        return true;
    case SOCKET_ADDRESS_TYPE_UNIX:
        qemu_guest_getrandom_nofail(number, sizeof(*number));
        g_free(address->u.q_unix.path);
        address->u.q_unix.path = g_strdup_printf(FERRY_ABSTRACT_NAME, *number);
        address->u.q_unix.has_abstract = address->u.q_unix.abstract = true;
        return true;
    default:
        return false;
    }
}

/*
 * QEMU does not listen when its main channel was handed to it ready connected: open a listener
 * on the same local address for Ferry's channels.  Returns false if that cannot be.
 */
static bool open_listener(MigrationIncomingState *mis, uint32_t *number)
{
    QIOChannelSocket *socket = ferry_underlying_socket(qemu_file_get_ioc(mis->from_src_file));
    g_autoptr(SocketAddress) address = NULL, bound = NULL;
    QIONetListener *listener;
    Error *err = NULL;

    address = socket ? qio_channel_socket_get_local_address(socket, NULL) : NULL;
    if (!address || !choose_address(address, number)) {
        return false;
    }
    listener = qio_net_listener_new();
    qio_net_listener_set_name(listener, "ferry-listener");
    if (qio_net_listener_open_sync(listener, address, FERRY_DATA_CHANNELS_MAX + 2, &err) < 0) {
        warn_report_err(err);
        object_unref(OBJECT(listener));
        return false;
    }
    if (address->type == SOCKET_ADDRESS_TYPE_INET) {
        bound = qio_channel_socket_get_local_address(listener->sioc[0], NULL);
        *number = bound ? strtoul(bound->u.inet.port, NULL, 10) : 0;
    }
    qio_net_listener_set_client_func(listener, accepted, NULL, NULL);
    incoming.listener = listener;
    return true;
}

static void close_listener(void)
{
    if (incoming.listener) {
        qio_net_listener_disconnect(incoming.listener);
        object_unref(OBJECT(incoming.listener));
        incoming.listener = NULL;
    }
}

static void yank(void *opaque)
{
    ferry_destination_shutdown(opaque);
}

/* Tell the source the version, the token and where to dial. */
static void answer(MigrationIncomingState *mis)
{
    bool listens = false;
    uint32_t number = 0;

    if (!mis->transport_data) {
        /* In a recovery this is not the main thread. */
        BQL_LOCK_GUARD();
        close_listener();
        listens = open_listener(mis, &number);
    }
    migrate_send_rp_pong(mis, FERRY_PONG_MAGIC << 16 | incoming.version << 8 |
                                  (listens ? FERRY_PONG_LISTENS : 0));
    migrate_send_rp_pong(mis, (uint32_t)incoming.token);
    migrate_send_rp_pong(mis, incoming.token >> 32);
    if (listens) {
        migrate_send_rp_pong(mis, number);
    }
}

void ferry_incoming_ping(MigrationIncomingState *mis, uint32_t value)
{
    static const FerryDestinationOps ops = {
        .list_regions = list_regions,
        .complete = complete,
        .warn = warn,
        .list_vcpus = ferry_postcopy_list_vcpus,
        .go = ferry_postcopy_go,
        .stream_idle_ms = ferry_postcopy_stream_idle_ms,
        .broken = ferry_postcopy_broken,
        .resumed = ferry_lost_end,
        .damaged = ferry_postcopy_damaged,
    };
    FerryDestinationConfig config = {.timeout_ms = ferry_settings()->network_timeout_ms};
    uint8_t oldest = value >> 8, newest = value;
    const char *reason;

    if (value >> 16 != FERRY_PING_MAGIC) {
        migrate_send_rp_pong(mis, value);
        return;
    }
    if (!ferry_settings()->enabled) {
        set_reason("switched off with -global ferry.enabled=off");
        migrate_send_rp_pong(mis, value);
        return;
    }
    if (incoming.destination && mis->state == MIGRATION_STATUS_POSTCOPY_RECOVER) {
        /* The same session goes on, on another connection. */
        ferry_postcopy_hold_stream(mis);
        answer(mis);
        return;
    }
    if (incoming.destination) {
        /* A source asks once; whoever asks again is not one of ours. */
        migrate_send_rp_pong(mis, value);
        return;
    }
    reason = ferry_postcopy_why_not();
    if (reason) {
        set_reason(reason);
        migrate_send_rp_pong(mis, value);
        return;
    }
    if (oldest > FERRY_WIRE_VERSION_MAX || newest < FERRY_WIRE_VERSION_MIN) {
        set_reason("the source's Ferry speaks no version that this one does");
        migrate_send_rp_pong(mis, value);
        return;
    }
    incoming.version = MIN(newest, FERRY_WIRE_VERSION_MAX);
    qemu_guest_getrandom_nofail(&incoming.token, sizeof(incoming.token));
    config.session = incoming.token;
    qatomic_set(&incoming.destination, ferry_destination_new(&config, &ops, NULL));
    yank_register_function(MIGRATION_YANK_INSTANCE, yank, incoming.destination);
    set_reason(NULL);
    answer(mis);
}

int ferry_listen_backlog(int backlog)
{
    return ferry_settings()->enabled ? FERRY_DATA_CHANNELS_MAX + 2 : backlog;
}

static void free_later(void *opaque)
{
    bql_unlock();
    ferry_destination_free(opaque, NULL);
    bql_lock();
}

/*
 * End the session, telling the source @reason (or NULL).  With @later it has ended well: joining its
 * threads waits until the source has been told that the guest runs, and is no part of the blackout.
 */
static void end_session(const char *reason, bool later)
{
    FerryDestination *destination = incoming.destination;

    qatomic_set(&incoming.destination, NULL);
    yank_unregister_function(MIGRATION_YANK_INSTANCE, yank, destination);
    if (later) {
        aio_bh_schedule_oneshot(qemu_get_aio_context(), free_later, destination);
        return;
    }
    /* The engine's threads may be waiting for the BQL to resize a block. */
    bql_unlock();
    ferry_destination_free(destination, reason);
    bql_lock();
}

bool ferry_incoming_channel(QIOChannel *ioc)
{
    MigrationIncomingState *mis = migration_incoming_get_current();

    if (incoming.destination && mis->state == MIGRATION_STATUS_POSTCOPY_PAUSED &&
        !mis->from_src_file) {
        /* A recovery begins with another main channel. */
        return false;
    }
    if (incoming.destination) {
        /* From here on it is yanked with the session. */
        migration_ioc_unregister_yank(ioc);
        qio_channel_set_blocking(ioc, true, NULL);
        ferry_destination_add_channel(incoming.destination, ferry_channel_new_ioc(ioc, "new"));
        return true;
    }
    if (mis->from_src_file && migration_has_all_channels()) {
        warn_report("ferry: a connection that is not the source's was closed");
        qio_channel_shutdown(ioc, QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
        migration_ioc_unregister_yank(ioc);
        return true;
    }
    return false;
}

bool ferry_has_all_channels(bool all)
{
    if (!all || !ferry_settings()->enabled || !incoming.destination) {
        return all;
    }
    return ferry_destination_has_all_channels(incoming.destination);
}

/* --- The "ram" section ------------------------------------------------------------------------ */

static void vm_changed(void *opaque, bool running, RunState state)
{
    if (running && incoming.destination) {
        ferry_destination_running(incoming.destination);
    }
}

/* The source goes on without Ferry: what was prepared is not needed. */
static void stand_down(void)
{
    close_listener();
    if (incoming.destination) {
        end_session(NULL, false);
        ferry_postcopy_stand_down();
        set_reason("the source did not open Ferry's channels");
    } else if (!incoming.reason) {
        set_reason("the source has no Ferry, or has it switched off");
    }
}

static int load_setup(void)
{
    if (!incoming.destination) {
        error_report(
            "ferry: the stream says that Ferry carries the memory, but no session is open");
        return -EINVAL;
    }
    incoming.active = true;
    incoming.vm_change = qemu_add_vm_change_state_handler(vm_changed, NULL);
    return 0;
}

static int load_end(void)
{
    GError *error = NULL;
    bool done = ferry_destination_is_complete(incoming.destination, &error);

    /* With pages missing, the source says that this is the end when it knows that they have come. */
    if (!done && !error && !ferry_destination_is_left(incoming.destination)) {
        if (qemu_in_coroutine()) {
            incoming.waiting = qemu_coroutine_self();
            qemu_coroutine_yield();
        } else {
            ferry_destination_wait_complete(incoming.destination, NULL);
        }
        done = ferry_destination_is_complete(incoming.destination, &error);
    }
    g_clear_error(&error);
    /* Why not is reported when the session is cleaned up. */
    return done ? 0 : -EIO;
}

bool ferry_load_state(QEMUFile *f, int *ret)
{
    uint8_t *head;
    uint64_t word;

    if (qemu_peek_buffer(f, &head, sizeof(word), 0) != sizeof(word)) {
        return false;
    }
    word = ldq_be_p(head);
    if (!incoming.active && word != FERRY_STREAM_SETUP) {
        stand_down();
        return false;
    }
    qemu_file_skip(f, sizeof(word));
    switch (word) {
    case FERRY_STREAM_SETUP:
        *ret = load_setup();
        break;
    case FERRY_STREAM_PART:
        ferry_postcopy_note_part();
        *ret = 0;
        break;
    case FERRY_STREAM_END:
        *ret = load_end();
        break;
    default:
        error_report("ferry: 0x%" PRIx64 " in the stream where a mark of Ferry's belongs", word);
        *ret = -EINVAL;
    }
    return true;
}

void ferry_incoming_loaded(void)
{
    if (incoming.active) {
        ferry_destination_loaded(incoming.destination, NULL);
    }
}

static void keep_last(void)
{
    if (incoming.has_last) {
        ferry_stats_clear(&incoming.last);
    }
    ferry_destination_query(incoming.destination, &incoming.last);
    incoming.has_last = true;
}

static void stop_listening(void)
{
    if (incoming.vm_change) {
        qemu_del_vm_change_state_handler(incoming.vm_change);
        incoming.vm_change = NULL;
    }
    close_listener();
}

void ferry_incoming_abandoned(void)
{
    stop_listening();
    keep_last();
    end_session(NULL, false);
    incoming.active = false;
}

void ferry_load_cleanup(void)
{
    MigrationIncomingState *mis = migration_incoming_get_current();
    bool failed = mis->state == MIGRATION_STATUS_FAILED;
    g_autoptr(GError) error = NULL;

    stop_listening();
    if (!incoming.destination) {
        return;
    }
    if (!failed) {
        ferry_destination_send_report(incoming.destination);
    } else if (!ferry_destination_is_complete(incoming.destination, &error) && error) {
        error_report("ferry: %s", error->message);
    }
    keep_last();
    ferry_postcopy_hold_stream(NULL);
    end_session("it could not load the state of the guest", !failed);
    incoming.active = false;
}

bool ferry_incoming_query(FerryStats *stats, bool *active, uint8_t *version, char **reason)
{
    *active = incoming.active;
    *version = incoming.version;
    *reason = g_strdup(incoming.reason);
    if (incoming.destination) {
        ferry_destination_query(incoming.destination, stats);
        return true;
    }
    if (incoming.has_last) {
        ferry_stats_copy(stats, &incoming.last);
        return true;
    }
    return false;
}
