/*
 * The cause: see cause.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "cause.h"

#include "../clock.h"
#include "../error.h"
#include "../events.h"

/* The higher, the more it says. */
typedef enum {
    RANK_NONE,
    RANK_CHANNEL,   /* a channel broke */
    RANK_HERE,      /* the peer breaks the protocol, or something failed on this side */
    RANK_PEER,      /* the peer says why */
    RANK_CANCELLED, /* somebody wanted it */
} Rank;

static Rank rank(const GError *error)
{
    switch (error ? error->code : 0) {
    case 0:
        return RANK_NONE;
    case FERRY_ERROR_IO:
    case FERRY_ERROR_LOST:
        return RANK_CHANNEL;
    case FERRY_ERROR_REFUSED:
        return RANK_PEER;
    case FERRY_ERROR_CANCELLED:
        return RANK_CANCELLED;
    default:
        return RANK_HERE;
    }
}

void ferry_cause_init(FerryCause *cause)
{
    g_mutex_init(&cause->lock);
    g_cond_init(&cause->changed);
}

void ferry_cause_destroy(FerryCause *cause)
{
    g_clear_error(&cause->error);
    g_mutex_clear(&cause->lock);
    g_cond_clear(&cause->changed);
}

void ferry_cause_note(FerryCause *cause, GError *error)
{
    if (g_error_matches(error, FERRY_ERROR, FERRY_ERROR_IO)) {
        error->code = FERRY_ERROR_LOST;
        g_prefix_error(&error, "lost the connection to the destination: ");
    }
    g_mutex_lock(&cause->lock);
    if (rank(error) > rank(cause->error)) {
        g_clear_error(&cause->error);
        cause->error = g_steal_pointer(&error);
        atomic_store(&cause->known, true);
        ferry_event(cause, "source", cause->error->message);
    }
    g_cond_broadcast(&cause->changed);
    g_mutex_unlock(&cause->lock);
    g_clear_error(&error);
}

void ferry_cause_close(FerryCause *cause)
{
    g_mutex_lock(&cause->lock);
    atomic_store(&cause->closed, true);
    g_cond_broadcast(&cause->changed);
    g_mutex_unlock(&cause->lock);
}

bool ferry_cause_is_closed(const FerryCause *cause)
{
    return atomic_load(&cause->closed);
}

bool ferry_cause_is_known(const FerryCause *cause)
{
    return atomic_load(&cause->known);
}

bool ferry_cause_is_cancelled(FerryCause *cause)
{
    bool cancelled;

    g_mutex_lock(&cause->lock);
    cancelled = g_error_matches(cause->error, FERRY_ERROR, FERRY_ERROR_CANCELLED);
    g_mutex_unlock(&cause->lock);
    return cancelled;
}

GError *ferry_cause_wait(FerryCause *cause, unsigned timeout_ms)
{
    gint64 deadline = ferry_now_us() + (gint64)timeout_ms * 1000;
    GError *error;

    g_mutex_lock(&cause->lock);
    while (rank(cause->error) < RANK_PEER && !atomic_load(&cause->closed) &&
           ferry_cond_wait_until(&cause->changed, &cause->lock, deadline)) {
    }
    error = cause->error ? g_error_copy(cause->error) : NULL;
    g_mutex_unlock(&cause->lock);
    return error;
}

void ferry_cause_reset(FerryCause *cause)
{
    g_mutex_lock(&cause->lock);
    if (!g_error_matches(cause->error, FERRY_ERROR, FERRY_ERROR_CANCELLED)) {
        g_clear_error(&cause->error);
        atomic_store(&cause->known, false);
    }
    atomic_store(&cause->closed, false);
    g_mutex_unlock(&cause->lock);
}
