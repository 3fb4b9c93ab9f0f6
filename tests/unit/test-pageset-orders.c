/*
 * The page set: every order in which two threads can do something with it, and some of three.
 *
 * The timeline is at the top of pageset.c.  test-pageset-steps.c looks at more places, with one interruption.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "steps.h"

#include <inttypes.h>
#include <string.h>

#include "migration/memory/pageset.h"

#define STRIPE_PAGES (64 * FERRY_GRANULE_PAGES)
#define NR_PAGES     (2 * STRIPE_PAGES)

/* The one that counts; one of its granule, and one of the granule after that; and one of the other stripe. */
#define PAGE   5
#define BESIDE 6
#define NEXT   (FERRY_GRANULE_PAGES + 3)
#define FAR    (STRIPE_PAGES + 7)

static FerryPageset *set;
static unsigned nr_added[NR_PAGES], nr_taken[NR_PAGES]; /* as new ones */

static void add(uint64_t page)
{
    nr_added[page] += (unsigned)ferry_pageset_add(set, page, 1);
}

static void add_page(void)
{
    add(PAGE);
}

static void add_beside(void)
{
    add(BESIDE);
}

static void add_next(void)
{
    add(NEXT);
}

static void add_far(void)
{
    add(FAR);
}

static void add_granule(void)
{
    const uint64_t pages[FERRY_GRANULE_WORDS] = {UINT64_C(1) << PAGE};

    nr_added[PAGE] += ferry_pageset_add_granule(set, 0, pages);
}

static void add_run(void)
{
    const FerryPageRun run = {.first = PAGE, .nr_pages = 1};

    nr_added[PAGE] += (unsigned)ferry_pageset_add_runs(set, &run, 1);
}

static void remove_page(void)
{
    nr_taken[PAGE] += (unsigned)ferry_pageset_remove(set, PAGE, 1);
}

static void take(uint64_t granule)
{
    uint64_t pages[FERRY_GRANULE_WORDS];

    ferry_pageset_take(set, granule, pages);
    for (uint64_t i = 0; i < FERRY_GRANULE_PAGES; i++) {
        nr_taken[granule * FERRY_GRANULE_PAGES + i] += pages[i / 64] >> (i % 64) & 1;
    }
}

static void take_granule(void)
{
    take(0);
}

/* One of those who share the set. */
static void look(void)
{
    ferry_pageset_next(set, 0, 1, 2);
}

static void take_all(void)
{
    for (int64_t granule = 0; (granule = ferry_pageset_next(set, (uint64_t)granule, 0, 1)) >= 0;
         granule++) {
        take((uint64_t)granule);
    }
}

/* What was in the set before; hints may be left of what is not any more. */
static enum {
    NOTHING,
    HINTS,
    PAGES,
    BEFORE
} before;

static void begin(void)
{
    static const uint64_t pages[] = {PAGE, NEXT};

    /* Not a new one, lest all be somewhere else. */
    ferry_pageset_clear(set);
    take_all();
    memset(nr_added, 0, sizeof(nr_added));
    memset(nr_taken, 0, sizeof(nr_taken));
    for (unsigned i = 0; i < G_N_ELEMENTS(pages) && before != NOTHING; i++) {
        ferry_pageset_add(set, pages[i], 1);
        nr_added[pages[i]] = before == PAGES;
        if (before == HINTS) {
            ferry_pageset_remove(set, pages[i], 1);
        }
    }
}

/* Nothing is lost, nothing is there twice, and the count is right. */
static void end(void)
{
    take_all();
    for (uint64_t page = 0; page < NR_PAGES; page++) {
        if (nr_added[page] != nr_taken[page]) {
            steps_fail("page %" PRIu64 " was put in %u times, and taken out %u times", page,
                       nr_added[page], nr_taken[page]);
        }
    }
    g_assert_cmpuint(ferry_pageset_count(set), ==, 0);
}

typedef struct Doing {
    const char *name;
    void (*act)(void);
} Doing;

static const Doing doings[] = {
    {"add", add_page},       {"add-beside", add_beside},   {"add-next", add_next},
    {"add-far", add_far},    {"add-granule", add_granule}, {"add-run", add_run},
    {"remove", remove_page}, {"take", take_granule},       {"look", look},
    {"take-all", take_all},
};

/* Any two of them, whatever was there before; interrupted three times at most. */
static void test_two(gconstpointer data)
{
    const Doing *doing = data;

    for (size_t i = 0; i < G_N_ELEMENTS(doings); i++) {
        for (before = NOTHING; before < BEFORE; before++) {
            steps_run(&(StepsCase){.begin = begin,
                                   .acts = {doing->act, doings[i].act},
                                   .end = end,
                                   .max_switches = 3});
        }
    }
}

/* The timeline itself: in every order there is. */
static void test_timeline(void)
{
    for (before = NOTHING; before < BEFORE; before++) {
        steps_run(&(StepsCase){.begin = begin, .acts = {add_page, take_granule}, .end = end});
        steps_run(&(StepsCase){.begin = begin, .acts = {add_page, look}, .end = end});
    }
}

static void test_three(void)
{
    static void (*const others[])(void) = {add_beside, add_next, look, take_all, remove_page};

    for (size_t i = 0; i < G_N_ELEMENTS(others); i++) {
        for (before = NOTHING; before < BEFORE; before++) {
            steps_run(&(StepsCase){.begin = begin,
                                   .acts = {add_page, take_granule, others[i]},
                                   .end = end,
                                   .nr_random = 300});
        }
    }
}

int main(int argc, char **argv)
{
    int status;

    g_test_init(&argc, &argv, NULL);
    set = ferry_pageset_new(NR_PAGES);
    for (size_t i = 0; i < G_N_ELEMENTS(doings); i++) {
        g_autofree char *path = g_strdup_printf("/pageset/orders/two/%s", doings[i].name);

        g_test_add_data_func(path, &doings[i], test_two);
    }
    g_test_add_func("/pageset/orders/timeline", test_timeline);
    g_test_add_func("/pageset/orders/three", test_three);
    status = g_test_run();
    ferry_pageset_free(set);
    return status;
}
