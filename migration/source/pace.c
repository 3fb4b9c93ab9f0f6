/*
 * Pacing: keeping several sending threads, together, to one bandwidth
 *
 * A token bucket kept as two positions in one stream of bytes. 'served' is how far the rate has
 * got, a function of the clock; 'reserved' is how far takers have claimed. A taker claims its
 * bytes when it comes and waits until 'served' reaches the start of its claim: first come, first
 * served, and each taker sleeps exactly once, until its own moment, unless the rate changes.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "pace.h"

#include "../clock.h"

/*
 * What an idle or late pace may catch up on.  QEMU accounts for max-bandwidth in periods of this
 * length; with much less, a busy host that runs a sender late makes the limit unreachable.
 */
#define BURST_US (100 * 1000)

/* Shorter waits than this are skipped and made up for by a later, longer one. */
#define SHORTEST_WAIT_US (2 * 1000)

struct FerryPace {
    /* Nothing to wait for: no limit, not interrupted. Written under the lock. */
    bool open;

    GMutex lock;
    GCond changed;
    uint64_t bytes_per_second; /* 0: no limit */
    bool interrupted;
    uint64_t nr_interrupts; /* how a waiter knows that it was interrupted, resumed or not */
    int64_t base_us;        /* since when this rate has been in force */
    uint64_t base_bytes;    /* 'served' at base_us */
    uint64_t reserved_bytes;
};

FerryPace *ferry_pace_new(void)
{
    FerryPace *pace = g_new0(FerryPace, 1);

    g_mutex_init(&pace->lock);
    g_cond_init(&pace->changed);
    pace->open = true;
    return pace;
}

void ferry_pace_free(FerryPace *pace)
{
    if (pace != NULL) {
        g_cond_clear(&pace->changed);
        g_mutex_clear(&pace->lock);
        g_free(pace);
    }
}

static uint64_t bytes_in(const FerryPace *pace, int64_t time_us)
{
    return (uint64_t)((double)pace->bytes_per_second * (double)time_us / G_USEC_PER_SEC);
}

static uint64_t served_bytes(const FerryPace *pace, int64_t now_us)
{
    return pace->base_bytes + bytes_in(pace, now_us - pace->base_us);
}

static void open_update(FerryPace *pace)
{
    __atomic_store_n(&pace->open, pace->bytes_per_second == 0 && !pace->interrupted,
                     __ATOMIC_RELAXED);
}

void ferry_pace_set_rate(FerryPace *pace, uint64_t bytes_per_second)
{
    int64_t now_us;

    if (bytes_per_second >= FERRY_PACE_MAX_BYTES_PER_SECOND) {
        bytes_per_second = 0;
    }
    g_mutex_lock(&pace->lock);
    now_us = ferry_now_us();
    pace->base_bytes = served_bytes(pace, now_us);
    pace->base_us = now_us;
    pace->bytes_per_second = bytes_per_second;
    if (bytes_per_second == 0) {
        /* All claims are served, even for a waiter that wakes under a later rate. */
        pace->base_bytes = MAX(pace->base_bytes, pace->reserved_bytes);
    }
    open_update(pace);
    g_cond_broadcast(&pace->changed);
    g_mutex_unlock(&pace->lock);
}

/* How long until the claim that starts at @start_bytes is due. With the lock held. */
static int64_t wait_us(const FerryPace *pace, uint64_t start_bytes)
{
    uint64_t served = served_bytes(pace, ferry_now_us());
    double left_s;

    if (served >= start_bytes) {
        return 0;
    }
    left_s = (double)(start_bytes - served) / (double)pace->bytes_per_second;
    return (int64_t)(left_s * G_USEC_PER_SEC) + 1;
}

static bool take_slowly(FerryPace *pace, uint64_t nr_bytes)
{
    uint64_t nr_interrupts = pace->nr_interrupts;
    uint64_t served, burst, start;
    int64_t left_us;

    if (pace->interrupted) {
        return false;
    }
    if (pace->bytes_per_second == 0) {
        return true;
    }
    served = served_bytes(pace, ferry_now_us());
    burst = MIN(bytes_in(pace, BURST_US), served);
    start = MAX(pace->reserved_bytes, served - burst);
    pace->reserved_bytes = start + nr_bytes;

    left_us = wait_us(pace, start);
    if (left_us < SHORTEST_WAIT_US) {
        return true;
    }
    while (left_us > 0) {
        ferry_cond_wait_until(&pace->changed, &pace->lock, ferry_now_us() + left_us);
        if (pace->nr_interrupts != nr_interrupts) {
            return false;
        }
        left_us = wait_us(pace, start);
    }
    return true;
}

bool ferry_pace_take(FerryPace *pace, uint64_t nr_bytes)
{
    bool taken;

    if (__atomic_load_n(&pace->open, __ATOMIC_RELAXED)) {
        return true;
    }
    g_mutex_lock(&pace->lock);
    taken = take_slowly(pace, nr_bytes);
    g_mutex_unlock(&pace->lock);
    return taken;
}

void ferry_pace_interrupt(FerryPace *pace)
{
    g_mutex_lock(&pace->lock);
    pace->interrupted = true;
    pace->nr_interrupts++;
    /* Waiters leave without their bytes: their claims lapse. */
    pace->reserved_bytes = MIN(pace->reserved_bytes, served_bytes(pace, ferry_now_us()));
    open_update(pace);
    g_cond_broadcast(&pace->changed);
    g_mutex_unlock(&pace->lock);
}

void ferry_pace_resume(FerryPace *pace)
{
    g_mutex_lock(&pace->lock);
    pace->interrupted = false;
    open_update(pace);
    g_mutex_unlock(&pace->lock);
}
