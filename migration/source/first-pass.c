/*
 * The first pass over guest memory: see first-pass.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "first-pass.h"

#include <stdatomic.h>
#include <string.h>

#include "../clock.h"
#include "../fault.h"
#include "first-pass-internal.h"

/*
 * How many chunks ahead of its copy a chunk is looked at, to see by then whether the guest writes
 * it: 4 GiB.
 */
#define LOOK_AHEAD_CHUNKS 128

/*
 * One page in so many is looked at.  The first chunks are copied soon, when little has changed: of
 * them more pages, twice as many for every 8 chunks that one is nearer.
 */
#define LOOK_PAGES_MIN 16
#define LOOK_PAGES_MAX 256

/* So many chunks in a row are judged together: what is looked at of one alone tells too little. */
#define GROUP_CHUNKS 4

/* When a chunk is judged sooner after it was looked at, it is judged once more before its copy. */
#define SURE_US (200 * 1000)

/* How long the first choice may wait, and what part of the time that the copying will take. */
#define SETTLE_MAX_US (80 * 1000)
#define SETTLE_PART   50

/*
 * A chunk in which nothing was ever touched is left alone, if that is seen quickly: it has no page tables
 * then.  In the blackout all of them are looked at once more, which takes no longer than this.
 */
#define LOOK_AGAIN_MAX_NS (UINT64_C(10) * 1000 * 1000)

/* So many chunks are armed ahead, 512 MiB, before it is looked whether that is still wanted. */
#define EXPECT_CHUNKS 16

FerryFirstPass *ferry_first_pass_new(FerryBacklog *backlog, FerrySenders *senders)
{
    FerryFirstPass *pass = g_new0(FerryFirstPass, 1);

    pass->backlog = backlog;
    pass->regions = ferry_backlog_regions(backlog);
    pass->senders = senders;
    pass->scanner = ferry_scanner_new();
    pass->scan_is_read = strcmp(ferry_scanner_method_name(pass->scanner), "pagemap-read") == 0;
    pass->heat = ferry_heat_new(pass->regions, pass->scanner);
    pass->cold = g_array_new(FALSE, FALSE, sizeof(ChunkRef));
    pass->hot = g_array_new(FALSE, FALSE, sizeof(ChunkRef));
    pass->idle = g_array_new(FALSE, FALSE, sizeof(IdleRun));
    pass->total_bytes = ferry_regions_total_bytes(pass->regions);
    pass->unseen_bytes = pass->total_bytes;
    pass->queued = g_new(bool *, pass->regions->nr);
    pass->hintable = g_new(bool *, pass->regions->nr);
    for (size_t i = 0; i < pass->regions->nr; i++) {
        pass->queued[i] = g_new0(bool, ferry_backlog_nr_chunks(backlog, i));
        pass->hintable[i] = g_new0(bool, ferry_backlog_nr_chunks(backlog, i));
    }
    pass->hints = ferry_hint_queue_new();
    g_mutex_init(&pass->lock);
    g_mutex_init(&pass->arm_lock);
    return pass;
}

void ferry_first_pass_free(FerryFirstPass *pass)
{
    ferry_heat_free(pass->heat);
    ferry_scanner_free(pass->scanner);
    g_array_unref(pass->cold);
    g_array_unref(pass->hot);
    g_array_unref(pass->idle);
    for (size_t i = 0; i < pass->regions->nr; i++) {
        g_free(pass->queued[i]);
        g_free(pass->hintable[i]);
    }
    g_free(pass->queued);
    g_free(pass->hintable);
    ferry_hint_queue_free(pass->hints);
    g_mutex_clear(&pass->lock);
    g_mutex_clear(&pass->arm_lock);
    g_free(pass);
}

bool ferry_first_pass_done(const FerryFirstPass *pass)
{
    return atomic_load(&pass->unseen_bytes) == 0;
}

uint64_t ferry_first_pass_unseen_bytes(const FerryFirstPass *pass)
{
    return atomic_load(&pass->unseen_bytes);
}

