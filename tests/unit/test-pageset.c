/*
 * The page set: against the simplest set there is, and under threads
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/memory/pageset.h"

#include <stdatomic.h>
#include <string.h>

#define NR_STEPS 4000

static uint64_t random_below(uint64_t end)
{
    return ((uint64_t)(uint32_t)g_test_rand_int() << 32 | (uint32_t)g_test_rand_int()) % end;
}

static uint64_t granules_of(uint64_t nr_pages)
{
    return (nr_pages + FERRY_GRANULE_PAGES - 1) / FERRY_GRANULE_PAGES;
}

/* Take what is left, in the order in which a sender would, and count it. */
static uint64_t drain(FerryPageset *set)
{
    uint64_t words[FERRY_GRANULE_WORDS];
    uint64_t nr = 0;
    int64_t granule = 0;

    while ((granule = ferry_pageset_next(set, (uint64_t)granule, 0, 1)) >= 0) {
        nr += ferry_pageset_take(set, (uint64_t)granule, words);
    }
    return nr;
}

/* One byte a page. */
typedef struct {
    uint64_t nr_pages;
    bool *has;
    uint64_t count;
} Model;

static uint64_t model_set(Model *model, uint64_t first, uint64_t nr_pages, bool value)
{
    uint64_t nr_changed = 0;

    for (uint64_t page = first; page < first + nr_pages && page < model->nr_pages; page++) {
        nr_changed += model->has[page] != value;
        model->has[page] = value;
    }
    model->count += value ? nr_changed : -nr_changed;
    return nr_changed;
}

static void step_add(FerryPageset *set, Model *model)
{
    uint64_t first = random_below(model->nr_pages);
    uint64_t nr_pages = random_below(g_test_rand_bit() ? 5 : 3000);

    g_assert_cmpuint(ferry_pageset_add(set, first, nr_pages), ==,
                     model_set(model, first, nr_pages, true));
}

static void step_remove(FerryPageset *set, Model *model)
{
    uint64_t first = random_below(model->nr_pages);
    uint64_t nr_pages = random_below(g_test_rand_bit() ? 5 : 3000);

    g_assert_cmpuint(ferry_pageset_remove(set, first, nr_pages), ==,
                     model_set(model, first, nr_pages, false));
}

/* May lie partly or wholly past the end. */
static void step_add_mask(FerryPageset *set, Model *model)
{
    uint64_t word = random_below(model->nr_pages / 64 + 3);
    uint64_t mask = random_below(UINT64_MAX);
    uint64_t nr_new = 0;

    for (unsigned bit = 0; bit < 64; bit++) {
        if (mask >> bit & 1) {
            nr_new += model_set(model, word * 64 + bit, 1, true);
        }
    }
    g_assert_cmpuint(ferry_pageset_add_mask(set, word, mask), ==, nr_new);
}

/* Runs in any order, some of which overlap. */
static void step_add_runs(FerryPageset *set, Model *model)
{
    FerryPageRun runs[40];
    size_t nr_runs = random_below(G_N_ELEMENTS(runs) + 1);
    uint64_t nr_new = 0;

    for (size_t i = 0; i < nr_runs; i++) {
        uint64_t first = random_below(model->nr_pages);
        uint64_t longest = g_test_rand_bit() ? 70 : 1500;

        if (i > 0 && random_below(3) == 0) {
            first = runs[i - 1].first;
        }
        longest = MIN(longest, model->nr_pages - first);
        runs[i] = (FerryPageRun){.first = first, .nr_pages = 1 + random_below(longest)};
        nr_new += model_set(model, first, runs[i].nr_pages, true);
    }
    g_assert_cmpuint(ferry_pageset_add_runs(set, runs, nr_runs), ==, nr_new);
}

static void step_add_granule(FerryPageset *set, Model *model)
{
    uint64_t granule = random_below(granules_of(model->nr_pages));
    uint64_t pages[FERRY_GRANULE_WORDS] = {0};
    uint64_t nr_new = 0;

    for (uint64_t i = 0; i < FERRY_GRANULE_PAGES; i++) {
        uint64_t page = granule * FERRY_GRANULE_PAGES + i;

        if (page < model->nr_pages && random_below(4) == 0) {
            pages[i / 64] |= UINT64_C(1) << i % 64;
            nr_new += model_set(model, page, 1, true);
        }
    }
    g_assert_cmpuint(ferry_pageset_add_granule(set, granule, pages), ==, nr_new);
}

