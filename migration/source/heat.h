/*
 * Which chunks does the guest write?  A guess, made before their writes are traced.
 *
 * What is copied first is written most until the first pass is over: so chunks in use should go
 * last.  That costs less to find out by looking than by tracing: a few pages of each chunk are
 * looked at some time before its copy, and once more just before it.
 *
 * Reads few pages, twice, of what was ever touched; not what is swapped out.  A guess that is wrong
 * costs time, nothing else.
 *
 * Threads: one.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_HEAT_H
#define FERRY_HEAT_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "../memory/region.h"

typedef struct FerryHeat FerryHeat;

/* Of @regions, which are asked through @scanner; both must stay. */
FerryHeat *ferry_heat_new(const FerryRegions *regions, const FerryScanner *scanner);
void ferry_heat_free(FerryHeat *heat);

/*
 * Look at @chunk of @region, at one page in @stretch_pages, and remember what is seen.  May be
 * repeated: begins anew.
 */
bool ferry_heat_look(FerryHeat *heat, uint32_t region, uint64_t chunk, unsigned stretch_pages,
                     GError **errp);

/* Whether pages of the chunk are remembered: then it has some that were touched. */
bool ferry_heat_knows(const FerryHeat *heat, uint32_t region, uint64_t chunk);

/* How much memory that was touched there is in all chunks that were looked at. */
uint64_t ferry_heat_data_bytes(const FerryHeat *heat);

/*
 * What part of the pages looked at has changed since, of FERRY_HEAT_MAX; more than 0 if one has.
 * Looks no further when it has seen some that did.  0 if it was not looked at.
 */
unsigned ferry_heat_changed(const FerryHeat *heat, uint32_t region, uint64_t chunk);

#define FERRY_HEAT_MAX 1024

/* No more will be asked about the chunk, until it is looked at again. */
void ferry_heat_forget(FerryHeat *heat, uint32_t region, uint64_t chunk);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(FerryHeat, ferry_heat_free)

#endif