void ferry_first_pass_query(FerryFirstPass *pass, uint64_t *skipped_pages, FerryHistogram *arm)
{
    *skipped_pages = atomic_load(&pass->skipped_pages);
    g_mutex_lock(&pass->arm_lock);
    *arm = pass->arm;
    g_mutex_unlock(&pass->arm_lock);
}

/* With the lock held. */
static bool arm_chunk(FerryFirstPass *pass, size_t region, uint64_t number, GError **errp)
{
    uint64_t start_ns = ferry_now_ns();

    if (ferry_backlog_is_armed(pass->backlog, region, number)) {
        return true;
    }
    if (!ferry_backlog_arm(pass->backlog, region, number, errp)) {
        return false;
    }
    g_mutex_lock(&pass->arm_lock);
    ferry_histogram_add(&pass->arm, ferry_now_ns() - start_ns);
    g_mutex_unlock(&pass->arm_lock);
    return true;
}

typedef struct Queueing {
    FerryFirstPass *pass;
    size_t region;
    uint64_t queued_pages;
} Queueing;

static void queue_touched(void *opaque, uint64_t offset_bytes, uint64_t nr_bytes,
                          FerryScanKind kind)
{
    Queueing *queueing = opaque;
    FerryBacklog *backlog = queueing->pass->backlog;
    uint64_t first_page = offset_bytes >> FERRY_PAGE_SHIFT, nr_pages = nr_bytes >> FERRY_PAGE_SHIFT;

    if (kind == FERRY_SCAN_ZERO && !queueing->pass->restarted) {
        /* The destination's memory starts out empty: nothing to send. */
        ferry_backlog_count_zero(backlog, nr_pages);
    } else if (kind == FERRY_SCAN_SWAPPED && !ferry_first_pass_is_late(queueing->pass)) {
        nr_pages = ferry_backlog_queue_swapped(backlog, queueing->region, first_page, nr_pages);
    } else {
        nr_pages = ferry_backlog_queue(backlog, queueing->region, first_page, nr_pages);
    }
    queueing->queued_pages += nr_pages;
}

/* --- In which order -------------------------------------------------------------------------- */

static bool is_end(const FerryFirstPass *pass, const ChunkRef *ref)
{
    return ref->region == pass->regions->nr;
}

static void step(const FerryFirstPass *pass, ChunkRef *ref)
{
    if (++ref->number == ferry_backlog_nr_chunks(pass->backlog, ref->region)) {
        ref->number = 0;
        ref->region++;
    }
}

static unsigned look_pages(uint64_t nr_ahead)
{
    return (unsigned)MIN((uint64_t)LOOK_PAGES_MIN << MIN(nr_ahead / 8, 8), LOOK_PAGES_MAX);
}

static bool look_ahead(FerryFirstPass *pass, GError **errp)
{
    while (!is_end(pass, &pass->look) && pass->nr_seen < LOOK_AHEAD_CHUNKS) {
        if (!ferry_heat_look(pass->heat, (uint32_t)pass->look.region, pass->look.number,
                             look_pages(pass->nr_seen), errp)) {
            return false;
        }
        step(pass, &pass->look);
        pass->nr_seen++;
    }
    return true;
}

bool ferry_first_pass_prepare(FerryFirstPass *pass, GError **errp)
{
    bool ok = look_ahead(pass, errp);

    pass->looked_us = ferry_now_us();
    return ok;
}

static gint64 looked_ago_us(const FerryFirstPass *pass)
{
    return ferry_now_us() - pass->looked_us;
}

void ferry_first_pass_settle(FerryFirstPass *pass, uint64_t bytes_per_second)
{
    double copy_s;
    gint64 wait_us;

    if (!pass->settled && bytes_per_second) {
        copy_s = (double)ferry_heat_data_bytes(pass->heat) / (double)bytes_per_second;
        wait_us = (gint64)MIN(copy_s / SETTLE_PART * G_USEC_PER_SEC, (double)SETTLE_MAX_US) -
                  looked_ago_us(pass);
        if (wait_us > 0) {
            ferry_sleep_us(wait_us);
        }
    }
    pass->settled = true;
}

