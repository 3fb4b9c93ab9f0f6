/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The workers: what they write, how they obey, and their loop */
#include "internal.h"

#define BURST_MS     10    /* writes missed during a longer stall are not made up for */
#define OBEY_MS      20000 /* a worker that has not obeyed by then is dead */
#define ATTENTIVE_MS 20    /* after a command, so long the next is answered at once */

struct worker workers[LOAD_MAX_WORKERS];
unsigned int nr_workers;
struct load_config config;
uint32_t *generations;
struct orders orders;

/* Pages */

static void make_page(uint64_t index)
{
    struct page_recipe r = page_recipe(config.kind, config.seed, index, generations[index]);

    page_write(guest_page(index), &r);
}

static uint64_t next_index(struct worker *w)
{
    if (config.random) {
        w->random ^= w->random << 13;
        w->random ^= w->random >> 7;
        w->random ^= w->random << 17;
        return w->first + w->random % w->nr_pages;
    }
    if (w->cursor == w->nr_pages) {
        w->cursor = 0;
    }
    return w->first + w->cursor++;
}

static void write_one(struct worker *w)
{
    uint64_t index = next_index(w);

    if (w->watch_least) {
        touch(w, &generations[index]);
        touch(w, (volatile uint32_t *)guest_page(index));
    }
    generations[index]++;
    make_page(index);
    w->nr_writes++;
    w->history[w->slot % HISTORY_SLOTS]++;
}

/* The part of `nr` pages that is worker k's: [slice(k), slice(k + 1)) */
static uint64_t slice(uint64_t nr, unsigned int k)
{
    return nr / nr_workers * k + nr % nr_workers * k / nr_workers;
}

/* Orders */

static bool wait_obeyed(void)
{
    uint64_t end = guest_now() + ticks_of_ms(OBEY_MS);

    workers[0].seen = orders.number;
    for (unsigned int k = 1; k < nr_workers; k++) {
        while (acquire(&workers[k].seen) != orders.number) {
            if (guest_now() > end) {
                uint64_t worker = k;

                load_say("ERROR no answer from worker", &worker);
                return false;
            }
            guest_idle(ticks_of_ms(1));
        }
    }
    return true;
}

bool order(bool going)
{
    orders.going = going;
    release(&orders.number, orders.number + 1);
    return wait_obeyed();
}

static void obey(struct worker *w)
{
    uint64_t number = acquire(&orders.number);

    if (number == w->seen) {
        return;
    }
    if (acquire(&orders.reset) > w->seen) {
        forget_gaps(w);
    }
    if (acquire(&orders.watch) > w->seen) {
        watch_start(w, orders.watch_least);
    }
    w->due = guest_now();
    release(&w->seen, number);
}

/* The loop */

static void fill(struct worker *w, unsigned int k)
{
    for (uint64_t i = slice(config.fill_pages, k); i < slice(config.fill_pages, k + 1); i++) {
        generations[i] = 0; /* a reset leaves memory as it was */
        make_page(i);
    }
    __atomic_store_n(&w->filled, true, __ATOMIC_RELEASE);
}

/* Write a page if one is due. */
static void work(struct worker *w, uint64_t now)
{
    uint64_t rate = orders.rate, burst = ticks_of_ms(BURST_MS);

    if (!orders.going || !w->nr_pages) {
        guest_idle(ticks_of_ms(1));
        return;
    }
    if (rate) {
        if (now < w->due) {
            guest_idle(w->due - now);
            return;
        }
        w->due += guest_hz() / rate;
        if (now > w->due + burst) {
            w->due = now;
        }
    }
    write_one(w);
}

static void wait_filled(void)
{
    for (unsigned int k = 1; k < nr_workers; k++) {
        while (!__atomic_load_n(&workers[k].filled, __ATOMIC_ACQUIRE)) {
            guest_idle(ticks_of_ms(1));
        }
    }
}

void load_run(const struct load_config *c, uint32_t *table, unsigned int k, unsigned int nr)
{
    struct worker *w = &workers[k];
    uint64_t next_poll = 0, attentive = 0, poll, now;

    if (k == 0) {
        config = *c;
        generations = table;
        nr_workers = nr;
        orders.rate = c->rate;
        release(&orders.number, 1);
    } else {
        while (!acquire(&orders.number)) {
            guest_idle(ticks_of_ms(1));
        }
    }
    w->first = slice(config.write_pages, k);
    w->nr_pages = slice(config.write_pages, k + 1) - w->first;
    w->random = page_mix(config.seed + 1 + k) | 1;
    fill(w, k);
    poll = ticks_of_ms(config.poll_ms);
    if (k == 0) {
        wait_filled();
        info("READY");
        order(!config.paused);
    }
    forget_gaps(w);
    w->due = guest_now();
    history_start(w, w->due);

    for (;;) {
        now = guest_now();
        note_gap(w, now - w->last);
        w->last = now;
        history_advance(w, now);
        if (k == 0) {
            if (now >= next_poll) {
                if (serve()) {
                    now = w->last = w->due = guest_now();
                    attentive = now + ticks_of_ms(ATTENTIVE_MS);
                }
                next_poll = now < attentive ? now : now + poll;
            }
        } else {
            obey(w);
        }
        work(w, now);
    }
}
