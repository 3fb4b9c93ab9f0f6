/*
 * Connections that have not yet said what they are.
 *
 * With multifd, QEMU looks at the first word of each connection to tell the main channel from multifd's, and waits
 * for that in the main loop.  There a stranger who says nothing would hold up the monitor, and the source behind
 * it.  Such a connection waits here instead, until its word can be looked at without waiting, or for
 * network-timeout.  Its end is a word too: what to do about it is QEMU's decision.
 *
 * Threads: the main thread.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/timer.h"
#include "io/channel-socket.h"
#include "migration/channel.h"
#include "migration/migration.h"
#include "migration/options.h"
#include "migration/yank_functions.h"
#include <poll.h>

#include "ferry/glue/ferry.h"
#include "../internal.h"
#include "parked.h"
#include "session.h"

/* How often they are looked at. */
#define LOOK_MS 100

/* The word that QEMU looks at, in bytes. */
#define WORD_BYTES 4

typedef enum {
    SAID_NOTHING,
    SAID_PART,
    SAID_ALL,   /* or the connection ended, or broke, before any of it */
    SAID_NEVER, /* it ended in the middle of the word, for whose rest QEMU would wait */
} Said;

typedef struct Parked {
    QIOChannel *ioc; /* with a reference */
    guint watch;     /* calls woken(), or 0: it has said a part */
    int64_t since_ms;
} Parked;

static GPtrArray *parked; /* of Parked, in the order in which they came */
static QEMUTimer *timer;

static int64_t now_ms(void)
{
    return qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
}

static Said look_at_word(const QIOChannelSocket *socket)
{
    struct pollfd pollfd = {.fd = socket->fd, .events = POLLRDHUP};
    uint8_t word[WORD_BYTES];
    ssize_t got = recv(socket->fd, word, sizeof(word), MSG_PEEK | MSG_DONTWAIT);

    if (got == 0 || got == WORD_BYTES || (got < 0 && errno != EAGAIN && errno != EINTR)) {
        return SAID_ALL;
    }
    if (got < 0) {
        return SAID_NOTHING;
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

/* It goes to QEMU, as if it came only now. */
static void let_go(Parked *one)
{
    g_autoptr(QIOChannel) ioc = take(one);

    migration_channel_process_incoming(ioc);
}

/* Whether it is still here. */
static bool look_at(Parked *one)
{
    Said said = look_at_word(QIO_CHANNEL_SOCKET(one->ioc));

    if (said == SAID_NEVER || ferry_incoming_is_over() ||
        (said != SAID_ALL && now_ms() - one->since_ms > ferry_settings()->network_timeout_ms)) {
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
        timer_mod(timer, now_ms() + LOOK_MS);
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

bool ferry_park(QIOChannel *ioc)
{
    QIOChannelSocket *socket =
        (QIOChannelSocket *)object_dynamic_cast(OBJECT(ioc), TYPE_QIO_CHANNEL_SOCKET);
    Said said;
    Parked *one;

    if (!socket || !ferry_settings()->enabled || !migrate_multifd() || migrate_mapped_ram() ||
        migrate_postcopy_ram()) {
        return false;
    }
    said = look_at_word(socket);
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
    *one = (Parked){.ioc = QIO_CHANNEL(object_ref(OBJECT(ioc))), .since_ms = now_ms()};
    if (said == SAID_NOTHING) {
        one->watch = qio_channel_add_watch(ioc, G_IO_IN | G_IO_HUP | G_IO_ERR, woken, one, NULL);
    }
    g_ptr_array_add(parked, one);
    if (parked->len > FERRY_STRANGERS_MAX) {
        drop(g_ptr_array_index(parked, 0));
    }
    timer_mod(timer, now_ms() + LOOK_MS);
    return true;
}
