/*
 * The source's connections to its peer: all of them at once, with TLS where the migration has it, and not
 * for longer than they may take.  Those of QEMU's own, but for the main one, are connected here as well.
 *
 * Nothing is left behind when it takes too long, or when the migration is cancelled: no thread, no socket
 * that is still being connected.
 *
 * Threads: the migration thread; QEMU's own connections have one each.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/sockets.h"
#include "block/aio.h"
#include "qapi/error.h"
#include "io/channel-socket.h"
#include "io/channel-tls.h"
#include "io/task.h"
#include "migration/migration.h"
#include "migration/qemu-file.h"
#include "migration/tls.h"
#include <poll.h>

#include "ferry/glue/ferry.h"
#include "ferry/glue/marks.h"
#include "ferry/migration/error.h"
#include "ferry/migration/fault.h"
#include "ferry/migration/wire/frame.h"
#include "../internal.h"
#include "peer.h"
#include "target.h"

/* How often it looks whether it is cancelled, or late. */
#define POLL_MS 20

typedef struct Call {
    const char *name;
    int fd; /* -1: there is none, or `ioc` has it */
    bool connected;
    QIOChannel *ioc;
    struct Shaking *shaking; /* while it shakes hands */
} Call;

typedef struct Calls {
    Call list[FERRY_CHANNELS_MAX];
    unsigned nr;
    bool own; /* of QEMU's own: they end when the migration's state says so */
    gint64 start_us, deadline_us;
} Calls;

/* --- Waiting ------------------------------------------------------------------------------------ */

/* Whether it is over: cancelled, or too late for @what. */
static bool is_over(const Calls *calls, const char *what, Error **errp)
{
    gint64 now = g_get_monotonic_time();
    MigrationStatus state = qatomic_read(&migrate_get_current()->state);

    if (state == MIGRATION_STATUS_FAILED ||
        (calls->own ? state == MIGRATION_STATUS_CANCELLING : ferry_peer_is_cancelled())) {
        error_setg(errp, "the way to the destination broke, or the migration was cancelled");
    } else if (now >= calls->deadline_us) {
        error_setg(errp, "%s after %" PRId64 " ms", what, (now - calls->start_us) / 1000);
    } else {
        return false;
    }
    return true;
}

/* --- Connecting --------------------------------------------------------------------------------- */

static bool make_socket(Call *call, const FerryTarget *target, Error **errp)
{
    GError *error = NULL;
    int yes = 1;

    if (ferry_fault(FERRY_FAULT_QEMU_SOCKET, &error)) {
        ferry_propagate_error(errp, error);
        return false;
    }
    call->fd =
        qemu_socket(target->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK, target->protocol);
    if (call->fd < 0) {
        error_setg_errno(errp, errno, "cannot make a socket");
        return false;
    }
    ferry_mark_socket(call->fd);
    if (target->interface && setsockopt(call->fd, SOL_SOCKET, SO_BINDTOIFINDEX, &target->interface,
                                        sizeof(target->interface)) != 0) {
        error_setg_errno(errp, errno, "cannot use the network interface of QEMU's connection");
        return false;
    }
    if (target->local_length) {
        /* The port is chosen when it is known where the connection goes: there are enough then. */
        (void)setsockopt(call->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof(yes));
        if (bind(call->fd, (const struct sockaddr *)&target->local, target->local_length) != 0) {
            error_setg_errno(errp, errno, "cannot use the local address of QEMU's connection");
            return false;
        }
    }
    return true;
}

static bool begin_connecting(Call *call, const FerryTarget *target, Error **errp)
{
    if (call->fd < 0 && !make_socket(call, target, errp)) {
        return false;
    }
    call->connected =
        connect(call->fd, (const struct sockaddr *)&target->address, target->length) == 0;
    /* EAGAIN: a UNIX socket whose backlog is full; to be tried again. */
    if (!call->connected && errno != EINPROGRESS && errno != EAGAIN && errno != EINTR) {
        error_setg_errno(errp, errno, "cannot connect");
        return false;
    }
    return true;
}

