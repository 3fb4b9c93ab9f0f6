/*
 * The source's phases: see phase.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "phase.h"

#include <glib.h>

#define BIT(phase) (1u << FERRY_SOURCE_##phase)

/* While the guest is this side's, anything may fail or be cancelled. */
#define ENDS (BIT(FAILED) | BIT(CANCELLED))

static const struct {
    const char *name;
    FerrySessionPhase report;
    unsigned next; /* the phases that may follow, as bits */
} phases[FERRY_SOURCE_PHASES] = {
    [FERRY_SOURCE_OPENING] = {"opening", FERRY_SESSION_CONNECT, BIT(COPYING) | ENDS},
    [FERRY_SOURCE_COPYING] = {"copying", FERRY_SESSION_COPY,
                              BIT(ROUNDS) | BIT(DRAFTED) | BIT(STOPPED) | ENDS},
    /* A tracker that takes another's place begins with a first pass. */
    [FERRY_SOURCE_ROUNDS] = {"rounds", FERRY_SESSION_ROUNDS,
                             BIT(COPYING) | BIT(DRAFTED) | BIT(STOPPED) | ENDS},
    [FERRY_SOURCE_DRAFTED] = {"drafted", FERRY_SESSION_ROUNDS,
                              BIT(COPYING) | BIT(ROUNDS) | BIT(STOPPED) | ENDS},
    [FERRY_SOURCE_STOPPED] = {"stopped", FERRY_SESSION_HAND_OFF, BIT(HANDED_OFF) | ENDS},
    [FERRY_SOURCE_HANDED_OFF] = {"handed-off", FERRY_SESSION_HAND_OFF,
                                 BIT(RELEASED) | BIT(FETCHING) | ENDS},
    [FERRY_SOURCE_RELEASED] = {"released", FERRY_SESSION_HAND_OFF, BIT(IN_DOUBT) | BIT(DONE)},
    [FERRY_SOURCE_FETCHING] = {"fetching", FERRY_SESSION_FETCH, BIT(PAUSED) | BIT(DONE)},
    /* The last page may have come just before the connection broke. */
    [FERRY_SOURCE_PAUSED] = {"paused", FERRY_SESSION_PAUSED, BIT(RESUMING) | BIT(DONE)},
    [FERRY_SOURCE_RESUMING] = {"resuming", FERRY_SESSION_PAUSED, BIT(FETCHING) | BIT(PAUSED)},
    [FERRY_SOURCE_IN_DOUBT] = {"in-doubt", FERRY_SESSION_IN_DOUBT, 0},
    [FERRY_SOURCE_DONE] = {"done", FERRY_SESSION_DONE, 0},
    [FERRY_SOURCE_FAILED] = {"failed", FERRY_SESSION_FAILED, 0},
    [FERRY_SOURCE_CANCELLED] = {"cancelled", FERRY_SESSION_FAILED, 0},
};

bool ferry_source_phase_may_follow(FerrySourcePhase from, FerrySourcePhase to)
{
    return phases[from].next >> to & 1;
}

const char *ferry_source_phase_name(FerrySourcePhase phase)
{
    return phases[phase].name;
}

FerrySessionPhase ferry_source_phase_report(FerrySourcePhase phase)
{
    return phases[phase].report;
}

bool ferry_source_phase_is_over(FerrySourcePhase phase)
{
    return phases[phase].next == 0;
}

bool ferry_source_phase_is_gone(FerrySourcePhase phase)
{
    return phase >= FERRY_SOURCE_RELEASED && phase <= FERRY_SOURCE_DONE;
}
