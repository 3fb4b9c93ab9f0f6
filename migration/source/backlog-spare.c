/*
 * The backlog's first copies, and pages whose content does not matter until they are written.  See
 * backlog.h.
 *
 * Why a page is sent that is written after its chunk was armed, whether it was spared before or after:
 *
 *   whoever spares              guest      tracker                     first pass
 *   --------------              -----      -------                     ----------
 *                               writes p
 *   puts p into `spared`
 *                                          takes p out of `spared`
 *                                                                      queues what is not spared
 *                                          notes p as written
 *                                          queues p
 *
 * The first pass only ever adds to what is queued, and the tracker queues p in any case, so it does not
 * matter whether the first pass sees p as spared.
 *
 * Why a page that waits to be sent may be withdrawn:
 *
 *   whoever withdraws           tracker                     senders
 *   -----------------           -------                     -------
 *   round, and that nothing waits for a reset
 *                               notes p as written
 *   takes p out of `queued`
 *                               queues p
 *   puts p back if it is noted, or if the round has changed
 *
 * Either p is noted before the last look, and put back; or it is queued after it was taken out.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "backlog-internal.h"

/* Pages from @first to before @end that lie in word @word, as bits. */
static uint64_t mask_in(uint64_t word, uint64_t first, uint64_t end)
{
    uint64_t mask = UINT64_MAX;

    if (first > word * 64) {
        mask &= UINT64_MAX << (first - word * 64);
    }
    if (end - word * 64 < 64) {
        mask &= (UINT64_C(1) << (end - word * 64)) - 1;
    }
    return mask;
}

/* --- The first pass ---------------------------------------------------------------------------- */

static uint64_t add_first(const FerryBacklog *backlog, const BacklogRegion *state,
                          FerryPageset *set, uint64_t first_page, uint64_t nr_pages)
{
    const uint64_t end = first_page + nr_pages;
    uint64_t nr_added = 0;

    if (!atomic_load(&backlog->sparing)) {
        ferry_pageset_add(set, first_page, nr_pages);
        return nr_pages;
    }
    for (uint64_t word = first_page / 64; word * 64 < end; word++) {
        uint64_t mask = mask_in(word, first_page, end) & ~ferry_pageset_get(state->spared, word);

        ferry_pageset_add_mask(set, word, mask);
        nr_added += (unsigned)__builtin_popcountll(mask);
    }
    return nr_added;
}

uint64_t ferry_backlog_queue(FerryBacklog *backlog, size_t region, uint64_t first_page,
                             uint64_t nr_pages)
{
    const BacklogRegion *state = &backlog->state[region];

    return add_first(backlog, state, state->queued, first_page, nr_pages);
}

uint64_t ferry_backlog_queue_swapped(FerryBacklog *backlog, size_t region, uint64_t first_page,
                                     uint64_t nr_pages)
{
    const BacklogRegion *state = &backlog->state[region];

    return add_first(backlog, state, state->swapped, first_page, nr_pages);
}

/* --- Sparing ----------------------------------------------------------------------------------- */

void ferry_backlog_spare(FerryBacklog *backlog, size_t region, uint64_t first_page,
                         uint64_t nr_pages)
{
    atomic_store(&backlog->sparing, true);
    ferry_pageset_add(backlog->state[region].spared, first_page, nr_pages);
}

void ferry_backlog_unspare_all(FerryBacklog *backlog)
{
    for (size_t i = 0; i < backlog->regions.nr; i++) {
        ferry_pageset_clear(backlog->state[i].spared);
    }
}

/* --- Withdrawing ------------------------------------------------------------------------------- */

/* What may have been written, and told, since the chunk's pages were queued for the last time. */
static uint64_t get_told(const BacklogRegion *state, unsigned round, uint64_t word)
{
    return ferry_pageset_get(state->written[round % FERRY_WRITTEN_SETS], word) |
           ferry_pageset_get(state->written[(round + FERRY_WRITTEN_SETS - 1) % FERRY_WRITTEN_SETS],
                             word);
}

static bool withdraw_mask(FerryBacklog *backlog, const BacklogRegion *state, uint64_t word,
                          uint64_t mask)
{
    const unsigned round = atomic_load(&backlog->round);
    uint64_t taken, back;

    mask &= ~get_told(state, round, word);
    taken = ferry_pageset_remove_mask(state->queued, word, mask) |
            ferry_pageset_remove_mask(state->swapped, word, mask);
    back = taken & get_told(state, round, word);
    /* With the vCPUs stopped nobody notes what is written. */
    if (ferry_backlog_is_stopped(backlog) || atomic_load(&backlog->round) != round) {
        back = taken;
    }
    ferry_pageset_add_mask(state->queued, word, back);
    return back;
}

bool ferry_backlog_withdraw(FerryBacklog *backlog, uint32_t region, uint64_t first_page,
                            uint64_t nr_pages)
{
    const BacklogRegion *state = &backlog->state[region];
    const Chunk *chunk = ferry_backlog_chunk(backlog, region, first_page);
    const uint64_t end = first_page + nr_pages;
    bool any_back = false;

    /* What was found and not reset is written without being found again: it has to be sent. */
    if (ferry_backlog_is_stopped(backlog) ||
        atomic_load(&chunk->reset_seq) != atomic_load(&chunk->found_seq)) {
        return false;
    }
    for (uint64_t word = first_page / 64; word * 64 < end; word++) {
        any_back |= withdraw_mask(backlog, state, word, mask_in(word, first_page, end));
    }
    return any_back;
}
