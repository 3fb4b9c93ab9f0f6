/*
 * Pacing: keeping several sending threads, together, to one bandwidth
 *
 * A token bucket kept as two positions in one stream of bytes. 'served' is how far the rate has
 * got, a function of the clock; 'reserved' is how far takers have claimed. A taker claims its
 * bytes when it comes and waits until 'served' reaches the start of its claim: first come, first
 * served, and each taker sleeps exactly once, until its own moment, unless the rate changes.
 *
 * There are two such buckets, and a taker waits for both. One keeps the mean: it lets those who
 * come late catch up, on a busy host all the time, but only so far that a second stays what it
 * should be. The other keeps what is caught up on from going out in one burst.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "pace.h"

#include "../clock.h"

/* Rates are in hundredths of the bandwidth; late is what an idle or late pace may catch up on. */
enum {
    MEAN_PERCENT = 100,
    MEAN_LATE_US = 25 * 1000,
    PEAK_PERCENT = 150,
    PEAK_LATE_US = 4 * 1000,
};

/* Shorter waits than this are skipped and made up for by a later, longer one. */
#define SHORTEST_WAIT_US (2 * 1000)

typedef struct Bucket {
    unsigned percent;
    int64_t late_us;
    uint64_t base_bytes; /* 'served' at the pace's base_us */
    uint64_t reserved_bytes;
} Bucket;

#define NR_BUCKETS 2

struct FerryPace {
    /* Nothing to wait for: no limit, not interrupted. Written under the lock. */
    bool open;

    GMutex lock;
    GCond changed;
    uint64_t bytes_per_second; /* 0: no limit */
    bool interrupted;
    bool held_up; /* since somebody asked */
    unsigned nr_waiting;
    uint64_t nr_interrupts; /* how a waiter knows that it was interrupted, resumed or not */
    int64_t base_us;        /* since when this rate has been in force */
    Bucket buckets[NR_BUCKETS];
};

FerryPace *ferry_pace_new(void)
{
    FerryPace *pace = g_new0(FerryPace, 1);

    g_mutex_init(&pace->lock);
    g_cond_init(&pace->changed);
    pace->buckets[0] = (Bucket){.percent = MEAN_PERCENT, .late_us = MEAN_LATE_US};
    pace->buckets[1] = (Bucket){.percent = PEAK_PERCENT, .late_us = PEAK_LATE_US};
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

static double bucket_rate(const FerryPace *pace, const Bucket *bucket)
{
    return (double)pace->bytes_per_second * bucket->percent / 100;
}

static uint64_t bytes_in(const FerryPace *pace, const Bucket *bucket, int64_t time_us)
{
    return (uint64_t)(bucket_rate(pace, bucket) * (double)time_us / G_USEC_PER_SEC);
}

static uint64_t served_bytes(const FerryPace *pace, const Bucket *bucket, int64_t now_us)
{
    return bucket->base_bytes + bytes_in(pace, bucket, now_us - pace->base_us);
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
    for (int i = 0; i < NR_BUCKETS; i++) {
        Bucket *bucket = &pace->buckets[i];

        bucket->base_bytes = served_bytes(pace, bucket, now_us);
        if (bytes_per_second == 0) {
            /* All claims are served, even for a waiter that wakes under a later rate. */
            bucket->base_bytes = MAX(bucket->base_bytes, bucket->reserved_bytes);
        }
    }
    pace->base_us = now_us;
    pace->bytes_per_second = bytes_per_second;
    open_update(pace);
    g_cond_broadcast(&pace->changed);
    g_mutex_unlock(&pace->lock);
}

/* Where a claim starts that has lost as much time as may be caught up on. With the lock held. */
static uint64_t earliest(const FerryPace *pace, const Bucket *bucket, int64_t now_us)
{
    uint64_t served = served_bytes(pace, bucket, now_us);

    return served - MIN(bytes_in(pace, bucket, bucket->late_us), served);
}

/* Claim @nr_bytes of @bucket; returns where they start. With the lock held. */
static uint64_t claim(const FerryPace *pace, Bucket *bucket, uint64_t nr_bytes, int64_t now_us)
{
    uint64_t start = MAX(bucket->reserved_bytes, earliest(pace, bucket, now_us));

    bucket->reserved_bytes = start + nr_bytes;
    return start;
}

/* How long until the claims that start at @starts are due. With the lock held. */
static int64_t wait_us(const FerryPace *pace, const uint64_t *starts)
{
    int64_t now_us = ferry_now_us(), longest_us = 0;

    for (int i = 0; i < NR_BUCKETS; i++) {
        const Bucket *bucket = &pace->buckets[i];
        uint64_t served = served_bytes(pace, bucket, now_us);

        if (served < starts[i]) {
            double left_s = (double)(starts[i] - served) / bucket_rate(pace, bucket);

            longest_us = MAX(longest_us, (int64_t)(left_s * G_USEC_PER_SEC) + 1);
        }
    }
    return longest_us;
}

/* Who comes later than may be caught up on has lost that, and must not pass it on to those after it. */
static void lose_time(FerryPace *pace, const uint64_t *starts, uint64_t nr_bytes)
{
    int64_t now_us = ferry_now_us();

    for (int i = 0; i < NR_BUCKETS; i++) {
        Bucket *bucket = &pace->buckets[i];
        uint64_t start = earliest(pace, bucket, now_us);

        if (start > starts[i]) {
            bucket->reserved_bytes = MAX(bucket->reserved_bytes, start + nr_bytes);
        }
    }
}

static bool take_slowly(FerryPace *pace, uint64_t nr_bytes)
{
    uint64_t nr_interrupts = pace->nr_interrupts;
    uint64_t starts[NR_BUCKETS];
    int64_t now_us, left_us;

    if (pace->interrupted) {
        return false;
    }
    if (pace->bytes_per_second == 0) {
        return true;
    }
    now_us = ferry_now_us();
    for (int i = 0; i < NR_BUCKETS; i++) {
        starts[i] = claim(pace, &pace->buckets[i], nr_bytes, now_us);
    }
    left_us = wait_us(pace, starts);
    pace->held_up |= left_us > 0;
    if (left_us < SHORTEST_WAIT_US) {
        return true;
    }
    pace->nr_waiting++;
    while (left_us > 0 && pace->nr_interrupts == nr_interrupts) {
        ferry_cond_wait_until(&pace->changed, &pace->lock, ferry_now_us() + left_us);
        left_us = wait_us(pace, starts);
    }
    pace->nr_waiting--;
    if (pace->nr_interrupts != nr_interrupts) {
        return false;
    }
    lose_time(pace, starts, nr_bytes);
    return true;
}

bool ferry_pace_held_up(FerryPace *pace)
{
    bool held_up;

    g_mutex_lock(&pace->lock);
    held_up = pace->held_up || pace->nr_waiting > 0;
    pace->held_up = false;
    g_mutex_unlock(&pace->lock);
    return held_up;
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
    for (int i = 0; i < NR_BUCKETS; i++) {
        Bucket *bucket = &pace->buckets[i];

        bucket->reserved_bytes =
            MIN(bucket->reserved_bytes, served_bytes(pace, bucket, ferry_now_us()));
    }
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
