/*
 * HMP commands.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_HMP_H
#define FERRY_GLUE_HMP_H

#include "monitor/monitor.h"

void hmp_info_ferry(Monitor *mon, const QDict *qdict);
void hmp_ferry_abandon(Monitor *mon, const QDict *qdict);

#endif
