/*
 * A session that nobody opens.
 *
 * The destination has answered.  The source dials its channels then, or goes on without Ferry, and either can be heard.
 * Where the source has gone and a relay keeps the main connection, neither comes, and QEMU here would read it for
 * good.  So that has a limit: as long as a session may take to open, and then network-timeout.
 *
 * Threads: the main thread.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/timer.h"
#include "io/channel.h"
#include "migration/migration.h"

#include "../internal.h"
#include "opening.h"
#include "session.h"

/* How often it is looked at. */
#define LOOK_MS 250

static struct {
    QEMUTimer *timer;
    QIOChannel *main;
    int64_t since_ms; /* nobody has opened it since then */
} opening;

static void end(void)
{
    object_unref(OBJECT(opening.main));
    opening.main = NULL;
}

/* The incoming migration fails of it, with these words. */
static void give_up(void)
{
    Error *err = NULL;

    error_setg(&err,
               "the source asked for a session, and has neither opened it nor gone on without for "
               "%" PRId64 " ms (network-timeout and open-timeout)",
               ferry_incoming_limit_ms());
    migrate_set_error(migrate_get_current(), err);
    error_free(err);
    qio_channel_shutdown(opening.main, QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
}

static void look(void *opaque)
{
    FerryDestination *destination = ferry_incoming_destination();

    if (!destination || ferry_incoming_active() || ferry_incoming_is_over()) {
        end();
        return;
    }
    if (ferry_destination_is_met(destination)) {
        /* From here on the session's own limits count; this one again if it fails. */
        opening.since_ms = ferry_incoming_clock_ms();
    }
    if (ferry_incoming_clock_ms() - opening.since_ms > ferry_incoming_limit_ms()) {
        give_up();
        end();
        return;
    }
    timer_mod(opening.timer, ferry_incoming_clock_ms() + LOOK_MS);
}

void ferry_opening_begin(QIOChannel *main)
{
    if (opening.main) {
        end();
    }
    opening.main = QIO_CHANNEL(object_ref(OBJECT(main)));
    opening.since_ms = ferry_incoming_clock_ms();
    if (!opening.timer) {
        opening.timer = timer_new_ms(QEMU_CLOCK_REALTIME, look, NULL);
    }
    timer_mod(opening.timer, ferry_incoming_clock_ms() + LOOK_MS);
}
