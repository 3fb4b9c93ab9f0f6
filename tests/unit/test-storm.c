/*
 * A storm over memory of the test's own: what it writes, and whether it finds every kind of wrong page
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <string.h>
#include <zstd.h>

#include "hw/misc/storm.h"

#define NR_PAGES 512u

typedef struct Bed {
    FerryStorm *storm;
    uint8_t *bytes;
    uint64_t nr_pages;
    uint64_t nr_wrote;
    uint64_t unreachable; /* page, or UINT64_MAX */
    GHashTable *reached;  /* pages that were looked for, if not NULL */
    FerryStormMemory memory;
} Bed;

static uint8_t *page_at(void *opaque, uint64_t page)
{
    Bed *bed = opaque;

    g_assert_cmpuint(page, <, bed->nr_pages);
    if (bed->reached) {
        g_hash_table_add(bed->reached, GUINT_TO_POINTER(page));
    }
    return page == bed->unreachable ? NULL : bed->bytes + page * FERRY_STORM_PAGE_BYTES;
}

static void page_wrote(void *opaque, uint64_t page, size_t nr_bytes)
{
    Bed *bed = opaque;

    g_assert_true(nr_bytes == FERRY_STORM_PAGE_BYTES || nr_bytes == FERRY_STORM_STAMP_BYTES);
    bed->nr_wrote++;
}

static Bed *bed_new(uint64_t nr_pages)
{
    Bed *bed = g_new0(Bed, 1);

    bed->storm = ferry_storm_new(nr_pages, 7);
    bed->bytes = g_malloc0(nr_pages * FERRY_STORM_PAGE_BYTES);
    bed->nr_pages = nr_pages;
    bed->unreachable = UINT64_MAX;
    bed->memory = (FerryStormMemory){.at = page_at, .wrote = page_wrote, .opaque = bed};
    return bed;
}