static int hottest_first(gconstpointer a, gconstpointer b)
{
    const ChunkRef *x = a, *y = b;

    return x->heat > y->heat ? -1 : x->heat < y->heat;
}

/* Judge chunks that are thought to be cold: put them off if the guest writes any of them. */
static void judge(FerryFirstPass *pass)
{
    unsigned heat = 0;

    for (guint i = 0; i < pass->cold->len; i++) {
        ChunkRef *chunk = &g_array_index(pass->cold, ChunkRef, i);

        chunk->heat = ferry_heat_changed(pass->heat, (uint32_t)chunk->region, chunk->number);
        heat = MAX(heat, chunk->heat);
    }
    if (heat) {
        g_array_append_vals(pass->hot, pass->cold->data, pass->cold->len);
        g_array_set_size(pass->cold, 0);
        pass->hot_is_sorted = false;
    }
}

/* Go on to the next group of chunks. */
static bool judge_next(FerryFirstPass *pass, GError **errp)
{
    while (pass->cold->len < GROUP_CHUNKS && !is_end(pass, &pass->next)) {
        ChunkRef chunk = pass->next;

        if (!look_ahead(pass, errp)) {
            return false;
        }
        chunk.seen = ferry_heat_knows(pass->heat, (uint32_t)chunk.region, chunk.number);
        g_array_append_val(pass->cold, chunk);
        step(pass, &pass->next);
        pass->nr_seen--;
    }
    judge(pass);
    return true;
}

/* The next chunk to copy: those that the guest does not write first. */
static bool choose(FerryFirstPass *pass, ChunkRef *chosen, GError **errp)
{
    GArray *from;

    if (pass->cold->len && looked_ago_us(pass) < SURE_US) {
        judge(pass);
    }
    while (pass->cold->len == 0 && !is_end(pass, &pass->next)) {
        if (!judge_next(pass, errp)) {
            return false;
        }
    }
    from = pass->cold->len ? pass->cold : pass->hot;
    if (from == pass->hot && !pass->hot_is_sorted) {
        g_array_sort(pass->hot, hottest_first);
        pass->hot_is_sorted = true;
    }
    *chosen = g_array_index(from, ChunkRef, from->len - 1);
    g_array_set_size(from, from->len - 1);
    ferry_heat_forget(pass->heat, (uint32_t)chosen->region, chosen->number);
    return true;
}

/* Of what is sent in full, all counts as touched. */
static bool scan_chunks(FerryFirstPass *pass, size_t region, uint64_t first, uint64_t nr,
                        FerryScanFn fn, void *opaque, GError **errp)
{
    const FerryRegion *memory = &pass->regions->list[region];
    FerryScanTarget target = ferry_region_scan_target(memory);
    const uint64_t first_page = first * FERRY_CHUNK_PAGES;
    const uint64_t nr_pages =
        MIN(nr * FERRY_CHUNK_PAGES, ferry_region_nr_pages(memory) - first_page);

    if (memory->flags & FERRY_REGION_IN_FULL) {
        target.method = FERRY_SCAN_ALL;
    }
    return !ferry_fault(FERRY_FAULT_SCAN, errp) &&
           ferry_scan(pass->scanner, &target, first_page * FERRY_PAGE_BYTES,
                      nr_pages * FERRY_PAGE_BYTES, fn, opaque, errp);
}

/*
 * With the lock held: queue what was touched in a chunk; adds to *@nr_touched.  With the vCPUs stopped it need
 * not be armed.
 * The senders get to work at once: a long run of chunks with nothing in them may come next.
 */
static bool take_chunk(FerryFirstPass *pass, size_t region, uint64_t number, uint64_t *nr_touched,
                       GError **errp)
{
    Queueing queueing = {.pass = pass, .region = region};
    bool ok = (ferry_first_pass_is_late(pass) || arm_chunk(pass, region, number, errp)) &&
              scan_chunks(pass, region, number, 1, queue_touched, &queueing, errp);

    pass->queued[region][number] = true;
    *nr_touched += queueing.queued_pages;
    if (queueing.queued_pages) {
        ferry_senders_kick(pass->senders);
    }
    return ok;
}

