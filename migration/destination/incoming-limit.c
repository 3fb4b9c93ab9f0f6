/*
 * How fast a destination takes pages: see incoming-limit.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "incoming-limit.h"

#include <stdatomic.h>

#include "../wire/pace.h"

struct FerryIncomingLimit {
    FerryPace *pace;
    FerryShares *shares; /* or NULL */
    uint64_t own;        /* bytes a second; 0 is no limit */
    _Atomic uint64_t taken_bytes;

    GMutex lock; /* for what follows, and for the pace's rate */
    bool lifted;
};

/* With the lock held. */
static void set_rate(FerryIncomingLimit *limit)
{
    uint64_t rate = limit->own;

    if (limit->shares) {
        rate = ferry_shares_update(limit->shares, atomic_load(&limit->taken_bytes),
                                   ferry_pace_held_up(limit->pace), limit->own);
    }
    ferry_pace_set_rate(limit->pace, limit->lifted ? 0 : rate);
}

FerryIncomingLimit *ferry_incoming_limit_new(uint64_t bytes_per_second, FerryShares *shares)
{
    FerryIncomingLimit *limit;

    if (!bytes_per_second && !shares) {
        return NULL;
    }
    limit = g_new0(FerryIncomingLimit, 1);
    limit->pace = ferry_pace_new();
    limit->shares = shares;
    limit->own = bytes_per_second;
    g_mutex_init(&limit->lock);
    set_rate(limit);
    return limit;
}

void ferry_incoming_limit_free(FerryIncomingLimit *limit)
{
    if (limit) {
        ferry_pace_free(limit->pace);
        g_mutex_clear(&limit->lock);
        g_free(limit);
    }
}

void ferry_incoming_limit_look(FerryIncomingLimit *limit)
{
    if (limit && limit->shares) {
        g_mutex_lock(&limit->lock);
        set_rate(limit);
        g_mutex_unlock(&limit->lock);
    }
}

bool ferry_incoming_limit_take(FerryIncomingLimit *limit, uint64_t nr_bytes)
{
    if (!limit) {
        return true;
    }
    if (!ferry_pace_take(limit->pace, nr_bytes)) {
        return false;
    }
    atomic_fetch_add(&limit->taken_bytes, nr_bytes);
    return true;
}

void ferry_incoming_limit_lift(FerryIncomingLimit *limit, bool lifted)
{
    if (limit) {
        g_mutex_lock(&limit->lock);
        limit->lifted = lifted;
        if (lifted) {
            /* At once: the guest stands still, and to look at the file takes its time. */
            ferry_pace_set_rate(limit->pace, 0);
        } else {
            set_rate(limit);
        }
        g_mutex_unlock(&limit->lock);
    }
}

void ferry_incoming_limit_interrupt(FerryIncomingLimit *limit)
{
    if (limit) {
        ferry_pace_interrupt(limit->pace);
    }
}

void ferry_incoming_limit_resume(FerryIncomingLimit *limit)
{
    if (limit) {
        ferry_pace_resume(limit->pace);
    }
}
