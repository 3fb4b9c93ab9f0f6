/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the load is asked on the serial line, and its answers (docs/guests.md); all for worker 0 */
#include "internal.h"

#define LINE_BYTES 64

static uint64_t nr_damaged;

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

/* So many MiB more are filled, and checked from then on. */
static void fill_more(uint64_t mib)
{
    const uint64_t first = config.fill_pages, end = first + mib * ((1 << 20) / PAGE_BYTES);
    bool was_going = orders.going;

    if (!guest_has_pages(end)) {
        load_say("ERROR there is no room for more pages than", &first);
        return;
    }
    if (!order(false)) {
        return;
    }
    for (uint64_t i = first; i < end; i++) {
        struct page_recipe r = page_recipe(config.kind, config.seed, i, generations[i]);

        page_write(guest_page(i), &r);
    }
    config.fill_pages = end;
    if (!was_going || order(true)) {
        load_say("FILLED", &end);
    }
}

static void memory(void)
{
    uint64_t kib = guest_free_kib();

    if (kib) {
        say_number("MEMORY free_kib=", kib);
        say_end();
    } else {
        load_say("ERROR nobody knows how much is free", NULL);
    }
}

static void kernel(void)
{
    static char last[160];
    uint64_t nr = guest_kernel_warnings(last, sizeof(last));

    if (nr == GUEST_NO_KERNEL) {
        load_say("ERROR there is no kernel", NULL);
        return;
    }
    say_number("KERNEL warnings=", nr);
    if (nr) {
        say(" last=");
        say(last);
    }
    say_end();
}

void info(const char *word)
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
    case 'M':
        memory();
        return true;
    case 'K':
        kernel();
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
    case 'E':
        rest = parse_number(argument, &n);
        if (!rest || *rest) {
            return false;
        }
        fill_more(n);
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
        load_say("ERROR commands: I T S H A F N L V Z M K E P G R W X", NULL);
    }
}

bool serve(void)
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