/* --- What nobody has touched ------------------------------------------------------------------ */

static void note_touched(void *opaque, uint64_t offset_bytes, uint64_t nr_bytes, FerryScanKind kind)
{
    GArray *chunks = opaque; /* of uint64_t, in order */
    uint64_t first = offset_bytes / FERRY_PAGE_BYTES / FERRY_CHUNK_PAGES;
    uint64_t last = (offset_bytes + nr_bytes - 1) / FERRY_PAGE_BYTES / FERRY_CHUNK_PAGES;

    for (uint64_t number = first; number <= last; number++) {
        if (chunks->len == 0 || g_array_index(chunks, uint64_t, chunks->len - 1) < number) {
            g_array_append_val(chunks, number);
        }
    }
}

/* Whether nothing in it was ever touched, and that is seen at once. */
static bool is_idle(FerryFirstPass *pass, const ChunkRef *chunk)
{
    g_autoptr(GArray) touched = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    const uint64_t quick_ns = ferry_scanner_quick_ns(pass->scanner);
    uint64_t start_ns = ferry_now_ns();

    return !chunk->seen &&
           scan_chunks(pass, chunk->region, chunk->number, 1, note_touched, touched, NULL) &&
           touched->len == 0 && ferry_now_ns() - start_ns < quick_ns &&
           (!pass->scan_is_read || pass->nr_idle * quick_ns < LOOK_AGAIN_MAX_NS);
}

static void add_idle(FerryFirstPass *pass, const ChunkRef *chunk)
{
    IdleRun new = {.region = chunk->region, .first = chunk->number, .nr = 1};

    pass->nr_idle++;
    /* Chunks come more or less in order: the neighbours are among the last. */
    for (guint i = pass->idle->len; i-- > 0 && i + 2 * GROUP_CHUNKS >= pass->idle->len;) {
        const IdleRun *run = &g_array_index(pass->idle, IdleRun, i);

        if (run->region == new.region &&
            (run->first + run->nr == new.first || new.first + new.nr == run->first)) {
            new.first = MIN(new.first, run->first);
            new.nr += run->nr;
            g_array_remove_index(pass->idle, i);
        }
    }
    g_array_append_val(pass->idle, new);
}

/* What is left of @run, from @number on, apart from chunks that have been touched. */
static void split_run(FerryFirstPass *pass, const IdleRun *run, const GArray *touched)
{
    uint64_t first = run->first;

    for (guint i = 0; i <= touched->len; i++) {
        uint64_t next =
            i < touched->len ? g_array_index(touched, uint64_t, i) : run->first + run->nr;
        IdleRun rest = {.region = run->region, .first = first, .nr = next - first};

        if (rest.nr) {
            g_array_append_val(pass->idle, rest);
        }
        first = next + 1;
    }
}

bool ferry_first_pass_look_again(FerryFirstPass *pass, GError **errp)
{
    g_autoptr(GArray) touched = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    g_autoptr(GArray) runs = NULL;
    uint64_t nr_touched = 0;
    bool ok = true;

    g_mutex_lock(&pass->lock);
    runs = pass->idle;
    pass->idle = g_array_new(FALSE, FALSE, sizeof(IdleRun));
    for (guint i = 0; i < runs->len; i++) {
        const IdleRun *run = &g_array_index(runs, IdleRun, i);

        g_array_set_size(touched, 0);
        ok = ok && scan_chunks(pass, run->region, run->first, run->nr, note_touched, touched, errp);
        for (guint j = 0; ok && j < touched->len; j++) {
            ok = take_chunk(pass, run->region, g_array_index(touched, uint64_t, j), &nr_touched,
                            errp);
        }
        split_run(pass, run, touched);
    }
    atomic_fetch_sub(&pass->skipped_pages, nr_touched);
    ferry_first_pass_unlock(pass);
    return ok;
}

/* --- The pass --------------------------------------------------------------------------------- */

