/*
 * The engine's events as QEMU's trace events.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_EVENTS_H
#define FERRY_GLUE_EVENTS_H

/* Have the engine's events traced.  Main thread, before any session. */
void ferry_trace_engine(void);

#endif
