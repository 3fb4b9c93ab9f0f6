/*
 * Convergence: see converge.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "converge.h"

#include <glib.h>

void ferry_converge_note(FerryConverge *converge, uint64_t pending_bytes, uint64_t limit_bytes)
{
    if (pending_bytes > limit_bytes) {
        return;
    }
    converge->nr_rounds++;
    if (converge->nr_rounds == 1 ||
        pending_bytes < converge->best_bytes / 100 * FERRY_CONVERGE_GAIN_PERCENT) {
        converge->nr_stale = 0;
    } else {
        converge->nr_stale++;
    }
    if (converge->nr_rounds == 1 || pending_bytes < converge->best_bytes) {
        converge->best_bytes = pending_bytes;
    }
}

bool ferry_converge_wants_round(const FerryConverge *converge, uint64_t pending_bytes)
{
    return pending_bytes > FERRY_CONVERGE_SMALL_BYTES &&
           converge->nr_stale < FERRY_CONVERGE_PATIENCE &&
           converge->nr_rounds < FERRY_CONVERGE_ROUNDS_MAX;
}

void ferry_wire_cost_note(FerryWireCost *cost, uint64_t page_bytes, uint64_t wire_bytes)
{
    if (page_bytes < FERRY_WIRE_COST_LEAST_BYTES) {
        return;
    }
    cost->page_bytes = cost->page_bytes / 2 + page_bytes;
    cost->wire_bytes = cost->wire_bytes / 2 +
                       CLAMP(wire_bytes, page_bytes / FERRY_WIRE_COST_LEAST_PART, page_bytes);
}

uint64_t ferry_wire_cost_of(const FerryWireCost *cost, uint64_t page_bytes)
{
    double ratio = cost->page_bytes ? (double)cost->wire_bytes / (double)cost->page_bytes : 1;
    uint64_t wire_bytes = (uint64_t)((double)page_bytes * ratio);

    /* As long as there is a page left, there is something left. */
    return page_bytes ? MAX(wire_bytes, 1) : 0;
}

unsigned ferry_throttle_next(FerryThrottle *throttle, const FerryThrottleParams *params,
                             uint64_t sent_bytes, uint64_t dirty_bytes, unsigned percent)
{
    uint64_t threshold = sent_bytes / 100 * params->trigger_percent;
    unsigned step = params->increment_percent;

    if (dirty_bytes <= threshold || ++throttle->nr_bad < 2) {
        return 0;
    }
    throttle->nr_bad = 0;
    if (percent == 0) {
        return params->initial_percent;
    }
    if (params->tailslow && dirty_bytes > 0) {
        /* The throttle at which the guest would write just the threshold, were it linear. */
        double running = (100.0 - percent) / 100.0;
        double ideal = 100.0 - 100.0 * running * (double)threshold / (double)dirty_bytes;
        double wanted = ideal - percent;

        step = wanted < 1 ? 1 : MIN(step, (unsigned)wanted);
    }
    return MIN(percent + step, params->max_percent);
}
