/*
 * Convergence: when to switch, and how hard to slow the guest down.
 *
 * Pure decisions over numbers; nothing here knows a clock, a guest or a channel.
 *
 * Threads: none; the caller serialises.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_CONVERGE_H
#define FERRY_CONVERGE_H

#include <stdbool.h>
#include <stdint.h>

/* Below this, another round costs more than the blackout it could save. */
#define FERRY_CONVERGE_SMALL_BYTES (UINT64_C(512) * 1024)

/* A round that leaves less than this part (percent) of what it began with was worth it. */
#define FERRY_CONVERGE_GAIN_PERCENT 75

/* Rounds in a row that bring no gain before the switch is made all the same. */
#define FERRY_CONVERGE_PATIENCE 2

/* Rounds below the limit, however well they go, before the switch is made all the same. */
#define FERRY_CONVERGE_ROUNDS_MAX 12

typedef struct FerryConverge {
    uint64_t best_bytes; /* least that a harvest below the limit has found */
    unsigned nr_rounds;  /* harvests below the limit */
    unsigned nr_stale;   /* of those, how many in a row brought no gain */
} FerryConverge;

/* A harvest found @pending_bytes to send, with at most @limit_bytes fitting the allowed blackout. */
void ferry_converge_note(FerryConverge *converge, uint64_t pending_bytes, uint64_t limit_bytes);

/*
 * Whether to go on although the rest fits the allowed blackout: as long as each round leaves
 * clearly less than the one before.  The allowed blackout is a limit, not a goal.
 */
bool ferry_converge_wants_round(const FerryConverge *converge, uint64_t pending_bytes);

/* With less in a round, what it took on the wire says nothing. */
#define FERRY_WIRE_COST_LEAST_BYTES (UINT64_C(256) * 1024)

/* A page costs at least this part of its bytes.  The time to look at it is in the rate that is measured, too. */
#define FERRY_WIRE_COST_LEAST_PART 256

/*
 * What pages take on the wire: compressed ones less than they have.  A blackout is limited by what the wire carries,
 * and so is the rate at which a guest may write.  Zero pages do not count: of those that are still to come, nobody
 * knows whether they are.  Of the rounds so far, each counts half as much as the one after it.  All zero:
 * nothing is known, and each byte counts as one.
 */
typedef struct FerryWireCost {
    uint64_t page_bytes, wire_bytes;
} FerryWireCost;

/* A round of pages that were written again: @page_bytes of them took @wire_bytes. */
void ferry_wire_cost_note(FerryWireCost *cost, uint64_t page_bytes, uint64_t wire_bytes);

/* What @page_bytes will take. */
uint64_t ferry_wire_cost_of(const FerryWireCost *cost, uint64_t page_bytes);

typedef struct FerryThrottleParams {
    unsigned trigger_percent;   /* dirtied / sent in a round, above which a round is bad */
    unsigned initial_percent;   /* first throttle */
    unsigned increment_percent; /* added each time */
    unsigned max_percent;
    bool tailslow; /* grow by no more than what is needed near the end */
} FerryThrottleParams;

typedef struct FerryThrottle {
    unsigned nr_bad; /* bad rounds since the throttle last grew */
} FerryThrottle;

/*
 * A round ended in which @sent_bytes went out and @dirty_bytes were written.  @percent is the
 * throttle in force (0: none).  Returns the throttle to set, or 0 to leave it as it is.
 */
unsigned ferry_throttle_next(FerryThrottle *throttle, const FerryThrottleParams *params,
                             uint64_t sent_bytes, uint64_t dirty_bytes, unsigned percent);

#endif
