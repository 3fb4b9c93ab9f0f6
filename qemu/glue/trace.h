/*
 * Trace events of the glue, as QEMU generates them from trace-events.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "trace/trace-ferry_glue.h"
