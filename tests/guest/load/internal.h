/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The load's own: what its files share.
 *
 * Threads: each worker owns its struct worker; others only read it, or wait for `seen` to follow
 * `orders.number`. Worker 0 alone changes `orders`. A worker obeys new orders between two page writes,
 * so when all have obeyed "stop", no page is half written.
 *
 *   worker 0                                worker k
 *   orders.going = false
 *   store-release orders.number = n
 *                                           load-acquire orders.number: n
 *                                           (its last page and generation are written)
 *                                           store-release seen = n
 *   load-acquire seen: n
 *   reads pages and generations of k
 */
#ifndef FERRY_GUEST_LOAD_INTERNAL_H
#define FERRY_GUEST_LOAD_INTERNAL_H

#include "load.h"

#include <stddef.h>

#define SLOT_MS       50   /* of the history of writes */
#define HISTORY_SLOTS 1536 /* remembered: the last 76 seconds */
#define LOG_ENTRIES   8192 /* the last slow accesses, remembered one by one */

/* Times of slow accesses: eight buckets for each power of two from 1024 ns to 17 s. */
#define ACCESS_SHIFT      10
#define ACCESS_NR_BUCKETS ((34 - ACCESS_SHIFT) * 8)

struct worker {
    uint64_t seen; /* the newest orders obeyed */
    uint64_t nr_writes;
    uint64_t gap;                      /* longest time between two loop iterations, in ticks */
    uint64_t buckets[LOAD_NR_BUCKETS]; /* gaps of FIRST_BUCKET_US << i and more, up to twice that */
    uint64_t last, due, random, cursor, first, nr_pages;
    uint64_t slot, slot_end; /* of the history: time / SLOT_MS, and when it ends, in ticks */
    uint32_t history[HISTORY_SLOTS]; /* pages written in slot n: [n % HISTORY_SLOTS] */
    uint32_t gaps_us[HISTORY_SLOTS]; /* the longest gap that began in slot n; 0: none to speak of */
    uint64_t watch_from;             /* since when accesses are watched */
    uint64_t watch_least;            /* the least ticks that make one slow; 0: none is watched */
    uint64_t nr_accesses;
    uint64_t lost_until;    /* when the last slow one began that was forgotten altogether */
    uint64_t unlogged_from; /* when the first one began that is only counted; 0: none */
    uint64_t unlogged_longest;
    uint32_t unlogged[ACCESS_NR_BUCKETS];
    bool filled;
} __attribute__((aligned(128)));

extern struct worker workers[LOAD_MAX_WORKERS];
extern unsigned int nr_workers;
extern struct load_config config;
extern uint32_t *generations;

extern struct orders {
    uint64_t number;
    uint64_t rate;
    uint64_t reset;       /* the orders that last said: forget the gaps */
    uint64_t watch;       /* the orders that last said: watch accesses, or watch none */
    uint64_t watch_least; /* which are slow, in ticks; 0: watch none */
    bool going;
} __attribute__((aligned(128))) orders;

/*
 * The last slow accesses of all workers. What is overwritten there is counted in the worker's histogram
 * if it began late enough, or forgotten. An entry is written again only LOG_ENTRIES slow accesses later.
 */
extern struct slow {
    uint64_t nr;     /* how many there were */
    uint64_t from;   /* only those count that began then or later; 0: that is not yet known */
    uint64_t closed; /* no more are to be noted */
    struct slow_access {
        uint64_t begin, ticks;
    } entries[LOG_ENTRIES];
} __attribute__((aligned(128))) slow;

static inline uint64_t acquire(const uint64_t *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline void release(uint64_t *p, uint64_t value)
{
    __atomic_store_n(p, value, __ATOMIC_RELEASE);
}

/* text.c: what is said on the serial line, and read from there */
void say(const char *text);
void say_number(const char *before, uint64_t n);
void say_end(void);

/* If `text` begins with `word`, what comes after it; else NULL. */
const char *after(const char *text, const char *word);

/* Store the number that `text` begins with and return what follows; NULL if there is none. */
const char *parse_number(const char *text, uint64_t *n);

/* measure.c: gaps in a worker's time, the history of writes and gaps, slow accesses */
uint64_t ticks_of_ms(uint64_t ms);
uint64_t ticks_of_ns(uint64_t ns);
uint64_t ns_of_ticks(uint64_t ticks);

/* A gap that ends now, before the history has advanced. */
void note_gap(struct worker *w, uint64_t gap);
void forget_gaps(struct worker *w);

void history_start(struct worker *w, uint64_t now);
void history_advance(struct worker *w, uint64_t now);
uint64_t history_writes(uint64_t slot);
uint64_t history_gap_us(uint64_t slot);

/* Have accesses of `least` ticks and more noted from now on; 0: none. */
void watch_start(struct worker *w, uint64_t least);

/* Read a word and write it back: whatever is in the way of either is over afterwards. */
void touch(struct worker *w, volatile uint32_t *word);
unsigned int access_bucket(uint64_t ticks);

/* commands.c: what the load is asked */

/* Returns whether a command was run. Once a line has begun, its rest is waited for, but not for ever. */
bool serve(void);

/* One line, which begins with `word`: what the load is. */
void info(const char *word);

/* load.c: the workers */

/* Have all workers write, or stop, and wait until they do. False, with an error said, if one does not. */
bool order(bool going);

#endif
