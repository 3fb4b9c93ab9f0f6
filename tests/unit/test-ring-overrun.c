/*
 * Overrun recovery, on an array that a model of KVM fills and resets
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/ring-overrun.h"

#include <errno.h>
#include <glib.h>
#include <signal.h>

#define NR_ENTRIES 64

/* KVM keeps so many entries free, unless it emulates. */
#define NR_RESERVED 8

/* The ring, and KVM's two indices into it. */
typedef struct Model {
    struct kvm_dirty_gfn entries[NR_ENTRIES];
    uint32_t dirty_index; /* the next entry it fills */
    uint32_t reset_index; /* the next entry it resets */
    uint64_t nr_pages;    /* written so far: page numbers go up */
} Model;

/* KVM and the collector stand at @number. */
static Model model_at(uint32_t number)
{
    return (Model){.dirty_index = number, .reset_index = number};
}

static FerryRing ring_at(Model *model, uint32_t position)
{
    return (FerryRing){model->entries, NR_ENTRIES, position};
}

static struct kvm_dirty_gfn *entry_of(Model *model, uint32_t number)
{
    return &model->entries[number % NR_ENTRIES];
}

/* The vCPU writes to @nr pages, room or not. */
static void push(Model *model, uint32_t nr)
{
    for (uint32_t i = 0; i < nr; i++) {
        struct kvm_dirty_gfn *entry = entry_of(model, model->dirty_index++);

        entry->slot = 1;
        entry->offset = model->nr_pages++;
        __atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_DIRTY, __ATOMIC_RELEASE);
    }
}

static bool is_full(const Model *model)
{
    return model->dirty_index - model->reset_index >= NR_ENTRIES - NR_RESERVED;
}

/* KVM_RESET_DIRTY_RINGS: in order, as long as entries are flagged. */
static int reset(void *opaque)
{
    Model *model = opaque;
    int nr = 0;

    while (entry_of(model, model->reset_index)->flags == KVM_DIRTY_GFN_F_RESET) {
        entry_of(model, model->reset_index++)->flags = 0;
        nr++;
    }
    return nr;
}

/* Flag @nr entries from the position on. */
static void flag(Model *model, uint32_t position, uint32_t nr)
{
    for (uint32_t i = 0; i < nr; i++) {
        g_assert_cmpuint(entry_of(model, position + i)->flags, ==, KVM_DIRTY_GFN_F_DIRTY);
        entry_of(model, position + i)->flags = KVM_DIRTY_GFN_F_RESET;
    }
}

/* Round the end of the ring, and where numbers wrap. */
static const uint32_t positions[] = {0, 5, NR_ENTRIES - 1, NR_ENTRIES * 7 + 60, UINT32_MAX - 20};

/* --- One function at a time ------------------------------------------------------------------ */

static void test_gap(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(positions); i++) {
        const uint32_t at = positions[i];

        for (uint32_t gap = 0; gap < NR_ENTRIES; gap++) {
            Model model = model_at(at + gap);
            const FerryRing ring = ring_at(&model, at);

            g_assert_cmpuint(ferry_ring_find_gap(&ring, NR_ENTRIES), ==, 0);
            push(&model, MIN(3, NR_ENTRIES - gap));
            g_assert_cmpuint(ferry_ring_find_gap(&ring, NR_ENTRIES), ==, gap);
            /* What is out of sight is nothing: there stand entries that are held back. */
            g_assert_cmpuint(ferry_ring_find_gap(&ring, gap), ==, 0);
        }
    }
}

