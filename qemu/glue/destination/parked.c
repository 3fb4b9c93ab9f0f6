/*
 * Connections that have not yet said what they are.
 *
 * With multifd, QEMU looks at the first word of each connection to tell the main channel from multifd's, and waits
 * for that in the main loop; and for all of a multifd channel's first packet.  There a stranger who says nothing, or
 * half of it, would hold up the monitor, and the source behind it.  Such a connection waits here instead, until
 * QEMU can read what it wants without waiting, or for network-timeout.  Its end is a word too: what to do about it
 * is QEMU's decision.  Whoever says something that no channel of QEMU's begins with is sent away.
 *
 * Threads: the main thread.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/timer.h"
#include "crypto/tlssession.h"
#include "io/channel-socket.h"
#include "io/channel-tls.h"
#include "migration/channel.h"
#include "migration/migration.h"
#include "migration/options.h"
#include "migration/yank_functions.h"
#include <poll.h>
#include <sys/ioctl.h>

#include "ferry/glue/ferry.h"
#include "../internal.h"
#include "kept.h"
#include "parked.h"
#include "session.h"

/* How often they are looked at. */
#define LOOK_MS 100

/* What QEMU's main channel begins with. */
#define MAIN_MAGIC 0x5145564dU

/* How long a multifd channel's first packet is. */
#define MULTIFD_FIRST_BYTES 64

/* Of a TLS record: its length stands in the last two bytes. */
#define TLS_HEADER_BYTES 5

typedef enum {
    SAID_NOTHING,
    SAID_PART,
    SAID_ALL,   /* or the connection ended, or broke, before any of it */
    SAID_NEVER, /* it is none of QEMU's, or ended in the middle of what QEMU would wait for */
} Said;

typedef struct Parked {
    QIOChannel *ioc; /* with a reference */
    guint watch;     /* calls woken(), or 0: it has said a part */
    int64_t since_ms;
} Parked;

static GPtrArray *parked; /* of Parked, in the order in which they came */
static QEMUTimer *timer;

/* Whether QEMU tells by the first word what a connection is. */
static bool tells_by_word(const QIOChannel *ioc)
{
    return !migrate_postcopy_ram() && object_dynamic_cast(OBJECT(ioc), TYPE_QIO_CHANNEL_SOCKET);
}

/*
 * How many bytes of what has begun with @head, @nr_bytes of it, QEMU reads in one go.  More than there are now: to be
 * waited for.  Negative: it is none of QEMU's.
 */
static int wanted_bytes(const QIOChannel *ioc, const uint8_t *head, ssize_t nr_bytes)
{
    const bool has_main = migration_incoming_get_current()->from_src_file;
    uint32_t word;

    if (object_dynamic_cast(OBJECT(ioc), TYPE_QIO_CHANNEL_TLS)) {
        return nr_bytes < TLS_HEADER_BYTES ? TLS_HEADER_BYTES
                                           : TLS_HEADER_BYTES + lduw_be_p(head + 3);
    }
    if (nr_bytes < (ssize_t)sizeof(word)) {
        return sizeof(word);
    }
    word = ldl_be_p(head);
    if (word == FERRY_MULTIFD_MAGIC) {
        return MULTIFD_FIRST_BYTES;
    }
    /* With a session, the engine knows what else is none of it. */
    return (word == MAIN_MAGIC && !has_main) || ferry_incoming_destination() ? (int)sizeof(word)
                                                                             : -1;
}

static Said look_at_words(QIOChannel *ioc)
{
    const QIOChannelSocket *socket = ferry_underlying_socket(ioc);
    QIOChannelTLS *tls = (QIOChannelTLS *)object_dynamic_cast(OBJECT(ioc), TYPE_QIO_CHANNEL_TLS);
    struct pollfd pollfd = {.fd = socket->fd, .events = POLLRDHUP};
    uint8_t head[TLS_HEADER_BYTES];
    ssize_t got = recv(socket->fd, head, sizeof(head), MSG_PEEK | MSG_DONTWAIT);
    int wanted, nr_bytes = 0;

    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR) ||
        (tls && qcrypto_tls_session_check_pending(tls->session))) {
        return SAID_ALL;
    }
    if (got < 0) {
        return SAID_NOTHING;
    }
    wanted = wanted_bytes(ioc, head, got);
    if (wanted < 0) {
        return SAID_NEVER;
    }
    if (ioctl(socket->fd, FIONREAD, &nr_bytes) == 0 && nr_bytes >= wanted) {
        return SAID_ALL;
    }
    return poll(&pollfd, 1, 0) > 0 ? SAID_NEVER : SAID_PART;
}

