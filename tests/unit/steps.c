/*
 * Threads that take turns: see steps.h.
 *
 * Threads: one for each actor, which last as long as the program; and the test's, which waits meanwhile.  Whoever has
 * the turn owns everything here; `baton` is for handing it on.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "steps.h"

#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What reads this without the build's own flags, to look for faults of ours, sees the functions as well. */
#ifndef FERRY_CLOCK
#define FERRY_CLOCK
#endif
#include "migration/clock.h"

#define TRACE_MAX 8192
#define DEPTH_MAX 4096

/* If there is something new to be learnt for ever, the addresses are not the same each time. */
#define LESSONS_MAX 200

typedef enum {
    READY,
    BLOCKED, /* until `lock` is let go of */
    YIELDED, /* until somebody else has made a step */
    WAITS,   /* until `what` is true */
    DONE,
} State;

typedef struct Actor {
    unsigned number;
    void (*act)(void);
    State state;
    const GMutex *lock;
    bool (*what)(void);
    GThread *thread;
    GCond turn;
} Actor;

/* What is at an address, as far as is known: a bit for each actor. */
typedef struct Place {
    unsigned readers, writers;
} Place;

typedef struct Choice {
    unsigned taken, nr;
} Choice;

static Actor actors[STEPS_ACTORS_MAX];
static unsigned nr_actors;
static __thread Actor *self;

static GMutex baton;
static Actor *running; /* NULL: the test */
static GCond over;

static bool starting;      /* actors come to their first stop, one after the other */
static GHashTable *places; /* of Place, by address */
static unsigned nr_lessons, nr_idle;

static Choice choices[DEPTH_MAX];
static unsigned depth, nr_choices; /* how many were made in this order; and were to be made */
static unsigned nr_switches, max_switches;
static GRand *chance;

static char trace[TRACE_MAX + 1]; /* whose each step was */
static size_t nr_steps;
static const char *replay;

/* --- Findings ------------------------------------------------------------------------------------- */

/* A failed assertion of anybody's aborts. */
static void on_abort(int number)
{
    static const char before[] = "\nsteps: ";

    if (write(STDERR_FILENO, before, sizeof(before) - 1) < 0 ||
        write(STDERR_FILENO, trace, nr_steps) < 0 || write(STDERR_FILENO, "\n", 1) < 0) {
        _exit(1);
    }
    signal(SIGABRT, SIG_DFL);
    raise(SIGABRT);
}

void steps_fail(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    abort();
}

/* --- Turns ---------------------------------------------------------------------------------------- */

/* Let somebody else go on, until it is this one's turn again. */
static void hand_on(Actor *next)
{
    if (next == self) {
        return;
    }
    g_mutex_lock(&baton);
    running = next;
    g_cond_signal(next ? &next->turn : &over);
    while (running != self) {
        g_cond_wait(self ? &self->turn : &over, &baton);
    }
    g_mutex_unlock(&baton);
}

/* Those that can go on: first the one that has the turn, if it can. */
static unsigned list_ready(Actor *list[STEPS_ACTORS_MAX])
{
    const bool can_go_on = self && self->state == READY;
    unsigned nr = 0;

    if (can_go_on) {
        list[nr++] = self;
    }
    for (unsigned i = 0; i < nr_actors; i++) {
        if (actors[i].state == WAITS && actors[i].what()) {
            actors[i].state = READY;
        }
        if (actors[i].state == READY && (&actors[i] != self || !can_go_on)) {
            list[nr++] = &actors[i];
        }
    }
    for (unsigned i = 0; nr == 0 && i < nr_actors; i++) {
        /* Time passes, and nobody does anything. */
        if (actors[i].state == YIELDED && nr_idle++ < 4 * STEPS_ACTORS_MAX) {
            actors[i].state = READY;
            list[nr++] = &actors[i];
        }
    }
    return nr;
}

