/*
 * Connections that come in: whose they are, and what becomes of those that say nothing.
 *
 * With multifd, QEMU waits for as many connections as it has channels before it reads a word.  A source that
 * opens fewer would wait for an answer in vain.  It opens all of them before it speaks, so once it has
 * spoken and no more have come for a while, the stream is read: with Ferry the numbers need not be equal.
 * Where QEMU's own path has to carry the migration after all, the rest is waited for then.
 *
 * Threads: the main thread; in a recovery that an oob migrate-recover began, the monitor's own, which may get on
 * while the main one waits for a page.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/coroutine.h"
#include "qemu/error-report.h"
#include "qemu/timer.h"
#include "migration/channel.h"
#include "migration/migration.h"
#include "migration/options.h"
#include "migration/qemu-file.h"
#include "migration/yank_functions.h"
#include <poll.h>

#include "ferry/glue/ferry.h"
#include "ferry/glue/marks.h"
#include "../internal.h"
#include "connections.h"
#include "kept.h"
#include "parked.h"
#include "recovery.h"
#include "session.h"

/* For how long no connection must have come before QEMU's are taken for complete. */
#define QUIET_MS 250

/* How often it is looked for something that has become true. */
#define LOOK_MS 50

static struct {
    QEMUTimer *timer; /* to look whether the source has spoken */
    bool began;       /* the stream is read, although multifd channels are missing */
    bool decided;     /* it is known which path carries the memory */
} connections;

static bool multifd_has_ended;      /* one of the threads; atomic */
static unsigned nr_multifd_packets; /* that have come; atomic */

/* --- Multifd channels that are too few, or too many ---------------------------------------------- */

static bool counts_multifd(void)
{
    return ferry_settings()->enabled && migrate_multifd() && !migrate_mapped_ram();
}

/* Whether one of these poll() events is there on the main connection. */
static bool shows(MigrationIncomingState *mis, short events)
{
    QIOChannelSocket *socket = ferry_underlying_socket(qemu_file_get_ioc(mis->from_src_file));
    struct pollfd pollfd = {.fd = socket ? socket->fd : -1, .events = events};

    return socket && poll(&pollfd, 1, 0) > 0;
}

static void look_for_words(void *opaque)
{
    MigrationIncomingState *mis = migration_incoming_get_current();

    if (!mis->from_src_file || mis->state != MIGRATION_STATUS_SETUP) {
        return;
    }
    if (!shows(mis, POLLIN)) {
        timer_mod(connections.timer, ferry_incoming_clock_ms() + LOOK_MS);
        return;
    }
    connections.began = true;
    migration_incoming_process();
}

bool ferry_incoming_may_start(bool may)
{
    MigrationIncomingState *mis = migration_incoming_get_current();

    if (mis->from_src_file) {
        ferry_note_main(qemu_file_get_ioc(mis->from_src_file), false);
    }
    if (!counts_multifd() || !mis->from_src_file) {
        return may;
    }
    if (connections.began) {
        /* It has begun already; but a new main channel, in a recovery, is no multifd channel. */
        return mis->state == MIGRATION_STATUS_POSTCOPY_PAUSED;
    }
    if (may) {
        if (connections.timer) {
            timer_del(connections.timer);
        }
        return true;
    }
    if (!connections.timer) {
        connections.timer = timer_new_ms(QEMU_CLOCK_REALTIME, look_for_words, NULL);
    }
    timer_mod(connections.timer, ferry_incoming_clock_ms() + QUIET_MS);
    return false;
}

static void keep(QIOChannel *ioc)
{
    migration_ioc_unregister_yank(ioc);
    ferry_kept_add(ioc);
}

static bool is_undecided(MigrationIncomingState *mis)
{
    return counts_multifd() && mis->from_src_file && !connections.decided;
}

void ferry_incoming_decide(bool ferry)
{
    connections.decided = true;
    if (!ferry) {
        ferry_kept_drop();
    }
}

bool coroutine_mixed_fn ferry_incoming_wait_multifd(void)
{
    MigrationIncomingState *mis = migration_incoming_get_current();
    int64_t deadline_ms = ferry_incoming_clock_ms() + ferry_settings()->open_timeout_ms;

    if (!connections.began) {
        return true;
    }
    while (!migration_has_all_channels()) {
        if (ferry_incoming_clock_ms() > deadline_ms) {
            error_report(
                "ferry: multifd-channels is %d here, and the source has opened fewer: set the "
                "same number at both ends",
                migrate_multifd_channels());
            qemu_file_set_error(mis->from_src_file, -EINVAL);
            return false;
        }
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, LOOK_MS * SCALE_MS);
    }
    return true;
}

/* --- Connections ------------------------------------------------------------------------------ */

