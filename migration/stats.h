/*
 * What a session tells about itself.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_STATS_H
#define FERRY_STATS_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "wire.h"

typedef enum {
    FERRY_SESSION_CONNECT,  /* opening channels, checking regions */
    FERRY_SESSION_COPY,     /* the first pass over memory */
    FERRY_SESSION_ROUNDS,   /* pages written meanwhile */
    FERRY_SESSION_HAND_OFF, /* vCPUs stopped */
    FERRY_SESSION_DONE,
    FERRY_SESSION_FAILED,
} FerrySessionPhase;

typedef struct FerryChannelStats {
    char name[32];
    uint64_t bytes;            /* sent by the source, received by the destination */
    uint64_t bytes_per_second; /* since the channel opened */
} FerryChannelStats;

/* Round 1 is the first pass; the last one runs with the vCPUs stopped. */
typedef struct FerryRoundStats {
    uint64_t pages; /* sent with their content */
    uint64_t zero_pages;
    uint64_t bytes;       /* on the wire */
    uint64_t dirty_pages; /* that the harvest which began the round reported */
    uint64_t harvest_ns;
    uint64_t elapsed_ns;
} FerryRoundStats;

typedef struct FerryStats {
    FerrySessionPhase phase;
    uint64_t total_bytes;
    uint64_t remaining_bytes;
    uint64_t normal_pages;
    uint64_t zero_pages;
    uint64_t skipped_pages; /* never touched: not even read */
    uint64_t sent_bytes;
    uint64_t elapsed_ns; /* from opening the channels to the hand-off, or until now */
    uint64_t longest_arm_ns;
    GArray *channels; /* of FerryChannelStats, the control channel first */
    GArray *rounds;   /* of FerryRoundStats */
    bool has_report;
    FerryReport report;
} FerryStats;

void ferry_stats_clear(FerryStats *stats);

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t ferry_now_ns(void);

#endif
