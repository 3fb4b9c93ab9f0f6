/*
 * The source's way to its peer: asking whether it has Ferry, and dialling it.
 *
 * Threads: the main thread resets it and says where the migration goes, before the migration thread
 * asks and dials; the return path thread leaves the words of PONGs behind; any thread may cancel.
 * What several of them touch is under `lock`.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "io/channel-socket.h"
#include "io/channel-tls.h"
#include "qapi/clone-visitor.h"
#include "qapi/qapi-visit-sockets.h"
#include "migration/migration.h"
#include "migration/options.h"
#include "migration/qemu-file.h"
#include "migration/savevm.h"
#include "migration/tls.h"

#include "ferry/glue/ferry.h"
#include "ferry/migration/error.h"
#include "ferry/migration/wire/frame.h"
#include "../internal.h"
#include "peer.h"

/* How long to wait for an answer to the PING; a peer that does not answer has no Ferry. */
#define PONG_TIMEOUT_MS 10000

/* How often a wait looks whether the migration was cancelled or broke. */
#define POLL_MS 50

/* What QEMU calls the main channel when it dials it, rather than being handed it. */
#define SOCKET_CHANNEL_NAME "migration-socket-outgoing"

typedef enum {
    PONG_NONE,     /* nothing asked, or no answer yet */
    PONG_ANSWERED, /* the two words of the token come next */
    PONG_HALF,
    PONG_PLACE, /* the number of the destination's own listener comes next */
    PONG_COMPLETE,
} PongState;

static struct {
    SocketAddress *address; /* where the user said to go; main thread */

    GMutex lock; /* for what follows */
    GCond ponged;
    QIOChannel *shaking; /* shaking hands */
    bool cancelled;      /* no more of that in this migration */
    PongState pong;
    uint8_t version;
    uint64_t token;
    bool spoke;      /* the destination has said anything at all */
    bool given_up;   /* it has not to the end, and nobody waits for it any more */
    bool listens;    /* the destination has a listener of its own ... */
    uint32_t number; /* ... here */
} peer;

void ferry_outgoing_address(SocketAddress *address)
{
    qapi_free_SocketAddress(peer.address);
    peer.address = QAPI_CLONE(SocketAddress, address);
}

void ferry_peer_reset(void)
{
    g_mutex_lock(&peer.lock);
    peer.pong = PONG_NONE;
    peer.spoke = peer.given_up = false;
    peer.listens = false;
    peer.cancelled = false;
    g_mutex_unlock(&peer.lock);
}

bool ferry_outgoing_pong(uint32_t value)
{
    bool ours = true;

    g_mutex_lock(&peer.lock);
    peer.spoke = true;
    switch (peer.pong) {
    case PONG_NONE:
        ours = value >> 16 == FERRY_PONG_MAGIC;
        if (ours) {
            peer.version = value >> 8;
            peer.listens = value & FERRY_PONG_LISTENS;
            peer.pong = PONG_ANSWERED;
        } else if (value >> 16 == FERRY_PING_MAGIC) {
            /* An echo: QEMU without Ferry, or with Ferry switched off. */
            peer.version = 0;
            peer.pong = PONG_COMPLETE;
        }
        break;
    case PONG_ANSWERED:
        peer.token = value;
        peer.pong = PONG_HALF;
        break;
    case PONG_HALF:
        peer.token |= (uint64_t)value << 32;
        peer.pong = peer.listens ? PONG_PLACE : PONG_COMPLETE;
        break;
    case PONG_PLACE:
        peer.number = value;
        peer.pong = PONG_COMPLETE;
        break;
    case PONG_COMPLETE:
        ours = false;
        break;
    }
    g_cond_broadcast(&peer.ponged);
    g_mutex_unlock(&peer.lock);
    return ours;
}

