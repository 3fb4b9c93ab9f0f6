/*
 * Whose connections are taken: see allowed.h.
 *
 * A connection from elsewhere costs an accept(), a comparison and a close(): no TLS handshake, no thread, no memory,
 * not a word that is read.  It is reset, so that nothing of it stays in the kernel either, and its source knows at
 * once.  A flood of them leaves one line in the log every ten seconds.
 *
 * Threads: the main thread, or that of a recovery, beside which any may ask for the count: all is under `lock`.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qapi/error.h"
#include "qapi/qapi-types-sockets.h"
#include "io/channel-socket.h"
#include <netdb.h>

#include "ferry/glue/binding.h"
#include "ferry/glue/ferry.h"
#include "ferry/migration/wire/subnets.h"
#include "../internal.h"
#include "../trace.h"
#include "allowed.h"

/* How long it is said nothing after a line of the log. */
#define QUIET_US (10 * G_USEC_PER_SEC)

static struct {
    GMutex lock;
    char *text; /* what `subnets` was made from */
    FerrySubnets *subnets;
    uint64_t nr_refused, nr_told;
    gint64 told_us; /* 0: never */
} gate;

/* Under the lock. */
static bool is_allowed(const char *text, const struct sockaddr *peer)
{
    if (g_strcmp0(gate.text, text) != 0) {
        ferry_subnets_free(gate.subnets);
        gate.subnets = ferry_subnets_new(text, NULL);
        g_free(gate.text);
        gate.text = g_strdup(text);
    }
    return gate.subnets && ferry_subnets_have(gate.subnets, peer);
}

/* Under the lock: one more; whether it is to be told, with the number of those that were not. */
static bool count_refused(uint64_t *nr_untold)
{
    gint64 now_us = g_get_monotonic_time();

    gate.nr_refused++;
    if (gate.told_us && now_us - gate.told_us < QUIET_US) {
        return false;
    }
    *nr_untold = gate.nr_refused - 1 - gate.nr_told;
    gate.nr_told = gate.nr_refused;
    gate.told_us = now_us;
    return true;
}

static void tell(const char *peer, const char *why, uint64_t nr_untold)
{
    warn_report("ferry: a connection from %s was refused: %s", peer, why);
    if (nr_untold) {
        warn_report("ferry: before it, %" PRIu64 " more were refused", nr_untold);
    }
}

/* Why it is not to be taken, to be freed; NULL if it is. */
static char *why_not(QIOChannelSocket *socket)
{
    FerrySettings settings;
    Error *err = NULL;
    char *why = NULL;
    bool allowed;

    ferry_settings_copy(&settings);
    g_mutex_lock(&gate.lock);
    allowed = !*settings.allow ||
              is_allowed(settings.allow, (const struct sockaddr *)&socket->remoteAddr);
    g_mutex_unlock(&gate.lock);
    if (!allowed) {
        return g_strdup("allow names no subnet that has it");
    }
    /* It may have been set since this was listened for. */
    if (!ferry_binding_check(QIO_CHANNEL(socket), &err)) {
        why = g_strdup(error_get_pretty(err));
        error_free(err);
    }
    return why;
}

bool ferry_allows(QIOChannelSocket *socket)
{
    static const struct linger reset = {.l_onoff = 1};
    g_autofree char *why = why_not(socket);
    char name[NI_MAXHOST] = "nowhere";
    uint64_t nr_untold = 0;
    bool told;

    if (!why) {
        return true;
    }
    g_mutex_lock(&gate.lock);
    told = count_refused(&nr_untold);
    g_mutex_unlock(&gate.lock);
    (void)setsockopt(socket->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    getnameinfo((const struct sockaddr *)&socket->remoteAddr, socket->remoteAddrLen, name,
                sizeof(name), NULL, 0, NI_NUMERICHOST);
    trace_ferry_connection_refused(name);
    if (told) {
        tell(name, why, nr_untold);
    }
    return false;
}

uint64_t ferry_nr_refused(void)
{
    uint64_t nr;

    g_mutex_lock(&gate.lock);
    nr = gate.nr_refused;
    g_mutex_unlock(&gate.lock);
    return nr;
}
