/*
 * feed() on top of a tracker that has reset(): what it would be like with one protocol for all
 *
 * A harvest keeps what the tracker found.  feed() resets that a granule at a time, as far as it was
 * found, and reports it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_BENCH_FEEDER_H
#define FERRY_BENCH_FEEDER_H

#include "migration/memory/pageset.h"
#include "migration/tracker.h"

/* Of a machine with one region.  Threads: all but report() in the one that drives the source. */
typedef struct Feeder {
    FerryTracker inner;
    uint64_t nr_pages;  /* of the region */
    FerryPageset *kept; /* found, and not reset yet */
    const FerryTrackerClient *client;
    FerryTrackerClient own; /* the inner tracker's */
} Feeder;

/* The tracker is good until feeder_clear(). */
FerryTracker feeder_init(Feeder *feeder, const FerryTracker *inner, uint64_t nr_pages);
void feeder_clear(Feeder *feeder);

#endif