/* Takes it off the list; returns its channel, with the reference. */
static QIOChannel *take(Parked *one)
{
    QIOChannel *ioc = one->ioc;

    if (one->watch) {
        g_source_remove(one->watch);
    }
    g_ptr_array_remove(parked, one);
    g_free(one);
    return ioc;
}

static void drop(Parked *one)
{
    g_autoptr(QIOChannel) ioc = take(one);

    warn_report("ferry: a connection that did not say what it is was closed");
    qio_channel_shutdown(ioc, QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
}

/* It goes to QEMU, or to the session, as if it came only now. */
static void let_go(Parked *one)
{
    g_autoptr(QIOChannel) ioc = take(one);

    if (ferry_incoming_destination() &&
        !object_dynamic_cast(OBJECT(ioc), TYPE_QIO_CHANNEL_SOCKET)) {
        /* It came before that, so it is none of the session's; and nobody can look what it says. */
        ferry_kept_add(ioc);
    } else {
        migration_channel_process_incoming(ioc);
    }
}

/* Whether it is still here. */
static bool look_at(Parked *one)
{
    Said said = look_at_words(one->ioc);

    if (said == SAID_NEVER || ferry_incoming_is_over() ||
        (said != SAID_ALL &&
         ferry_incoming_clock_ms() - one->since_ms > ferry_settings()->network_timeout_ms)) {
        drop(one);
    } else if (said == SAID_ALL) {
        let_go(one);
    } else {
        return true;
    }
    return false;
}

static void look(void *opaque)
{
    for (guint i = 0; i < parked->len;) {
        i += look_at(g_ptr_array_index(parked, i));
    }
    if (parked->len) {
        timer_mod(timer, ferry_incoming_clock_ms() + LOOK_MS);
    }
}

/* Once: the rest of a word that has begun is looked for by the clock. */
static gboolean woken(QIOChannel *ioc, GIOCondition condition, gpointer opaque)
{
    Parked *one = opaque;

    one->watch = 0;
    look_at(one);
    return G_SOURCE_REMOVE;
}

/* All that a source may open at once, and as many strangers as are let in later on. */
static unsigned parked_max(void)
{
    return FERRY_STRANGERS_MAX + migrate_multifd_channels();
}

bool ferry_park(QIOChannel *ioc)
{
    QIOChannelSocket *socket = ferry_underlying_socket(ioc);
    Said said;
    Parked *one;

    if (!socket || !ferry_settings()->enabled || !migrate_multifd() || migrate_mapped_ram() ||
        (!tells_by_word(ioc) && !migration_incoming_get_current()->from_src_file)) {
        return false;
    }
    said = look_at_words(ioc);
    if (said == SAID_ALL) {
        return false;
    }
    if (!parked) {
        parked = g_ptr_array_new();
        timer = timer_new_ms(QEMU_CLOCK_REALTIME, look, NULL);
    }
    /* It is registered once more when it goes to QEMU. */
    migration_ioc_unregister_yank(ioc);
    one = g_new(Parked, 1);
    *one = (Parked){.ioc = QIO_CHANNEL(object_ref(OBJECT(ioc))),
                    .since_ms = ferry_incoming_clock_ms()};
    if (said == SAID_NOTHING) {
        one->watch = qio_channel_add_watch(QIO_CHANNEL(socket), G_IO_IN | G_IO_HUP | G_IO_ERR,
                                           woken, one, NULL);
    }
    g_ptr_array_add(parked, one);
    if (parked->len > parked_max()) {
        drop(g_ptr_array_index(parked, 0));
    }
    timer_mod(timer, ferry_incoming_clock_ms() + LOOK_MS);
    return true;
}
