/*
 * Answering the source's Ferry: whether there is one here, and where to dial.
 *
 * Threads: the main thread; in a recovery, QEMU's listen thread answers the PING.  What the engine
 * calls on threads of its own is marked.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/guest-random.h"
#include "qemu/rcu.h"
#include "qemu/sockets.h"
#include "exec/cpu-common.h"
#include "io/net-listener.h"
#include "qapi/qapi-types-sockets.h"
#include "migration/channel.h"
#include "migration/migration.h"
#include "migration/qemu-file.h"

#include "ferry/glue/ferry.h"
#include "ferry/migration/error.h"
#include "ferry/migration/fault.h"
#include "ferry/migration/wire/binding.h"
#include "ferry/migration/wire/frame.h"
#include "../internal.h"
#include "load.h"
#include "lost.h"
#include "opening.h"
#include "postcopy.h"
#include "recovery.h"
#include "run.h"
#include "session.h"

/* --- What the engine wants of this machine ---------------------------------------------------- */

/* On a thread of the engine's. */
static bool list_regions(void *opaque, const FerryRegions *remote, FerryRegions *local,
                         GError **errp)
{
    Error *err = NULL;
    bool ok;

    rcu_register_thread();
    ok = ferry_resize_ram(remote, &err);
    if (ok) {
        /* What is listed is not deleted before it is held. */
        BQL_LOCK_GUARD();
        ferry_list_ram(local, false);
        ferry_hold_ram(local, opaque);
    } else {
        g_set_error_literal(errp, FERRY_ERROR, FERRY_ERROR_REFUSED, error_get_pretty(err));
        error_free(err);
    }
    rcu_unregister_thread();
    return ok;
}

/* On a thread of the engine's. */
static void warn(void *opaque, const char *message)
{
    warn_report("ferry: %s", message);
}

/* --- Where to dial ---------------------------------------------------------------------------- */

/* It is for a session's channels: in a pause, whoever still comes in here would be taken for the source. */
static void accepted(QIONetListener *listener, QIOChannelSocket *socket, gpointer opaque)
{
    if (qatomic_read(&migration_incoming_get_current()->state) !=
        MIGRATION_STATUS_POSTCOPY_PAUSED) {
        migration_channel_process_incoming(QIO_CHANNEL(socket));
    }
}

/* What came in from IPv4 at a socket for both protocols is IPv4. */
static void unmap(InetSocketAddress *inet)
{
    static const char mapped[] = "::ffff:";
    struct in_addr ipv4;

    if (g_str_has_prefix(inet->host, mapped) &&
        inet_pton(AF_INET, inet->host + strlen(mapped), &ipv4) == 1) {
        memmove(inet->host, inet->host + strlen(mapped), strlen(inet->host) - strlen(mapped) + 1);
        inet->has_ipv4 = inet->ipv4 = true;
        inet->has_ipv6 = inet->ipv6 = false;
    }
}

/* Where to listen, so that whoever is at the other end of @address can dial; @number tells where. */
static bool choose_address(SocketAddress *address, uint32_t *number)
{
    switch (address->type) {
    case SOCKET_ADDRESS_TYPE_INET:
        unmap(&address->u.inet);
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
    if (address->type == SOCKET_ADDRESS_TYPE_INET && !ferry_binding_is_here(socket->fd)) {
        /* It would be awaited on a network of another namespace. */
        return false;
    }
    listener = qio_net_listener_new();
    qio_net_listener_set_name(listener, "ferry-listener");
    if (ferry_listen(listener, address, FERRY_CHANNELS_MAX, &err) < 0) {
        warn_report_err(err);
        object_unref(OBJECT(listener));
        return false;
    }
    if (address->type == SOCKET_ADDRESS_TYPE_INET) {
        bound = qio_channel_socket_get_local_address(listener->sioc[0], NULL);
        *number = bound ? strtoul(bound->u.inet.port, NULL, 10) : 0;
    }
    /* Where the main channel came in: the main thread may be waiting for a page that is to be recovered. */
    qio_net_listener_set_client_func_full(
        listener, accepted, NULL, NULL,
        mis->state == MIGRATION_STATUS_POSTCOPY_RECOVER ? ferry_recovery_context() : NULL);
    ferry_watch_listener(listener);
    ferry_incoming_set_listener(listener);
    return true;
}

/* Tell the source the version, the token and where to dial. */
static void answer(MigrationIncomingState *mis)
{
    bool listens = false;
    uint32_t number = 0;
    uint8_t version;
    uint64_t token;

    (void)ferry_fault(FERRY_FAULT_QEMU_ANSWER, NULL);
    ferry_incoming_identify(&version, &token);
    ferry_watch_channel(qemu_file_get_ioc(mis->from_src_file), 0);
    /* It is some words, one after the other, and the return path's last word ends the source's blackout. */
    qio_channel_set_delay(qemu_file_get_ioc(mis->from_src_file), false);
    /* In a recovery QEMU may listen now, and did not before; or it is on another network. */
    ferry_incoming_set_listener(NULL);
    if (!mis->transport_data) {
        listens = open_listener(mis, &number);
    }
    migrate_send_rp_pong(mis, FERRY_PONG_MAGIC << 16 | version << 8 |
                                  (listens ? FERRY_PONG_LISTENS : 0));
    migrate_send_rp_pong(mis, (uint32_t)token);
    migrate_send_rp_pong(mis, token >> 32);
    if (listens) {
        migrate_send_rp_pong(mis, number);
    }
}

void ferry_incoming_ping(MigrationIncomingState *mis, uint32_t value)
{
    static const FerryDestinationOps ops = {
        .list_regions = list_regions,
        .complete = ferry_incoming_decided,
        .failed = ferry_load_failed,
        .warn = warn,
        .list_vcpus = ferry_postcopy_list_vcpus,
        .handed_off = ferry_incoming_decided,
        .go = ferry_incoming_go,
        .stream_idle_ms = ferry_postcopy_stream_idle_ms,
        .broken = ferry_postcopy_broken,
        .resumed = ferry_lost_end,
        .damaged = ferry_postcopy_damaged,
    };
    FerryDestination *destination = ferry_incoming_destination();
    uint8_t oldest = value >> 8, newest = value;
    const char *reason;

    if (value >> 16 != FERRY_PING_MAGIC) {
        migrate_send_rp_pong(mis, value);
        return;
    }
    if (!ferry_settings()->enabled) {
        ferry_incoming_set_reason("switched off with -global ferry.enabled=off");
        migrate_send_rp_pong(mis, value);
        return;
    }
    if (destination && mis->state == MIGRATION_STATUS_POSTCOPY_RECOVER) {
        /* The same session goes on, on another connection. */
        ferry_postcopy_hold_stream(mis);
        answer(mis);
        return;
    }
    if (destination) {
        /* A source asks once; whoever asks again is not one of ours. */
        migrate_send_rp_pong(mis, value);
        return;
    }
    reason = ferry_postcopy_why_not();
    if (reason) {
        ferry_incoming_set_reason(reason);
        migrate_send_rp_pong(mis, value);
        return;
    }
    if (oldest > FERRY_WIRE_VERSION_MAX || newest < FERRY_WIRE_VERSION_MIN) {
        ferry_incoming_set_reason("the source's Ferry speaks no version that this one does");
        migrate_send_rp_pong(mis, value);
        return;
    }
    ferry_incoming_open(MIN(newest, FERRY_WIRE_VERSION_MAX), &ops);
    answer(mis);
    ferry_opening_begin(qemu_file_get_ioc(mis->from_src_file));
}
