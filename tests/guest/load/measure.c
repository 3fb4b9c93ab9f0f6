/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a worker measures: gaps in its time, how much it wrote when, and slow accesses */
#include "internal.h"

#define FIRST_BUCKET_US 64

struct slow slow;

uint64_t ticks_of_ms(uint64_t ms)
{
    return guest_hz() / 1000 * ms;
}

uint64_t ns_of_ticks(uint64_t ticks)
{
    uint64_t hz = guest_hz();

    return ticks / hz * 1000000000u + ticks % hz * 1000000000u / hz;
}

uint64_t ticks_of_ns(uint64_t ns)
{
    uint64_t hz = guest_hz(), second = 1000000000u;

    return ns / second * hz + ns % second * hz / second;
}

void note_gap(struct worker *w, uint64_t gap)
{
    uint64_t first_bucket = guest_hz() / 1000000 * FIRST_BUCKET_US;
    uint32_t *longest = &w->gaps_us[w->slot % HISTORY_SLOTS], us;
    unsigned int i = 0;

    if (gap > w->gap) {
        w->gap = gap;
    }
    if (gap < first_bucket) {
        return;
    }
    us = (uint32_t)(ns_of_ticks(gap) / 1000);
    *longest = us > *longest ? us : *longest;
    for (gap /= first_bucket; gap > 1 && i < LOAD_NR_BUCKETS - 1; gap /= 2) {
        i++;
    }
    w->buckets[i]++;
}

void forget_gaps(struct worker *w)
{
    w->gap = 0;
    for (unsigned int i = 0; i < LOAD_NR_BUCKETS; i++) {
        w->buckets[i] = 0;
    }
    w->last = guest_now();
}

/* History: how many pages were written in each SLOT_MS of the guest's time, and the longest gap */

void history_start(struct worker *w, uint64_t now)
{
    w->slot = now / ticks_of_ms(SLOT_MS);
    w->slot_end = (w->slot + 1) * ticks_of_ms(SLOT_MS);
}

void history_advance(struct worker *w, uint64_t now)
{
    while (now >= w->slot_end) {
        w->slot++;
        w->history[w->slot % HISTORY_SLOTS] = 0;
        w->gaps_us[w->slot % HISTORY_SLOTS] = 0;
        w->slot_end += ticks_of_ms(SLOT_MS);
    }
}

/* A worker that stands still has not come to the newest slots: what it has there is old. */
static bool history_has(const struct worker *w, uint64_t slot)
{
    return slot <= w->slot && slot + HISTORY_SLOTS > w->slot;
}

uint64_t history_writes(uint64_t slot)
{
    uint64_t nr = 0;

    for (unsigned int k = 0; k < nr_workers; k++) {
        if (history_has(&workers[k], slot)) {
            nr += workers[k].history[slot % HISTORY_SLOTS];
        }
    }
    return nr;
}

uint64_t history_gap_us(uint64_t slot)
{
    uint64_t longest = 0;

    for (unsigned int k = 0; k < nr_workers; k++) {
        uint64_t us = history_has(&workers[k], slot) ? workers[k].gaps_us[slot % HISTORY_SLOTS] : 0;

        longest = us > longest ? us : longest;
    }
    return longest;
}

/* Accesses: how long the first touch of each page takes that is written */

void watch_start(struct worker *w, uint64_t least)
{
    w->watch_least = least;
    w->watch_from = guest_now();
    w->nr_accesses = 0;
    w->lost_until = w->unlogged_from = w->unlogged_longest = 0;
    for (unsigned int i = 0; i < ACCESS_NR_BUCKETS; i++) {
        w->unlogged[i] = 0;
    }
}

unsigned int access_bucket(uint64_t ticks)
{
    uint64_t ns = ns_of_ticks(ticks);
    unsigned int power;

    if (ns < 1u << ACCESS_SHIFT) {
        return 0;
    }
    power = 63 - (unsigned int)__builtin_clzll(ns);
    if (power >= ACCESS_SHIFT + ACCESS_NR_BUCKETS / 8) {
        return ACCESS_NR_BUCKETS - 1;
    }
    return (power - ACCESS_SHIFT) * 8 + (ns >> (power - 3) & 7);
}

static void forget_slow(struct worker *w, const struct slow_access *access)
{
    uint64_t from = acquire(&slow.from);

    if (!from || access->begin < from) {
        w->lost_until = access->begin > w->lost_until ? access->begin : w->lost_until;
        return;
    }
    if (!w->unlogged_from || access->begin < w->unlogged_from) {
        w->unlogged_from = access->begin;
    }
    if (access->ticks > w->unlogged_longest) {
        w->unlogged_longest = access->ticks;
    }
    w->unlogged[access_bucket(access->ticks)]++;
}

static void note_slow(struct worker *w, uint64_t begin, uint64_t ticks)
{
    struct slow_access *entry;
    uint64_t i;

    if (acquire(&slow.closed)) {
        return;
    }
    i = __atomic_fetch_add(&slow.nr, 1, __ATOMIC_RELAXED);
    entry = &slow.entries[i % LOG_ENTRIES];
    if (i >= LOG_ENTRIES) {
        forget_slow(w, entry);
    }
    entry->begin = begin;
    entry->ticks = ticks;
}

void touch(struct worker *w, volatile uint32_t *word)
{
    uint64_t begin = guest_now(), ticks;
    uint32_t value = *word;

    *word = value;
    ticks = guest_now() - begin;
    w->nr_accesses++;
    /* The clock may stand still meanwhile. */
    if ((ticks ? ticks : 1) >= w->watch_least) {
        note_slow(w, begin, ticks);
    }
}