static void test_blank(void)
{
    static const uint32_t flags[] = {KVM_DIRTY_GFN_F_DIRTY, KVM_DIRTY_GFN_F_RESET};

    for (size_t i = 0; i < G_N_ELEMENTS(positions); i++) {
        Model model = model_at(positions[i]);
        const FerryRing ring = ring_at(&model, positions[i]);

        for (uint32_t j = 0; j < NR_ENTRIES; j++) {
            model.entries[j] = (struct kvm_dirty_gfn){.slot = 1, .offset = 1};
        }
        ferry_ring_fill_blank(&ring, 30, flags[i % 2]);
        for (uint32_t j = 0; j < NR_ENTRIES; j++) {
            const struct kvm_dirty_gfn *entry = ferry_ring_entry(&ring, j);

            g_assert_true(entry == entry_of(&model, positions[i] + j));
            g_assert_cmpuint(entry->slot, ==, j < 30 ? FERRY_RING_SLOT_NONE : 1);
            g_assert_cmpuint(entry->offset, ==, j < 30 ? 0 : 1);
            g_assert_cmpuint(entry->flags, ==, j < 30 ? flags[i % 2] : 0);
            g_assert_true(ferry_ring_entry_is_dirty(entry) == (j < 30 && i % 2 == 0));
        }
    }
}

static void test_lap(void)
{
    Model model = model_at(0);
    FerryRing ring = ring_at(&model, 0);
    FerryRingLap lap = {0};

    g_assert_cmpuint(ferry_ring_lap_entries(&ring), ==, NR_ENTRIES / 2);
    for (unsigned i = 0; i < 3; i++) {
        /* Once is no wonder: somebody else may have emptied it. */
        g_assert_false(ferry_ring_is_stuck(&ring, &lap));
        ring.position += 10;
        g_assert_false(ferry_ring_is_stuck(&ring, &lap));
        g_assert_true(ferry_ring_is_stuck(&ring, &lap));
    }
    /* Something was in it meanwhile. */
    g_assert_false(ferry_ring_is_stuck(&ring, &lap));
    lap = (FerryRingLap){0};
    g_assert_false(ferry_ring_is_stuck(&ring, &lap));
}

/* 20 entries are flagged, KVM writes over those from @intact on: it resets these and no more. */
static void check_take_back(uint32_t at, uint32_t intact, uint32_t nr_over, bool blank)
{
    Model model = model_at(at);
    FerryRing ring = ring_at(&model, at);
    uint32_t nr_reset;

    push(&model, 20);
    flag(&model, at, 20);
    ring.position += 20;
    model.dirty_index = at + intact;
    push(&model, nr_over);
    nr_reset = (uint32_t)ferry_ring_reset(reset, &model);
    g_assert_cmpuint(nr_reset, ==, nr_over ? intact : 20);
    g_assert_cmpuint(ferry_ring_take_back(&ring, 20 - nr_reset, blank), ==, 20 - nr_reset);
    g_assert_cmpuint(ring.position, ==, model.reset_index);
    for (uint32_t i = nr_reset; i < 20; i++) {
        const struct kvm_dirty_gfn *entry = entry_of(&model, at + i);

        g_assert_cmpuint(entry->flags, ==, KVM_DIRTY_GFN_F_DIRTY);
        if (i < intact + nr_over) {
            g_assert_cmpuint(entry->slot, ==, 1);
            g_assert_cmpuint(entry->offset, ==, 20 + i - intact);
        } else {
            g_assert_cmpuint(entry->slot, ==, blank ? FERRY_RING_SLOT_NONE : 1);
            g_assert_cmpuint(entry->offset, ==, i);
        }
    }
    /* Nothing is flagged any more: KVM does not reset what nobody gave it. */
    g_assert_cmpint(ferry_ring_reset(reset, &model), ==, 0);
}

static void test_take_back(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(positions); i++) {
        for (uint32_t intact = 0; intact < 20; intact++) {
            check_take_back(positions[i], intact, 0, true);
            check_take_back(positions[i], intact, 1, i % 2);
            check_take_back(positions[i], intact, (20 - intact + 1) / 2, i % 2 == 0);
            check_take_back(positions[i], intact, 20 - intact, i % 2);
        }
    }
}

