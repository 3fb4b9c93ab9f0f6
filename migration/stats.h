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

/* How long something took: bucket i counts what took less than 2^i us, and not less than half. */
#define FERRY_HISTOGRAM_BUCKETS 24

typedef struct FerryHistogram {
    uint64_t counts[FERRY_HISTOGRAM_BUCKETS]; /* the last one also takes what is longer */
    uint64_t max_ns;
} FerryHistogram;

typedef struct FerryStats {
    FerrySessionPhase phase;
    uint64_t total_bytes;
    uint64_t remaining_bytes;
    uint64_t normal_pages;
    uint64_t zero_pages;
    uint64_t skipped_pages; /* never touched: not even read */
    uint64_t sent_bytes;
    uint64_t elapsed_ns;     /* from opening the channels to the hand-off, or until now */
    uint64_t deferred_pages; /* how often a page was put off because it stays hot */
    FerryHistogram arm;      /* switching on write tracking, chunk by chunk */
    GArray *channels;        /* of FerryChannelStats, the control channel first */
    GArray *rounds;          /* of FerryRoundStats */
    bool has_report;
    FerryReport report;
} FerryStats;

void ferry_stats_clear(FerryStats *stats);

void ferry_histogram_add(FerryHistogram *histogram, uint64_t ns);

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t ferry_now_ns(void);

#endif