/* Nothing has come of it so far, or it is connected, or it is an error. */
static bool look(Call *call, const FerryTarget *target, short revents, Error **errp)
{
    int error = 0;
    socklen_t length = sizeof(error);

    if (target->address.ss_family == AF_UNIX) {
        return begin_connecting(call, target, errp);
    }
    if (!revents) {
        return true;
    }
    if (getsockopt(call->fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0 || error != 0) {
        error_setg_errno(errp, error ?: errno, "cannot connect");
        return false;
    }
    call->connected = true;
    return true;
}

/* The first that is not connected yet; NULL if all are. */
static Call *first_unconnected(Calls *calls)
{
    for (unsigned i = 0; i < calls->nr; i++) {
        if (!calls->list[i].connected) {
            return &calls->list[i];
        }
    }
    return NULL;
}

/* On failure, returns the call that failed. */
static Call *connect_all(Calls *calls, const FerryTarget *target, Error **errp)
{
    struct pollfd polls[FERRY_CHANNELS_MAX];
    Call *open;

    for (unsigned i = 0; i < calls->nr; i++) {
        if (!begin_connecting(&calls->list[i], target, errp)) {
            return &calls->list[i];
        }
    }
    while ((open = first_unconnected(calls))) {
        unsigned nr = 0;

        if (is_over(calls, "no connection", errp)) {
            return open;
        }
        for (unsigned i = 0; i < calls->nr; i++) {
            /* Not the others: a connection that has closed again shows later. */
            if (!calls->list[i].connected) {
                polls[nr++] = (struct pollfd){.fd = calls->list[i].fd, .events = POLLOUT};
            }
        }
        if (target->address.ss_family == AF_UNIX) {
            g_usleep(POLL_MS * 1000);
        } else {
            poll(polls, nr, POLL_MS);
        }
        nr = 0;
        for (unsigned i = 0; i < calls->nr; i++) {
            Call *call = &calls->list[i];

            if (!call->connected && !look(call, target, polls[nr++].revents, errp)) {
                return call;
            }
        }
    }
    return NULL;
}

/* --- TLS ---------------------------------------------------------------------------------------- */

typedef struct Shaking {
    Calls *calls;
    GMainLoop *loop;
    unsigned nr; /* how many shake hands */
    bool over;
    Call *failed; /* the first that has, of `err` */
    Error *err;
} Shaking;

static void handshake_done(QIOTask *task, gpointer opaque)
{
    Call *call = opaque;
    Shaking *shaking = g_steal_pointer(&call->shaking);
    Error *err = NULL;

    if (qio_task_propagate_error(task, &err) && !shaking->err) {
        shaking->failed = call;
        shaking->err = g_steal_pointer(&err);
    }
    error_free(err);
    shaking->nr--;
    if (shaking->nr == 0 || shaking->err) {
        g_main_loop_quit(shaking->loop);
    }
}

/* A handshake ends when its socket does. */
static void end_handshakes(Shaking *shaking)
{
    Calls *calls = shaking->calls;

    shaking->over = true;
    for (unsigned i = 0; i < calls->nr; i++) {
        if (calls->list[i].shaking) {
            qio_channel_shutdown(calls->list[i].ioc, QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
        }
    }
}

static Call *first_shaking(const Calls *calls)
{
    for (unsigned i = 0; i < calls->nr; i++) {
        if (calls->list[i].shaking) {
            return (Call *)&calls->list[i];
        }
    }
    return NULL;
}

static gboolean look_at_handshakes(gpointer opaque)
{
    Shaking *shaking = opaque;

    if (!shaking->over && !shaking->err && first_shaking(shaking->calls) &&
        is_over(shaking->calls, "no TLS handshake", &shaking->err)) {
        shaking->failed = first_shaking(shaking->calls);
        g_main_loop_quit(shaking->loop);
    }
    return G_SOURCE_CONTINUE;
}

/*
 * Where handshakes are waited for.  GLib ends the process when it gets no file descriptor for one, so it is made
 * while there are some.
 */
static GMainContext *context;

static void make_context(void)
{
    context = g_main_context_new();
}

migration_init(make_context);

static bool begin_handshake(MigrationState *s, Call *call, Shaking *shaking, Error **errp)
{
    QIOChannelTLS *tls;

    /* Credentials are an object, and their name a parameter, that the monitor may take away. */
    bql_lock();
    tls = migration_tls_client_create(call->ioc, s->hostname, errp);
    bql_unlock();
    if (!tls) {
        return false;
    }
    object_unref(OBJECT(call->ioc));
    call->ioc = QIO_CHANNEL(tls);
    qio_channel_set_name(call->ioc, "ferry-tls-outgoing");
    call->shaking = shaking;
    shaking->nr++;
    qio_channel_tls_handshake(tls, handshake_done, call, NULL, context);
    return true;
}

/* On failure, returns the call that failed. */
static Call *shake_hands(MigrationState *s, Calls *calls, Error **errp)
{
    g_autoptr(GMainLoop) loop = g_main_loop_new(context, false);
    g_autoptr(GSource) timer = g_timeout_source_new(POLL_MS);
    Shaking shaking = {.calls = calls, .loop = loop};

    g_source_set_callback(timer, look_at_handshakes, &shaking, NULL);
    g_source_attach(timer, context);
    for (unsigned i = 0; i < calls->nr && !shaking.err; i++) {
        if (!begin_handshake(s, &calls->list[i], &shaking, &shaking.err)) {
            shaking.failed = &calls->list[i];
        }
    }
    if (shaking.nr && !shaking.err) {
        g_main_loop_run(loop);
    }
    end_handshakes(&shaking);
    while (shaking.nr) {
        g_main_context_iteration(context, true);
    }
    g_source_destroy(timer);
    error_propagate(errp, shaking.err);
    return shaking.failed;
}

/* --- All of it ---------------------------------------------------------------------------------- */

static Call *make_channels(Calls *calls, Error **errp)
{
    for (unsigned i = 0; i < calls->nr; i++) {
        Call *call = &calls->list[i];
        QIOChannelSocket *socket = qio_channel_socket_new_fd(call->fd, errp);

        if (!socket) {
            return call;
        }
        call->fd = -1;
        call->ioc = QIO_CHANNEL(socket);
        qio_channel_set_name(call->ioc, "ferry-socket-outgoing");
    }
    return NULL;
}

static Call *dial(MigrationState *s, Calls *calls, Error **errp)
{
    FerryTarget target;
    Call *failed;

    if (!ferry_find_target(s, &target, errp)) {
        return &calls->list[0];
    }
    failed = connect_all(calls, &target, errp);
    if (!failed) {
        failed = make_channels(calls, errp);
    }
    if (!failed && migrate_channel_requires_tls_upgrade(calls->list[0].ioc)) {
        failed = shake_hands(s, calls, errp);
    }
    return failed;
}

bool ferry_peer_dial(void *opaque, const char *const *names, unsigned nr, gint64 deadline_us,
                     FerryChannel **dialled, GError **errp)
{
    g_autofree Calls *calls = g_new0(Calls, 1);
    Call *failed;
    Error *err = NULL;

    calls->nr = nr;
    calls->start_us = g_get_monotonic_time();
    calls->deadline_us = deadline_us;
    for (unsigned i = 0; i < nr; i++) {
        calls->list[i] = (Call){.name = names[i], .fd = -1};
    }
    failed = dial(opaque, calls, &err);
    if (failed) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_IO, "cannot open channel '%s': %s", failed->name,
                    error_get_pretty(err));
        error_free(err);
    }
    for (unsigned i = 0; i < nr; i++) {
        Call *call = &calls->list[i];

        if (!failed) {
            qio_channel_set_blocking(call->ioc, true, NULL);
            dialled[i] = ferry_channel_new_ioc(call->ioc, call->name);
        }
        if (call->ioc) {
            object_unref(OBJECT(call->ioc));
        }
        if (call->fd >= 0) {
            close(call->fd);
        }
    }
    return !failed;
}