/* Whether it says that it is a multifd channel: what it has sent so far is only looked at. */
static bool is_multifd(QIOChannel *ioc)
{
    QIOChannelSocket *socket =
        (QIOChannelSocket *)object_dynamic_cast(OBJECT(ioc), TYPE_QIO_CHANNEL_SOCKET);
    uint32_t word;

    return socket &&
           recv(socket->fd, &word, sizeof(word), MSG_PEEK | MSG_DONTWAIT) == sizeof(word) &&
           be32_to_cpu(word) == FERRY_MULTIFD_MAGIC;
}

/*
 * Whether QEMU has fewer than it waits for, and such a connection says by its first word whose it is.  Not in a
 * recovery, which has none.
 */
static bool lacks_multifd(const QIOChannel *ioc)
{
    return counts_multifd() && !migration_has_all_channels() &&
           migration_incoming_get_current()->state == MIGRATION_STATUS_ACTIVE &&
           object_dynamic_cast(OBJECT(ioc), TYPE_QIO_CHANNEL_SOCKET);
}

bool ferry_incoming_channel(QIOChannel *ioc)
{
    MigrationIncomingState *mis = migration_incoming_get_current();
    FerryDestination *destination = ferry_incoming_destination();

    if (destination && mis->state == MIGRATION_STATUS_POSTCOPY_PAUSED && !mis->from_src_file) {
        /* A recovery begins with another main channel. */
        ferry_recovery_begin(ioc);
        return false;
    }
    if (destination && lacks_multifd(ioc)) {
        /* What comes late may be the session's, or QEMU's own, which its own path would wait for. */
        if (ferry_park(ioc)) {
            return true;
        }
        if (is_multifd(ioc)) {
            return false;
        }
    } else if (destination && counts_multifd() && is_multifd(ioc)) {
        keep(ioc);
        return true;
    }
    if (destination) {
        /* From here on it is yanked with the session. */
        migration_ioc_unregister_yank(ioc);
        qio_channel_set_blocking(ioc, true, NULL);
        if (!ferry_incoming_add(ioc)) {
            qio_channel_shutdown(ioc, QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
        }
        return true;
    }
    if (mis->state != MIGRATION_STATUS_CANCELLING &&
        (!mis->from_src_file || !migration_has_all_channels())) {
        return ferry_park(ioc);
    }
    if (mis->state != MIGRATION_STATUS_CANCELLING && is_undecided(mis)) {
        keep(ioc);
    } else {
        warn_report("ferry: a connection that is not the source's was closed");
        qio_channel_shutdown(ioc, QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
        migration_ioc_unregister_yank(ioc);
    }
    return true;
}

bool ferry_incoming_refuses_multifd(int id)
{
    return id > migrate_multifd_channels() && !ferry_settings()->enabled;
}

bool ferry_incoming_extra_multifd(QIOChannel *ioc, int id)
{
    if (id < migrate_multifd_channels() || !ferry_settings()->enabled) {
        return false;
    }
    keep(ioc);
    return true;
}

void ferry_incoming_multifd_begins(void)
{
    qatomic_set(&multifd_has_ended, false);
}

void ferry_incoming_multifd_gets_on(void)
{
    qatomic_inc(&nr_multifd_packets);
}

void ferry_incoming_multifd_thread_ends(void)
{
    qatomic_set(&multifd_has_ended, true);
}

/* Takes @err.  The reason of a thread that has ended, if it has one, came first, and stays. */
static bool break_stream(MigrationIncomingState *mis, Error *err)
{
    migrate_set_error(migrate_get_current(), err);
    error_free(err);
    qemu_file_set_error(mis->from_src_file, -EIO);
    return false;
}

bool ferry_incoming_sync_multifd(QemuSemaphore *posted)
{
    MigrationIncomingState *mis = migration_incoming_get_current();
    int64_t since_ms = ferry_incoming_clock_ms();
    unsigned nr_packets = qatomic_read(&nr_multifd_packets), now;
    Error *err = NULL;

    while (qemu_sem_timedwait(posted, LOOK_MS) != 0) {
        now = qatomic_read(&nr_multifd_packets);
        /* A source that is done may hang up long before all of it is here. */
        if (!shows(mis, POLLRDHUP) || now != nr_packets) {
            nr_packets = now;
            since_ms = ferry_incoming_clock_ms();
        } else if (ferry_incoming_clock_ms() - since_ms > ferry_settings()->network_timeout_ms) {
            error_setg(&err, "the source has hung up, and nothing comes on a multifd channel");
            return break_stream(mis, err);
        }
    }
    if (qatomic_read(&multifd_has_ended)) {
        error_setg(&err, "a multifd channel ended before the migration did");
        return break_stream(mis, err);
    }
    return true;
}

bool ferry_has_all_channels(bool all)
{
    if (!all || !ferry_settings()->enabled) {
        return all;
    }
    if (!ferry_incoming_has_all(&all)) {
        return !is_undecided(migration_incoming_get_current());
    }
    return all;
}