/* No more than KVM owes, and no further than what it has freed. */
static void test_take_back_limits(void)
{
    Model model = model_at(0);
    FerryRing ring = ring_at(&model, 20);

    g_assert_cmpuint(ferry_ring_take_back(&ring, 5, true), ==, 0);
    push(&model, 20);
    g_assert_cmpuint(ferry_ring_take_back(&ring, 0, true), ==, 0);
    g_assert_cmpuint(ferry_ring_take_back(&ring, 5, true), ==, 5);
    g_assert_cmpuint(ring.position, ==, 15);
    entry_of(&model, 10)->flags = 0;
    g_assert_cmpuint(ferry_ring_take_back(&ring, 20, true), ==, 4);
    g_assert_cmpuint(ring.position, ==, 11);
}

static pthread_t caller;
static bool is_own;

static int reset_undisturbed(void *opaque)
{
    sigset_t blocked;

    /* Who may have asked io_uring for something is not the one to call KVM. */
    g_assert_true(!pthread_equal(pthread_self(), caller) == !is_own);
    g_assert_cmpint(pthread_sigmask(SIG_SETMASK, NULL, &blocked), ==, 0);
    g_assert_cmpint(sigismember(&blocked, SIGUSR1), ==, 1);
    g_assert_cmpint(sigismember(&blocked, SIGTERM), ==, 1);
    return *(int *)opaque;
}

/* Signals wait, those that waited before still do, and the result is told. */
static void test_signals(void)
{
    int results[] = {0, 7, -EINTR};
    sigset_t before, after;

    caller = pthread_self();
    sigemptyset(&before);
    sigaddset(&before, SIGUSR2);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(results); i++) {
        g_assert_cmpint(ferry_ring_reset(reset_undisturbed, &results[i]), ==, results[i]);
        pthread_sigmask(SIG_SETMASK, NULL, &after);
        g_assert_cmpint(sigismember(&after, SIGUSR1), ==, 0);
        g_assert_cmpint(sigismember(&after, SIGUSR2), ==, 1);
    }
    sigemptyset(&before);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static gpointer reset_here(gpointer opaque)
{
    caller = pthread_self();
    is_own = true;
    ferry_ring_resets_here();
    g_assert_cmpint(ferry_ring_reset(reset_undisturbed, &(int){9}), ==, 9);
    is_own = false;
    return NULL;
}

static void test_own_thread(void)
{
    g_thread_join(g_thread_new("collector", reset_here, NULL));
    /* It was that thread's word, and no other's. */
    caller = pthread_self();
    g_assert_cmpint(ferry_ring_reset(reset_undisturbed, &(int){8}), ==, 8);
}

/* --- All of them ----------------------------------------------------------------------------- */

/* Who takes entries, resets them, and gets over overruns. */
typedef struct Collector {
    Model *model;
    FerryRing ring;
    FerryRingLap lap;
    bool was_overrun;      /* as far as it has noticed */
    uint64_t first_wanted; /* pages before this one do not matter */
    uint64_t nr_found;
} Collector;

static void take_all(Collector *collector)
{
    uint32_t nr = 0;
    int nr_reset;

    for (; ferry_ring_entry_is_dirty(ferry_ring_entry(&collector->ring, 0)); nr++) {
        struct kvm_dirty_gfn *entry = ferry_ring_entry(&collector->ring, 0);

        if (entry->slot != FERRY_RING_SLOT_NONE && entry->offset >= collector->first_wanted) {
            g_assert_cmpuint(entry->offset, ==, collector->first_wanted + collector->nr_found);
            collector->nr_found++;
        }
        entry->flags = KVM_DIRTY_GFN_F_RESET;
        collector->ring.position++;
    }
    nr_reset = ferry_ring_reset(reset, collector->model);
    collector->was_overrun |= ferry_ring_was_full(&collector->ring, nr);
    if (ferry_ring_take_back(&collector->ring, nr - (uint32_t)nr_reset, true) > 0) {
        collector->was_overrun = true;
    }
}

static void pass_over(Collector *collector, uint32_t nr)
{
    ferry_ring_fill_blank(&collector->ring, nr, KVM_DIRTY_GFN_F_RESET);
    collector->ring.position += nr;
}