bool ferry_peer_ask(MigrationState *s, uint8_t *version, uint64_t *session, char **reason)
{
    gint64 deadline = g_get_monotonic_time() + PONG_TIMEOUT_MS * 1000;
    bool answered;

    /* What is sent on it now is short and waited for; at the switchover too. */
    qio_channel_set_delay(QIO_CHANNEL(ferry_underlying_socket(qemu_file_get_ioc(s->to_dst_file))),
                          false);
    qemu_savevm_send_ping(s->to_dst_file, FERRY_PING_MAGIC << 16 | FERRY_WIRE_VERSION_MIN << 8 |
                                              FERRY_WIRE_VERSION_MAX);
    qemu_fflush(s->to_dst_file);

    g_mutex_lock(&peer.lock);
    while (peer.pong != PONG_COMPLETE && g_get_monotonic_time() < deadline &&
           !migrate_has_error(s) && s->state != MIGRATION_STATUS_CANCELLING) {
        g_cond_wait_until(&peer.ponged, &peer.lock,
                          MIN(deadline, g_get_monotonic_time() + POLL_MS * 1000));
    }
    answered = peer.pong == PONG_COMPLETE;
    *version = peer.version;
    *session = peer.token;
    /* Words that come too late mean nothing any more. */
    peer.pong = PONG_COMPLETE;
    g_mutex_unlock(&peer.lock);

    if (!answered) {
        *reason = g_strdup("the destination did not answer");
    } else if (*version == 0) {
        *reason = g_strdup("the destination has no Ferry, or has it switched off");
    } else if (*version < FERRY_WIRE_VERSION_MIN || *version > FERRY_WIRE_VERSION_MAX) {
        *reason = g_strdup_printf("the destination's Ferry speaks version %u only", *version);
    } else {
        return true;
    }
    return false;
}

static void say_cancelled(Error **errp)
{
    error_setg(errp, "the way to the destination broke, or the migration was cancelled");
}

/* From here on ferry_peer_cancel() ends it; false when that has been called already. */
static bool begin_handshake(QIOChannel *ioc, Error **errp)
{
    bool cancelled;

    g_mutex_lock(&peer.lock);
    cancelled = peer.cancelled;
    peer.shaking = cancelled ? NULL : ioc;
    g_mutex_unlock(&peer.lock);
    if (cancelled) {
        say_cancelled(errp);
    }
    return !cancelled;
}

static void end_handshake(void)
{
    g_mutex_lock(&peer.lock);
    peer.shaking = NULL;
    g_mutex_unlock(&peer.lock);
}

typedef struct Connecting {
    bool done, abandoned; /* with the peer's lock */
    Error *err;
} Connecting;

/* Main thread. */
static void connecting_done(QIOTask *task, gpointer opaque)
{
    Connecting *connecting = opaque;
    Error *err = NULL;
    bool abandoned;

    qio_task_propagate_error(task, &err);
    g_mutex_lock(&peer.lock);
    connecting->done = true;
    connecting->err = err;
    abandoned = connecting->abandoned;
    g_cond_broadcast(&peer.ponged);
    g_mutex_unlock(&peer.lock);
    if (abandoned) {
        error_free(err);
        g_free(connecting);
    }
}

/*
 * A connect() that nobody answers takes two minutes, and QEMU has no way to end it: so it goes on
 * elsewhere when it is not waited for any more.
 */
static bool connect_to(QIOChannel *ioc, SocketAddress *address, Error **errp)
{
    Connecting *connecting = g_new0(Connecting, 1);
    Error *err;
    bool done;

    qio_channel_socket_connect_async(QIO_CHANNEL_SOCKET(ioc), address, connecting_done, connecting,
                                     NULL, NULL);
    g_mutex_lock(&peer.lock);
    while (!connecting->done && !peer.cancelled) {
        g_cond_wait(&peer.ponged, &peer.lock);
    }
    done = connecting->done;
    connecting->abandoned = !done;
    g_mutex_unlock(&peer.lock);
    if (!done) {
        say_cancelled(errp);
        return false;
    }
    err = connecting->err;
    g_free(connecting);
    error_propagate(errp, err);
    return !err;
}

typedef struct Handshake {
    GMainLoop *loop;
    bool done;
    Error *err;
} Handshake;

static void handshake_done(QIOTask *task, gpointer opaque)
{
    Handshake *handshake = opaque;

    qio_task_propagate_error(task, &handshake->err);
    handshake->done = true;
    g_main_loop_quit(handshake->loop);
}

