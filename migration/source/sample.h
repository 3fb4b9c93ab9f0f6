/*
 * A sample of the pages that are put off, to tell what they will take on the wire.
 *
 * Nobody sends them while they stay hot, but in the blackout they all go: what compressing them gains cannot be told
 * from the pages of the rounds, which are others.
 *
 * Reads and compresses some pages at each look, half a MiB at most: about a millisecond of one CPU.
 *
 * Threads: one, the driver.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_SAMPLE_H
#define FERRY_SAMPLE_H

#include "backlog.h"
#include "converge.h"

/* At most so many pages are looked at, at a time. */
#define FERRY_SAMPLE_PAGES 128

typedef struct FerrySample FerrySample;

/* Of the pages of @backlog, which must stay. */
FerrySample *ferry_sample_new(const FerryBacklog *backlog);
void ferry_sample_free(FerrySample *sample);

/*
 * Look at some of the pages that are put off, at others than the last time if there are more, and note in @cost what
 * they would take.
 */
void ferry_sample_look(FerrySample *sample, FerryWireCost *cost);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(FerrySample, ferry_sample_free)

#endif