static void step_take(FerryPageset *set, Model *model)
{
    uint64_t granule = random_below(granules_of(model->nr_pages));
    uint64_t words[FERRY_GRANULE_WORDS];
    unsigned nr;

    memset(words, 0xee, sizeof(words));
    nr = ferry_pageset_take(set, granule, words);
    for (uint64_t i = 0; i < FERRY_GRANULE_PAGES; i++) {
        uint64_t page = granule * FERRY_GRANULE_PAGES + i;
        bool has = page < model->nr_pages && model->has[page];

        g_assert_true((words[i / 64] >> i % 64 & 1) == has);
    }
    g_assert_cmpuint(nr, ==,
                     model_set(model, granule * FERRY_GRANULE_PAGES, FERRY_GRANULE_PAGES, false));
}

static bool model_has_granule(const Model *model, uint64_t granule)
{
    uint64_t first = granule * FERRY_GRANULE_PAGES;

    for (uint64_t page = first; page < first + FERRY_GRANULE_PAGES; page++) {
        if (page < model->nr_pages && model->has[page]) {
            return true;
        }
    }
    return false;
}

/* Walk one share: no granule that holds a page may be passed over. */
static void step_walk(FerryPageset *set, const Model *model)
{
    unsigned nr_shares = 1 + (unsigned)random_below(9);
    unsigned share = (unsigned)random_below(nr_shares);
    uint64_t from = random_below(granules_of(model->nr_pages) + 2);
    int64_t found;

    do {
        found = ferry_pageset_next(set, from, share, nr_shares);
        if (found >= 0) {
            g_assert_cmpint(found, >=, (int64_t)from);
            g_assert_cmpuint((uint64_t)found % nr_shares, ==, share);
            g_assert_cmpuint((uint64_t)found, <, granules_of(model->nr_pages));
        }
        for (; from < (found >= 0 ? (uint64_t)found : granules_of(model->nr_pages)); from++) {
            g_assert_false(from % nr_shares == share && model_has_granule(model, from));
        }
        from++;
    } while (found >= 0);
}

/* Every granule that holds a page is named, and none after the end. */
static void step_granules(FerryPageset *set, const Model *model)
{
    uint64_t stripe = random_below(granules_of(model->nr_pages) / 64 + 2);
    uint64_t named = ferry_pageset_granules(set, stripe);

    ferry_pageset_prefetch(set, stripe);
    for (unsigned bit = 0; bit < 64; bit++) {
        if (named >> bit & 1) {
            g_assert_cmpuint(stripe * 64 + bit, <, granules_of(model->nr_pages));
        } else {
            g_assert_false(model_has_granule(model, stripe * 64 + bit));
        }
    }
}

static void test_model(gconstpointer data)
{
    const uint64_t nr_pages = GPOINTER_TO_SIZE(data);
    g_autoptr(FerryPageset) set = ferry_pageset_new(nr_pages);
    Model model = {.nr_pages = nr_pages, .has = g_new0(bool, nr_pages)};

    for (int i = 0; i < NR_STEPS; i++) {
        switch (random_below(20)) {
        case 0 ... 3:
            step_add(set, &model);
            break;
        case 4 ... 6:
            step_remove(set, &model);
            break;
        case 7 ... 9:
            step_add_mask(set, &model);
            break;
        case 10 ... 14:
            step_take(set, &model);
            break;
        case 15 ... 16:
            step_add_runs(set, &model);
            break;
        case 17:
            step_add_granule(set, &model);
            break;
        case 18:
            step_granules(set, &model);
            break;
        default:
            step_walk(set, &model);
        }
        g_assert_cmpuint(ferry_pageset_count(set), ==, model.count);
    }
    g_assert_cmpuint(drain(set), ==, model.count);
    g_assert_cmpuint(ferry_pageset_count(set), ==, 0);
    g_assert_cmpint(ferry_pageset_next(set, 0, 0, 1), ==, -1);
    g_free(model.has);
}

