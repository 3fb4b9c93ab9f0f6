/*
 * Which mode passes which fault point, and why the others do not: see fault-world.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_FAULT_PLAN_H
#define FERRY_FAULT_PLAN_H

#include "fault-world.h"

/* Whether any mode passes it. */
bool fault_plan_has(FaultSide side, FerryFaultPoint point);

/* Whether it is as planned that @mode passes it, or does not. */
bool fault_plan_agrees(FaultSide side, FerryFaultPoint point, FaultMode mode, bool passed);

/* Whether @mode passes it each time. */
bool fault_plan_is_sure(FaultSide side, FerryFaultPoint point, FaultMode mode);

/* Why @mode does not pass it, in a word; and all these words explained. */
const char *fault_plan_cell(FaultSide side, FerryFaultPoint point, FaultMode mode);
void fault_plan_print_reasons(void);

#endif
