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
#define HISTORY_SLOTS   2048 /* remembered: the last 102 seconds */

struct worker {
    uint64_t seen; /* the newest orders obeyed */
    uint64_t nr_writes;
    uint64_t gap;                      /* longest time between two loop iterations, in ticks */
    uint64_t buckets[LOAD_NR_BUCKETS]; /* gaps of FIRST_BUCKET_US << i and more, up to twice that */
    uint64_t last, due, random, cursor, first, nr_pages;
    uint64_t slot, slot_end; /* of the history: time / SLOT_MS, and when it ends, in ticks */
    uint16_t history[HISTORY_SLOTS]; /* pages written in slot n: [n % HISTORY_SLOTS] */
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
    uint64_t reset; /* the orders that last said: forget the gaps */
    bool going;
} orders __attribute__((aligned(128)));

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

static void note_gap(struct worker *w, uint64_t gap)
{
    uint64_t first_bucket = guest_hz() / 1000000 * FIRST_BUCKET_US;
    unsigned int i = 0;

    if (gap > w->gap) {
        w->gap = gap;
    }
    if (gap < first_bucket) {
        return;
    }
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

/* History: how many pages were written in each SLOT_MS of the guest's time */

static void history_start(struct worker *w, uint64_t now)
{
    w->slot = now / ticks_of_ms(SLOT_MS);
    w->slot_end = (w->slot + 1) * ticks_of_ms(SLOT_MS);
}

static void history_advance(struct worker *w, uint64_t now)
{
    while (now >= w->slot_end) {
        w->history[(w->slot + 1) % HISTORY_SLOTS] = 0;
        w->slot++;
        w->slot_end += ticks_of_ms(SLOT_MS);
    }
}

/* A worker that stands still has not come to the newest slots: what it has there is old. */
static uint64_t history_sum(uint64_t slot)
{
    uint64_t nr = 0;

    for (unsigned int k = 0; k < nr_workers; k++) {
        if (slot <= workers[k].slot && slot + HISTORY_SLOTS > workers[k].slot) {
            nr += workers[k].history[slot % HISTORY_SLOTS];
        }
    }
    return nr;
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
        say_number(slot == end - nr ? " writes=" : ",", history_sum(slot));
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
        load_say("ERROR commands: I T S H V Z P G R W X", NULL);
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