static void test_empty(void)
{
    g_autoptr(FerryPageset) none = ferry_pageset_new(0);
    g_autoptr(FerryPageset) set = ferry_pageset_new(1000);

    g_assert_cmpint(ferry_pageset_next(none, 0, 0, 1), ==, -1);
    g_assert_cmpuint(ferry_pageset_add(none, 0, 10), ==, 0);
    g_assert_cmpuint(ferry_pageset_add_mask(none, 0, UINT64_MAX), ==, 0);
    g_assert_cmpuint(ferry_pageset_count(none), ==, 0);

    g_assert_cmpuint(ferry_pageset_add(set, 5, 0), ==, 0);
    g_assert_cmpuint(ferry_pageset_add_mask(set, 3, 0), ==, 0);
    g_assert_cmpint(ferry_pageset_next(set, 0, 0, 1), ==, -1);
    ferry_pageset_free(NULL);
}

/* So many granules at a time, and none is passed over. */
static void test_clear_some(void)
{
    g_autoptr(FerryPageset) set = ferry_pageset_new(10 * FERRY_GRANULE_PAGES);
    int64_t from = 0;

    ferry_pageset_add(set, 0, 10 * FERRY_GRANULE_PAGES);
    for (uint64_t left = 7; left > 0; left -= 3) {
        from = ferry_pageset_clear_some(set, (uint64_t)from, 3);
        g_assert_cmpuint(ferry_pageset_count(set), ==, left * FERRY_GRANULE_PAGES);
        g_assert_cmpint(from, ==, 10 - (int64_t)left);
        if (left == 1) {
            break;
        }
    }
    g_assert_cmpint(ferry_pageset_clear_some(set, (uint64_t)from, 3), ==, -1);
    g_assert_cmpuint(ferry_pageset_count(set), ==, 0);
}

/* 24 TiB of guest, three pages of it: what principle 1 promises. */
static void test_huge(void)
{
    const uint64_t nr_pages = UINT64_C(24) << (40 - FERRY_PAGE_SHIFT);
    g_autoptr(FerryPageset) set = ferry_pageset_new(nr_pages);
    const uint64_t pages[] = {0, nr_pages / 2 + 77, nr_pages - 1};
    uint64_t words[FERRY_GRANULE_WORDS];
    int64_t granule = -1;

    for (size_t i = 0; i < G_N_ELEMENTS(pages); i++) {
        g_assert_cmpuint(ferry_pageset_add(set, pages[i], 1), ==, 1);
    }
    g_assert_cmpuint(ferry_pageset_memory_bytes(set), <=, 64 * 1024);
    for (size_t i = 0; i < G_N_ELEMENTS(pages); i++) {
        granule = ferry_pageset_next(set, (uint64_t)(granule + 1), 0, 1);
        g_assert_cmpint(granule, ==, (int64_t)(pages[i] / FERRY_GRANULE_PAGES));
        g_assert_cmpuint(ferry_pageset_take(set, (uint64_t)granule, words), ==, 1);
        g_assert_cmphex(words[pages[i] / 64 % FERRY_GRANULE_WORDS], ==,
                        UINT64_C(1) << pages[i] % 64);
    }
    g_assert_cmpint(ferry_pageset_next(set, 0, 0, 1), ==, -1);
    g_assert_cmpuint(ferry_pageset_memory_bytes(set), <=, 64 * 1024);
}

/*
 * Writers and senders, as in a migration. A writer changes a page and adds it; a sender takes
 * pages and notes what they hold. Once the writers are done and the senders have drained the
 * set, each page's last content must have been seen: a page added while it was being taken is
 * either in what was taken or still in the set.
 */

#define NR_WRITERS      3
#define NR_SENDERS      3
#define NR_WRITES       20000
#define NR_SENDS        5000
#define NR_SHARED_PAGES (200 * FERRY_GRANULE_PAGES - 3)

typedef struct {
    FerryPageset *set;
    uint64_t nr_hot; /* the fewer pages, the more often writer and sender meet on one */
    _Atomic uint32_t *content;
    uint32_t *sent;      /* each belongs to the one sender whose share it is in */
    uint64_t nr_awaited; /* writers go on until senders have taken as many pages */
    _Atomic bool writers_done;
    _Atomic uint64_t nr_added;
    _Atomic uint64_t nr_taken;
} Shared;

