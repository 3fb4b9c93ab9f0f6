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

typedef enum {
    FERRY_SESSION_CONNECT,  /* opening channels, checking regions */
    FERRY_SESSION_COPY,     /* the first pass over memory */
    FERRY_SESSION_ROUNDS,   /* pages written meanwhile */
    FERRY_SESSION_HAND_OFF, /* vCPUs stopped */
    FERRY_SESSION_FETCH,    /* the guest runs at the destination, pages are missing there */
    FERRY_SESSION_PAUSED,   /* the same, and the connection is broken */
    FERRY_SESSION_DONE,
    FERRY_SESSION_FAILED,
    FERRY_SESSION_IN_DOUBT, /* at the source: it is not known who has the guest */
} FerrySessionPhase;

/* Longest name of a TCP congestion control, in bytes; the kernel's limit. */
#define FERRY_CONGESTION_MAX 15

/* How what a TCP socket sends is marked. */
typedef struct FerryMarks {
    unsigned dscp;     /* 0 to 63 */
    unsigned priority; /* SO_PRIORITY: of its packets in the host's own queues */
    char congestion[FERRY_CONGESTION_MAX + 1];
} FerryMarks;

/* The way from the source to its destination, as the source's kernel sees it. */
typedef struct FerryPath {
    unsigned mtu_bytes; /* of the whole path, as far as it is known */
    unsigned
        interface_mtu_bytes; /* of the interface that it begins with; 0: not known, or the loopback */
    char interface[16];      /* its name */
    unsigned mss_bytes;      /* what a packet carries */
    bool is_ipv6;
    uint64_t rtt_us, min_rtt_us; /* round trip: now, and the shortest seen; 0: not known */
    uint64_t send_limit_bytes;   /* to which the send buffer may grow; 0: not known */
    uint64_t window_limit_bytes; /* to which the window of the destination may grow; 0: not known */
    unsigned nr_channels;        /* data channels that share it */
    uint64_t max_bytes_per_second; /* that are allowed on it; 0: no limit */
} FerryPath;

/* A migration's share of what the host allows all of them in one direction. */
typedef struct FerrySharesStats {
    unsigned nr_members; /* migrations that share it, with this one */
    unsigned weight;     /* this one's */
    uint64_t total_weight;
    uint64_t host_bytes_per_second;    /* the limit; the lowest that one of them has */
    uint64_t granted_bytes_per_second; /* what this one may have now */
} FerrySharesStats;

typedef struct FerryChannelStats {
    char name[32];
    bool has_marks; /* it is TCP */
    FerryMarks marks;
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

/*
 * Latencies, fine enough for percentiles: FERRY_LATENCY_STEPS buckets for each doubling, from 1 us
 * on; the first one takes what is shorter, the last one what is longer.
 */
#define FERRY_LATENCY_STEPS   8
#define FERRY_LATENCY_BUCKETS (26 * FERRY_LATENCY_STEPS)

typedef struct FerryLatency {
    uint64_t counts[FERRY_LATENCY_BUCKETS];
    uint64_t nr;
    uint64_t max_ns;
} FerryLatency;

/* What a source serves, or a destination asks for, while pages are missing. */
typedef struct FerryFetchStats {
    uint64_t faults; /* pages that the guest waited for; at the source: that were asked for */
    /* Known at the destination only, like the latency. */
    uint64_t zero_faults;   /* pages never touched, answered there */
    uint64_t placed_pages;  /* that were missing */
    uint64_t duplicates;    /* that came twice, the second time for nothing */
    uint64_t missing_pages; /* now */
    uint64_t handed_pages;  /* missing at the hand-off */
    uint64_t nr_recoveries;
    uint64_t all_blocked_ms; /* how long all vCPUs at once waited */
    FerryLatency latency;    /* of faults, from their being seen to their being answered */
} FerryFetchStats;

/* The blackout, as the destination measured it; nanoseconds since the notice that vCPUs stopped. */
typedef struct FerryReport {
    uint64_t memory_ns;  /* until the last page was in place */
    uint64_t loaded_ns;  /* until the device state was loaded */
    uint64_t running_ns; /* until the vCPUs ran; 0 when the guest is to stay paused */
} FerryReport;

typedef struct FerryStats {
    FerrySessionPhase phase;
    /* The source's: only it knows of skipped and deferred pages, arming and rounds; it sees no fault answered. */
    bool is_source;
    uint64_t total_bytes;
    bool has_remaining; /* it is known how much that is */
    uint64_t remaining_bytes;
    uint64_t normal_pages;
    uint64_t zero_pages;
    uint64_t skipped_pages; /* not touched so far: not even read */
    uint64_t sent_bytes;
    uint64_t elapsed_ns;     /* from opening the channels to the hand-off, or until now */
    uint64_t deferred_pages; /* how often a page was put off because it stays hot */
    FerryHistogram arm;      /* switching on write tracking, chunk by chunk */
    GArray *channels;        /* of FerryChannelStats, the control channel first */
    GArray *rounds;          /* of FerryRoundStats */
    bool has_path;           /* known at the source, where it is TCP */
    FerryPath path;
    bool has_shares;
    FerrySharesStats shares;
    bool has_report;
    FerryReport report;
    bool has_fetch;
    FerryFetchStats fetch;
    GArray
        *vcpu_blocked_ms; /* of uint64_t: how long each vCPU waited; NULL where that is not known */
} FerryStats;

void ferry_stats_clear(FerryStats *stats);
/* The lists are shared, and must not be changed. */
void ferry_stats_copy(FerryStats *to, const FerryStats *from);

void ferry_histogram_add(FerryHistogram *histogram, uint64_t ns);

void ferry_latency_add(FerryLatency *latency, uint64_t ns);

/* The latency that @per_100k of 100,000 do not exceed, in ns; exact to the bucket.  0 if none. */
uint64_t ferry_latency_percentile(const FerryLatency *latency, unsigned per_100k);

#endif
