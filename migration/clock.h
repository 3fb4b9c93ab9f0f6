/*
 * The engine's clock, and all waits of the engine that end by themselves or by a signal.
 *
 * These are GLib's and the kernel's own calls, in the product and in most tests.  A build for tests
 * (FERRY_CLOCK) calls functions of the test program instead, whose time passes as it likes: minutes in
 * which nothing happens cost nothing (tests/unit/steered-clock.h).  scripts/lint refuses any other way to look at
 * the clock, or to wait, in the engine.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_CLOCK_H
#define FERRY_CLOCK_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#ifdef FERRY_CLOCK

uint64_t ferry_now_ns(void);
void ferry_cond_wait(GCond *cond, GMutex *lock);
bool ferry_cond_wait_until(GCond *cond, GMutex *lock, gint64 deadline_us);
void ferry_sleep_us(gint64 us);

#else

/* Nanoseconds of CLOCK_MONOTONIC.  Any thread. */
static inline uint64_t ferry_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

/* Wait until @cond is signalled, as g_cond_wait().  @lock is held, and again afterwards. */
static inline void ferry_cond_wait(GCond *cond, GMutex *lock)
{
    g_cond_wait(cond, lock);
}

/* The same, until ferry_now_us() has come to @deadline_us: then, false. */
static inline bool ferry_cond_wait_until(GCond *cond, GMutex *lock, gint64 deadline_us)
{
    return g_cond_wait_until(cond, lock, deadline_us);
}

static inline void ferry_sleep_us(gint64 us)
{
    g_usleep((gulong)us);
}

#endif

/* The same clock in microseconds: that of g_get_monotonic_time(). */
static inline gint64 ferry_now_us(void)
{
    return (gint64)(ferry_now_ns() / 1000);
}

#endif
