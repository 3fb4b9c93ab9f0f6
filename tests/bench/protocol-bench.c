/*
 * What each of the two tracker protocols costs: see migration/tracker.h
 *
 *   protocol-bench [--mib N] [--rounds N] [--repeat N] [NAME]   only cases whose name starts so
 *
 * A fake machine with N (64) MiB is migrated with the tracker of page tables: as it is, with
 * reset(), and in turn with feed() put on top of it.  After the first pass and a round to warm up
 * there are N (5) rounds.  A case's name says who writes when, which pages, and how many threads send:
 *
 *   between     this thread, all of the pages, between two rounds
 *   kvm         the same by a vCPU under KVM, whose mappings end with each reset
 *   meanwhile   a thread, at random, a page for each that is sent: so that its rate does not depend
 *               on what else the machine does
 *   limited     the same with 200 MB/s, at which pages wait before they are sent
 *   dense       each page of the machine
 *   sparse      each 16th: pages so close to each other are reset in one call
 *   scattered   each 128th
 *
 * Figures of one run are those of all its rounds; medians of N (7) runs are printed:
 *
 *   CPU us      CPU time of the process, but the writer's, for a page that is sent: both sides
 *   driver ms   CPU time of the thread that drives the source, for a round
 *   harvest ms  its part that ferry_source_harvest() takes: with feed(), the first pages too
 *   write us    CPU time of the writer for each write, its polling included
 *   faults      write faults of its thread for each write (not known of a vCPU)
 *   pages       that were sent
 *
 * Memory is compared at the end of each run.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/pagemap.h"
#include "feeder.h"
#include "page-writer.h"
#include "samples.h"

#include <math.h>
#include <stdio.h>

#define REPEAT_MAX    99
#define LIMIT_BYTES_S 200000000

typedef enum {
    BETWEEN,
    KVM,
    MEANWHILE,
    LIMITED,
    NR_KINDS
} Kind;
enum {
    CPU_US,
    DRIVER_MS,
    HARVEST_MS,
    WRITE_US,
    FAULTS,
    PAGES,
    NR_FIGURES
};

static void step_to_end_of_round(FakePair *pair)
{
    do {
        g_assert_true(ferry_source_step(pair->source, 20, NULL));
    } while (!ferry_source_may_harvest(pair->source));
}

static void run_rounds(Kind kind, PageWriter *writer, unsigned nr_rounds,
                       double figures[NR_FIGURES])
{
    const bool is_meanwhile = kind == MEANWHILE || kind == LIMITED;
    double driver_s = 0, harvest_s = 0, process_s = clock_s(CLOCK_PROCESS_CPUTIME_ID);
    uint64_t nr_sent = page_writer_nr_sent(writer);

    writer->nr_writes = writer->nr_faults = 0;
    writer->cpu_s = 0;
    if (is_meanwhile) {
        page_writer_begin(writer);
    }
    for (unsigned round = 0; round < nr_rounds; round++) {
        double start_s = clock_s(CLOCK_THREAD_CPUTIME_ID);

        g_assert_true(ferry_source_harvest(writer->pair->source, NULL, NULL));
        harvest_s += clock_s(CLOCK_THREAD_CPUTIME_ID) - start_s;
        step_to_end_of_round(writer->pair);
        driver_s += clock_s(CLOCK_THREAD_CPUTIME_ID) - start_s;
        if (is_meanwhile) {
            page_writer_catch_up(writer);
        } else {
            page_writer_write_all(writer);
        }
    }
    if (is_meanwhile) {
        page_writer_end(writer);
    }
    process_s = clock_s(CLOCK_PROCESS_CPUTIME_ID) - process_s - writer->cpu_s;
    nr_sent = page_writer_nr_sent(writer) - nr_sent;
    figures[CPU_US] = process_s * 1e6 / (double)nr_sent;
    figures[DRIVER_MS] = driver_s * 1e3 / nr_rounds;
    figures[HARVEST_MS] = harvest_s * 1e3 / nr_rounds;
    figures[WRITE_US] = writer->cpu_s * 1e6 / (double)writer->nr_writes;
    figures[FAULTS] = kind == KVM ? NAN : (double)writer->nr_faults / (double)writer->nr_writes;
    figures[PAGES] = (double)nr_sent;
}

static void hand_off(FakePair *pair)
{
    g_assert_true(ferry_source_stopped(pair->source, 0, NULL));
    g_assert_true(ferry_source_hand_off(pair->source, NULL));
    g_assert_true(ferry_destination_wait_complete(pair->destination, NULL));
    g_assert_cmpuint(fake_machine_compare(pair->from, pair->to), ==, 0);
}

static void run(Kind kind, bool feed, PageWriter writer, unsigned nr_channels, unsigned nr_rounds,
                double figures[NR_FIGURES])
{
    const FakeRegion regions[] = {
        {.id = "pc.ram", .nr_pages = writer.nr_pages, .touched_pages = writer.nr_pages}, {0}};
    /* All that is written is to be sent: with reset() nothing is put off. */
    const FerrySourceConfig config = {.nr_channels = nr_channels, .send_hot = true};
    FakePair *pair = fake_pair_new_full(regions, regions, &config, false);
    g_autoptr(FerryPagemap) pagemap = ferry_pagemap_new(&pair->from->regions, NULL);
    FerryTracker plain, fed;
    Feeder feeder;

    g_assert_nonnull(pagemap);
    plain = ferry_pagemap_tracker(pagemap);
    fed = feeder_init(&feeder, &plain, writer.nr_pages);
    fake_pair_set_tracker(pair, feed ? &fed : &plain);
    g_assert_true(ferry_source_connect(pair->source, NULL));
    step_to_end_of_round(pair);
    writer.pair = pair;
    if (kind == KVM) {
        page_writer_add_vcpu(&writer);
    }
    page_writer_write_all(&writer);
    g_assert_true(ferry_source_harvest(pair->source, NULL, NULL));
    step_to_end_of_round(pair);
    page_writer_write_all(&writer);
    ferry_source_set_bandwidth(pair->source, kind == LIMITED ? LIMIT_BYTES_S : 0);
    run_rounds(kind, &writer, nr_rounds, figures);
    hand_off(pair);
    page_writer_clear(&writer);
    fake_pair_free(pair);
    feeder_clear(&feeder);
}

