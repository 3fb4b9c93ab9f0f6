/*
 * Pacing: keeping several sending threads, together, to one bandwidth
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_PACE_H
#define FERRY_PACE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* From this rate on, a pace does not limit. No network is as fast. */
#define FERRY_PACE_MAX_BYTES_PER_SECOND UINT64_C(1000000000000)

typedef struct FerryPace FerryPace;

/** ferry_pace_lower: the lower one of two limits in bytes a second, of which 0 is none */
static inline uint64_t ferry_pace_lower(uint64_t a, uint64_t b)
{
    return a && b ? MIN(a, b) : MAX(a, b);
}

/** ferry_pace_new: a pace that does not limit yet; free it with ferry_pace_free() */
FerryPace *ferry_pace_new(void);

/** ferry_pace_free: free @pace, which nobody may be using; NULL is allowed */
void ferry_pace_free(FerryPace *pace);

/**
 * ferry_pace_set_rate: allow @bytes_per_second from now on; 0 is no limit
 *
 * Whoever is waiting goes on under the new rate at once. Any thread, any time.
 */
void ferry_pace_set_rate(FerryPace *pace, uint64_t bytes_per_second);

/**
 * ferry_pace_take: wait until @nr_bytes more may be sent
 *
 * Takers are served in the order in which they came. A taker that comes to an idle pace goes
 * on at once however much it asks for, and those after it wait for the time it has used up. So
 * in any second, no more is let through than the rate allows plus 3 % of it, nor in any shorter
 * time than 10 ms worth and half more than the rate allows; in both, plus the largest single
 * take. Without a limit this is one atomic load. Any thread.
 *
 * Returns false, with nothing taken, when the pace is or becomes interrupted.
 */
bool ferry_pace_take(FerryPace *pace, uint64_t nr_bytes);

/** ferry_pace_held_up: whether anybody has had to wait since this was asked before; any thread */
bool ferry_pace_held_up(FerryPace *pace);

/**
 * ferry_pace_interrupt: make every waiting and every further ferry_pace_take() return false
 *
 * Lasts until ferry_pace_resume(). Any thread.
 */
void ferry_pace_interrupt(FerryPace *pace);

/** ferry_pace_resume: let takers in again after ferry_pace_interrupt(); any thread */
void ferry_pace_resume(FerryPace *pace);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(FerryPace, ferry_pace_free)

#endif
