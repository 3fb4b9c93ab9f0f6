/*
 * What the guest's memory must hold: a copy of it that the test writes along with the guest's.
 *
 * There is no guest code: the test writes through qtest, which takes the path of a device's DMA and
 * so marks pages dirty. Comparing looks at every byte of RAM, not at checksums or samples.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_QTEST_MEMORY_H
#define FERRY_QTEST_MEMORY_H

#include "vm.h"

#define MEMORY_PAGE 4096u

typedef struct Memory {
    uint64_t size;
    uint8_t *bytes;
    GRand *rand;
    uint64_t others_start, others_end; /* somebody else writes here: not compared */
} Memory;

Memory *memory_new(uint64_t size);
void memory_free(Memory *memory);

/*
 * Fill a machine that has just been started: about @filled bytes of noise in runs of many lengths
 * (the first page above 1 MiB and the last one of all among them), pages of one value, pages that
 * were written but are zero; the rest is never touched, and most of the last quarter never will be.
 */
void memory_fill(Memory *memory, Vm *vm, uint64_t filled);

/*
 * Write again to about @nr_bytes of it: whole runs of pages, parts of pages, single bytes; some
 * pages become zero, some stop being zero.
 */
void memory_scribble(Memory *memory, Vm *vm, uint64_t nr_bytes);

/* What @vm has in this piece of its physical memory, as a file that exists no more. */
GMappedFile *memory_dump(Vm *vm, uint64_t address, uint64_t nr_bytes);

/* Where the guest writes by itself: what @vm holds, which must be stopped, is what ought to be. */
void memory_take(Memory *memory, Vm *vm);

/* How many pages differ in @vm; the first of them is told in the test's log. */
uint64_t memory_count_differences(const Memory *memory, Vm *vm);

/* Fails the test when any page differs. */
void memory_check(const Memory *memory, Vm *vm);

#endif
