/*
 * Threads of a test that take turns, one step at a time: every order of their steps can be tried.
 *
 * A step is an access to something that several threads use: an atomic variable, a lock, or what a test says is one.
 * The engine's own files are compiled for this once more, with stepped.h, so that whatever they do atomically
 * is a step.  Between two steps a thread is alone, so only the order of steps matters; and only of those steps that
 * another thread could notice.  Which these are is learnt: when an order shows that two threads use the
 * same place, and one of them writes it, all orders are tried again with a stop there.
 *
 * One thread runs at a time, so each order is reproduced exactly.  What was run is printed when a test
 * fails: "steps: 00110"; with FERRY_STEPS=00110 in the environment, the test runs only that.  What is drawn by
 * chance comes from GLib's seed of the program, which prints it, and takes it with --seed.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_TEST_STEPS_H
#define FERRY_TEST_STEPS_H

#include <glib.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#define STEPS_ACTORS_MAX 4

typedef struct StepsCase {
    const char *name;    /* Required by steps_add() */
    void (*begin)(void); /* Required: all is as it was, at the same addresses */
    void (*acts[STEPS_ACTORS_MAX + 1])(
        void);             /* Required: what each thread does; NULL after the last */
    void (*end)(void);     /* Required: all have ended; whatever came of it is right */
    unsigned max_switches; /* Optional: away from threads that could have gone on; 0: any number */
    unsigned nr_random;    /* Optional: so many orders by chance, not all of them */
} StepsCase;

/* Try all orders, or some; returns how many. */
uint64_t steps_run(const StepsCase *c);

/* A test below @path for each of @nr cases, which stay: @run has its case, and NULL is steps_run(). */
void steps_add(const char *path, const StepsCase *cases, size_t nr, GTestDataFunc run);

/* --- What threads say while they run; elsewhere none of it does anything ------------------------------ */

/* The next thing that this thread does is one access to what is at @address. */
void steps_at(const volatile void *address, bool writes);

/* Nothing to do until somebody else has done something. */
void steps_yield(void);

/* Wait until @what is true, which reads only what threads change between two steps. */
void steps_wait(bool (*what)(void));

void steps_lock(GMutex *lock);
bool steps_trylock(GMutex *lock);
void steps_unlock(GMutex *lock);

/* The test program has these, if it uses what calls them: its kernel. */
int steps_poll(struct pollfd *fds, nfds_t nr_fds, int timeout_ms);
int steps_ioctl(int fd, unsigned long request, ...);

/* The test has found something wrong. */
void steps_fail(const char *format, ...) G_GNUC_PRINTF(1, 2) G_GNUC_NORETURN;

#endif