typedef struct {
    Shared *shared;
    unsigned index;
    uint32_t seed;
} Thread;

/* Hot pages are spread out, so that all levels of the set change. */
static uint64_t hot_page(const Shared *shared, uint32_t n)
{
    return (n % shared->nr_hot) * (NR_SHARED_PAGES / shared->nr_hot);
}

static gpointer writer_thread(gpointer opaque)
{
    Thread *thread = opaque;
    Shared *shared = thread->shared;
    g_autoptr(GRand) rand = g_rand_new_with_seed(thread->seed);
    uint64_t nr_added = 0;

    for (int i = 0; i < NR_WRITES || atomic_load(&shared->nr_taken) < shared->nr_awaited; i++) {
        uint64_t page = hot_page(shared, g_rand_int(rand));

        atomic_fetch_add_explicit(&shared->content[page], 1, memory_order_relaxed);
        if (i % 3 == 0) {
            nr_added += ferry_pageset_add(shared->set, page, 1);
        } else if (i % 3 == 1) {
            nr_added += ferry_pageset_add_mask(shared->set, page / 64, UINT64_C(1) << page % 64);
        } else {
            nr_added += ferry_pageset_add_runs(shared->set, &(FerryPageRun){page, 1}, 1);
        }
    }
    atomic_fetch_add(&shared->nr_added, nr_added);
    return NULL;
}

static void send_granule(Shared *shared, uint64_t granule)
{
    uint64_t words[FERRY_GRANULE_WORDS];

    atomic_fetch_add(&shared->nr_taken, ferry_pageset_take(shared->set, granule, words));
    for (uint64_t i = 0; i < FERRY_GRANULE_PAGES; i++) {
        if (words[i / 64] >> i % 64 & 1) {
            uint64_t page = granule * FERRY_GRANULE_PAGES + i;

            shared->sent[page] = atomic_load_explicit(&shared->content[page], memory_order_relaxed);
        }
    }
}

static gpointer sender_thread(gpointer opaque)
{
    Thread *thread = opaque;
    Shared *shared = thread->shared;
    uint64_t from = 0;
    bool last_round = false;

    for (;;) {
        int64_t granule = ferry_pageset_next(shared->set, from, thread->index, NR_SENDERS);

        if (granule >= 0) {
            send_granule(shared, (uint64_t)granule);
            from = (uint64_t)granule + 1;
        } else if (last_round) {
            return NULL;
        } else {
            /* Whatever was written before the writers were done is found in one more round. */
            last_round = atomic_load(&shared->writers_done);
            from = 0;
        }
    }
}

static void test_threads(gconstpointer data)
{
    Shared shared = {
        .set = ferry_pageset_new(NR_SHARED_PAGES),
        .nr_hot = GPOINTER_TO_SIZE(data),
        .nr_awaited = NR_SENDS,
        .content = g_new0(_Atomic uint32_t, NR_SHARED_PAGES),
        .sent = g_new0(uint32_t, NR_SHARED_PAGES),
    };
    Thread writers[NR_WRITERS], senders[NR_SENDERS];
    GThread *writer_handles[NR_WRITERS], *sender_handles[NR_SENDERS];

    for (unsigned i = 0; i < NR_SENDERS; i++) {
        senders[i] = (Thread){.shared = &shared, .index = i};
        sender_handles[i] = g_thread_new("sender", sender_thread, &senders[i]);
    }
    for (unsigned i = 0; i < NR_WRITERS; i++) {
        writers[i] = (Thread){.shared = &shared, .index = i, .seed = (uint32_t)g_test_rand_int()};
        writer_handles[i] = g_thread_new("writer", writer_thread, &writers[i]);
    }
    for (unsigned i = 0; i < NR_WRITERS; i++) {
        g_thread_join(writer_handles[i]);
    }
    atomic_store(&shared.writers_done, true);
    for (unsigned i = 0; i < NR_SENDERS; i++) {
        g_thread_join(sender_handles[i]);
    }

    for (uint64_t page = 0; page < NR_SHARED_PAGES; page++) {
        g_assert_cmpuint(shared.sent[page], ==, atomic_load(&shared.content[page]));
    }
    g_assert_cmpuint(shared.nr_taken, ==, shared.nr_added);
    g_assert_cmpuint(ferry_pageset_count(shared.set), ==, 0);
    g_test_message("%" G_GUINT64_FORMAT " pages sent", (uint64_t)shared.nr_taken);
    ferry_pageset_free(shared.set);
    g_free((void *)shared.content);
    g_free(shared.sent);
}