/* --- QEMU's own channels, but for the main one ---------------------------------------------------- */

typedef struct Side {
    FerryTarget target;
    bool keep_alive;
    unsigned timeout_ms;
} Side;

static int dial_side(const Side *side, Error **errp)
{
    const int yes = 1;
    g_autofree Calls *calls = g_new0(Calls, 1);
    Call *call = &calls->list[0];

    calls->nr = 1;
    calls->own = true;
    calls->start_us = g_get_monotonic_time();
    calls->deadline_us = calls->start_us + (gint64)side->timeout_ms * 1000;
    call->fd = -1;
    if (!connect_all(calls, &side->target, errp)) {
        qemu_socket_set_block(call->fd);
        if (side->keep_alive) {
            (void)setsockopt(call->fd, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof(yes));
        }
        return call->fd;
    }
    if (g_get_monotonic_time() >= calls->deadline_us) {
        ferry_blame_network_timeout(errp);
    }
    error_prepend(errp, "cannot open one more of QEMU's own channels: ");
    if (call->fd >= 0) {
        close(call->fd);
    }
    return -1;
}

typedef struct SideTask {
    Side side;
    QIOTask *task;
} SideTask;

/* QEMU gets the channel, or the error. */
static void tell_side(void *opaque)
{
    g_autofree SideTask *one = opaque;

    qio_task_complete(one->task);
    qio_task_free(one->task);
}

