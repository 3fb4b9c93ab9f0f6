/*
 * Dirty rings that are collected while vCPUs write as fast as they can
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "ring-bed.h"

#include <pthread.h>
#include <signal.h>

typedef struct Race {
    RawKind kind;
    unsigned nr_vcpus;
    bool drain; /* instead of feeding */
} Race;

static void test_race(gconstpointer data)
{
    const Race *how = data;
    g_autoptr(Bed) bed = bed_new((BedConfig){
        .nr_vcpus = how->nr_vcpus, .kind = how->kind, .nr_regions = 2, .nr_pages = 2048});
    for (unsigned i = 0; i < 2; i++) {
        bed_start_migration(bed);
        bed_race(bed, how->drain);
        bed_end_migration(bed);
        ferry_kvm_ring_stop(bed->ring);
        bed_set_logging(bed, false);
    }
}

/*
 * What is reported may be read at once: it has been reset.  vCPUs end by themselves, all the time,
 * so that the last write to a page is often one right after that.
 */
static void test_race_at_once(void)
{
    const uint32_t nr_pages = 1024;
    g_autoptr(Bed) bed = bed_new((BedConfig){.nr_vcpus = 2, .nr_pages = nr_pages});

    bed->at_once = true;
    bed_start_migration(bed);
    bed_list_region(bed, 0, 0, 0, nr_pages);
    for (unsigned i = 0; i < 10; i++) {
        const RawJob jobs[] = {{.nr = nr_pages, .nr_writes = 4000, .seed = g_test_rand_int() | 1U},
                               {.nr = nr_pages, .nr_writes = 4000, .seed = i + 1}};

        raw_vm_begin(bed->vm, 0, &jobs[0]);
        raw_vm_begin(bed->vm, 1, &jobs[1]);
        while (raw_vm_nr_writes(bed->vm, 0) < 4000 || raw_vm_nr_writes(bed->vm, 1) < 4000) {
            bed_migrate_round(bed);
        }
        raw_vm_wait(bed->vm, 0);
        raw_vm_wait(bed->vm, 1);
        bed_end_migration(bed);
    }
}

/* The positive control: whoever forgets what is said about one page is found out. */
static void test_race_forgetful(void)
{
    g_autoptr(Bed) bed = bed_new((BedConfig){.nr_regions = 2, .nr_pages = 2048});
    uint64_t page = 0;
    uint32_t number = 0;

    bed->forget = true;
    bed->forget_region = 1;
    bed->forget_page = (uint64_t)g_test_rand_int_range(0, 2048);
    bed_start_migration(bed);
    bed_race(bed, false);
    bed_write_pages(bed, 0, 1, 0, 2048);
    bed_harvest(bed, true);
    bed_copy_reported(bed);
    g_assert_cmpuint(bed_compare(bed, &number, &page), ==, 1);
    g_assert_cmpuint(number, ==, bed->forget_region);
    g_assert_cmpuint(page, ==, bed->forget_page);
}

typedef struct Nuisance {
    pthread_t target;
    bool quit;
} Nuisance;

static void on_signal(int number)
{
}

static gpointer send_signals(gpointer opaque)
{
    Nuisance *nuisance = opaque;

    while (!__atomic_load_n(&nuisance->quit, __ATOMIC_RELAXED)) {
        pthread_kill(nuisance->target, SIGUSR1);
        g_usleep(20);
    }
    return NULL;
}

/* Signals would end KVM_RESET_DIRTY_RINGS early, with pages left unprotected. */
static void test_race_signals(void)
{
    g_autoptr(Bed) bed = bed_new((BedConfig){.nr_vcpus = 2, .nr_pages = 8192});
    const struct sigaction action = {.sa_handler = on_signal};
    Nuisance nuisance = {.target = pthread_self()};
    GThread *thread;

    g_assert_cmpint(sigaction(SIGUSR1, &action, NULL), ==, 0);
    thread = g_thread_new("nuisance", send_signals, &nuisance);
    bed_start_migration(bed);
    for (unsigned i = 0; i < 4; i++) {
        bed_race(bed, true);
        bed_end_migration(bed);
    }
    __atomic_store_n(&nuisance.quit, true, __ATOMIC_RELAXED);
    g_thread_join(thread);
}

int main(int argc, char **argv)
{
    static const char *const kinds[] = {"small", "huge", "memfd"};
    static Race races[G_N_ELEMENTS(kinds)][3];
    static const Race drain = {.nr_vcpus = 2, .drain = true};

    bed_init(&argc, &argv);
    for (unsigned kind = 0; kind < G_N_ELEMENTS(kinds); kind++) {
        for (unsigned i = 0; i < 3; i++) {
            g_autofree char *path = g_strdup_printf("/kvm-ring/race/%s/%u", kinds[kind], 1U << i);

            races[kind][i] = (Race){.kind = (RawKind)kind, .nr_vcpus = 1U << i};
            bed_add_data(path, &races[kind][i], test_race);
        }
    }
    bed_add_data("/kvm-ring/race/drain", &drain, test_race);
    bed_add("/kvm-ring/race/at-once", test_race_at_once);
    bed_add("/kvm-ring/race/forgetful", test_race_forgetful);
    bed_add("/kvm-ring/race/signals", test_race_signals);
    return bed_run();
}