/* The vCPU says that its ring is full. */
static void make_room(Collector *collector)
{
    uint32_t gap = ferry_ring_find_gap(&collector->ring, NR_ENTRIES);

    pass_over(collector, gap);
    if (!ferry_ring_entry_is_dirty(ferry_ring_entry(&collector->ring, 0)) &&
        ferry_ring_is_stuck(&collector->ring, &collector->lap)) {
        pass_over(collector, ferry_ring_lap_entries(&collector->ring));
    }
    ferry_ring_reset(reset, collector->model);
    take_all(collector);
}

/* However far KVM has gone ahead, the two come together again; nothing is lost from then on. */
static void check_recovery(uint32_t at, uint32_t nr_taken, uint32_t nr_over)
{
    Model model = model_at(at);
    Collector collector = {.model = &model, .ring = ring_at(&model, at)};
    unsigned nr_full = 0;

    /* Some entries were flagged before KVM wrote over them. */
    push(&model, nr_taken);
    flag(&model, at, nr_taken);
    collector.ring.position += nr_taken;
    push(&model, nr_over);
    if (model.dirty_index - at > NR_ENTRIES) {
        collector.first_wanted = UINT64_MAX;
    }
    collector.nr_found = nr_taken;
    collector.was_overrun =
        ferry_ring_take_back(&collector.ring, nr_taken - (uint32_t)reset(&model), true) > 0;
    take_all(&collector);
    /* It is known at once: the vCPU may never run again. */
    if (model.dirty_index - at != NR_ENTRIES) {
        g_assert_true(collector.was_overrun == (model.dirty_index - at > NR_ENTRIES));
    }
    while (is_full(&model)) {
        make_room(&collector);
        g_assert_cmpuint(++nr_full, <, 20);
    }
    if (collector.first_wanted == 0) {
        g_assert_cmpuint(collector.nr_found, ==, nr_taken + nr_over);
    }

    /* A lap ends with a gap, to be seen when KVM has filled what is behind it. */
    collector.first_wanted = model.nr_pages;
    collector.nr_found = 0;
    for (unsigned i = 0; i < 100; i++) {
        push(&model, 1);
        if (is_full(&model) || i % 7 == 6) {
            make_room(&collector);
        }
    }
    make_room(&collector);
    g_assert_cmpuint(collector.nr_found, ==, 100);
    g_assert_cmpuint(collector.ring.position, ==, model.dirty_index);
    g_assert_cmpuint(collector.ring.position, ==, model.reset_index);
}

static void test_recovery(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(positions); i++) {
        for (uint32_t nr_taken = 0; nr_taken <= NR_ENTRIES - NR_RESERVED; nr_taken += 7) {
            for (uint32_t nr_over = 0; nr_over < 5 * NR_ENTRIES; nr_over += 3) {
                check_recovery(positions[i], nr_taken, nr_over);
            }
        }
    }
}

static gpointer push_all(gpointer opaque)
{
    for (unsigned i = 0; i < NR_ENTRIES; i++) {
        push(opaque, 1);
    }
    return NULL;
}

/* What a vCPU fills while somebody looks is no gap. */
static void test_race(void)
{
    for (unsigned i = 0; i < 500; i++) {
        Model model = model_at(i);
        const FerryRing ring = ring_at(&model, i);
        GThread *vcpu = g_thread_new("vcpu", push_all, &model);

        while (!ferry_ring_entry_is_dirty(ferry_ring_entry(&ring, NR_ENTRIES - 1))) {
            g_assert_cmpuint(ferry_ring_find_gap(&ring, NR_ENTRIES), ==, 0);
        }
        g_thread_join(vcpu);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ring-overrun/gap", test_gap);
    g_test_add_func("/ring-overrun/blank", test_blank);
    g_test_add_func("/ring-overrun/lap", test_lap);
    g_test_add_func("/ring-overrun/take-back", test_take_back);
    g_test_add_func("/ring-overrun/take-back-limits", test_take_back_limits);
    g_test_add_func("/ring-overrun/signals", test_signals);
    g_test_add_func("/ring-overrun/own-thread", test_own_thread);
    g_test_add_func("/ring-overrun/recovery", test_recovery);
    g_test_add_func("/ring-overrun/race", test_race);
    return g_test_run();
}