/* Shake hands on this thread.  Takes over @ioc. */
static QIOChannel *start_tls(MigrationState *s, QIOChannel *ioc, Error **errp)
{
    g_autoptr(GMainContext) context = g_main_context_new();
    g_autoptr(GMainLoop) loop = g_main_loop_new(context, false);
    QIOChannelTLS *tls = migration_tls_client_create(ioc, s->hostname, errp);
    Handshake handshake = {.loop = loop};

    object_unref(OBJECT(ioc));
    if (!tls) {
        return NULL;
    }
    qio_channel_set_name(QIO_CHANNEL(tls), "ferry-tls-outgoing");
    if (!begin_handshake(QIO_CHANNEL(tls), errp)) {
        object_unref(OBJECT(tls));
        return NULL;
    }
    qio_channel_tls_handshake(tls, handshake_done, &handshake, NULL, context);
    /* On a blocking socket it is done by now. */
    if (!handshake.done) {
        g_main_loop_run(loop);
    }
    end_handshake();
    if (handshake.err) {
        error_propagate(errp, handshake.err);
        object_unref(OBJECT(tls));
        return NULL;
    }
    return QIO_CHANNEL(tls);
}

/*
 * The address to dial: what the main channel is connected to, or the destination's own listener
 * there.  A path is taken as the user gave it: the one that the socket knows may be relative to
 * the destination's directory.
 */
static SocketAddress *dial_address(MigrationState *s, Error **errp)
{
    QIOChannelSocket *main_socket = ferry_underlying_socket(qemu_file_get_ioc(s->to_dst_file));
    SocketAddress *address;

    /* A channel with this name was opened by QEMU itself, so the address is this migration's. */
    if (!peer.listens && g_str_equal(QIO_CHANNEL(main_socket)->name, SOCKET_CHANNEL_NAME) &&
        peer.address->type == SOCKET_ADDRESS_TYPE_UNIX) {
        return QAPI_CLONE(SocketAddress, peer.address);
    }
    address = qio_channel_socket_get_remote_address(main_socket, errp);
    if (address && peer.listens && address->type == SOCKET_ADDRESS_TYPE_INET) {
        g_free(address->u.inet.port);
        address->u.inet.port = g_strdup_printf("%u", peer.number);
    } else if (address && peer.listens && address->type == SOCKET_ADDRESS_TYPE_UNIX) {
        g_free(address->u.q_unix.path);
        address->u.q_unix.path = g_strdup_printf(FERRY_ABSTRACT_NAME, peer.number);
        address->u.q_unix.has_abstract = address->u.q_unix.abstract = true;
    }
    return address;
}

FerryChannel *ferry_peer_dial(void *opaque, const char *name, GError **errp)
{
    MigrationState *s = opaque;
    Error *err = NULL;
    g_autoptr(SocketAddress) address = dial_address(s, &err);
    QIOChannel *ioc = NULL;
    FerryChannel *channel;

    if (address && s->state != MIGRATION_STATUS_CANCELLING) {
        ioc = QIO_CHANNEL(qio_channel_socket_new());
        qio_channel_set_name(ioc, "ferry-socket-outgoing");
        if (!connect_to(ioc, address, &err)) {
            object_unref(OBJECT(ioc));
            ioc = NULL;
        } else {
            qio_channel_set_delay(ioc, false);
            if (migrate_channel_requires_tls_upgrade(ioc)) {
                ioc = start_tls(s, ioc, &err);
            }
        }
    }
    if (!ioc) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_IO, "cannot open channel '%s': %s", name,
                    err ? error_get_pretty(err) : "cancelled");
        error_free(err);
        return NULL;
    }
    channel = ferry_channel_new_ioc(ioc, name);
    object_unref(OBJECT(ioc));
    return channel;
}

void ferry_peer_end_silence(MigrationState *s)
{
    bool ours = s->rp_state.rp_thread_created && !migrate_postcopy_ram() && !migrate_return_path();

    g_mutex_lock(&peer.lock);
    peer.given_up = ours && !peer.spoke;
    ours = peer.given_up;
    g_mutex_unlock(&peer.lock);
    if (ours) {
        qio_channel_shutdown(qemu_file_get_ioc(s->to_dst_file), QIO_CHANNEL_SHUTDOWN_READ, NULL);
    }
}

bool ferry_peer_is_given_up(void)
{
    bool given_up;

    g_mutex_lock(&peer.lock);
    given_up = peer.given_up;
    g_mutex_unlock(&peer.lock);
    return given_up;
}

void ferry_peer_cancel(void)
{
    g_mutex_lock(&peer.lock);
    peer.cancelled = true;
    if (peer.shaking) {
        qio_channel_shutdown(peer.shaking, QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
    }
    g_cond_broadcast(&peer.ponged);
    g_mutex_unlock(&peer.lock);
}
