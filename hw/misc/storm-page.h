/*
 * What a page holds that a storm has written: a stamp, and after it content that can be made again.
 *
 * A page is blank (all zeros) or stamped. A stamp is FERRY_STORM_STAMP_BYTES at the page's start,
 * little-endian:
 *
 *      0  magic
 *      8  page        its number in the storm's region
 *     16  generation  when it was written: the storm counts its writes
 *     24  body        when the rest of the page was written; 0: the rest is zeros
 *     32  content     kind of the rest
 *     40  check       over all of the above and the storm's seed
 *
 * So everything in a page follows from its stamp, and a page that was damaged in any byte shows it.
 * That a whole page is too old cannot be seen in the page: that is what storm-digest.h is for.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_STORM_PAGE_H
#define FERRY_STORM_PAGE_H

#include <stddef.h>
#include <stdint.h>

#define FERRY_STORM_PAGE_BYTES  4096u
#define FERRY_STORM_STAMP_BYTES 48u

typedef enum {
    FERRY_STORM_ZERO,         /* a blank page: no stamp either */
    FERRY_STORM_NOISE,        /* does not compress at all */
    FERRY_STORM_COMPRESSIBLE, /* to a quarter, by any method */
    FERRY_STORM_TEXT,         /* words */
    FERRY_STORM_NR_CONTENTS,
} FerryStormContent;

typedef struct FerryStormStamp {
    uint64_t page;
    uint64_t generation;
    uint64_t body;
    FerryStormContent content;
    uint64_t check; /* never 0 */
} FerryStormStamp;

typedef enum {
    FERRY_STORM_PAGE_BLANK,
    FERRY_STORM_PAGE_STAMPED,
    FERRY_STORM_PAGE_BAD_STAMP, /* neither */
    FERRY_STORM_PAGE_MISPLACED, /* another page of this storm */
    FERRY_STORM_PAGE_BAD_BODY,  /* the stamp is fine, the rest is not what it says */
} FerryStormPageState;

/*
 * Look at the stamp only: BLANK (when there are zeros in its place), STAMPED, BAD_STAMP or
 * MISPLACED. @stamp is filled in for STAMPED and MISPLACED.
 */
FerryStormPageState ferry_storm_page_peek(const uint8_t *host, uint64_t seed, uint64_t page,
                                          FerryStormStamp *stamp);

/* Look at every byte. @stamp is filled in for all but BLANK and BAD_STAMP. */
FerryStormPageState ferry_storm_page_check(const uint8_t *host, uint64_t seed, uint64_t page,
                                           FerryStormStamp *stamp);

/* Write the stamp; fills in its check. */
void ferry_storm_page_stamp(uint8_t *host, uint64_t seed, FerryStormStamp *stamp);

/* Write all of the page but its stamp, as the stamp says. */
void ferry_storm_page_fill(uint8_t *host, uint64_t seed, const FerryStormStamp *stamp);

#endif