static void bed_free(Bed *bed)
{
    ferry_storm_free(bed->storm);
    g_free(bed->bytes);
    g_free(bed);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(Bed, bed_free)

static void set(Bed *bed, FerryStormPatternKind pattern, FerryStormContent content, bool whole,
                uint64_t working_pages)
{
    FerryStormSettings settings = {
        .pattern = pattern, .content = content, .whole = whole, .working_pages = working_pages};

    ferry_storm_set(bed->storm, &settings);
}

static void write_pages(Bed *bed, uint64_t nr)
{
    g_assert_cmpuint(ferry_storm_write(bed->storm, &bed->memory, nr), ==, nr);
}

static FerryStormVerdict verify(Bed *bed)
{
    FerryStormVerdict verdict;

    ferry_storm_verify_begin(bed->storm, &verdict);
    while (!ferry_storm_verify_is_complete(&verdict)) {
        g_assert_true(ferry_storm_verify_go_on(bed->storm, &verdict, &bed->memory, 100));
    }
    return verdict;
}

static void expect_right(Bed *bed)
{
    FerryStormVerdict verdict = verify(bed);

    g_assert_cmpstr(verdict.description, ==, "");
    g_assert_cmpuint(verdict.wrong, ==, 0);
    g_assert_cmpuint(verdict.stale, ==, 0);
}

static void expect_wrong(Bed *bed, uint64_t page, uint64_t wrong, uint64_t stale)
{
    FerryStormVerdict verdict = verify(bed);

    g_assert_cmpuint(verdict.wrong, ==, wrong);
    g_assert_cmpuint(verdict.stale, ==, stale);
    g_assert_cmpuint(verdict.first_wrong, ==, page);
    g_assert_cmpstr(verdict.description, !=, "");
}

static uint8_t *page_of(Bed *bed, uint64_t page)
{
    return bed->bytes + page * FERRY_STORM_PAGE_BYTES;
}

/* --- Writing --------------------------------------------------------------------------------- */

/* Every pattern with every content, changing over while it goes on. */
static void test_everything(void)
{
    g_autoptr(Bed) bed = bed_new(NR_PAGES);

    for (int pattern = 0; pattern < FERRY_STORM_NR_PATTERNS; pattern++) {
        for (int content = 0; content < FERRY_STORM_NR_CONTENTS; content++) {
            for (int whole = 0; whole < 2; whole++) {
                set(bed, (FerryStormPatternKind)pattern, (FerryStormContent)content, whole,
                    NR_PAGES - (unsigned)(content * 100));
                write_pages(bed, 777);
                expect_right(bed);
            }
        }
    }
    g_assert_cmpuint(ferry_storm_nr_written(bed->storm), ==, bed->nr_wrote);
}

static void test_sequential(void)
{
    g_autoptr(Bed) bed = bed_new(NR_PAGES);

    set(bed, FERRY_STORM_SEQUENTIAL, FERRY_STORM_NOISE, true, 100);
    write_pages(bed, 99);
    g_assert_cmpuint(page_of(bed, 99)[0], ==, 0);
    write_pages(bed, 1);
    g_assert_cmpuint(page_of(bed, 99)[0], !=, 0);
    g_assert_cmpuint(verify(bed).checked, ==, 100);
    write_pages(bed, 1000);
    g_assert_cmpuint(page_of(bed, 100)[0], ==, 0);
}

static void count_pages(FerryStormPatternKind kind, uint64_t nr_pages, uint64_t hot_pages,
                        uint64_t nr, uint32_t counts[])
{
    FerryStormPattern pattern;

    memset(counts, 0, nr_pages * sizeof(counts[0]));
    ferry_storm_pattern_init(&pattern, 1);
    ferry_storm_pattern_set(&pattern, kind, nr_pages, hot_pages);
    for (uint64_t i = 0; i < nr; i++) {
        uint64_t page = ferry_storm_pattern_next(&pattern);

        g_assert_cmpuint(page, <, nr_pages);
        counts[page]++;
    }
}

static int by_count(const void *a, const void *b)
{
    return *(const uint32_t *)a < *(const uint32_t *)b ? 1 : -1;
}

static void test_patterns(void)
{
    enum {
        NR = 1000,
        DRAWS = 1000000
    };
    uint32_t counts[NR];

    count_pages(FERRY_STORM_RANDOM, NR, 1, DRAWS, counts);
    qsort(counts, NR, sizeof(counts[0]), by_count);
    g_assert_cmpuint(counts[0], <, 1200);
    g_assert_cmpuint(counts[NR - 1], >, 800);

    /* The n-th gets log2(1 + 1/n) / log2(1001) of all. */
    count_pages(FERRY_STORM_ZIPF, NR, 1, DRAWS, counts);
    g_assert_cmpuint(counts[0], >, 98000);
    qsort(counts, NR, sizeof(counts[0]), by_count);
    g_assert_cmpuint(counts[0], >, 98000);
    g_assert_cmpuint(counts[0], <, 102700);
    g_assert_cmpuint(counts[1], >, 56700);
    g_assert_cmpuint(counts[1], <, 60700);
    g_assert_cmpuint(counts[9], >, 12800);
    g_assert_cmpuint(counts[9], <, 14800);
    g_assert_cmpuint(counts[NR - 1], >, 50);

    /* The first spot that it goes to begins at 100. */
    count_pages(FERRY_STORM_HOT_SPOT, NR, 100, 400, counts);
    {
        uint32_t inside = 0;

        for (unsigned i = 100; i < 200; i++) {
            inside += counts[i];
        }
        g_assert_cmpuint(inside, >, 330);
        g_assert_cmpuint(inside, <, 395);
    }
    /* It gets everywhere in time. */
    count_pages(FERRY_STORM_HOT_SPOT, NR, 100, 40000, counts);
    qsort(counts, NR, sizeof(counts[0]), by_count);
    g_assert_cmpuint(counts[NR - 1], >, 10);
}

/* One page is a working set too, and so is a very large one. */
static void test_sizes(void)
{
    static const uint64_t sizes[] = {1, 2, 3, 1000003, UINT64_C(1) << 27, FERRY_STORM_MAX_PAGES};

    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        for (int kind = 0; kind < FERRY_STORM_NR_PATTERNS; kind++) {
            FerryStormPattern pattern;
            uint64_t highest = 0;

            ferry_storm_pattern_init(&pattern, 3);
            ferry_storm_pattern_set(&pattern, (FerryStormPatternKind)kind, sizes[i], 0);
            for (unsigned j = 0; j < 1000; j++) {
                uint64_t page = ferry_storm_pattern_next(&pattern);

                g_assert_cmpuint(page, <, sizes[i]);
                highest = MAX(highest, page);
            }
            if (kind != FERRY_STORM_SEQUENTIAL) {
                g_assert_cmpuint(highest, >=, sizes[i] / 2);
            }
        }
    }
}

