/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
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
#include "load.h"

#include <stddef.h>

#define BURST_MS        10    /* writes missed during a longer stall are not made up for */
#define OBEY_MS         20000 /* a worker that has not obeyed by then is dead */
#define ATTENTIVE_MS    20    /* after a command, so long the next is answered at once */
#define LINE_BYTES      64
#define FIRST_BUCKET_US 64
#define SLOT_MS         50   /* of the history of writes */
#define HISTORY_SLOTS   1536 /* remembered: the last 76 seconds */
#define LOG_ENTRIES     8192 /* the last slow accesses, remembered one by one */

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

static struct worker workers[LOAD_MAX_WORKERS];
static unsigned int nr_workers;
static struct load_config config;
static uint32_t *generations;
static uint64_t nr_damaged;

static struct {
    uint64_t number;
    uint64_t rate;
    uint64_t reset;       /* the orders that last said: forget the gaps */
    uint64_t watch;       /* the orders that last said: watch accesses, or watch none */
    uint64_t watch_least; /* which are slow, in ticks; 0: watch none */
    bool going;
} orders __attribute__((aligned(128)));

/*
 * The last slow accesses of all workers. What is overwritten there is counted in the worker's histogram
 * if it began late enough, or forgotten. An entry is written again only LOG_ENTRIES slow accesses later.
 */
static struct {
    uint64_t nr;     /* how many there were */
    uint64_t from;   /* only those count that began then or later; 0: that is not yet known */
    uint64_t closed; /* no more are to be noted */
    struct slow_access {
        uint64_t begin, ticks;
    } entries[LOG_ENTRIES];
} slow __attribute__((aligned(128)));