static unsigned choose_of(unsigned nr)
{
    if (chance) {
        return (unsigned)g_rand_int_range(chance, 0, (gint32)nr);
    }
    g_assert_cmpuint(depth, <, DEPTH_MAX);
    if (depth == nr_choices) {
        choices[nr_choices++] = (Choice){.nr = nr};
    }
    g_assert_cmpuint(choices[depth].nr, ==, nr);
    return choices[depth++].taken;
}

/* Who goes on; NULL when all have ended. */
static Actor *choose(void)
{
    Actor *list[STEPS_ACTORS_MAX];
    unsigned nr = list_ready(list), chosen = 0;
    bool can_go_on = self && self->state == READY;

    if (nr == 0) {
        for (unsigned i = 0; i < nr_actors; i++) {
            if (actors[i].state != DONE) {
                steps_fail("thread %u waits for ever", i);
            }
        }
        return NULL;
    }
    if (replay) {
        while (chosen < nr - 1 && list[chosen]->number != (unsigned)(replay[nr_steps] - '0')) {
            chosen++;
        }
    } else if (nr > 1 && !(can_go_on && max_switches && nr_switches == max_switches)) {
        chosen = choose_of(nr);
    }
    nr_switches += can_go_on && list[chosen] != self;
    return list[chosen];
}

static Actor *next_actor(void)
{
    return starting ? NULL : choose();
}

/* Whether somebody else could notice; or has begun to just now, which is a lesson for the next order. */
static bool note_access(const volatile void *address, bool writes)
{
    Place *place = g_hash_table_lookup(places, (const void *)address);
    const unsigned bit = 1U << self->number;
    bool was_shared, is_shared;

    if (!place) {
        place = g_new0(Place, 1);
        g_hash_table_insert(places, (void *)address, place);
    }
    was_shared = place->writers && __builtin_popcount(place->readers | place->writers) > 1;
    *(writes ? &place->writers : &place->readers) |= bit;
    is_shared = place->writers && __builtin_popcount(place->readers | place->writers) > 1;
    nr_lessons += is_shared && !was_shared;
    return was_shared;
}

static void wake_yielded(void)
{
    for (unsigned i = 0; i < nr_actors; i++) {
        if (actors[i].state == YIELDED && &actors[i] != self) {
            actors[i].state = READY;
        }
    }
    nr_idle = 0;
}

void steps_at(const volatile void *address, bool writes)
{
    if (!self) {
        return;
    }
    if (note_access(address, writes) || replay) {
        hand_on(next_actor());
    }
    if (nr_steps < TRACE_MAX) {
        trace[nr_steps++] = (char)('0' + self->number);
    }
    if (writes) {
        wake_yielded();
    }
}

void steps_yield(void)
{
    if (self) {
        self->state = YIELDED;
        hand_on(next_actor());
        self->state = READY;
    }
}

void steps_wait(bool (*what)(void))
{
    if (!what()) {
        self->state = WAITS;
        self->what = what;
        hand_on(next_actor());
    }
}

void steps_lock(GMutex *lock)
{
    if (!self) {
        g_mutex_lock(lock);
        return;
    }
    steps_at(lock, true);
    while (!g_mutex_trylock(lock)) {
        self->state = BLOCKED;
        self->lock = lock;
        hand_on(next_actor());
    }
}

bool steps_trylock(GMutex *lock)
{
    steps_at(lock, true);
    return g_mutex_trylock(lock);
}

void steps_unlock(GMutex *lock)
{
    g_mutex_unlock(lock);
    for (unsigned i = 0; self && i < nr_actors; i++) {
        if (actors[i].state == BLOCKED && actors[i].lock == lock) {
            actors[i].state = READY;
        }
    }
}

/* --- The engine's clock: it stands still, and any wait may end -------------------------------------- */

uint64_t ferry_now_ns(void)
{
    return UINT64_C(1000000000000);
}