static size_t compressed_bytes(FerryStormContent content)
{
    g_autoptr(Bed) bed = bed_new(64);
    size_t nr_bytes = 64 * FERRY_STORM_PAGE_BYTES;
    size_t bound = ZSTD_compressBound(nr_bytes);
    g_autofree uint8_t *to = g_malloc(bound);
    size_t result;

    set(bed, FERRY_STORM_SEQUENTIAL, content, true, 64);
    write_pages(bed, 64);
    result = ZSTD_compress(to, bound, bed->bytes, nr_bytes, 1);
    g_assert_false(ZSTD_isError(result));
    return result * 100 / nr_bytes;
}

static void test_contents(void)
{
    g_assert_cmpuint(compressed_bytes(FERRY_STORM_ZERO), ==, 0);
    g_assert_cmpuint(compressed_bytes(FERRY_STORM_NOISE), >=, 99);
    g_assert_cmpuint(compressed_bytes(FERRY_STORM_COMPRESSIBLE), >=, 20);
    g_assert_cmpuint(compressed_bytes(FERRY_STORM_COMPRESSIBLE), <=, 35);
    g_assert_cmpuint(compressed_bytes(FERRY_STORM_TEXT), >=, 10);
    g_assert_cmpuint(compressed_bytes(FERRY_STORM_TEXT), <=, 45);
}

/* A page that cannot be reached ends it; when it can be reached again, it goes on as if nothing was. */
static void test_unreachable(void)
{
    g_autoptr(Bed) bed = bed_new(NR_PAGES);
    FerryStormVerdict verdict;

    bed->unreachable = 20;
    g_assert_cmpuint(ferry_storm_write(bed->storm, &bed->memory, 100), ==, 20);
    g_assert_cmpuint(ferry_storm_write(bed->storm, &bed->memory, 100), ==, 0);
    bed->unreachable = UINT64_MAX;
    write_pages(bed, 80);
    expect_right(bed);
    g_assert_cmpuint(page_of(bed, 20)[0], !=, 0);
    bed->unreachable = 30;
    ferry_storm_verify_begin(bed->storm, &verdict);
    g_assert_false(ferry_storm_verify_go_on(bed->storm, &verdict, &bed->memory, 100));
    g_assert_cmpuint(verdict.checked, ==, 30);
}

/* --- What is wrong is found -------------------------------------------------------------------- */

/* What was touched is what is written next, and touching leaves no trace. */
static void test_touch(void)
{
    for (FerryStormPatternKind kind = 0; kind < FERRY_STORM_NR_PATTERNS; kind++) {
        g_autoptr(Bed) bed = bed_new(NR_PAGES);
        g_autoptr(GHashTable) touched = g_hash_table_new(NULL, NULL);
        g_autoptr(GHashTable) written = g_hash_table_new(NULL, NULL);
        g_autofree uint8_t *before = NULL, *after = NULL;
        FerryStormPattern ahead;
        size_t nr_bytes;
        GHashTableIter iter;
        gpointer page;

        set(bed, kind, FERRY_STORM_NOISE, true, NR_PAGES);
        write_pages(bed, 100);
        before = ferry_storm_save(bed->storm, &nr_bytes);
        ahead = *ferry_storm_pattern(bed->storm);
        bed->reached = touched;
        ferry_storm_touch(&ahead, &bed->memory, 64);
        after = ferry_storm_save(bed->storm, &nr_bytes);
        g_assert_cmpmem(before, nr_bytes, after, nr_bytes);
        g_assert_cmpuint(bed->nr_wrote, ==, 100);
        bed->reached = written;
        write_pages(bed, 64);
        g_assert_cmpuint(g_hash_table_size(touched), ==, g_hash_table_size(written));
        g_hash_table_iter_init(&iter, written);
        while (g_hash_table_iter_next(&iter, &page, NULL)) {
            g_assert_true(g_hash_table_contains(touched, page));
        }
        /* It ends at what cannot be reached. */
        bed->reached = NULL;
        bed->unreachable = GPOINTER_TO_UINT(page);
        ahead = *ferry_storm_pattern(bed->storm);
        ferry_storm_touch(&ahead, &bed->memory, NR_PAGES);
    }
}

