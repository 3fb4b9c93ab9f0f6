/*
 * HMP commands.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_HMP_H
#define FERRY_GLUE_HMP_H

#include "monitor/monitor.h"

/* "info ferry" */
void hmp_info_ferry(Monitor *mon, const QDict *qdict);

/* "ferry_abandon" */
void hmp_ferry_abandon(Monitor *mon, const QDict *qdict);

#endif
