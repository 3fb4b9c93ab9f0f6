/*
 * A storm: writes to pages to order, and knows afterwards what each of them must hold.
 *
 * It sees memory as a region of pages, numbered from 0, through two functions. The working set is
 * the first so many pages of the region. What it knows of the pages (storm-digest.h) is a few
 * bytes per block, so it can be saved, sent to another host, and go on there.
 *
 * Threads: one at a time.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_STORM_H
#define FERRY_STORM_H

#include <glib.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "storm-digest.h"
#include "storm-page.h"
#include "storm-pattern.h"

/* Far more than any address space holds. */
#define FERRY_STORM_MAX_PAGES (UINT64_C(1) << 50)

typedef struct FerryStorm FerryStorm;

#define FERRY_STORM_ERROR ferry_storm_error_quark()

typedef enum {
    FERRY_STORM_ERROR_SAVED = 1, /* what was saved cannot be used here */
} FerryStormErrorCode;

GQuark ferry_storm_error_quark(void);

typedef struct FerryStormSettings {
    FerryStormPatternKind pattern;
    FerryStormContent content;
    bool whole;             /* pages are written as a whole; otherwise their stamps only */
    uint64_t working_pages; /* at least 1, at most the region */
    uint64_t hot_pages;     /* of the hot spot; 0: one in 16 of the working set */
} FerryStormSettings;

/*
 * The guest's memory. Both may block, for as long as it takes to fetch a page from another host.
 *
 * at()     where @page is; NULL if it cannot be reached, which ends what the storm is doing. It
 *          stays there until the next call of at().
 * wrote()  @nr_bytes from the start of @page have been written
 */
typedef struct FerryStormMemory {
    uint8_t *(*at)(void *opaque, uint64_t page);
    void (*wrote)(void *opaque, uint64_t page, size_t nr_bytes);
    void *opaque;
} FerryStormMemory;

/* Over a region of @nr_pages. What it writes depends on @seed, nothing else. */
FerryStorm *ferry_storm_new(uint64_t nr_pages, uint64_t seed);
void ferry_storm_free(FerryStorm *storm);

/* From the next page on. Out of bounds is a programming error. */
void ferry_storm_set(FerryStorm *storm, const FerryStormSettings *settings);

/* Write @nr_pages; returns how many were written, less only if memory could not be reached. */
uint64_t ferry_storm_write(FerryStorm *storm, const FerryStormMemory *memory, uint64_t nr_pages);

/*
 * Read something of each of the next @nr_pages, as far as memory can be reached: what is touched now can be written
 * later without waiting for it to be fetched. @ahead is a copy of ferry_storm_pattern(), and goes on; the storm
 * itself is not looked at.
 */
void ferry_storm_touch(FerryStormPattern *ahead, const FerryStormMemory *memory, uint64_t nr_pages);

const FerryStormPattern *ferry_storm_pattern(const FerryStorm *storm);

/* How often it has written a page, ever. */
uint64_t ferry_storm_nr_written(const FerryStorm *storm);

/* --- Verifying ------------------------------------------------------------------------------ */

typedef struct FerryStormVerdict {
    uint64_t to_check;     /* pages: up to the highest that was ever written */
    uint64_t checked;      /* pages so far; the verdict is complete when that is all */
    uint64_t wrong;        /* pages, stale ones among them; at least so many */
    uint64_t stale;        /* pages that are as the storm wrote them, but not the last time */
    uint64_t first_wrong;  /* a page's number, if there is a wrong one */
    char description[160]; /* of the first wrong page, "" if there is none */
    FerryStormSums found;  /* its own: of the block that it is in */
    uint64_t bad_in_block; /* the same: pages in it that are wrong by themselves */
    uint64_t first_bad;    /* the same: the first of them */
} FerryStormVerdict;

/* Nothing may be written from here until the verdict is complete, or given up. */
void ferry_storm_verify_begin(const FerryStorm *storm, FerryStormVerdict *verdict);

/* Check up to @nr_pages more. False if memory could not be reached. */
bool ferry_storm_verify_go_on(const FerryStorm *storm, FerryStormVerdict *verdict,
                              const FerryStormMemory *memory, uint64_t nr_pages);

static inline bool ferry_storm_verify_is_complete(const FerryStormVerdict *verdict)
{
    return verdict->checked == verdict->to_check;
}

/* --- Moving --------------------------------------------------------------------------------- */

/*
 * All that another storm over the same region needs to go on: position, random numbers, digests;
 * settings too. At most FERRY_STORM_MAX_SAVED_BYTES. To be freed.
 */
uint8_t *ferry_storm_save(const FerryStorm *storm, size_t *nr_bytes);

#define FERRY_STORM_MAX_SAVED_BYTES (16u * 8u + 16u * 8192u)

/*
 * Become what was saved. What comes is not trusted: a region of another size, another seed, numbers
 * out of bounds, a wrong checksum are errors, and leave @storm as it was.
 */
bool ferry_storm_load(FerryStorm *storm, const uint8_t *bytes, size_t nr_bytes, GError **errp);

/* More pages a second than can be written; keeps products in 64 bits. */
#define FERRY_STORM_MOST_RATE UINT64_C(10000000000)

/* With no limit, and a clock that only counts: pages a second. */
#define FERRY_STORM_COUNTED_RATE UINT64_C(1000000)

/* How fast a storm is to write, and what it was behind when it was saved. */
typedef struct FerryStormPace {
    uint64_t rate; /* pages a second; 0: no limit */
    uint64_t due;  /* pages that the clock has let through */
    uint64_t rest; /* of a page, in billionths at most */
} FerryStormPace;

/*
 * Take over @pace, which is not trusted: numbers that no storm saves are errors, and leave it as it was.  What is due
 * becomes no more than a tenth of a second lets through, as whoever stops the guest waits until it is written.
 */
bool ferry_storm_pace_load(FerryStormPace *pace, GError **errp);

/* As set, or loaded. */
const FerryStormSettings *ferry_storm_settings(const FerryStorm *storm);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(FerryStorm, ferry_storm_free)

#endif