static uint64_t acquire(const uint64_t *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static void release(uint64_t *p, uint64_t value)
{
    __atomic_store_n(p, value, __ATOMIC_RELEASE);
}

/* Text */

static void say(const char *text)
{
    while (*text) {
        guest_putc(*text++);
    }
}

static void say_number(const char *before, uint64_t n)
{
    char digits[20];
    unsigned int nr = 0;

    say(before);
    do {
        digits[nr++] = (char)('0' + n % 10);
        n /= 10;
    } while (n);
    while (nr) {
        guest_putc(digits[--nr]);
    }
}

static void say_end(void)
{
    say("\r\n");
}

void load_say(const char *text, const uint64_t *value)
{
    say(text);
    if (value) {
        say_number(" ", *value);
    }
    say_end();
}

/* If `text` begins with `word`, what comes after it; else NULL. */
static const char *after(const char *text, const char *word)
{
    while (*word) {
        if (*text++ != *word++) {
            return NULL;
        }
    }
    return text;
}

static const char *parse_number(const char *text, uint64_t *n)
{
    const char *begin = text;

    for (*n = 0; *text >= '0' && *text <= '9'; text++) {
        *n = *n * 10 + (uint64_t)(*text - '0');
    }
    return text == begin ? NULL : text;
}

/* If `text` begins with "NAME" and a number, store the number times `unit` and return what follows. */
static const char *setting(const char *text, const char *name, uint64_t unit, uint64_t *value)
{
    const char *rest = after(text, name);
    uint64_t n;

    rest = rest ? parse_number(rest, &n) : NULL;
    if (rest) {
        *value = n * unit;
    }
    return rest;
}

static const char *choice(const char *text, const char *word, int *value, int meaning)
{
    const char *rest = after(text, word);

    if (rest) {
        *value = meaning;
    }
    return rest;
}

static const char *parse_one(struct load_config *c, const char *text)
{
    const uint64_t mib = (1 << 20) / PAGE_BYTES;
    int kind = (int)c->kind, random = c->random, spread = c->spread, paused = c->paused;
    const char *rest;

    (void)((rest = setting(text, "fill=", mib, &c->fill_pages)) ||
           (rest = setting(text, "write=", mib, &c->write_pages)) ||
           (rest = setting(text, "rate=", 1, &c->rate)) ||
           (rest = setting(text, "seed=", 1, &c->seed)) ||
           (rest = setting(text, "poll=", 1, &c->poll_ms)) ||
           (rest = choice(text, "kind=random", &kind, PAGE_RANDOM)) ||
           (rest = choice(text, "kind=compressible", &kind, PAGE_COMPRESSIBLE)) ||
           (rest = choice(text, "kind=mixed", &kind, PAGE_MIXED)) ||
           (rest = choice(text, "pattern=random", &random, true)) ||
           (rest = choice(text, "pattern=sequential", &random, false)) ||
           (rest = choice(text, "layout=packed", &spread, false)) ||
           (rest = choice(text, "layout=spread", &spread, true)) ||
           (rest = choice(text, "start=going", &paused, false)) ||
           (rest = choice(text, "start=paused", &paused, true)));
    c->kind = (enum page_kind)kind;
    c->random = random;
    c->spread = spread;
    c->paused = paused;
    return rest;
}

const char *load_parse(struct load_config *c, const char *text)
{
    while (*text) {
        const char *rest = parse_one(c, text);

        if (!rest || (*rest != ':' && *rest != '\0')) {
            return text;
        }
        text = *rest ? rest + 1 : rest;
    }
    return c->write_pages > c->fill_pages ? "write=" : NULL;
}

/* Time */

static uint64_t ticks_of_ms(uint64_t ms)
{
    return guest_hz() / 1000 * ms;
}

static uint64_t ns_of_ticks(uint64_t ticks)
{
    uint64_t hz = guest_hz();

    return ticks / hz * 1000000000u + ticks % hz * 1000000000u / hz;
}

static uint64_t ticks_of_ns(uint64_t ns)
{
    uint64_t hz = guest_hz(), second = 1000000000u;

    return ns / second * hz + ns % second * hz / second;
}

/* A gap that ends now, before the history has advanced. */
static void note_gap(struct worker *w, uint64_t gap)
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

static void forget_gaps(struct worker *w)
{
    w->gap = 0;
    for (unsigned int i = 0; i < LOAD_NR_BUCKETS; i++) {
        w->buckets[i] = 0;
    }
    w->last = guest_now();
}

/* History: how many pages were written in each SLOT_MS of the guest's time, and the longest gap */

static void history_start(struct worker *w, uint64_t now)
{
    w->slot = now / ticks_of_ms(SLOT_MS);
    w->slot_end = (w->slot + 1) * ticks_of_ms(SLOT_MS);
}

static void history_advance(struct worker *w, uint64_t now)
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

static uint64_t history_writes(uint64_t slot)
{
    uint64_t nr = 0;

    for (unsigned int k = 0; k < nr_workers; k++) {
        if (history_has(&workers[k], slot)) {
            nr += workers[k].history[slot % HISTORY_SLOTS];
        }
    }
    return nr;
}

static uint64_t history_gap_us(uint64_t slot)
{
    uint64_t longest = 0;

    for (unsigned int k = 0; k < nr_workers; k++) {
        uint64_t us = history_has(&workers[k], slot) ? workers[k].gaps_us[slot % HISTORY_SLOTS] : 0;

        longest = us > longest ? us : longest;
    }
    return longest;
}

/* Accesses: how long the first touch of each page takes that is written */

static void watch_start(struct worker *w, uint64_t least)
{
    w->watch_least = least;
    w->watch_from = guest_now();
    w->nr_accesses = 0;
    w->lost_until = w->unlogged_from = w->unlogged_longest = 0;
    for (unsigned int i = 0; i < ACCESS_NR_BUCKETS; i++) {
        w->unlogged[i] = 0;
    }
}

static unsigned int access_bucket(uint64_t ticks)
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

/* Read a word and write it back: whatever is in the way of either is over afterwards. */
static void touch(struct worker *w, volatile uint32_t *word)
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

static bool order(bool going)
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

/* Commands */

static uint64_t count_writes(void)
{
    uint64_t nr = 0;

    for (unsigned int k = 0; k < nr_workers; k++) {
        nr += workers[k].nr_writes;
    }
    return nr;
}

static void verify(void)
{
    static const char *const words[] = {
        [PAGE_LOST] = "lost",
        [PAGE_MISPLACED] = "misplaced",
        [PAGE_STALE] = "stale",
        [PAGE_CORRUPT] = "corrupt",
    };
    bool was_going = orders.going;
    uint64_t nr_bad = 0, first = 0, sum = 0;
    enum page_fault why = PAGE_GOOD;

    if (!order(false)) {
        return;
    }
    for (uint64_t i = 0; i < config.fill_pages; i++) {
        struct page_recipe r = page_recipe(config.kind, config.seed, i, generations[i]);
        enum page_fault fault = page_check(guest_page(i), &r);

        sum += generations[i];
        if (fault != PAGE_GOOD && !nr_bad++) {
            first = i;
            why = fault;
        }
    }
    say_number("VERIFY pages=", config.fill_pages);
    say_number(" bad=", nr_bad);
    if (nr_bad) {
        say_number(" first=", first);
        say(" fault=");
        say(words[why]);
    }
    say_number(" writes=", count_writes());
    say_number(" generations=", sum);
    say_end();
    if (was_going) {
        order(true);
    }
}

static void check_untouched(void)
{
    uint64_t nr_pages = 0, first = 0, nr_bad = guest_check_untouched(&nr_pages, &first);

    say_number("ZERO pages=", nr_pages);
    say_number(" bad=", nr_bad);
    if (nr_bad) {
        say_number(" first=", first);
    }
    say_end();
}

static void stats(void)
{
    const struct worker *longest = &workers[0];

    say_number("STATS writes=", count_writes());
    say_number(" going=", orders.going);
    say_number(" rate=", orders.rate);
    for (unsigned int k = 1; k < nr_workers; k++) {
        if (workers[k].gap > longest->gap) {
            longest = &workers[k];
        }
    }
    say_number(" gap_ns=", ns_of_ticks(longest->gap));
    for (unsigned int k = 0; k < nr_workers; k++) {
        say_number(k ? "," : " gaps_ns=", ns_of_ticks(workers[k].gap));
    }
    for (unsigned int i = 0; i < LOAD_NR_BUCKETS; i++) {
        uint64_t nr = 0;

        for (unsigned int k = 0; k < nr_workers; k++) {
            nr += workers[k].buckets[i];
        }
        say_number(i ? "," : " hist_64us=", nr);
    }
    say_end();
}

/*
 * Watch accesses from now on, if any counts as slow. With 1 ns all do, also where the clock goes in
 * longer steps (10 ns on Zen 5). The log is emptied while no worker writes.
 */
static void watch(uint64_t least_ns)
{
    bool was_going = orders.going;

    if (!order(false)) {
        return;
    }
    slow.nr = slow.from = slow.closed = 0;
    orders.watch_least = least_ns == 1 ? 1 : ticks_of_ns(least_ns);
    watch_start(&workers[0], orders.watch_least);
    release(&orders.watch, orders.number + 1);
    if (order(was_going)) {
        load_say("WATCHING", &least_ns);
    }
}

/* Whether all that a worker knows of is all that began since then: what is only counted has no time. */
static bool knows_since(const struct worker *w, uint64_t from)
{
    return from >= w->watch_from && from > w->lost_until &&
           (!w->unlogged_from || w->unlogged_from >= from);
}

static void accesses(void)
{
    static uint32_t buckets[ACCESS_NR_BUCKETS];
    uint64_t nr = 0, nr_all = 0, longest = 0, logged;
    bool was_going = orders.going;

    if (!order(false)) {
        return;
    }
    for (unsigned int i = 0; i < ACCESS_NR_BUCKETS; i++) {
        buckets[i] = 0;
    }
    for (unsigned int k = 0; k < nr_workers; k++) {
        const struct worker *w = &workers[k];

        if (!knows_since(w, slow.from)) {
            load_say("ERROR accesses were not watched since, or too many were slow", NULL);
            goto out;
        }
        for (unsigned int i = 0; i < ACCESS_NR_BUCKETS; i++) {
            buckets[i] += w->unlogged[i];
            nr += w->unlogged[i];
        }
        nr_all += w->nr_accesses;
        longest = w->unlogged_longest > longest ? w->unlogged_longest : longest;
    }
    logged = slow.nr < LOG_ENTRIES ? slow.nr : LOG_ENTRIES;
    for (uint64_t i = 0; i < logged; i++) {
        uint64_t ticks = slow.entries[i].ticks;

        if (slow.entries[i].begin >= slow.from) {
            buckets[access_bucket(ticks)]++;
            nr++;
            longest = ticks > longest ? ticks : longest;
        }
    }
    say_number("ACCESSES watched=", nr_all);
    say_number(" slow=", nr);
    say_number(" longest_ns=", ns_of_ticks(longest));
    for (unsigned int i = 0; i < ACCESS_NR_BUCKETS; i++) {
        say_number(i ? "," : " hist_1us=", buckets[i]);
    }
    say_end();
out:
    if (was_going) {
        order(true);
    }
}

/* The last `nr` slots that are over, oldest first. */
static void history(uint64_t nr)
{
    uint64_t slot_ticks = ticks_of_ms(SLOT_MS), end = guest_now() / slot_ticks;

    if (nr > HISTORY_SLOTS - 1) {
        nr = HISTORY_SLOTS - 1;
    }
    if (nr > end) {
        nr = end;
    }
    say_number("HISTORY slot_ns=", ns_of_ticks(slot_ticks));
    say_number(" first_ns=", ns_of_ticks((end - nr) * slot_ticks));
    for (uint64_t slot = end - nr; slot < end; slot++) {
        say_number(slot == end - nr ? " writes=" : ",", history_writes(slot));
    }
    for (uint64_t slot = end - nr; slot < end; slot++) {
        say_number(slot == end - nr ? " gaps_us=" : ",", history_gap_us(slot));
    }
    say_end();
}

/* Damage a page in a way that verify() must find; the writers are left stopped. */
static void damage(const char *how)
{
    static const char usage[] = "ERROR use: X byte|zero|stale|moved PAGE";
    const char *rest;
    volatile uint64_t *page;
    struct page_recipe r;
    uint64_t index;

    if ((rest = after(how, "byte ")) || (rest = after(how, "zero ")) ||
        (rest = after(how, "stale ")) || (rest = after(how, "moved "))) {
        rest = parse_number(rest, &index);
    }
    if (!rest || *rest || index >= config.fill_pages) {
        load_say(usage, NULL);
        return;
    }
    if (!order(false)) {
        return;
    }
    page = guest_page(index);
    if (*how == 'b') {
        ((volatile uint8_t *)page)[(index * 7) % PAGE_BYTES] ^= 1u << index % 8;
    } else if (*how == 'z') {
        for (unsigned int i = 0; i < PAGE_WORDS; i++) {
            page[i] = 0;
        }
    } else {
        r = *how == 's' ? page_recipe(config.kind, config.seed, index, generations[index] - 1)
                        : page_recipe(config.kind, config.seed, index + 1, generations[index]);
        page_write(page, &r);
    }
    nr_damaged++;
    load_say("DAMAGED page", &index);
}

static void info(const char *word)
{
    static const char *const kinds[] = {"random", "compressible", "mixed"};

    say(word);
    say(" guest=");
    say(guest_name);
    say_number(" workers=", nr_workers);
    say_number(" pages=", config.fill_pages);
    say_number(" write_pages=", config.write_pages);
    say(" kind=");
    say(kinds[config.kind]);
    say(config.random ? " pattern=random" : " pattern=sequential");
    say(config.spread ? " layout=spread" : " layout=packed");
    say_number(" seed=", config.seed);
    say_number(" hz=", guest_hz());
    say_number(" damaged=", nr_damaged);
    say_end();
}

/* A command is a letter, or a letter, a space and its argument. */
static bool run_simple(char command)
{
    uint64_t now;

    switch (command) {
    case 'I':
        info("INFO");
        return true;
    case 'T':
        now = ns_of_ticks(guest_now());
        load_say("TIME", &now);
        return true;
    case 'S':
        stats();
        return true;
    case 'V':
        verify();
        return true;
    case 'Z':
        check_untouched();
        return true;
    case 'P':
    case 'G':
        if (order(command == 'G')) {
            load_say(command == 'G' ? "GOING" : "PAUSED", NULL);
        }
        return true;
    case 'N':
        release(&slow.closed, true);
        load_say("NOTED", NULL);
        return true;
    case 'L':
        accesses();
        return true;
    case 'R':
        forget_gaps(&workers[0]);
        release(&orders.reset, orders.number + 1);
        if (order(orders.going)) {
            load_say("RESET", NULL);
        }
        return true;
    default:
        return false;
    }
}

static bool run_with_argument(char command, const char *argument)
{
    const char *rest;
    uint64_t n;

    switch (command) {
    case 'W':
        rest = parse_number(argument, &n);
        if (!rest || *rest) {
            return false;
        }
        orders.rate = n;
        if (order(orders.going)) {
            load_say("RATE", &n);
        }
        return true;
    case 'A':
        rest = parse_number(argument, &n);
        if (!rest || *rest) {
            return false;
        }
        watch(n);
        return true;
    case 'F':
        rest = parse_number(argument, &n);
        if (!rest || *rest) {
            return false;
        }
        release(&slow.from, ticks_of_ns(n));
        load_say("FROM", &n);
        return true;
    case 'H':
        rest = parse_number(argument, &n);
        if (!rest || *rest || !n) {
            return false;
        }
        history(n);
        return true;
    case 'X':
        damage(argument);
        return true;
    default:
        return false;
    }
}

static void run_command(const char *line)
{
    if (!(line[1] == '\0' ? run_simple(line[0])
                          : line[1] == ' ' && run_with_argument(line[0], line + 2))) {
        load_say("ERROR commands: I T S H A F N L V Z P G R W X", NULL);
    }
}

/* Returns whether a command was run. Once a line has begun, its rest is waited for, but not for ever. */
static bool serve(void)
{
    char line[LINE_BYTES];
    unsigned int nr = 0;
    int c = guest_getc();
    uint64_t end;

    if (c < 0) {
        return false;
    }
    end = guest_now() + ticks_of_ms(1000);
    while (c != '\n' && guest_now() < end) {
        if (c >= ' ' && nr < LINE_BYTES - 1) {
            line[nr++] = (char)c;
        }
        c = guest_getc();
    }
    line[nr] = '\0';
    if (nr) {
        run_command(line);
    }
    return true;
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
