/*
 * The first pass over guest memory: pages whose content does not matter, see first-pass.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "first-pass.h"

#include <stdatomic.h>

#include "first-pass-internal.h"

/* So many chunks are armed ahead, 512 MiB, before it is looked whether that is still wanted. */
#define EXPECT_CHUNKS 16

/* --- Hints that come -------------------------------------------------------------------------- */

/*
 * With the lock held: @nr_pages of one chunk are free.  The driver takes the lock for its last look, so
 * that nobody puts anything back after that.
 */
static void hint_chunk(FerryFirstPass *pass, uint32_t region, uint64_t first_page,
                       uint64_t nr_pages)
{
    const uint64_t number = first_page / FERRY_CHUNK_PAGES;

    if (!pass->hintable[region][number]) {
        return;
    }
    if (!pass->queued[region][number]) {
        ferry_backlog_spare(pass->backlog, region, first_page, nr_pages);
    } else if (ferry_backlog_withdraw(pass->backlog, region, first_page, nr_pages)) {
        ferry_senders_kick(pass->senders);
    }
}

/* With the lock held.  With the vCPUs stopped it is too late. */
static void apply_hints(FerryFirstPass *pass)
{
    g_autoptr(GArray) hints = ferry_hint_queue_take(pass->hints);

    for (guint i = 0; hints && i < hints->len; i++) {
        const FerryHint *hint = &g_array_index(hints, FerryHint, i);
        uint64_t nr_pages = ferry_region_nr_pages(&pass->regions->list[hint->region]);
        uint64_t end = MIN(hint->first_page + hint->nr_pages, nr_pages);

        for (uint64_t page = hint->first_page, next; page < end && !ferry_first_pass_is_late(pass);
             page = next) {
            next = MIN(end, (page / FERRY_CHUNK_PAGES + 1) * FERRY_CHUNK_PAGES);
            hint_chunk(pass, hint->region, page, next - page);
        }
    }
}

void ferry_first_pass_unlock(FerryFirstPass *pass)
{
    unsigned nr_tries = 0;

    do {
        apply_hints(pass);
        g_mutex_unlock(&pass->lock);
    } while (++nr_tries < 4 && !ferry_hint_queue_is_empty(pass->hints) &&
             g_mutex_trylock(&pass->lock));
}

/* --- Hints that are expected ------------------------------------------------------------------ */

/* With the lock held: what was touched is armed at once, or what was armed so far is left at that. */
static bool arm_ahead(FerryFirstPass *pass, size_t region, uint64_t number, GError **errp)
{
    g_autoptr(GArray) touched = g_array_new(FALSE, FALSE, sizeof(uint64_t));

    if (pass->armed_ahead || ferry_backlog_is_armed(pass->backlog, region, number)) {
        return true;
    }
    return ferry_first_pass_scan(pass, region, number, 1, ferry_first_pass_note_touched, touched,
                                 errp) &&
           (touched->len == 0 || ferry_first_pass_arm(pass, region, number, errp));
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

void ferry_first_pass_hint(FerryFirstPass *pass, uint32_t region, uint64_t first_page,
                           uint64_t nr_pages)
{
    const FerryHint hint = {.region = region, .first_page = first_page, .nr_pages = nr_pages};

    /* Not waited for: the driver may be arming, with vCPUs that want what the caller holds. */
    ferry_hint_queue_add(pass->hints, &hint);
    if (g_mutex_trylock(&pass->lock)) {
        ferry_first_pass_unlock(pass);
    }
}
