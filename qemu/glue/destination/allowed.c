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
#include <netdb.h>

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

static void tell(const char *peer, uint64_t nr_untold)
{
    warn_report("ferry: a connection from %s was refused: allow names no subnet that has it", peer);
    if (nr_untold) {
        warn_report("ferry: before it, %" PRIu64 " more were refused", nr_untold);
    }
}

bool ferry_allows(QIOChannelSocket *socket)
{
    static const struct linger reset = {.l_onoff = 1};
    const struct sockaddr *peer = (const struct sockaddr *)&socket->remoteAddr;
    char name[NI_MAXHOST] = "nowhere";
    FerrySettings settings;
    uint64_t nr_untold = 0;
    bool allowed, told = false;

    ferry_settings_copy(&settings);
    if (!*settings.allow) {
        return true;
    }
    g_mutex_lock(&gate.lock);
    allowed = is_allowed(settings.allow, peer);
    if (!allowed) {
        told = count_refused(&nr_untold);
    }
    g_mutex_unlock(&gate.lock);
    if (allowed) {
        return true;
    }
    (void)setsockopt(socket->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    getnameinfo(peer, socket->remoteAddrLen, name, sizeof(name), NULL, 0, NI_NUMERICHOST);
    trace_ferry_connection_refused(name);
    if (told) {
        tell(name, nr_untold);
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