static void test_damage(void)
{
    g_autoptr(Bed) bed = bed_new(NR_PAGES);

    set(bed, FERRY_STORM_SEQUENTIAL, FERRY_STORM_TEXT, true, 50);
    write_pages(bed, 50);
    set(bed, FERRY_STORM_SEQUENTIAL, FERRY_STORM_ZERO, true, 50);
    write_pages(bed, 5);
    set(bed, FERRY_STORM_SEQUENTIAL, FERRY_STORM_ZERO, false, 50);
    write_pages(bed, 10);
    expect_right(bed);
    /* Blank pages, pages with new stamps, and older ones: any byte of any. */
    for (uint64_t page = 0; page < 50; page += 3) {
        for (unsigned at = 0; at < FERRY_STORM_PAGE_BYTES; at += at < 64 ? 1 : 61) {
            page_of(bed, page)[at] ^= 0x40;
            expect_wrong(bed, page, 1, 0);
            page_of(bed, page)[at] ^= 0x40;
        }
    }
    memcpy(page_of(bed, 20), page_of(bed, 21), FERRY_STORM_PAGE_BYTES);
    expect_wrong(bed, 20, 1, 0);
}

/* Pages that are what they were some writes ago. */
static void stale(uint64_t nr_pages, unsigned nr_stale, bool written_again, bool blank)
{
    g_autoptr(Bed) bed = bed_new(nr_pages);
    g_autofree uint8_t *old = NULL;
    uint64_t page = nr_pages / 3;

    set(bed, FERRY_STORM_SEQUENTIAL, FERRY_STORM_NOISE, true, nr_pages);
    write_pages(bed, nr_pages);
    old = blank ? g_malloc0(FERRY_STORM_PAGE_BYTES * nr_stale)
                : g_memdup2(page_of(bed, page), FERRY_STORM_PAGE_BYTES * nr_stale);
    write_pages(bed, nr_pages);
    expect_right(bed);
    memcpy(page_of(bed, page), old, FERRY_STORM_PAGE_BYTES * nr_stale);
    if (written_again) {
        write_pages(bed, nr_pages);
    }
    if (nr_stale == 1 || nr_pages <= FERRY_STORM_MAX_BLOCKS) {
        expect_wrong(bed, page, nr_stale, nr_stale);
    } else {
        FerryStormVerdict verdict = verify(bed);

        /* In blocks of several pages: at least so much is sure. */
        g_assert_cmpuint(verdict.wrong, >=, 2);
        g_assert_cmpuint(verdict.stale, ==, verdict.wrong);
        g_assert_cmpuint(verdict.first_wrong, <=, page);
        g_assert_cmpuint(verdict.first_wrong, >, page - 16);
    }
}

static void test_stale(void)
{
    stale(NR_PAGES, 1, false, false);
    stale(NR_PAGES, 9, false, false);
    stale(NR_PAGES, 9, false, true);
    /* Overwritten since: the page is fine, but its being wrong is not forgotten. */
    stale(NR_PAGES, 9, true, false);
    stale(NR_PAGES, 1, true, true);
}

static void test_stale_in_blocks(void)
{
    /* Blocks of four pages. */
    stale(4 * FERRY_STORM_MAX_BLOCKS - 5, 1, false, false);
    stale(4 * FERRY_STORM_MAX_BLOCKS - 5, 9, false, false);
    stale(4 * FERRY_STORM_MAX_BLOCKS - 5, 1, true, false);
}

