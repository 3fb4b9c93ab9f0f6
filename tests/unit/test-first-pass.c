/*
 * The first pass: in which order chunks are armed, on real memory; and hints that come while it is at work
 *
 * What applies hints is compiled here once more, with a stop after each look at what waits.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <string.h>
#include <sys/mman.h>

#include "migration/source/first-pass-internal.h"

static GArray *take_and_stop(FerryHintQueue *queue);

#define ferry_hint_queue_take take_and_stop
#include "migration/source/first-pass-hints.c"
#undef ferry_hint_queue_take

/* Once, after what waits has been taken. */
static void (*after_take)(void);

static GArray *take_and_stop(FerryHintQueue *queue)
{
    GArray *taken = ferry_hint_queue_take(queue);

    if (after_take) {
        void (*act)(void) = after_take;

        after_take = NULL;
        act();
    }
    return taken;
}

#define NR_CHUNKS 8 /* two groups that are judged together */
#define NR_PAGES  (NR_CHUNKS * FERRY_CHUNK_PAGES)

/* So long, judging is repeated: see SURE_US.  Less, to be on the safe side. */
#define SURE_US (150 * 1000)

typedef struct {
    uint8_t *memory;
    uint64_t armed[NR_CHUNKS]; /* in this order */
    unsigned nr_armed;
    FerryBacklog *backlog;
    FerrySenders *senders;
    FerryFirstPass *pass;
    gint64 start_us;
    bool ask;        /* while the first chunk is armed */
    GThread *asking; /* who does */
    uint8_t *write;  /* while the first chunk is armed; NULL: nothing is */
} Bed;

static gpointer ask_skipped(gpointer opaque)
{
    Bed *bed = opaque;
    FerryHistogram arm;
    uint64_t nr_skipped;

    ferry_first_pass_query(bed->pass, &nr_skipped, &arm);
    return GSIZE_TO_POINTER(nr_skipped);
}

static bool bed_start(void *opaque, const FerryTrackerClient *client, GError **errp)
{
    return true;
}

static bool bed_arm(void *opaque, uint32_t region, uint64_t first_page, uint64_t nr_pages,
                    GError **errp)
{
    Bed *bed = opaque;

    g_assert_cmpuint(bed->nr_armed, <, NR_CHUNKS);
    bed->armed[bed->nr_armed++] = first_page / FERRY_CHUNK_PAGES;
    if (bed->write) {
        *g_steal_pointer(&bed->write) = 1;
    }
    if (bed->ask) {
        bed->ask = false;
        bed->asking = g_thread_new("ask", ask_skipped, bed);
        /* Long enough to look, if it does not wait for the chunk. */
        g_usleep(20 * 1000);
    }
    return true;
}

static bool bed_harvest(void *opaque, bool last, GError **errp)
{
    return true;
}

static void bed_stop(void *opaque)
{
}

static const FerryTrackerOps bed_ops = {
    .name = "bed",
    .start = bed_start,
    .arm = bed_arm,
    .harvest = bed_harvest,
    .stop = bed_stop,
};

static void write_chunks(const Bed *bed, uint64_t first, uint64_t nr, uint64_t value)
{
    for (uint64_t page = first * FERRY_CHUNK_PAGES; page < (first + nr) * FERRY_CHUNK_PAGES;
         page++) {
        memcpy(bed->memory + page * FERRY_PAGE_BYTES, &value, sizeof(value));
    }
}

