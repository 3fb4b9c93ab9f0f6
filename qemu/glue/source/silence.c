/*
 * The end of a migration whose destination has never said a word, on QEMU's own path.
 *
 * Without Ferry's question QEMU would have no return path: it would write the stream, close the connection, and
 * leave the rest to the kernel.  With it that is not safe.  A destination that was frozen answers later, and
 * what it says to a closed connection has the kernel reset that, with all that it has not sent yet.  So the
 * source waits until the destination's host has all of the stream, and only then completes.  If that host says
 * for network-timeout that it takes nothing, nobody can know what it has: a person has to look who has the guest.
 *
 * Threads: the migration thread, without the BQL.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include "io/channel-socket.h"
#include "migration/migration.h"
#include "migration/options.h"
#include "migration/qemu-file.h"

#include "ferry/migration/error.h"
#include "../internal.h"
#include "peer.h"
#include "silence.h"

/* How often it looks. */
#define POLL_MS 20

/* What the peer's host has not taken, in bytes.  A UNIX socket has none: what was written is there. */
static int unsent_bytes(const QIOChannelSocket *socket)
{
    bool is_remote = socket && socket->remoteAddr.ss_family != AF_UNIX;
    int nr_bytes = 0;

    return is_remote && ioctl(socket->fd, SIOCOUTQ, &nr_bytes) == 0 ? nr_bytes : 0;
}

/* Whether all has been taken.  False as well when the stream is broken. */
static bool wait_until_taken(MigrationState *s, const QIOChannelSocket *socket)
{
    gint64 limit_us = (gint64)ferry_settings()->network_timeout_ms * 1000;
    gint64 deadline = g_get_monotonic_time() + limit_us;
    int before = unsent_bytes(socket), now;

    while ((now = unsent_bytes(socket)) > 0) {
        if (now < before) {
            before = now;
            deadline = g_get_monotonic_time() + limit_us;
        }
        if (g_get_monotonic_time() >= deadline || qemu_file_get_error(s->to_dst_file)) {
            return false;
        }
        g_usleep(POLL_MS * 1000);
    }
    return true;
}

/* When it is closed, what has not been sent is dropped, and the peer learns that it is not complete. */
static void reset_on_close(const QIOChannelSocket *socket)
{
    const struct linger linger = {.l_onoff = 1};

    (void)setsockopt(socket->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
}

bool ferry_is_silence(MigrationState *s)
{
    return s->rp_state.rp_thread_created && !migrate_postcopy_ram() && !migrate_return_path() &&
           ferry_peer_is_silent();
}

int ferry_end_silence(MigrationState *s)
{
    QIOChannel *ioc = qemu_file_get_ioc(s->to_dst_file);
    QIOChannelSocket *socket = ferry_underlying_socket(ioc);
    g_autoptr(GError) why = NULL;
    bool taken = wait_until_taken(s, socket);

    if (!ferry_peer_give_up()) {
        /* It has spoken meanwhile: QEMU waits for its last word. */
        return 0;
    }
    if (!taken) {
        why = g_error_new(
            FERRY_ERROR, FERRY_ERROR_TIMEOUT,
            "the destination has said nothing, and its host took nothing for %u ms: let the "
            "guest go on here only if the migration has failed there, or that QEMU has ended",
            ferry_settings()->network_timeout_ms);
        ferry_set_migration_error(s, why);
        reset_on_close(socket);
        qemu_file_set_error(s->to_dst_file, -ETIMEDOUT);
    }
    qio_channel_shutdown(ioc, QIO_CHANNEL_SHUTDOWN_READ, NULL);
    return taken ? 0 : -ETIMEDOUT;
}
