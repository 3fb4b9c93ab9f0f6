/*
 * How small the compact bitmap is, and how long it takes
 *
 *   compact-bench [NAME...]     only the cases whose name starts with one of NAME
 *
 * One line a case: the bytes of the bitmap and, as medians of several runs, the milliseconds
 *
 *   ahead      to code all of it while the guest runs
 *   write      to write it at the stop, when some pages have been added since
 *   read       to read it into a page set whose memory was used before
 *   read-cold  to read it into a new one: mostly page faults
 *
 * The blackout pays for write and for one of the reads. 24 TiB with 10 % missing take 3 GiB of
 * memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/wire/compact.h"
#include "samples.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define NR_RUNS     9
#define FRAME_BYTES ((size_t)1 << 20)
#define TIB_PAGES   (UINT64_C(1) << (40 - FERRY_PAGE_SHIFT))
#define AHEAD_STEP  1000

typedef struct {
    const char *name;
    uint64_t nr_pages;
    double missing;      /* share of all pages */
    uint64_t run_pages;  /* and how many of them there are in a row */
    uint64_t nr_changed; /* pages anywhere, added after all was coded ahead */
} Case;

static const Case cases[] = {
    {"1t-empty", TIB_PAGES, 0, 1, 0},
    {"1t-10%-in-64s", TIB_PAGES, 0.1, 64, 0},
    {"1t-10%-in-64s-1000", TIB_PAGES, 0.1, 64, 1000},
    {"1t-10%-in-1s", TIB_PAGES, 0.1, 1, 0},
    {"1t-50%-in-1s", TIB_PAGES, 0.5, 1, 0},
    {"24t-empty", 24 * TIB_PAGES, 0, 1, 0},
    {"24t-empty-1000", 24 * TIB_PAGES, 0, 1, 1000},
    {"24t-empty-100000", 24 * TIB_PAGES, 0, 1, 100000},
    {"24t-1g-in-64s-1000", 24 * TIB_PAGES, 1.0 / (24 * 1024), 64, 1000},
    {"24t-1g-in-64s-100000", 24 * TIB_PAGES, 1.0 / (24 * 1024), 64, 100000},
    {"24t-10%-in-64s-1000", 24 * TIB_PAGES, 0.1, 64, 1000},
    {"24t-10%-in-64s-100000", 24 * TIB_PAGES, 0.1, 64, 100000},
};

typedef struct {
    double ahead_ms[NR_RUNS];
    double write_ms[NR_RUNS];
    double read_ms[NR_RUNS];
    double read_cold_ms[NR_RUNS];
} Figures;

/* The frames that carry a bitmap. */
typedef struct {
    uint8_t *data; /* FRAME_BYTES each */
    size_t *nr_bytes;
    size_t nr, max;
    size_t total_bytes;
} Frames;

static double now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

static uint64_t random_page(const Case *c, GRand *rand)
{
    return ((uint64_t)g_rand_int(rand) << 32 | g_rand_int(rand)) % c->nr_pages;
}

/* Every page on its own. */
static void fill_pages(const Case *c, FerryPageset *set, GRand *rand)
{
    uint32_t below = (uint32_t)(c->missing * 256);

    for (uint64_t word = 0; word * 64 < c->nr_pages; word++) {
        uint64_t mask = 0;

        for (unsigned bit = 0; bit < 64; bit += 4) {
            uint32_t random = g_rand_int(rand);

            for (unsigned i = 0; i < 4; i++) {
                mask |= (uint64_t)((random >> (8 * i) & 0xff) < below) << (bit + i);
            }
        }
        ferry_pageset_add_mask(set, word, mask);
    }
}

/* Gaps are of any length, so that runs are not aligned to anything. */
static void fill_runs(const Case *c, FerryPageset *set, GRand *rand)
{
    double longest = 2 * (double)c->run_pages * (1 / c->missing - 1);
    uint64_t page = (uint64_t)g_rand_double_range(rand, 0, longest);

    while (page < c->nr_pages) {
        ferry_pageset_add(set, page, c->run_pages);
        page += c->run_pages + 1 + (uint64_t)g_rand_double_range(rand, 0, longest);
    }
}

static FerryPageset *build_set(const Case *c, GRand *rand)
{
    FerryPageset *set = ferry_pageset_new(c->nr_pages);

    if (c->missing > 0 && c->run_pages == 1) {
        fill_pages(c, set, rand);
    } else if (c->missing > 0) {
        fill_runs(c, set, rand);
    }
    return set;
}

/* Add pages as the last harvest does; returns those that were not in the set. */
static GArray *change(const Case *c, FerryPageset *set, FerryCompactWriter *writer, GRand *rand)
{
    GArray *pages = g_array_new(false, false, sizeof(uint64_t));

    for (uint64_t i = 0; i < c->nr_changed; i++) {
        uint64_t page = random_page(c, rand);

        if (ferry_pageset_add(set, page, 1)) {
            g_array_append_val(pages, page);
        }
        ferry_compact_mark(writer, page, 1);
    }
    return pages;
}

