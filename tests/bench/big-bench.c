/*
 * What the engine costs with very large guests
 *
 *   big-bench [--tib LIST] [--dirty LIST] [--touched GIB] [--json FILE]
 *
 * The source's page sets, first pass, rounds and hand-off, and the destination's reading of the
 * bitmap, as in a migration, over memory of LIST TiB (1,4,24) that is mapped but hardly touched: GIB
 * GiB (1) in pieces of 2 MiB all over it.  A tracker that knows no hardware reports pages to order:
 * LIST % of memory (0,10,30) at random places in runs of 64 pages, then 1,000 pages a round.
 * Nothing is sent.  One line for each size and share; memory is KiB, times are milliseconds of CPU: one
 * thread does all of it and never waits, so what else the machine does matters little.
 *
 *   set up     to make the structures for a migration
 *   scan       the first pass: every chunk looked at, armed (at no cost here), scanned and queued
 *   idle       memory of all structures after it, when all has been sent
 *   working    memory of all structures when that share was written, in the last round and in this
 *   share      a round in which that share is written, as in the one before: reported by 64 pages, put off,
 *              released
 *   first      the first round in which 1,000 pages anywhere are written: memory of the sets is used for
 *              the first time there
 *   release    in that round: to put in what the rounds before it had put off, which it sends as well
 *   round      a round in which 1,000 pages are written that were written before (median)
 *   forget     while pages are sent, a millisecond at a time: to empty the set of what was written two
 *              rounds ago, once such a share has been
 *   apart      before the stop: to set apart what the destination has to know of
 *   stop       in the blackout: the last harvest, of 1,000 pages, and the bitmap of what it adds
 *   read       in the blackout: the destination's reading of that bitmap, and discarding what it adds
 *
 * 24 TiB with 30 % take up to 5 GiB of memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/memory/discard.h"
#include "migration/wire/compact.h"
#include "migration/source/backlog.h"
#include "migration/source/first-pass.h"
#include "samples.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define GIB           (UINT64_C(1) << 30)
#define TIB           (UINT64_C(1) << 40)
#define GRANULE_BYTES (FERRY_GRANULE_PAGES * FERRY_PAGE_BYTES)
#define RUN_PAGES     64
#define ROUND_PAGES   1000
#define NR_ROUNDS     15
#define FRAME_BYTES   ((size_t)4 << 20)
#define WARM_BYTES    ((size_t)64 << 20)

typedef struct {
    double set_up_ms, scan_ms;
    double share_ms, round_ms, first_ms, release_ms, forget_ms;
    double apart_ms, stop_ms, read_ms;
    uint64_t idle_bytes, working_bytes;
} Figures;

/* A tracker that finds what it was told, and knows of no hardware. */
typedef struct {
    const FerryTrackerClient *client;
    const uint64_t *pages; /* to report at the next harvest */
    size_t nr_pages;
} Told;

static double now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

static bool told_start(void *opaque, const FerryTrackerClient *client, GError **errp)
{
    ((Told *)opaque)->client = client;
    return true;
}

static bool told_arm(void *opaque, uint32_t region, uint64_t first_page, uint64_t nr_pages,
                     GError **errp)
{
    return true;
}

static bool told_harvest(void *opaque, bool last, GError **errp)
{
    const Told *told = opaque;

    for (size_t i = 0; i < told->nr_pages; i++) {
        uint64_t page = told->pages[i];

        told->client->report(told->client->opaque, 0, page / 64, UINT64_C(1) << page % 64);
    }
    return true;
}

static void told_stop(void *opaque)
{
}

static const FerryTrackerOps told_ops = {
    .name = "told",
    .start = told_start,
    .arm = told_arm,
    .harvest = told_harvest,
    .stop = told_stop,
};