/* Removing beside adding and taking: every page added leaves exactly once. */

static gpointer remover_thread(gpointer opaque)
{
    Thread *thread = opaque;
    Shared *shared = thread->shared;
    g_autoptr(GRand) rand = g_rand_new_with_seed(thread->seed);
    uint64_t nr_removed = 0;

    for (int i = 0; i < NR_WRITES; i++) {
        nr_removed += ferry_pageset_remove(shared->set, hot_page(shared, g_rand_int(rand)), 3);
    }
    atomic_fetch_add(&shared->nr_taken, nr_removed);
    return NULL;
}

static void test_threads_remove(void)
{
    static _Atomic uint32_t content[NR_SHARED_PAGES];
    Shared shared = {.set = ferry_pageset_new(NR_SHARED_PAGES), .nr_hot = 50, .content = content};
    static const GThreadFunc roles[] = {writer_thread, remover_thread, writer_thread,
                                        remover_thread};
    Thread threads[G_N_ELEMENTS(roles)];
    GThread *handles[G_N_ELEMENTS(roles)];

    for (unsigned i = 0; i < G_N_ELEMENTS(roles); i++) {
        threads[i] = (Thread){.shared = &shared, .seed = (uint32_t)g_test_rand_int()};
        handles[i] = g_thread_new("role", roles[i], &threads[i]);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(roles); i++) {
        g_thread_join(handles[i]);
    }
    g_assert_cmpuint(ferry_pageset_count(shared.set), ==, shared.nr_added - shared.nr_taken);
    g_assert_cmpuint(drain(shared.set), ==, shared.nr_added - shared.nr_taken);
    g_assert_cmpuint(ferry_pageset_count(shared.set), ==, 0);
    ferry_pageset_free(shared.set);
}

/* Sets that no address space holds are refused in words, and others are not. */
static void test_fits(void)
{
    FerryRegion region = {.length_bytes = UINT64_C(1) << 61};
    FerryRegions regions = {.list = &region, .nr = 1};
    g_autoptr(GError) error = NULL;

    g_assert_false(ferry_pageset_fits(&regions, 2, &error));
    g_assert_nonnull(strstr(error->message, "of memory for bitmaps of guest memory"));
    g_clear_error(&error);
    region.length_bytes = UINT64_C(1) << 40;
    g_assert_true(ferry_pageset_fits(&regions, 14, &error));
    g_assert_no_error(error);
    regions.nr = 0;
    g_assert_false(ferry_pageset_fits(&regions, 14, &error));
    g_assert_cmpstr(error->message, ==, "there is no memory to move");
}

int main(int argc, char **argv)
{
    /* One word, one granule, one page more, a stripe and some, several words of stripes. */
    static const uint64_t sizes[] = {1, 64, 512, 513, 40000, 9000000};
    static const uint64_t hot[] = {1, 7, 200, NR_SHARED_PAGES};

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pageset/fits", test_fits);
    g_test_add_func("/pageset/empty", test_empty);
    g_test_add_func("/pageset/clear-some", test_clear_some);
    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        g_autofree char *path = g_strdup_printf("/pageset/model/%" G_GUINT64_FORMAT, sizes[i]);

        g_test_add_data_func(path, GSIZE_TO_POINTER(sizes[i]), test_model);
    }
    g_test_add_func("/pageset/huge", test_huge);
    for (size_t i = 0; i < G_N_ELEMENTS(hot); i++) {
        g_autofree char *path = g_strdup_printf("/pageset/threads/%" G_GUINT64_FORMAT, hot[i]);

        g_test_add_data_func(path, GSIZE_TO_POINTER(hot[i]), test_threads);
    }
    g_test_add_func("/pageset/threads/remove", test_threads_remove);
    return g_test_run();
}