/* In the last block, which is shorter than the others. */
static void test_stale_at_end(void)
{
    const uint64_t nr_pages = 4 * FERRY_STORM_MAX_BLOCKS - 5;
    g_autoptr(Bed) bed = bed_new(nr_pages);
    uint8_t old[FERRY_STORM_PAGE_BYTES];

    set(bed, FERRY_STORM_SEQUENTIAL, FERRY_STORM_NOISE, true, nr_pages);
    write_pages(bed, nr_pages);
    memcpy(old, page_of(bed, nr_pages - 1), sizeof(old));
    write_pages(bed, nr_pages);
    memcpy(page_of(bed, nr_pages - 1), old, sizeof(old));
    expect_wrong(bed, nr_pages - 1, 1, 1);
}

/* --- Moving ---------------------------------------------------------------------------------- */

static void move(Bed *from, Bed *to)
{
    size_t nr_bytes;
    g_autofree uint8_t *saved = ferry_storm_save(from->storm, &nr_bytes);
    GError *error = NULL;

    g_assert_cmpuint(nr_bytes, <=, FERRY_STORM_MAX_SAVED_BYTES);
    memcpy(to->bytes, from->bytes, from->nr_pages * FERRY_STORM_PAGE_BYTES);
    g_assert_true(ferry_storm_load(to->storm, saved, nr_bytes, &error));
    g_assert_no_error(error);
}

/* With and without a move in between it is the same storm. */
static void test_move(void)
{
    for (int pattern = 0; pattern < FERRY_STORM_NR_PATTERNS; pattern++) {
        g_autoptr(Bed) one = bed_new(NR_PAGES);
        g_autoptr(Bed) two = bed_new(NR_PAGES);

        set(one, (FerryStormPatternKind)pattern, FERRY_STORM_COMPRESSIBLE, true, 300);
        write_pages(one, 1234);
        move(one, two);
        expect_right(two);
        write_pages(one, 1000);
        write_pages(two, 500);
        write_pages(two, 500);
        expect_right(two);
        g_assert_cmpmem(one->bytes, NR_PAGES * FERRY_STORM_PAGE_BYTES, two->bytes,
                        NR_PAGES * FERRY_STORM_PAGE_BYTES);
        g_assert_cmpuint(ferry_storm_nr_written(two->storm), ==, 2234);
    }
}

static void test_move_fresh(void)
{
    g_autoptr(Bed) one = bed_new(NR_PAGES);
    g_autoptr(Bed) two = bed_new(NR_PAGES);

    move(one, two);
    g_assert_cmpuint(verify(two).checked, ==, 0);
    write_pages(two, 10);
    expect_right(two);
}

static void expect_refusal(Bed *bed, const uint8_t *saved, size_t nr_bytes, const char *reason)
{
    size_t before_bytes, after_bytes;
    g_autofree uint8_t *before = ferry_storm_save(bed->storm, &before_bytes);
    g_autofree uint8_t *after = NULL;
    GError *error = NULL;

    g_assert_false(ferry_storm_load(bed->storm, saved, nr_bytes, &error));
    g_assert_error(error, FERRY_STORM_ERROR, FERRY_STORM_ERROR_SAVED);
    g_assert_nonnull(strstr(error->message, reason));
    g_error_free(error);
    after = ferry_storm_save(bed->storm, &after_bytes);
    g_assert_cmpmem(before, before_bytes, after, after_bytes);
}

/* The check over all that is saved, made anew: whoever means harm can do that as well. */
static void seal(uint8_t *saved, size_t nr_bytes)
{
    uint64_t check = UINT64_C(0x73746f726d000001);
    uint64_t word;

    for (size_t i = 0; i + 8 < nr_bytes; i += 8) {
        memcpy(&word, saved + i, 8);
        check = ferry_storm_mix(check + GUINT64_FROM_LE(word));
    }
    word = GUINT64_TO_LE(check);
    memcpy(saved + nr_bytes - 8, &word, 8);
}