static void fail_side(SideTask *one, Error *err)
{
    qio_task_set_error(one->task, err);
    tell_side(one);
}

/*
 * On a thread of its own.  A socket that is connected becomes the channel's, as one that was passed does.  QEMU sees
 * to it in the main loop; but there, somebody may wait for a migration that has failed to end.
 */
static gpointer dial_side_run(gpointer opaque)
{
    SideTask *one = opaque;
    QIOChannelSocket *socket = QIO_CHANNEL_SOCKET(qio_task_get_source(one->task));
    SocketAddress address = {.type = SOCKET_ADDRESS_TYPE_FD};
    g_autofree char *number = NULL;
    Error *err = NULL;
    int fd = dial_side(&one->side, &err);

    if (fd >= 0) {
        number = g_strdup_printf("%d", fd);
        address.u.fd.str = number;
        qio_channel_socket_connect_sync(socket, &address, &err);
    }
    if (err) {
        fail_side(one, err);
    } else {
        aio_bh_schedule_oneshot(qemu_get_aio_context(), tell_side, one);
    }
    return NULL;
}

void ferry_outgoing_connect(QIOChannelSocket *socket, SocketAddress *address, QIOTaskFunc told,
                            void *opaque)
{
    const InetSocketAddress *inet =
        address->type == SOCKET_ADDRESS_TYPE_INET ? &address->u.inet : NULL;
    MigrationState *s = migrate_get_current();
    Side side = {.timeout_ms = ferry_settings()->network_timeout_ms};
    SideTask *one;
    GThread *thread;
    GError *error = NULL;
    Error *err = NULL;

    if (!ferry_is_enabled() || !ferry_underlying_socket(qemu_file_get_ioc(s->to_dst_file)) ||
        !ferry_find_target(s, &side.target, NULL)) {
        ferry_outgoing_dial(socket, address, told, opaque, NULL);
        return;
    }
    side.keep_alive = inet && inet->keep_alive;
#ifdef HAVE_IPPROTO_MPTCP
    side.target.protocol = inet && inet->mptcp ? IPPROTO_MPTCP : 0;
#endif
    one = g_new0(SideTask, 1);
    one->side = side;
    one->task = qio_task_new(OBJECT(socket), told, opaque, NULL);
    thread = g_thread_try_new("ferry-dial", dial_side_run, one, &error);
    if (thread) {
        g_thread_unref(thread);
    } else {
        ferry_propagate_error(&err, error);
        fail_side(one, err);
    }
}
