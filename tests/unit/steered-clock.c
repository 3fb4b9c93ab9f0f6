/*
 * A clock of the tests' own: see steered-clock.h.
 *
 * Threads: one looks, jumps, and wakes those whose moment has come.  All others wait.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "steered-clock.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define THREADS_MAX 256

/* How long to leave a program alone in which somebody works, or nobody waits. */
#define BUSY_US 500

/* After so long a wait looks what time it is, if nobody wakes it. */
#define SLICE_US 50000

/* Further away than any time-out: what waits so long does not wait for the time. */
#define FOR_EVER_US (G_USEC_PER_SEC * INT64_C(86400) * 365)

/* A wait with an end; on the stack of the thread that waits. */
typedef struct Waiter {
    gint64 deadline_us;
    GCond *cond;
    bool due; /* its moment has come */
} Waiter;

static _Atomic gint64 offset_us; /* how much was jumped over */
static unsigned nr_jumps;
static GMutex lock;        /* a waiter that has left is not woken any more */
static GPtrArray *waiters; /* of Waiter; NULL: the clock has not started */

/* --- Waiting -------------------------------------------------------------------------------------- */

uint64_t ferry_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec +
           (uint64_t)atomic_load(&offset_us) * 1000;
}

void ferry_cond_wait(GCond *cond, GMutex *its_lock)
{
    g_cond_wait(cond, its_lock);
}

bool ferry_cond_wait_until(GCond *cond, GMutex *its_lock, gint64 deadline_us)
{
    Waiter waiter = {.deadline_us = deadline_us, .cond = cond};
    bool signalled = false;
    gint64 left_us;

    if (!waiters) {
        return g_cond_wait_until(cond, its_lock, deadline_us);
    }
    g_mutex_lock(&lock);
    g_ptr_array_add(waiters, &waiter);
    g_mutex_unlock(&lock);
    /* Not all of it at once: time may jump a part of the way. */
    while (!signalled && (left_us = deadline_us - ferry_now_us()) > 0) {
        signalled =
            g_cond_wait_until(cond, its_lock, g_get_monotonic_time() + MIN(left_us, SLICE_US));
    }
    g_mutex_lock(&lock);
    g_ptr_array_remove_fast(waiters, &waiter);
    g_mutex_unlock(&lock);
    return signalled && !waiter.due;
}

void ferry_sleep_us(gint64 us)
{
    gint64 deadline_us = ferry_now_us() + us;
    GMutex own_lock;
    GCond never;

    g_mutex_init(&own_lock);
    g_cond_init(&never);
    g_mutex_lock(&own_lock);
    while (ferry_now_us() < deadline_us) {
        ferry_cond_wait_until(&never, &own_lock, deadline_us);
    }
    g_mutex_unlock(&own_lock);
    g_cond_clear(&never);
    g_mutex_clear(&own_lock);
}

/* --- Whether anybody works ------------------------------------------------------------------------ */

/* All threads but the clock's, and how often each had been given a processor. */
typedef struct Round {
    unsigned nr;
    struct {
        gint64 thread;
        char schedstat[64];
    } threads[THREADS_MAX];
} Round;

/* The first bytes of a file of a thread's; false if it is gone. */
static bool read_thread(gint64 thread, const char *name, char *text, size_t nr_bytes)
{
    char path[64];
    ssize_t nr;
    int fd;

    g_snprintf(path, sizeof(path), "/proc/self/task/%d/%s", (int)thread, name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    nr = read(fd, text, nr_bytes - 1);
    close(fd);
    text[MAX(nr, 0)] = 0;
    return nr > 0;
}

/* Asleep or gone. */
static bool sleeps(gint64 thread, char *schedstat, size_t nr_bytes)
{
    char stat[256];
    const char *state;

    if (!read_thread(thread, "schedstat", schedstat, nr_bytes) ||
        !read_thread(thread, "stat", stat, sizeof(stat))) {
        schedstat[0] = 0;
        return true;
    }
    state = strrchr(stat, ')');
    /* A kernel that does not count says 0: then time does not jump. */
    return state && state[1] && strchr("SZX", state[2]) && !g_str_has_prefix(schedstat, "0 0 0");
}

/* False as soon as one is found that does not sleep. */
static bool look(Round *round, gint64 self)
{
    DIR *dir = opendir("/proc/self/task");
    bool all = dir != NULL;

    round->nr = 0;
    for (struct dirent *entry; all && (entry = readdir(dir));) {
        gint64 thread = g_ascii_strtoll(entry->d_name, NULL, 10);

        if (thread && thread != self) {
            g_assert_cmpuint(round->nr, <, THREADS_MAX);
            round->threads[round->nr].thread = thread;
            all = sleeps(thread, round->threads[round->nr].schedstat,
                         sizeof(round->threads[0].schedstat));
            round->nr++;
        }
    }
    if (dir) {
        closedir(dir);
    }
    return all;
}

static bool all_sleep(gint64 self)
{
    static Round before, after;

    if (!look(&before, self) || !look(&after, self) || before.nr != after.nr) {
        return false;
    }
    for (unsigned i = 0; i < before.nr; i++) {
        if (before.threads[i].thread != after.threads[i].thread ||
            strcmp(before.threads[i].schedstat, after.threads[i].schedstat) != 0) {
            return false;
        }
    }
    return true;
}

/* --- Jumping -------------------------------------------------------------------------------------- */

/* Everybody sleeps: on to the next moment that anybody waits for, if there is one. */
static bool jump(void)
{
    const gint64 now_us = ferry_now_us();
    gint64 next_us = G_MAXINT64;

    g_mutex_lock(&lock);
    for (guint i = 0; i < waiters->len; i++) {
        const Waiter *waiter = g_ptr_array_index(waiters, i);

        next_us = MIN(next_us, waiter->deadline_us);
    }
    if (next_us > now_us && next_us - now_us <= FOR_EVER_US) {
        atomic_fetch_add(&offset_us, next_us - now_us);
        nr_jumps++;
        for (guint i = 0; i < waiters->len; i++) {
            Waiter *waiter = g_ptr_array_index(waiters, i);

            if (waiter->deadline_us <= next_us) {
                waiter->due = true;
                g_cond_broadcast(waiter->cond);
            }
        }
    }
    g_mutex_unlock(&lock);
    return next_us != G_MAXINT64;
}

static bool does_anybody_wait(void)
{
    bool any;

    g_mutex_lock(&lock);
    any = waiters->len > 0;
    g_mutex_unlock(&lock);
    return any;
}

static gpointer clock_run(gpointer opaque)
{
    const gint64 self = syscall(SYS_gettid);

    for (;;) {
        if (!does_anybody_wait() || !all_sleep(self) || !jump()) {
            g_usleep(BUSY_US);
        }
    }
    return NULL;
}

void steered_clock_start(void)
{
    waiters = g_ptr_array_new();
    g_thread_unref(g_thread_new("clock", clock_run, NULL));
}

int steered_clock_report(int status)
{
    g_mutex_lock(&lock);
    printf("# the clock jumped %u times, over %.1f s\n", nr_jumps,
           (double)atomic_load(&offset_us) / G_USEC_PER_SEC);
    g_mutex_unlock(&lock);
    return status;
}