static void test_hostile(void)
{
    g_autoptr(Bed) bed = bed_new(NR_PAGES);
    g_autoptr(Bed) other = bed_new(NR_PAGES + 1);
    g_autoptr(FerryStorm) seeded = ferry_storm_new(NR_PAGES, 8);
    g_autofree uint8_t *saved = NULL;
    size_t nr_bytes;

    write_pages(bed, 100);
    saved = ferry_storm_save(bed->storm, &nr_bytes);
    expect_refusal(other, saved, nr_bytes, "give both the same start and size");
    g_assert_false(ferry_storm_load(seeded, saved, nr_bytes, NULL));
    for (size_t i = 0; i < nr_bytes; i++) {
        expect_refusal(bed, saved, i, "the saved storm ");
        saved[i] ^= 0x80;
        expect_refusal(bed, saved, nr_bytes, "");
        saved[i] ^= 0x80;
    }
    /* Each of the numbers as large as can be. What has no bounds is taken, the rest is refused. */
    for (size_t word = 1; word < 15; word++) {
        g_autofree uint8_t *copy = g_memdup2(saved, nr_bytes);
        GError *error = NULL;

        memset(copy + word * 8, 0xff, 8);
        seal(copy, nr_bytes);
        if (!ferry_storm_load(bed->storm, copy, nr_bytes, &error)) {
            g_error_free(error);
            g_assert_true(word != 8 && word != 12);
        } else {
            /* The random numbers, and the count of writes. */
            g_assert_true(word == 8 || word == 12);
            write_pages(bed, 10);
        }
    }
}

/* What is saved beside the storm: whoever stops the guest waits until what is due has been written. */
static void test_hostile_pace(void)
{
    static const FerryStormPace bad[] = {
        {.rate = FERRY_STORM_MOST_RATE + 1},
        {.rate = UINT64_MAX},
        {.rest = UINT64_C(1000000000)},
        {.rest = UINT64_MAX},
    };
    FerryStormPace pace = {.rate = 1000, .due = 7, .rest = 999999999};

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        FerryStormPace copy = bad[i];

        g_assert_false(ferry_storm_pace_load(&copy, &error));
        g_assert_error(error, FERRY_STORM_ERROR, FERRY_STORM_ERROR_SAVED);
        g_assert_cmpmem(&copy, sizeof(copy), &bad[i], sizeof(bad[i]));
    }
    g_assert_true(ferry_storm_pace_load(&pace, NULL));
    g_assert_cmpuint(pace.due, ==, 7);
    g_assert_cmpuint(pace.rest, ==, 999999999);
    pace.due = UINT64_MAX;
    g_assert_true(ferry_storm_pace_load(&pace, NULL));
    g_assert_cmpuint(pace.due, ==, 101);
    pace = (FerryStormPace){.due = UINT64_MAX};
    g_assert_true(ferry_storm_pace_load(&pace, NULL));
    g_assert_cmpuint(pace.due, ==, FERRY_STORM_COUNTED_RATE / 10 + 1);
    pace = (FerryStormPace){.rate = FERRY_STORM_MOST_RATE, .due = 1};
    g_assert_true(ferry_storm_pace_load(&pace, NULL));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/storm/everything", test_everything);
    g_test_add_func("/storm/sequential", test_sequential);
    g_test_add_func("/storm/patterns", test_patterns);
    g_test_add_func("/storm/sizes", test_sizes);
    g_test_add_func("/storm/contents", test_contents);
    g_test_add_func("/storm/unreachable", test_unreachable);
    g_test_add_func("/storm/touch", test_touch);
    g_test_add_func("/storm/damage", test_damage);
    g_test_add_func("/storm/stale", test_stale);
    g_test_add_func("/storm/stale-in-blocks", test_stale_in_blocks);
    g_test_add_func("/storm/stale-at-end", test_stale_at_end);
    g_test_add_func("/storm/move", test_move);
    g_test_add_func("/storm/move-fresh", test_move_fresh);
    g_test_add_func("/storm/hostile", test_hostile);
    g_test_add_func("/storm/hostile-pace", test_hostile_pace);
    return g_test_run();
}
