/*
 * The first pass over guest memory: hints at pages that are free, which may have to wait.  See
 * first-pass.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "first-pass-internal.h"

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