bool ferry_first_pass_feed(FerryFirstPass *pass, GError **errp)
{
    uint64_t nr_pages, nr_touched = 0;
    ChunkRef chunk;
    bool ok = true;

    if (!choose(pass, &chunk, errp)) {
        return false;
    }
    nr_pages = ferry_chunk_nr_pages(&pass->regions->list[chunk.region], chunk.number);
    g_mutex_lock(&pass->lock);
    if (is_idle(pass, &chunk)) {
        add_idle(pass, &chunk);
    } else {
        ok = take_chunk(pass, chunk.region, chunk.number, &nr_touched, errp);
    }
    atomic_fetch_add(&pass->skipped_pages, nr_pages - nr_touched);
    ferry_first_pass_unlock(pass);
    atomic_fetch_sub(&pass->unseen_bytes, nr_pages * FERRY_PAGE_BYTES);
    return ok;
}

bool ferry_first_pass_restart(FerryFirstPass *pass, const FerryTracker *next, GError **errp)
{
    bool ok;

    /* Whoever hints at free pages has a tracker arm, too. */
    g_mutex_lock(&pass->lock);
    ok = ferry_backlog_replace_tracker(pass->backlog, next, errp);
    ferry_backlog_disarm_all(pass->backlog);
    ferry_backlog_unspare_all(pass->backlog);
    for (size_t i = 0; i < pass->regions->nr; i++) {
        memset(pass->queued[i], 0, ferry_backlog_nr_chunks(pass->backlog, i) * sizeof(bool));
        memset(pass->hintable[i], 0, ferry_backlog_nr_chunks(pass->backlog, i) * sizeof(bool));
    }
    /* What has become zero since its first copy must be sent now. */
    pass->restarted = true;
    pass->look = pass->next = (ChunkRef){0};
    pass->nr_seen = 0;
    g_array_set_size(pass->cold, 0);
    g_array_set_size(pass->hot, 0);
    g_array_set_size(pass->idle, 0);
    pass->nr_idle = 0;
    atomic_store(&pass->unseen_bytes, pass->total_bytes);
    atomic_store(&pass->skipped_pages, 0);
    ferry_hint_queue_forget(pass->hints);
    ferry_first_pass_unlock(pass);
    return ok;
}

/* --- Hints that are expected ------------------------------------------------------------------ */

/* With the lock held: what was touched is armed at once, or what was armed so far is left at that. */
static bool arm_ahead(FerryFirstPass *pass, size_t region, uint64_t number, GError **errp)
{
    g_autoptr(GArray) touched = g_array_new(FALSE, FALSE, sizeof(uint64_t));

    if (pass->armed_ahead || ferry_backlog_is_armed(pass->backlog, region, number)) {
        return true;
    }
    return scan_chunks(pass, region, number, 1, note_touched, touched, errp) &&
           (touched->len == 0 || arm_chunk(pass, region, number, errp));
}

/* With the lock held: where the next step goes on, or false at the end. */
static bool next_expected(FerryFirstPass *pass)
{
    while (pass->expect.region < pass->regions->nr &&
           pass->expect.number >= ferry_backlog_nr_chunks(pass->backlog, pass->expect.region)) {
        pass->expect = (ChunkRef){.region = pass->expect.region + 1};
    }
    return pass->expect.region < pass->regions->nr;
}

bool ferry_first_pass_expect_hints(FerryFirstPass *pass, bool *done, GError **errp)
{
    bool ok = true;

    g_mutex_lock(&pass->lock);
    *done = !next_expected(pass);
    for (unsigned i = 0; ok && !*done && i < EXPECT_CHUNKS; i++) {
        const ChunkRef at = pass->expect;

        ok = arm_ahead(pass, at.region, at.number, errp);
        pass->hintable[at.region][at.number] =
            ferry_backlog_is_armed(pass->backlog, at.region, at.number);
        pass->expect.number++;
        *done = !next_expected(pass);
    }
    if (*done) {
        pass->armed_ahead = true;
        pass->expect = (ChunkRef){0};
    }
    /* What waits was said before the arming, and may be older than what was written since. */
    ferry_hint_queue_forget(pass->hints);
    ferry_first_pass_unlock(pass);
    return ok;
}
