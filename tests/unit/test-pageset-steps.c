/*
 * The page set, one step at a time: while somebody is between two steps of what he does, somebody else does
 * all of something.  Each place is tried, so that no luck is needed.
 *
 * A step is an atomic operation on the set's words: the set is compiled here once more, with those of ours.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <stdatomic.h>

static void step(void);

#undef atomic_load
#undef atomic_exchange
#undef atomic_fetch_and
#undef atomic_fetch_or
#define atomic_load(at) (step(), atomic_load_explicit(at, memory_order_seq_cst))
#define atomic_exchange(at, value) \
    (step(), atomic_exchange_explicit(at, value, memory_order_seq_cst))
#define atomic_fetch_and(at, operand) \
    (step(), atomic_fetch_and_explicit(at, operand, memory_order_seq_cst))
#define atomic_fetch_or(at, operand) \
    (step(), atomic_fetch_or_explicit(at, operand, memory_order_seq_cst))

#include "migration/memory/pageset.c"

/* Two stripes, and some. */
#define NR_PAGES (2 * STRIPE_GRANULES * FERRY_GRANULE_PAGES + 700)

/* In the first granule, the second, one of the second stripe, and the last. */
static const uint64_t places[] = {5, FERRY_GRANULE_PAGES + 3,
                                  (STRIPE_GRANULES + 2) * FERRY_GRANULE_PAGES, NR_PAGES - 1};

static FerryPageset *set;
static bool added[NR_PAGES], taken[NR_PAGES];

/* --- What may be done ---------------------------------------------------------------------------- */

static void add(uint64_t page)
{
    ferry_pageset_add(set, page, 1);
}

/* Next to each place, or at it. */
static void add_beside(uint64_t page)
{
    add(page - 1);
}

static void add_granule(uint64_t page)
{
    uint64_t pages[FERRY_GRANULE_WORDS] = {0};

    pages[page % FERRY_GRANULE_PAGES / 64] = UINT64_C(1) << (page % 64);
    ferry_pageset_add_granule(set, page / FERRY_GRANULE_PAGES, pages);
}

static void add_run(uint64_t page)
{
    const FerryPageRun run = {.first = page, .nr_pages = 1};

    ferry_pageset_add_runs(set, &run, 1);
}

static void take(uint64_t page)
{
    uint64_t pages[FERRY_GRANULE_WORDS], first = page - page % FERRY_GRANULE_PAGES;

    ferry_pageset_take(set, page / FERRY_GRANULE_PAGES, pages);
    for (uint64_t i = 0; i < FERRY_GRANULE_PAGES; i++) {
        if (pages[i / 64] >> (i % 64) & 1) {
            taken[first + i] = true;
        }
    }
}

/* One half of who takes pages looks for some. */
static void look(uint64_t page)
{
    ferry_pageset_next(set, 0, 0, 2);
    ferry_pageset_next(set, 0, 1, 2);
}

static void take_all(uint64_t page)
{
    for (int64_t granule = 0; (granule = ferry_pageset_next(set, (uint64_t)granule, 0, 1)) >= 0;
         granule++) {
        take((uint64_t)granule * FERRY_GRANULE_PAGES);
    }
}

typedef struct Doing {
    const char *name;
    void (*act)(uint64_t page);
    int64_t adds; /* where, from the page; INT64_MIN: nothing */
} Doing;

static const Doing doings[] = {
    {"add", add, 0},
    {"add beside", add_beside, -1},
    {"add a granule", add_granule, 0},
    {"add a run", add_run, 0},
    {"take", take, INT64_MIN},
    {"look", look, INT64_MIN},
    {"take all", take_all, INT64_MIN},
};

static void note_added(const Doing *doing, uint64_t page)
{
    if (doing->adds != INT64_MIN) {
        added[(int64_t)page + doing->adds] = true;
    }
}

/* --- Between two steps ----------------------------------------------------------------------------- */

static const Doing
    *other; /* to be done after @steps_left more; NULL: it has been, or nothing is to be */
static uint64_t other_page;
static unsigned steps_left;

static void step(void)
{
    if (other && steps_left-- == 0) {
        const Doing *doing = other;

        other = NULL;
        doing->act(other_page);
    }
}

/* What the set was before: hints may be left of pages that are not in it any more. */
static void fill(unsigned before)
{
    set = ferry_pageset_new(NR_PAGES);
    for (size_t i = 0; before && i < G_N_ELEMENTS(places); i++) {
        add(places[i]);
        if (before == 1) {
            added[places[i]] = true;
        } else {
            ferry_pageset_remove(set, places[i], 1);
        }
    }
}

/* All that was added has been taken, or can be found and taken now. */
static void check(const Doing *doing, const Doing *meanwhile, unsigned at)
{
    take_all(0);
    for (uint64_t page = 0; page < NR_PAGES; page++) {
        if (added[page] != taken[page]) {
            g_error("'%s' while somebody was to '%s', before step %u: page %" PRIu64 " is %s",
                    meanwhile->name, doing->name, at, page,
                    taken[page] ? "there though nobody added it" : "lost");
        }
    }
    g_assert_cmpuint(ferry_pageset_count(set), ==, 0);
    ferry_pageset_free(set);
    memset(added, 0, sizeof(added));
    memset(taken, 0, sizeof(taken));
}

/* One of them is at @page, the other at @other_page. */
static void try_all_steps(const Doing *doing, uint64_t page, const Doing *meanwhile,
                          unsigned before)
{
    bool over = false;

    for (unsigned at = 0; !over; at++) {
        fill(before);
        note_added(doing, page);
        note_added(meanwhile, other_page);
        steps_left = at;
        other = meanwhile;
        doing->act(page);
        over = other != NULL; /* it has fewer steps: then, afterwards */
        other = NULL;
        if (over) {
            meanwhile->act(other_page);
        }
        check(doing, meanwhile, at);
    }
}

static void test_steps(gconstpointer data)
{
    const Doing *doing = data;

    for (size_t i = 0; i < G_N_ELEMENTS(doings); i++) {
        for (size_t j = 0; j < G_N_ELEMENTS(places); j++) {
            for (unsigned before = 0; before < 3; before++) {
                other_page = places[j];
                try_all_steps(doing, places[j], &doings[i], before);
                try_all_steps(doing, places[(j + 1) % G_N_ELEMENTS(places)], &doings[i], before);
            }
        }
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(doings); i++) {
        g_autofree char *path = g_strdup_printf("/pageset/steps/%zu", i);

        g_test_add_data_func(path, &doings[i], test_steps);
    }
    return g_test_run();
}
