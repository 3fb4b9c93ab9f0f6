/*
 * Marking the migration's connections: QEMU's own, and Ferry's, at either end.
 *
 * Each end marks what it sends itself.  Ferry's own sockets are marked before they are connected, and listening
 * ones before they listen, so that handshakes are marked, too; QEMU's own as soon as QEMU has them.
 *
 * Threads: any; what is remembered is under `lock`.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "io/channel-socket.h"

#include "ferry/glue/ferry.h"
#include "ferry/glue/marks.h"
#include "ferry/migration/wire/marks.h"
#include "internal.h"

/* The same warning, of the many sockets of a migration, is given once in this time. */
#define QUIET_US (10 * G_USEC_PER_SEC)

static struct {
    GMutex lock;
    char *warning; /* the last one */
    gint64 warned_us;
    /* QEMU's own connection: of the last incoming migration, and of the last outgoing one. */
    struct {
        bool known;
        FerryMarks marks;
    } main[2];
} sockets;

static void warn(const GError *error)
{
    gint64 now_us = g_get_monotonic_time();
    bool is_news;

    g_mutex_lock(&sockets.lock);
    is_news =
        g_strcmp0(sockets.warning, error->message) != 0 || now_us - sockets.warned_us > QUIET_US;
    if (is_news) {
        g_free(sockets.warning);
        sockets.warning = g_strdup(error->message);
        sockets.warned_us = now_us;
    }
    g_mutex_unlock(&sockets.lock);
    if (is_news) {
        warn_report("ferry: %s", error->message);
    }
}

void ferry_mark_socket(int fd)
{
    g_autoptr(GError) error = NULL;
    FerrySettings settings;
    FerryMarks wanted = {0};

    ferry_settings_copy(&settings);
    if (!settings.enabled) {
        return;
    }
    wanted.dscp = settings.dscp;
    wanted.priority = settings.socket_priority;
    g_strlcpy(wanted.congestion, settings.congestion, sizeof(wanted.congestion));
    if (!ferry_marks_set(fd, &wanted, &error)) {
        warn(error);
    }
}

void ferry_mark_connection(QIOChannel *ioc)
{
    QIOChannelSocket *socket = ferry_underlying_socket(ioc);

    if (socket) {
        ferry_mark_socket(socket->fd);
    }
}

void ferry_note_main(QIOChannel *ioc, bool outgoing)
{
    QIOChannelSocket *socket = ferry_underlying_socket(ioc);
    FerryMarks marks = {0};
    bool known = socket && ferry_marks_read(socket->fd, &marks);

    g_mutex_lock(&sockets.lock);
    sockets.main[outgoing].known = known;
    sockets.main[outgoing].marks = marks;
    g_mutex_unlock(&sockets.lock);
}

bool ferry_query_main(bool outgoing, FerryMarks *marks)
{
    bool known;

    g_mutex_lock(&sockets.lock);
    known = sockets.main[outgoing].known;
    *marks = sockets.main[outgoing].marks;
    g_mutex_unlock(&sockets.lock);
    return known;
}