static void print_figures(const char *name, const char *how, const double figures[NR_FIGURES],
                          int decimals)
{
    printf("%-20s %-10s", name, how);
    for (unsigned i = 0; i < NR_FIGURES; i++) {
        if (isnan(figures[i])) {
            printf(" %10s", "-");
        } else {
            printf(" %10.*f", i == PAGES && decimals > 2 ? 0 : decimals, figures[i]);
        }
    }
    printf("\n");
}

static void measure(const char *name, Kind kind, PageWriter writer, unsigned nr_channels,
                    unsigned nr_rounds, unsigned repeat)
{
    double samples[2][NR_FIGURES][REPEAT_MAX], medians[2][NR_FIGURES], ratios[NR_FIGURES];

    for (unsigned i = 0; i < 2 * repeat; i++) {
        double figures[NR_FIGURES];

        run(kind, i % 2, writer, nr_channels, nr_rounds, figures);
        for (unsigned j = 0; j < NR_FIGURES; j++) {
            samples[i % 2][j][i / 2] = figures[j];
        }
    }
    for (unsigned j = 0; j < NR_FIGURES; j++) {
        medians[0][j] = samples_median(samples[0][j], repeat);
        medians[1][j] = samples_median(samples[1][j], repeat);
        ratios[j] = medians[1][j] / medians[0][j];
    }
    print_figures(name, "reset", medians[0], 3);
    print_figures("", "feed", medians[1], 3);
    print_figures("", "ratio", ratios, 2);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static const char *const kinds[] = {"between", "kvm", "meanwhile", "limited"};
    static const char *const densities[] = {"dense", "sparse", "scattered"};
    static const unsigned steps[] = {1, 16, 128};
    gint mib = 64, nr_rounds = 5, repeat = 7;
    const GOptionEntry entries[] = {
        {"mib", 0, 0, G_OPTION_ARG_INT, &mib, "MiB of the machine", "N"},
        {"rounds", 0, 0, G_OPTION_ARG_INT, &nr_rounds, "Rounds of one run", "N"},
        {"repeat", 0, 0, G_OPTION_ARG_INT, &repeat, "How often", "N"},
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GOptionContext) context = g_option_context_new("[NAME]");
    g_autofree char *why_not = ferry_pagemap_unsupported();
    g_autofree char *why_no_vm = raw_vm_why_not();
    g_autoptr(GError) error = NULL;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error)) {
        fprintf(stderr, "%s\n", error->message);
        return 2;
    }
    if (mib < 1 || mib > 1024 || nr_rounds < 1 || repeat < 1 || repeat > REPEAT_MAX) {
        fprintf(stderr, "--mib takes 1 to 1024, --rounds 1 or more, --repeat 1 to %d\n",
                REPEAT_MAX);
        return 2;
    }
    if (why_not || why_no_vm) {
        fprintf(stderr, "nothing is measured: %s\n", why_not ?: why_no_vm);
        return 0;
    }
    printf("%-31s %10s %10s %10s %10s %10s %10s\n", "medians", "CPU us", "driver ms", "harvest ms",
           "write us", "faults", "pages");
    for (unsigned i = 0; i < NR_KINDS * 6; i++) {
        unsigned density = i / 2 % 3, nr_channels = i % 2 ? 4 : 1;
        PageWriter writer = {.nr_pages = (uint64_t)mib * 256, .step = steps[density]};
        g_autofree char *name =
            g_strdup_printf("%s-%s-%u", kinds[i / 6], densities[density], nr_channels);

        if (argc < 2 || g_str_has_prefix(name, argv[1])) {
            measure(name, i / 6, writer, nr_channels, (unsigned)nr_rounds, (unsigned)repeat);
        }
    }
    return 0;
}