/* Resident memory of this process, of which the guest's is taken away by the caller. */
static uint64_t resident_bytes(void)
{
    unsigned long long total, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");

    if (!file || fscanf(file, "%llu %llu", &total, &resident) != 2) {
        g_error("cannot read /proc/self/statm");
    }
    fclose(file);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static uint64_t random_page(GRand *rand, uint64_t nr_pages)
{
    return ((uint64_t)g_rand_int(rand) << 32 | g_rand_int(rand)) % nr_pages;
}

/* Touch @touched_bytes, evenly spread. */
static uint8_t *map_guest(uint64_t size_bytes, uint64_t touched_bytes)
{
    uint8_t *host = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uint64_t nr_pieces = touched_bytes / GRANULE_BYTES;

    if (host == MAP_FAILED) {
        g_error("no address space for %" G_GUINT64_FORMAT " TiB", size_bytes / TIB);
    }
    for (uint64_t i = 0; i < nr_pieces; i++) {
        uint64_t offset = size_bytes / nr_pieces * i;

        memset(host + offset / GRANULE_BYTES * GRANULE_BYTES, 1, GRANULE_BYTES);
    }
    return host;
}

static FerryBacklog *make_backlog(uint8_t *host, uint64_t size_bytes, Told *told)
{
    FerryTracker tracker = {.ops = &told_ops, .opaque = told};
    FerryRegions regions = {.list = g_new0(FerryRegion, 1), .nr = 1};

    regions.list[0] = (FerryRegion){
        .id = "ram",
        .host = host,
        .length_bytes = size_bytes,
        .page_size_bytes = FERRY_PAGE_BYTES,
        .fd = -1,
        .scan = FERRY_SCAN_PRIVATE,
    };
    return ferry_backlog_new(&regions, &tracker, true, false);
}

static void must(bool ok, GError *error)
{
    if (!ok) {
        g_error("%s", error ? error->message : "failed");
    }
}

static void scan_all(FerryFirstPass *pass)
{
    GError *error = NULL;

    must(ferry_first_pass_prepare(pass, &error), error);
    while (!ferry_first_pass_done(pass)) {
        must(ferry_first_pass_feed(pass, &error), error);
    }
}

/* Chunks that nobody touched were left alone: from here on, all are as if somebody had. */
static void arm_all(FerryBacklog *backlog)
{
    for (uint64_t i = 0; i < ferry_backlog_nr_chunks(backlog, 0); i++) {
        if (!ferry_backlog_is_armed(backlog, 0, i)) {
            ferry_backlog_arm(backlog, 0, i, NULL);
        }
    }
}

/* As after the senders: nothing waits to be sent. */
static void send_all(FerryBacklog *backlog)
{
    uint64_t pages[FERRY_GRANULE_WORDS];
    int64_t granule = 0;

    while ((granule = ferry_backlog_next(backlog, 0, (uint64_t)granule, 0, 1)) >= 0) {
        int nr_pages = ferry_backlog_take(backlog, 0, (uint64_t)granule, pages, NULL);

        ferry_backlog_sent(backlog, (unsigned)nr_pages);
        granule++;
    }
}

/* A round in which @percent of all pages, at most 50, are written, in runs; returns its time. */
static double write_share(FerryBacklog *backlog, const Told *told, unsigned percent, GRand *rand)
{
    uint64_t nr_runs = ferry_region_nr_pages(&ferry_backlog_regions(backlog)->list[0]) / RUN_PAGES;
    double start_ms = now_ms();

    ferry_backlog_begin_round(backlog);
    if (percent) {
        double mean_runs = 100.0 / percent; /* from one run to the next; never less than 1 */
        double run = 0;

        while ((uint64_t)run < nr_runs) {
            told->client->report(told->client->opaque, 0, (uint64_t)run, UINT64_MAX);
            run += 1 + g_rand_double(rand) * 2 * (mean_runs - 1);
        }
    }
    ferry_backlog_release_cooled(backlog);
    return now_ms() - start_ms;
}

/* As the driver does while the senders are at work; returns how long it takes. */
static double forget(FerryBacklog *backlog)
{
    double start_ms = now_ms();

    while (!ferry_backlog_forget_some(backlog)) {
    }
    return now_ms() - start_ms;
}

static void choose_pages(Told *told, uint64_t *pages, uint64_t nr_pages, GRand *rand)
{
    for (size_t i = 0; i < ROUND_PAGES; i++) {
        pages[i] = random_page(rand, nr_pages);
    }
    told->pages = pages;
    told->nr_pages = ROUND_PAGES;
}

/* Returns its time without that of releasing what was put off, which is the other one. */
static double run_round(FerryBacklog *backlog, Told *told, double *release_ms)
{
    GError *error = NULL;
    double start_ms = now_ms(), harvested_ms;

    ferry_backlog_begin_round(backlog);
    must(told_harvest(told, false, &error), error);
    harvested_ms = now_ms();
    ferry_backlog_release_cooled(backlog);
    *release_ms = now_ms() - harvested_ms;
    return harvested_ms - start_ms;
}

static size_t write_bitmap(const FerryPageset *set, uint64_t nr_pages, uint8_t *frame)
{
    g_autoptr(FerryCompactWriter) writer = ferry_compact_writer_new(set, nr_pages);
    uint32_t next = 0;
    size_t nr_bytes = ferry_compact_write(writer, &next, frame, FRAME_BYTES);

    if (next != ferry_compact_nr_tiles(nr_pages)) {
        g_error("the bitmap needs more than one frame");
    }
    return nr_bytes;
}

static double read_bitmap(const uint8_t *frame, size_t nr_bytes, uint64_t nr_pages,
                          FerryPageset *set)
{
    double start_ms = now_ms();
    g_autoptr(FerryCompactReader) reader = ferry_compact_reader_new(nr_pages);
    GError *error = NULL;

    must(ferry_compact_read(reader, frame, nr_bytes, set, &error), error);
    must(ferry_compact_reader_finish(reader, &error), error);
    return now_ms() - start_ms;
}

/* The end of a migration that leaves pages missing: as ferry_source_leave() does it. */
static void hand_off(FerryBacklog *backlog, Told *told, GRand *rand, Figures *figures)
{
    uint64_t nr_pages = ferry_region_nr_pages(&ferry_backlog_regions(backlog)->list[0]);
    const FerryPageset *late = ferry_backlog_set(backlog, 0, FERRY_BACKLOG_QUEUED);
    const FerryPageset *draft = ferry_backlog_set(backlog, 0, FERRY_BACKLOG_DRAFT);
    uint64_t last[ROUND_PAGES];
    g_autofree uint8_t *frame = g_malloc(FRAME_BYTES);
    g_autoptr(FerryPageset) missing = ferry_pageset_new(nr_pages);
    g_autoptr(FerryPageset) incoming = ferry_pageset_new(nr_pages);
    static GMutex lock; /* nobody else has it */
    GError *error = NULL;
    double start_ms, release_ms;
    uint64_t nr_late, nr_new = 0;
    size_t nr_bytes;

    memset(frame, 0, FRAME_BYTES);
    run_round(backlog, told, &release_ms);
    start_ms = now_ms();
    ferry_backlog_draft(backlog);
    figures->apart_ms = now_ms() - start_ms;
    /* What the destination knows from the draft. */
    for (uint64_t word = 0; word < nr_pages / 64; word++) {
        uint64_t mask = ferry_pageset_get(draft, word);

        if (mask) {
            ferry_pageset_add_mask(missing, word, mask);
        }
    }
    choose_pages(told, last, nr_pages, rand);
    for (size_t i = 0; i < ROUND_PAGES; i++) {
        nr_new += !(ferry_pageset_get(draft, last[i] / 64) >> (last[i] % 64) & 1);
    }

    start_ms = now_ms();
    ferry_backlog_set_guest(backlog, FERRY_GUEST_STOPPED);
    ferry_backlog_begin_round(backlog);
    must(told_harvest(told, true, &error), error);
    ferry_backlog_release_all(backlog);
    ferry_backlog_subtract_draft(backlog);
    nr_late = ferry_pageset_count(late);
    /* But for those that were chosen twice. */
    if (nr_late < nr_new * 99 / 100) {
        g_error("the last pages written were not noted: nothing was measured");
    }
    nr_bytes = write_bitmap(late, nr_pages, frame);
    figures->stop_ms = now_ms() - start_ms;

    figures->read_ms = read_bitmap(frame, nr_bytes, nr_pages, incoming);
    start_ms = now_ms();
    must(ferry_discard_missing(&ferry_backlog_regions(backlog)->list[0], incoming, missing, &lock,
                               1, &error),
         error);
    figures->read_ms += now_ms() - start_ms;
    if (ferry_pageset_count(missing) != ferry_pageset_count(draft) + nr_late) {
        g_error("pages were lost");
    }
}

/*
 * What the kernel hands out next was touched a moment ago: otherwise a hypervisor may have to provide
 * it first, which takes five times as long as the fault.
 */
static void warm_up(void)
{
    void *map = mmap(NULL, WARM_BYTES, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

    if (map == MAP_FAILED) {
        g_error("cannot map memory");
    }
    munmap(map, WARM_BYTES);
}

static Figures measure(uint8_t *host, uint64_t size_bytes, unsigned percent)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    uint64_t before_bytes = resident_bytes();
    uint64_t pages[2][ROUND_PAGES];
    double rounds_ms[NR_ROUNDS] = {0};
    Figures figures = {0};
    Told told = {0};
    double start_ms = now_ms();
    FerryBacklog *backlog = make_backlog(host, size_bytes, &told);
    FerrySenders *senders = ferry_senders_new(backlog, &(FerrySendersConfig){0});
    FerryFirstPass *pass = ferry_first_pass_new(backlog, senders);
    GError *error = NULL;

    must(ferry_backlog_start_tracker(backlog, &error), error);
    figures.set_up_ms = now_ms() - start_ms;

    start_ms = now_ms();
    scan_all(pass);
    figures.scan_ms = now_ms() - start_ms;
    send_all(backlog);
    arm_all(backlog);
    figures.idle_bytes = resident_bytes() - before_bytes;

    write_share(backlog, &told, percent, rand);
    forget(backlog);
    figures.share_ms = write_share(backlog, &told, percent, rand);
    forget(backlog);
    figures.working_bytes = resident_bytes() - before_bytes;

    warm_up();
    for (int i = -2; i < NR_ROUNDS; i++) {
        double ms, release_ms, forget_ms;

        /* Two lots in turn: a page that is written in two rounds in a row is put off. */
        if (i < 0) {
            choose_pages(&told, pages[i & 1],
                         ferry_region_nr_pages(&ferry_backlog_regions(backlog)->list[0]), rand);
        }
        told.pages = pages[i & 1];
        ms = run_round(backlog, &told, &release_ms);
        forget_ms = forget(backlog);
        figures.forget_ms = MAX(figures.forget_ms, forget_ms);
        if (i < 0) {
            figures.first_ms = MAX(figures.first_ms, ms);
            figures.release_ms = MAX(figures.release_ms, release_ms);
        } else {
            rounds_ms[i] = ms + release_ms;
        }
    }
    figures.round_ms = samples_median(rounds_ms, NR_ROUNDS);

    /* The worst moment to stop: just after such rounds. */
    write_share(backlog, &told, percent, rand);
    forget(backlog);
    write_share(backlog, &told, percent, rand);
    forget(backlog);
    warm_up();
    hand_off(backlog, &told, rand, &figures);

    ferry_first_pass_free(pass);
    ferry_senders_free(senders);
    ferry_backlog_free(backlog);
    return figures;
}

static void print_json(FILE *json, bool first, uint64_t tib, unsigned percent, const Figures *f)
{
    fprintf(json,
            "%s\n {\"tib\": %u, \"dirty_percent\": %u, \"set_up_ms\": %.3f, \"scan_ms\": %.3f, "
            "\"idle_bytes\": %" G_GUINT64_FORMAT ", \"working_bytes\": %" G_GUINT64_FORMAT ", "
            "\"share_ms\": %.3f, \"round_ms\": %.3f, \"first_ms\": %.3f, \"release_ms\": %.3f, "
            "\"forget_ms\": %.3f, \"apart_ms\": %.3f, \"stop_ms\": %.3f, "
            "\"read_ms\": %.3f}",
            first ? "" : ",", (unsigned)tib, percent, f->set_up_ms, f->scan_ms, f->idle_bytes,
            f->working_bytes, f->share_ms, f->round_ms, f->first_ms, f->release_ms, f->forget_ms,
            f->apart_ms, f->stop_ms, f->read_ms);
}

/* Whether each of LIST is a number from LOWEST to HIGHEST. */
static bool all_within(char **list, uint64_t lowest, uint64_t highest)
{
    for (; *list; list++) {
        if (!g_ascii_string_to_unsigned(*list, 10, lowest, highest, NULL, NULL)) {
            return false;
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    g_autofree char *tib_list = g_strdup("1,4,24"), *dirty_list = g_strdup("0,10,30");
    g_autofree char *json_path = NULL;
    int touched_gib = 1;
    const GOptionEntry entries[] = {
        {"tib", 0, 0, G_OPTION_ARG_STRING, &tib_list, "Sizes, in TiB (1,4,24)", "LIST"},
        {"dirty", 0, 0, G_OPTION_ARG_STRING, &dirty_list, "Shares written, in % (0,10,30)", "LIST"},
        {"touched", 0, 0, G_OPTION_ARG_INT, &touched_gib, "GiB that have content (1)", "GIB"},
        {"json", 0, 0, G_OPTION_ARG_FILENAME, &json_path, "Write the rows there, too", "FILE"},
        {0},
    };
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_autoptr(GError) error = NULL;
    g_auto(GStrv) sizes = NULL, shares = NULL;
    FILE *json = NULL;
    bool first = true;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error)) {
        fprintf(stderr, "%s\n", error->message);
        return 2;
    }
    sizes = g_strsplit(tib_list, ",", -1);
    shares = g_strsplit(dirty_list, ",", -1);
    if (!all_within(sizes, 1, 64) || touched_gib < 1 || touched_gib > 8) {
        fprintf(stderr, "--tib takes 1 to 64, --touched 1 to 8\n");
        return 2;
    }
    if (!all_within(shares, 0, 50)) {
        fprintf(stderr, "--dirty takes 0 to 50\n");
        return 2;
    }
    if (json_path && !(json = fopen(json_path, "w"))) {
        perror(json_path);
        return 1;
    }
    if (json) {
        fputs("[", json);
    }
    printf("%4s %8s %8s %9s %9s %7s %11s %7s %9s %9s %9s %9s %9s %9s %8s %8s\n", "TiB", "written",
           "set up", "scan", "idle", "of mem", "working", "of mem", "share", "round", "first",
           "release", "forget", "apart", "stop", "read");
    for (char **size = sizes; *size; size++) {
        uint64_t tib = g_ascii_strtoull(*size, NULL, 10);
        uint8_t *host = map_guest(tib * TIB, (uint64_t)touched_gib * GIB);

        for (char **share = shares; *share; share++) {
            unsigned percent = (unsigned)g_ascii_strtoull(*share, NULL, 10);
            Figures f = measure(host, tib * TIB, percent);

            printf(
                "%4u %7u%% %8.2f %9.1f %9.0f %6.4f%% %11.0f %6.4f%% %9.1f %9.3f %9.2f %9.2f %9.2f "
                "%9.2f %8.2f %8.2f\n",
                (unsigned)tib, percent, f.set_up_ms, f.scan_ms, (double)f.idle_bytes / 1024,
                100.0 * (double)f.idle_bytes / (double)(tib * TIB), (double)f.working_bytes / 1024,
                100.0 * (double)f.working_bytes / (double)(tib * TIB), f.share_ms, f.round_ms,
                f.first_ms, f.release_ms, f.forget_ms, f.apart_ms, f.stop_ms, f.read_ms);
            fflush(stdout);
            if (json) {
                print_json(json, first, tib, percent, &f);
                first = false;
            }
        }
        munmap(host, tib * TIB);
    }
    if (json) {
        fputs("\n]\n", json);
        fclose(json);
    }
    return 0;
}
