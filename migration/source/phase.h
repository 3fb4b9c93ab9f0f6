/*
 * The phases of the source's side of a session, and which may follow which.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_SOURCE_PHASE_H
#define FERRY_SOURCE_PHASE_H

#include <stdbool.h>

#include "../stats.h"

typedef enum FerrySourcePhase {
    FERRY_SOURCE_OPENING,    /* channels are being opened, regions compared */
    FERRY_SOURCE_COPYING,    /* the first pass over memory */
    FERRY_SOURCE_ROUNDS,     /* what was written meanwhile */
    FERRY_SOURCE_DRAFTED,    /* the destination knows what will be missing; nothing is sent */
    FERRY_SOURCE_STOPPED,    /* the vCPUs have stopped; the last pages travel */
    FERRY_SOURCE_HANDED_OFF, /* all pages were sent, or said to be missing; the device state goes */
    /* The destination was told to run the guest: this side never may again. */
    FERRY_SOURCE_RELEASED, /* with all of its memory; the destination has not said that it has it */
    FERRY_SOURCE_FETCHING, /* with pages missing, which are sent now */
    FERRY_SOURCE_PAUSED,   /* the same, and the connection broke */
    FERRY_SOURCE_RESUMING, /* the same, and another one is being opened */
    FERRY_SOURCE_IN_DOUBT, /* released, and the connection broke: it is not known who has the guest */
    FERRY_SOURCE_DONE,
    FERRY_SOURCE_FAILED,    /* the guest is this side's */
    FERRY_SOURCE_CANCELLED, /* the same, as somebody wanted it */
    FERRY_SOURCE_PHASES,
} FerrySourcePhase;

/* Whether @to may follow @from.  No phase follows itself. */
bool ferry_source_phase_may_follow(FerrySourcePhase from, FerrySourcePhase to);

/* Its name, for traces: "handed-off". */
const char *ferry_source_phase_name(FerrySourcePhase phase);

/* What reports call it. */
FerrySessionPhase ferry_source_phase_report(FerrySourcePhase phase);

/* Whether nothing comes after it. */
bool ferry_source_phase_is_over(FerrySourcePhase phase);

/* Whether the guest may run at the destination, or may come to run there: from GO on. */
bool ferry_source_phase_is_gone(FerrySourcePhase phase);

#endif
