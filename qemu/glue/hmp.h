/*
 * HMP commands.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_HMP_H
#define FERRY_GLUE_HMP_H

#include "monitor/monitor.h"
#include "qemu/readline.h"

/* "info ferry" */
void hmp_info_ferry(Monitor *mon, const QDict *qdict);

/* "info ferry_parameters" */
void hmp_info_ferry_parameters(Monitor *mon, const QDict *qdict);

/* "ferry_set_parameter" */
void hmp_ferry_set_parameter(Monitor *mon, const QDict *qdict);

/* Its names. */
void ferry_set_parameter_completion(ReadLineState *rs, int nb_args, const char *str);

/* "ferry_abandon" */
void hmp_ferry_abandon(Monitor *mon, const QDict *qdict);

#endif