/* Take out what was added, hints and all. */
static void change_back(FerryPageset *set, const GArray *pages)
{
    for (unsigned i = 0; i < pages->len; i++) {
        uint64_t page = g_array_index(pages, uint64_t, i);
        uint64_t words[FERRY_GRANULE_WORDS];

        ferry_pageset_take(set, page / FERRY_GRANULE_PAGES, words);
        words[page / 64 % FERRY_GRANULE_WORDS] &= ~(UINT64_C(1) << page % 64);
        ferry_pageset_add_granule(set, page / FERRY_GRANULE_PAGES, words);
    }
}

/* Room for the most frames there can be; memory is given to what is written. */
static void frames_init(Frames *frames, uint64_t nr_pages)
{
    frames->max = nr_pages / 8 / FRAME_BYTES * 102 / 100 + 3;
    frames->data = g_malloc(frames->max * FRAME_BYTES);
    frames->nr_bytes = g_new0(size_t, frames->max);
}

static void frames_clear(Frames *frames)
{
    g_free(frames->data);
    g_free(frames->nr_bytes);
}

static double write_frames(FerryCompactWriter *writer, Frames *frames)
{
    double start_ms = now_ms();
    uint32_t next = 0;
    size_t nr_bytes;

    frames->nr = 0;
    frames->total_bytes = 0;
    while ((nr_bytes = ferry_compact_write(writer, &next, frames->data + frames->nr * FRAME_BYTES,
                                           FRAME_BYTES)) > 0) {
        frames->nr_bytes[frames->nr++] = nr_bytes;
        frames->total_bytes += nr_bytes;
    }
    return now_ms() - start_ms;
}

static double read_frames(const Frames *frames, const Case *c, FerryPageset *set)
{
    double start_ms = now_ms();
    g_autoptr(FerryCompactReader) reader = ferry_compact_reader_new(c->nr_pages);
    g_autoptr(GError) error = NULL;

    for (size_t i = 0; i < frames->nr; i++) {
        if (!ferry_compact_read(reader, frames->data + i * FRAME_BYTES, frames->nr_bytes[i], set,
                                &error)) {
            g_error("%s", error->message);
        }
    }
    if (!ferry_compact_reader_finish(reader, &error)) {
        g_error("%s", error->message);
    }
    return now_ms() - start_ms;
}

static double code_ahead(FerryCompactWriter *writer)
{
    double start_ms = now_ms();

    while (ferry_compact_ahead(writer, AHEAD_STEP) == AHEAD_STEP) {
    }
    return now_ms() - start_ms;
}

static void bench(const Case *c)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    g_autoptr(FerryPageset) set = build_set(c, rand);
    Frames frames;
    Figures figures;

    frames_init(&frames, c->nr_pages);
    for (int run = 0; run < NR_RUNS; run++) {
        g_autoptr(FerryCompactWriter) writer = ferry_compact_writer_new(set, c->nr_pages);
        g_autoptr(FerryPageset) read = ferry_pageset_new(c->nr_pages);
        g_autoptr(GArray) changed = NULL;

        figures.ahead_ms[run] = code_ahead(writer);
        if (run == 0) {
            write_frames(writer, &frames); /* touches the frames' memory */
        }
        changed = change(c, set, writer, rand);
        figures.write_ms[run] = write_frames(writer, &frames);
        figures.read_cold_ms[run] = read_frames(&frames, c, read);
        ferry_pageset_clear(read);
        figures.read_ms[run] = read_frames(&frames, c, read);
        if (ferry_pageset_count(read) != ferry_pageset_count(set)) {
            g_error("%s: pages were lost", c->name);
        }
        change_back(set, changed);
    }
    printf("%-24s %10zu %10.2f %10.2f %10.2f %10.2f\n", c->name, frames.total_bytes,
           samples_median(figures.ahead_ms, NR_RUNS), samples_median(figures.write_ms, NR_RUNS),
           samples_median(figures.read_ms, NR_RUNS), samples_median(figures.read_cold_ms, NR_RUNS));
    fflush(stdout);
    frames_clear(&frames);
}

static bool is_wanted(const char *name, char **wanted)
{
    if (*wanted == NULL) {
        return true;
    }
    for (; *wanted != NULL; wanted++) {
        if (g_str_has_prefix(name, *wanted)) {
            return true;
        }
    }
    return false;
}

int main(int argc, char **argv)
{
    printf("%-24s %10s %10s %10s %10s %10s\n", "", "bytes", "ahead ms", "write ms", "read ms",
           "read-cold");
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        if (is_wanted(cases[i].name, argv + 1)) {
            bench(&cases[i]);
        }
    }
    return 0;
}