void ferry_cond_wait(GCond *cond, GMutex *lock)
{
    steps_unlock(lock);
    steps_yield();
    steps_lock(lock);
}

bool ferry_cond_wait_until(GCond *cond, GMutex *lock, gint64 deadline_us)
{
    ferry_cond_wait(cond, lock);
    return false;
}

void ferry_sleep_us(gint64 us)
{
    steps_yield();
}

/* --- Orders ----------------------------------------------------------------------------------------- */

static gpointer actor_run(gpointer opaque)
{
    self = opaque;
    for (;;) {
        g_mutex_lock(&baton);
        while (running != self) {
            g_cond_wait(&self->turn, &baton);
        }
        g_mutex_unlock(&baton);
        self->act();
        self->state = DONE;
        wake_yielded();
        /* Not hand_on(): it is this one's turn again only in the next order. */
        Actor *next = next_actor();

        g_mutex_lock(&baton);
        running = next;
        g_cond_signal(next ? &next->turn : &over);
        g_mutex_unlock(&baton);
    }
    return NULL;
}

static void run_once(const StepsCase *c)
{
    c->begin();
    depth = nr_switches = nr_idle = 0;
    nr_steps = 0;
    starting = true;
    for (unsigned i = 0; i < nr_actors; i++) {
        actors[i].act = c->acts[i];
        actors[i].state = READY;
        hand_on(&actors[i]);
    }
    starting = false;
    hand_on(choose());
    trace[nr_steps] = 0;
    c->end();
}

/* The next order; false after the last. */
static bool go_back(void)
{
    nr_choices = depth;
    while (nr_choices > 0) {
        Choice *last = &choices[nr_choices - 1];

        if (++last->taken < last->nr) {
            return true;
        }
        nr_choices--;
    }
    return false;
}

/* All of them, until nothing new was learnt. */
static uint64_t run_all(const StepsCase *c)
{
    for (unsigned nr_restarts = 0;; nr_restarts++) {
        uint64_t nr = 0;

        g_assert_cmpuint(nr_restarts, <, LESSONS_MAX);
        nr_choices = 0;
        nr_lessons = 0;
        do {
            run_once(c);
            nr++;
        } while (nr_lessons == 0 && go_back());
        if (nr_lessons == 0) {
            return nr;
        }
    }
}

static uint64_t run_some(const StepsCase *c)
{
    for (unsigned i = 0; i < c->nr_random; i++) {
        chance = g_rand_new_with_seed((guint32)g_test_rand_int());
        run_once(c);
        g_clear_pointer(&chance, g_rand_free);
    }
    return c->nr_random;
}

uint64_t steps_run(const StepsCase *c)
{
    uint64_t nr = 1;

    cpu_set_t one;

    /* Only one runs at a time: it need not wait for another processor to wake up. */
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    sched_setaffinity(0, sizeof(one), &one);
    signal(SIGABRT, on_abort);
    replay = g_getenv("FERRY_STEPS");
    places = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    max_switches = c->max_switches;
    for (nr_actors = 0; c->acts[nr_actors]; nr_actors++) {
        Actor *actor = &actors[nr_actors];

        actor->number = nr_actors;
        if (!actor->thread) {
            actor->thread = g_thread_new("actor", actor_run, actor);
        }
    }
    if (replay) {
        run_once(c);
    } else {
        nr = c->nr_random ? run_some(c) : run_all(c);
    }
    g_clear_pointer(&places, g_hash_table_unref);
    g_test_message("%" G_GUINT64_FORMAT " orders", nr);
    return nr;
}

static void run_case(gconstpointer data)
{
    steps_run(data);
}

void steps_add(const char *path, const StepsCase *cases, size_t nr, GTestDataFunc run)
{
    for (size_t i = 0; i < nr; i++) {
        g_autofree char *name = g_strdup_printf("%s/%s", path, cases[i].name);

        g_test_add_data_func(name, &cases[i], run ? run : run_case);
    }
}
