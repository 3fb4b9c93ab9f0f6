/*
 * Shares: the migrations of a host, of all its processes, keep together to one bandwidth.
 *
 * They know of each other by a file in which each has a record, of what it would send.  Each works out alone, from all
 * records, what it may send: all come to the same, give or take what has changed meanwhile.  A lock on a byte
 * for each record says that its member lives; when a process ends, however it does, the kernel lets go of it.
 * Nothing in the file is trusted, and it is not mapped: whoever may write to it could cut it off.
 *
 * Threads: one at a time, except where it says otherwise.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_SHARES_H
#define FERRY_SHARES_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../stats.h"

/* How many migrations of a host can share its bandwidth, in each direction. */
#define FERRY_SHARES_MEMBERS 256

#define FERRY_SHARES_WEIGHT_MAX 10000

/* Longest path of the file, in bytes. */
#define FERRY_SHARES_FILE_MAX 1023

typedef struct FerryShares FerryShares;

/* Networks have one bandwidth for each. */
typedef enum {
    FERRY_OUTGOING,
    FERRY_INCOMING,
} FerryDirection;

typedef struct FerrySharesConfig {
    FerryDirection direction;
    unsigned weight; /* 1 to FERRY_SHARES_WEIGHT_MAX */
    uint64_t
        host_bytes_per_second; /* what all of them have together; the least that one says counts */
} FerrySharesConfig;

/* Whether a text may name the file. */
bool ferry_shares_check_file(const char *path, GError **errp);

/*
 * Become a member, by the file at @path, which is made if there is none.  NULL and an error where it cannot be
 * used.  A child of this process that keeps its descriptors keeps the membership.
 */
FerryShares *ferry_shares_join(const char *path, const FerrySharesConfig *config, GError **errp);

/* NULL is allowed. */
void ferry_shares_leave(FerryShares *shares);

/*
 * @sent_bytes: how much it has sent, since it joined or began anew.  @held_up: it would have sent more.  @limit: its
 * own limit in bytes a second, or 0.  Returns what it may send a second from now on, 1 at least.  To be called every
 * 50 to 100 ms while it sends.
 */
uint64_t ferry_shares_update(FerryShares *shares, uint64_t sent_bytes, bool held_up,
                             uint64_t limit);

/* How it stands.  Any thread. */
void ferry_shares_query(FerryShares *shares, FerrySharesStats *stats);

/* --- For tests ------------------------------------------------------------------------------------ */

typedef struct FerryShareClaim {
    unsigned weight;
    uint64_t demand; /* bytes a second that it would use */
    uint64_t grant;  /* that it gets */
} FerryShareClaim;

/*
 * Share out @total: in proportion to weights, nobody more than it would use, and what that leaves to the others in the
 * same way (weighted max-min).
 */
void ferry_shares_fill(FerryShareClaim *claims, size_t nr_claims, uint64_t total);

#endif
