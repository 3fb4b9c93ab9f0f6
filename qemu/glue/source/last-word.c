/*
 * The end of a migration on QEMU's own path, where there is a return path.
 *
 * That the return path breaks says nothing of the guest: it may run there already, and to take it back here would have
 * it run twice.  So once everything is written, the source takes the guest back only if the destination says that it
 * has failed, and waits for its last word.  If the connection breaks without it, or it does not come within
 * switchover-timeout, or the destination's host takes nothing, nobody can know: a person has to look who has the guest.
 *
 * Where only Ferry's question needed the return path, QEMU would have none: it would write the stream, close the
 * connection, and leave the rest to the kernel.  There, a destination that has never said a word need not: the source
 * completes as soon as the destination's host has all of the stream.  But a destination that was frozen answers later:
 * what it says to a closed connection has the kernel reset that, with all it has not sent yet.
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

#include "ferry/glue/ferry.h"
#include "ferry/migration/error.h"
#include "../internal.h"
#include "last-word.h"
#include "peer.h"

/* How often it looks what the destination's host has taken. */
#define POLL_MS 20

/* What the peer's host has not taken, in bytes.  A UNIX socket has none: what was written is there. */
static int unsent_bytes(const QIOChannelSocket *socket)
{
    bool is_remote = socket && socket->remoteAddr.ss_family != AF_UNIX;
    int nr_bytes = 0;

    return is_remote && ioctl(socket->fd, SIOCOUTQ, &nr_bytes) == 0 ? nr_bytes : 0;
}

/* Whether it is Ferry's question only that there is one for. */
static bool is_borrowed(void)
{
    return !migrate_postcopy_ram() && !migrate_return_path();
}

/* Whether the destination's silence is no sign of anything: nobody but Ferry has asked it to speak. */
static bool may_be_silent(void)
{
    return is_borrowed() && ferry_peer_is_silent();
}

/* For how long nothing may have been taken; longer where the destination is known to be at work, or has to speak. */
static gint64 limit_us(void)
{
    unsigned limit_ms = may_be_silent() ? ferry_settings()->network_timeout_ms
                                        : ferry_settings()->switchover_timeout_ms;

    return (gint64)limit_ms * 1000;
}

/* Its last word; NONE: it may be silent and has all of the stream, or too much time has passed. */
static FerryLastWord wait_for_word(const QIOChannelSocket *socket)
{
    gint64 since = g_get_monotonic_time();
    int before = unsent_bytes(socket), now;
    FerryLastWord word;

    do {
        word = ferry_peer_wait_last_word(g_get_monotonic_time() + POLL_MS * 1000);
        now = unsent_bytes(socket);
        if (now < before) {
            before = now;
            since = g_get_monotonic_time();
        }
    } while (word == FERRY_LAST_WORD_NONE && !(may_be_silent() && now == 0) &&
             g_get_monotonic_time() - since < limit_us());
    return word;
}

/* When it is closed, what has not been sent is dropped, and the peer learns that it is not complete. */
static void reset_on_close(const QIOChannelSocket *socket)
{
    const struct linger linger = {.l_onoff = 1};

    (void)setsockopt(socket->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
}

int ferry_fail_last_word(MigrationState *s, int error, const char *what)
{
    g_autoptr(GError) why =
        g_error_new(FERRY_ERROR, FERRY_ERROR_LOST, "%s: %s", what, FERRY_LOOK_THERE);

    ferry_set_migration_error(s, why);
    qemu_file_set_error(s->to_dst_file, error);
    return error;
}

static int fail_untaken(MigrationState *s, const QIOChannelSocket *socket)
{
    const char *who = ferry_peer_is_silent() ? "the destination has said nothing, and its host"
                                             : "the destination's host";
    g_autofree char *what =
        g_strdup_printf("%s took nothing for %" PRId64 " ms", who, limit_us() / 1000);

    reset_on_close(socket);
    return ferry_fail_last_word(s, -ETIMEDOUT, what);
}

static int fail_unanswered(MigrationState *s)
{
    g_autofree char *what =
        g_strdup_printf("the destination has the stream, and has not said for %" PRId64
                        " ms what has become of the guest",
                        limit_us() / 1000);

    return ferry_fail_last_word(s, -ETIMEDOUT, what);
}

/* The destination has not said a word when it should have, or need not. */
static int end_unanswered(MigrationState *s, const QIOChannelSocket *socket)
{
    if (unsent_bytes(socket)) {
        return fail_untaken(s, socket);
    }
    return is_borrowed() ? 0 : fail_unanswered(s);
}

/* Whether Ferry was enabled when the migration began. */
static bool enabled;

void ferry_last_word_reset(void)
{
    enabled = ferry_is_enabled();
}

bool ferry_last_word_decides(MigrationState *s)
{
    QIOChannel *ioc = qemu_file_get_ioc(s->to_dst_file);

    /* COLO goes on with the return path.  And where it cannot be ended, QEMU waits for its end itself. */
    return enabled && s->rp_state.rp_thread_created && !migrate_colo() &&
           qio_channel_has_feature(ioc, QIO_CHANNEL_FEATURE_SHUTDOWN);
}

int ferry_wait_last_word(MigrationState *s, bool *kept)
{
    QIOChannel *ioc = qemu_file_get_ioc(s->to_dst_file);
    QIOChannelSocket *socket = ferry_underlying_socket(ioc);
    FerryLastWord word = wait_for_word(socket);
    int ret = 0;

    *kept = word == FERRY_LAST_WORD_FAILED;
    switch (word) {
    case FERRY_LAST_WORD_LOADED:
    case FERRY_LAST_WORD_FAILED:
        /* The return path ends, with an error if there is one. */
        return 0;
    case FERRY_LAST_WORD_MISSING:
        ret = ferry_fail_last_word(
            s, -EIO,
            "the destination has the stream, and the connection broke before it said "
            "what has become of the guest");
        break;
    case FERRY_LAST_WORD_NONE:
        ret = end_unanswered(s, socket);
        break;
    }
    qio_channel_shutdown(ioc, QIO_CHANNEL_SHUTDOWN_READ, NULL);
    return ret;
}