/* The first @nr chunks are touched, and all are looked at once. */
static Bed *bed_new_touched(uint64_t nr)
{
    Bed *bed = g_new0(Bed, 1);
    FerryRegions regions = {.list = g_new0(FerryRegion, 1), .nr = 1};
    FerryTracker tracker = {.ops = &bed_ops, .opaque = bed};
    GError *error = NULL;

    bed->memory = mmap(NULL, NR_PAGES * FERRY_PAGE_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    g_assert_true(bed->memory != MAP_FAILED);
    write_chunks(bed, 0, nr, 1);
    regions.list[0] = (FerryRegion){
        .id = "ram",
        .host = bed->memory,
        .length_bytes = NR_PAGES * FERRY_PAGE_BYTES,
        .page_size_bytes = FERRY_PAGE_BYTES,
        .fd = -1,
        .scan = FERRY_SCAN_PRIVATE,
    };
    bed->backlog = ferry_backlog_new(&regions, &tracker, false, false);
    bed->senders = ferry_senders_new(bed->backlog, &(FerrySendersConfig){0});
    bed->pass = ferry_first_pass_new(bed->backlog, bed->senders);
    bed->start_us = g_get_monotonic_time();
    g_assert_true(ferry_first_pass_prepare(bed->pass, &error));
    g_assert_no_error(error);
    return bed;
}

static Bed *bed_new(void)
{
    return bed_new_touched(NR_CHUNKS);
}

static void bed_free(Bed *bed)
{
    ferry_first_pass_free(bed->pass);
    ferry_senders_free(bed->senders);
    ferry_backlog_free(bed->backlog);
    munmap(bed->memory, NR_PAGES * FERRY_PAGE_BYTES);
    g_free(bed);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(Bed, bed_free)

static void feed(Bed *bed, unsigned nr)
{
    GError *error = NULL;

    for (unsigned i = 0; i < nr; i++) {
        g_assert_true(ferry_first_pass_feed(bed->pass, &error));
        g_assert_no_error(error);
    }
}

/* Those armed from @first to @last, by their numbers, are some of [0, 4), or of [4, 8). */
static void assert_group(const Bed *bed, unsigned first, unsigned last, unsigned group)
{
    for (unsigned i = first; i <= last; i++) {
        g_assert_cmpuint(bed->armed[i] / 4, ==, group);
    }
}

static void assert_all_armed(const Bed *bed)
{
    unsigned seen = 0;

    g_assert_cmpuint(bed->nr_armed, ==, NR_CHUNKS);
    for (unsigned i = 0; i < NR_CHUNKS; i++) {
        seen |= 1U << bed->armed[i];
    }
    g_assert_cmphex(seen, ==, (1U << NR_CHUNKS) - 1);
    g_assert_true(ferry_first_pass_done(bed->pass));
    g_assert_cmpuint(ferry_backlog_queued(bed->backlog), ==, NR_PAGES);
}

/* A chunk that is written puts its group off. */
static void test_written_last(void)
{
    g_autoptr(Bed) bed = bed_new();

    write_chunks(bed, 2, 1, 2);
    feed(bed, NR_CHUNKS);
    assert_group(bed, 0, 3, 1);
    assert_group(bed, 4, 7, 0);
    assert_all_armed(bed);
}

/* What seems to be left alone, and is written then, does not go on being copied. */
static void test_judged_again(void)
{
    g_autoptr(Bed) bed = bed_new();

    feed(bed, 1);
    write_chunks(bed, 0, 4, 2);
    feed(bed, 1);
    if (g_get_monotonic_time() - bed->start_us > SURE_US) {
        g_test_skip("this machine is too slow at the moment: by then a chunk counts as known");
        return;
    }
    assert_group(bed, 0, 0, 0);
    assert_group(bed, 1, 1, 1);
    feed(bed, NR_CHUNKS - 2);
    assert_group(bed, 2, 4, 1);
    assert_group(bed, 5, 7, 0);
    assert_all_armed(bed);
}

/* With a limited bandwidth some time passes before the first choice. */
static void test_settles(void)
{
    g_autoptr(Bed) bed = bed_new();
    /* 256 MiB take 1 s, so 2 % are 20 ms. */
    const uint64_t rate = NR_PAGES * FERRY_PAGE_BYTES;

    ferry_first_pass_settle(bed->pass, rate);
    g_assert_cmpint(g_get_monotonic_time() - bed->start_us, >=, 20 * 1000);
    feed(bed, NR_CHUNKS);
    assert_all_armed(bed);
}

/* Memory that nobody has touched is not armed, on kernels without PAGEMAP_SCAN either. */
static void test_untouched(gconstpointer data)
{
    g_autoptr(Bed) bed = NULL;
    unsigned armed = NR_CHUNKS;

    ferry_scanner_do_without(GPOINTER_TO_UINT(data));
    /* Something may come between the two looks at the clock. */
    for (int i = 0; i < 10 && armed > 1; i++) {
        g_clear_pointer(&bed, bed_free);
        bed = bed_new_touched(1);
        feed(bed, NR_CHUNKS);
        armed = bed->nr_armed;
    }
    ferry_scanner_do_without(FERRY_SCANNER_DEFAULT);
    g_assert_cmpuint(armed, ==, 1);
    g_assert_true(ferry_first_pass_done(bed->pass));
    g_assert_cmpuint(ferry_backlog_queued(bed->backlog), ==, FERRY_CHUNK_PAGES);
    /* What is touched later is found all the same. */
    write_chunks(bed, 5, 1, 1);
    g_assert_true(ferry_first_pass_look_again(bed->pass, NULL));
    g_assert_cmpuint(bed->nr_armed, ==, 2);
    g_assert_cmpuint(ferry_backlog_queued(bed->backlog), ==, 2 * FERRY_CHUNK_PAGES);
}

/* What is sent in full is queued in full, whether it was touched or not. */
static void test_sent_in_full(void)
{
    const uint8_t answers[] = {FERRY_ANSWER_IN_FULL};
    g_autoptr(Bed) bed = bed_new_touched(1);

    ferry_backlog_settle(bed->backlog, answers);
    feed(bed, NR_CHUNKS);
    assert_all_armed(bed);
}

/* A chunk that is being looked at does not count as skipped meanwhile, only to be taken off again. */
static void test_skipped_so_far(void)
{
    g_autoptr(Bed) bed = bed_new();

    bed->ask = true;
    feed(bed, 1);
    g_assert_nonnull(bed->asking);
    g_assert_cmpuint(GPOINTER_TO_SIZE(g_thread_join(bed->asking)), ==, 0);
    feed(bed, NR_CHUNKS - 1);
    g_assert_cmpuint(GPOINTER_TO_SIZE(ask_skipped(bed)), ==, 0);
}

/* Gives a page back to the kernel; who reads it finds zero. */
static uint8_t *give_back(const Bed *bed, uint64_t page)
{
    uint8_t *host = bed->memory + page * FERRY_PAGE_BYTES;

    g_assert_cmpint(madvise(host, FERRY_PAGE_BYTES, MADV_DONTNEED), ==, 0);
    return host;
}

static void send_all(const Bed *bed)
{
    uint64_t pages[FERRY_GRANULE_WORDS];
    int64_t granule;

    while ((granule = ferry_backlog_next(bed->backlog, 0, 0, 0, 1)) >= 0) {
        ferry_backlog_sent(bed->backlog, (unsigned)ferry_backlog_take(
                                             bed->backlog, 0, (uint64_t)granule, pages, NULL));
    }
}

/* With another tracker all begins anew, but the destination's memory is not empty any more. */
static void test_restarted(void)
{
    g_autoptr(Bed) bed = bed_new_touched(1);
    const FerryTracker again = {.ops = &bed_ops, .opaque = bed};

    feed(bed, NR_CHUNKS);
    g_assert_cmpuint(ferry_backlog_queued(bed->backlog), ==, FERRY_CHUNK_PAGES);
    send_all(bed);
    g_assert_cmpuint(*(volatile uint8_t *)give_back(bed, 5), ==, 0);
    bed->nr_armed = 0;
    g_assert_true(ferry_first_pass_restart(bed->pass, &again, NULL));
    g_assert_false(ferry_first_pass_done(bed->pass));
    feed(bed, NR_CHUNKS);
    /* Page 5 has become zero: that is to be said. */
    g_assert_cmpuint(ferry_backlog_queued(bed->backlog), ==, FERRY_CHUNK_PAGES);
}

/* What is touched while a chunk is being armed is seen when it is looked at after that. */
static void test_touched_meanwhile(void)
{
    g_autoptr(Bed) bed = bed_new_touched(1);

    bed->write = give_back(bed, 5);
    feed(bed, NR_CHUNKS);
    g_assert_cmpuint(ferry_backlog_queued(bed->backlog), ==, FERRY_CHUNK_PAGES);
}

/* --- Hints -------------------------------------------------------------------------------------- */

#define NR_HINTED 100

static Bed *hinted_bed;

static gpointer hint_run(gpointer opaque)
{
    ferry_first_pass_hint(hinted_bed->pass, 0, 5, NR_HINTED);
    return NULL;
}

/* Whoever has the lock has just looked, and lets go of it next. */
static void hint_at_last(void)
{
    g_thread_join(g_thread_new("balloon", hint_run, NULL));
}

/* A hint that comes between the last look and the end of the lock does not wait for the next one. */
static void test_hint_at_last(void)
{
    g_autoptr(Bed) bed = bed_new_touched(1);
    bool done;

    g_assert_true(ferry_first_pass_expect_hints(bed->pass, &done, NULL));
    g_assert_true(done);
    feed(bed, NR_CHUNKS - 1);
    hinted_bed = bed;
    after_take = hint_at_last;
    feed(bed, 1);
    g_assert_null(after_take);
    g_assert_true(ferry_hint_queue_is_empty(bed->pass->hints));
    g_assert_cmpuint(ferry_backlog_queued(bed->backlog), ==, FERRY_CHUNK_PAGES - NR_HINTED);
}

/* So many hints may wait, and no more, whatever the guest does. */
#define NR_WAITING 65536

static void test_hints_waiting(void)
{
    const FerryHint hint = {.nr_pages = 1};
    FerryHintQueue *queue = ferry_hint_queue_new();
    g_autoptr(GArray) taken = NULL;

    for (unsigned i = 0; i < 2 * NR_WAITING; i++) {
        ferry_hint_queue_add(queue, &hint);
    }
    taken = ferry_hint_queue_take(queue);
    g_assert_cmpuint(taken->len, ==, NR_WAITING);
    g_assert_true(ferry_hint_queue_is_empty(queue));
    g_assert_null(ferry_hint_queue_take(queue));
    ferry_hint_queue_free(queue);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/first-pass/written-last", test_written_last);
    g_test_add_func("/first-pass/judged-again", test_judged_again);
    g_test_add_func("/first-pass/settles", test_settles);
    g_test_add_data_func("/first-pass/untouched/ioctl", GUINT_TO_POINTER(FERRY_SCANNER_DEFAULT),
                         test_untouched);
    g_test_add_data_func("/first-pass/untouched/read", GUINT_TO_POINTER(FERRY_SCANNER_NO_IOCTL),
                         test_untouched);
    g_test_add_func("/first-pass/sent-in-full", test_sent_in_full);
    g_test_add_func("/first-pass/skipped-so-far", test_skipped_so_far);
    g_test_add_func("/first-pass/restarted", test_restarted);
    g_test_add_func("/first-pass/touched-meanwhile", test_touched_meanwhile);
    g_test_add_func("/first-pass/hint-at-last", test_hint_at_last);
    g_test_add_func("/first-pass/hints-waiting", test_hints_waiting);
    return g_test_run();
}
