/*
 * Which mode passes which fault point: see fault-plan.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "fault-plan.h"

#include <stdio.h>

/* y: it does.  *: it may, that depends on time.  Others: why not. */
static const struct {
    char letter;
    const char *word, *words;
} reasons[] = {
    {'m', "whole", "whole: no page is left missing"},
    {'w', "missing", "missing: pages are left missing"},
    {'e', "apart", "apart: before what the mode is about, or after the end that it makes"},
    {'f', "unopened", "unopened: the session is never open"},
    {'c', "cancelled", "cancelled: before that"},
    {'n', "sound", "sound: nothing breaks or fails"},
    {'k', "unbroken", "unbroken: no connection breaks with pages missing"},
    {'t', "tracker", "tracker: the mode has one of the other kind"},
};

/* A letter for each mode. */
static const struct {
    FaultSide side;
    FerryFaultPoint point;
    const char *modes;
} plan[] = {
    /*                                                pre post resume fallback cancel doubt no-memory */
    {FAULT_SOURCE, FERRY_FAULT_DIAL, "y y y y y e e"},
    {FAULT_SOURCE, FERRY_FAULT_THREAD_CONTROL, "y y y * y e e"},
    {FAULT_SOURCE, FERRY_FAULT_THREAD_SENDER, "y y y f y e *"},
    {FAULT_SOURCE, FERRY_FAULT_THREAD_SERVER, "m y y f y m m"},
    {FAULT_SOURCE, FERRY_FAULT_THREAD_BEAT, "y y y f y e *"},
    {FAULT_SOURCE, FERRY_FAULT_THREAD_SILENCE, "y y y f y e *"},
    {FAULT_SOURCE, FERRY_FAULT_TRACKER_START, "y y e y y e e"},
    {FAULT_SOURCE, FERRY_FAULT_TRACKER_ARM, "y y e f y e *"},
    {FAULT_SOURCE, FERRY_FAULT_TRACKER_RESET, "y t t f t e *"},
    {FAULT_SOURCE, FERRY_FAULT_TRACKER_HARVEST, "y y e f y e *"},
    {FAULT_SOURCE, FERRY_FAULT_TRACKER_FEED, "t y e t y t t"},
    {FAULT_SOURCE, FERRY_FAULT_SCAN, "y y e f y e *"},
    {FAULT_SOURCE, FERRY_FAULT_SAY_HELLO, "y y y y y e e"},
    {FAULT_SOURCE, FERRY_FAULT_SAY_REGIONS, "y y e * y e e"},
    {FAULT_SOURCE, FERRY_FAULT_SAY_ERROR, "n n n * y e y"},
    {FAULT_SOURCE, FERRY_FAULT_SAY_PAGES, "y y y f y e *"},
    {FAULT_SOURCE, FERRY_FAULT_SAY_STOPPED, "y y e f y e e"},
    {FAULT_SOURCE, FERRY_FAULT_SAY_FENCE, "y y e f y e *"},
    {FAULT_SOURCE, FERRY_FAULT_SAY_HANDOFF, "y y e f y e e"},
    {FAULT_SOURCE, FERRY_FAULT_SAY_MISSING, "m y e f y m m"},
    {FAULT_SOURCE, FERRY_FAULT_SAY_DRAFT, "m y e f y m m"},
    {FAULT_SOURCE, FERRY_FAULT_SAY_GO, "y y y f c e e"},
    {FAULT_SOURCE, FERRY_FAULT_SAY_BEAT, "* * * f * * *"},
    {FAULT_SOURCE, FERRY_FAULT_SAY_RESUME, "k k y k k k k"},
    {FAULT_SOURCE, FERRY_FAULT_SAY_FORGET, "m y e f y m m"},
    {FAULT_SOURCE, FERRY_FAULT_HEAR_READY, "y y e f y e e"},
    {FAULT_SOURCE, FERRY_FAULT_HEAR_ERROR, "n n n e * e y"},
    {FAULT_SOURCE, FERRY_FAULT_HEAR_REPORT, "y y y f c e e"},
    {FAULT_SOURCE, FERRY_FAULT_HEAR_REACHED, "y y e f y * e"},
    {FAULT_SOURCE, FERRY_FAULT_HEAR_MISSING, "k k y k k k k"},
    {FAULT_SOURCE, FERRY_FAULT_HEAR_DRAFTED, "m y e f y m m"},
    {FAULT_SOURCE, FERRY_FAULT_HEAR_LOADED, "y y e f c e e"},
    {FAULT_SOURCE, FERRY_FAULT_HEAR_FETCH, "m * * f c m m"},
    {FAULT_SOURCE, FERRY_FAULT_HEAR_COMPLETE, "m y y f c m m"},
    {FAULT_SOURCE, FERRY_FAULT_HEAR_BEAT, "* * * f * * *"},
    {FAULT_SOURCE, FERRY_FAULT_HEAR_RESUMED, "k k y k k k k"},
    {FAULT_SOURCE, FERRY_FAULT_HEAR_TAKEN, "y y y f c e e"},
    {FAULT_SOURCE, FERRY_FAULT_SOURCE_COPYING, "y y e f y e e"},
    {FAULT_SOURCE, FERRY_FAULT_SOURCE_ROUNDS, "y y e f y e e"},
    {FAULT_SOURCE, FERRY_FAULT_SOURCE_DRAFTED, "m y e f y m m"},
    {FAULT_SOURCE, FERRY_FAULT_SOURCE_STOPPED, "y y e f y e e"},
    {FAULT_SOURCE, FERRY_FAULT_SOURCE_HANDED_OFF, "y y e f y e e"},
    {FAULT_SOURCE, FERRY_FAULT_SOURCE_RELEASED, "y w w f w e e"},
    {FAULT_SOURCE, FERRY_FAULT_SOURCE_FETCHING, "m y y f c m m"},
    {FAULT_SOURCE, FERRY_FAULT_SOURCE_PAUSED, "n n y e e e e"},
    {FAULT_SOURCE, FERRY_FAULT_SOURCE_RESUMING, "k k y k k k k"},
    {FAULT_SOURCE, FERRY_FAULT_SOURCE_IN_DOUBT, "n n n e e y e"},
    {FAULT_SOURCE, FERRY_FAULT_SOURCE_DONE, "y y y f c e e"},
    {FAULT_SOURCE, FERRY_FAULT_SOURCE_FAILED, "n n n y e e y"},
    {FAULT_SOURCE, FERRY_FAULT_SOURCE_CANCELLED, "n n n e y e e"},
    {FAULT_DESTINATION, FERRY_FAULT_THREAD_BEAT, "y y y * y e *"},
    {FAULT_DESTINATION, FERRY_FAULT_THREAD_SILENCE, "y y y * y e *"},
    {FAULT_DESTINATION, FERRY_FAULT_THREAD_RECEIVER, "y y y * y e *"},
    {FAULT_DESTINATION, FERRY_FAULT_THREAD_FAULT, "m y e f y m m"},
    {FAULT_DESTINATION, FERRY_FAULT_EMPTY, "y y e * y e e"},
    {FAULT_DESTINATION, FERRY_FAULT_PROVIDE, "y y e f y e e"},
    {FAULT_DESTINATION, FERRY_FAULT_USERFAULTFD, "m y e f y m m"},
    {FAULT_DESTINATION, FERRY_FAULT_EVENTFD, "m y e f y m m"},
    {FAULT_DESTINATION, FERRY_FAULT_REGISTER, "m y e f y m m"},
    {FAULT_DESTINATION, FERRY_FAULT_DISCARD, "m y e f y m m"},
    {FAULT_DESTINATION, FERRY_FAULT_GATHER, "m y * f c m m"},
    {FAULT_DESTINATION, FERRY_FAULT_PLACE, "m y y f c m m"},
    {FAULT_DESTINATION, FERRY_FAULT_PLACE_MEMORY, "m y y f c m m"},
    {FAULT_DESTINATION, FERRY_FAULT_SAY_READY, "y y e f y e e"},
    {FAULT_DESTINATION, FERRY_FAULT_SAY_ERROR, "n n n * * e y"},
    {FAULT_DESTINATION, FERRY_FAULT_SAY_REPORT, "y y y f c y e"},
    {FAULT_DESTINATION, FERRY_FAULT_SAY_REACHED, "y y e f y * e"},
    {FAULT_DESTINATION, FERRY_FAULT_SAY_MISSING, "k k y k k k k"},
    {FAULT_DESTINATION, FERRY_FAULT_SAY_DRAFTED, "m y e f y m m"},
    {FAULT_DESTINATION, FERRY_FAULT_SAY_LOADED, "y y e f c e e"},
    {FAULT_DESTINATION, FERRY_FAULT_SAY_FETCH, "m * * f c m m"},
    {FAULT_DESTINATION, FERRY_FAULT_SAY_COMPLETE, "m y y f c m m"},
    {FAULT_DESTINATION, FERRY_FAULT_SAY_BEAT, "* * * f * * *"},
    {FAULT_DESTINATION, FERRY_FAULT_SAY_RESUMED, "k k y k k k k"},
    {FAULT_DESTINATION, FERRY_FAULT_SAY_TAKEN, "y y y f c y e"},
    {FAULT_DESTINATION, FERRY_FAULT_HEAR_HELLO, "y y y * y e e"},
    {FAULT_DESTINATION, FERRY_FAULT_HEAR_REGIONS, "y y e * y e e"},
    {FAULT_DESTINATION, FERRY_FAULT_HEAR_PAGES, "y y y f y e *"},
    {FAULT_DESTINATION, FERRY_FAULT_HEAR_STOPPED, "y y e f y e e"},
    {FAULT_DESTINATION, FERRY_FAULT_HEAR_FENCE, "y y e f y e *"},
    {FAULT_DESTINATION, FERRY_FAULT_HEAR_HANDOFF, "y y e f c e e"},
    {FAULT_DESTINATION, FERRY_FAULT_HEAR_MISSING, "m y e f y m m"},
    {FAULT_DESTINATION, FERRY_FAULT_HEAR_DRAFT, "m y e f y m m"},
    {FAULT_DESTINATION, FERRY_FAULT_HEAR_GO, "y y y f c e e"},
    {FAULT_DESTINATION, FERRY_FAULT_HEAR_BEAT, "* * * f * * *"},
    {FAULT_DESTINATION, FERRY_FAULT_HEAR_RESUME, "k k y k k k k"},
    {FAULT_DESTINATION, FERRY_FAULT_HEAR_FORGET, "m y e f y m m"},
    {FAULT_DESTINATION, FERRY_FAULT_DESTINATION_COPYING, "y y e f y e e"},
    {FAULT_DESTINATION, FERRY_FAULT_DESTINATION_DRAFTING, "m y e f y m m"},
    {FAULT_DESTINATION, FERRY_FAULT_DESTINATION_HANDED_OFF, "y y e f c e e"},
    {FAULT_DESTINATION, FERRY_FAULT_DESTINATION_IN_PLACE, "y w w f w e e"},
    {FAULT_DESTINATION, FERRY_FAULT_DESTINATION_LOADED, "y w w f w e e"},
    {FAULT_DESTINATION, FERRY_FAULT_DESTINATION_FETCHING, "m y y f c m m"},
    {FAULT_DESTINATION, FERRY_FAULT_DESTINATION_PAUSED, "n n y e e e e"},
    {FAULT_DESTINATION, FERRY_FAULT_DESTINATION_DONE, "y y y f c e e"},
    {FAULT_DESTINATION, FERRY_FAULT_DESTINATION_PARTED, "m * * f c m m"},
    {FAULT_DESTINATION, FERRY_FAULT_DESTINATION_FAILED, "n n n * y e y"},
    {FAULT_DESTINATION, FERRY_FAULT_HEAR_ERROR, "n n n * * e *"},
};

static char letter_of(FaultSide side, FerryFaultPoint point, FaultMode mode)
{
    for (size_t i = 0; i < G_N_ELEMENTS(plan); i++) {
        if (plan[i].side == side && plan[i].point == point) {
            return plan[i].modes[2 * mode];
        }
    }
    return 0;
}

bool fault_plan_has(FaultSide side, FerryFaultPoint point)
{
    return letter_of(side, point, 0);
}

bool fault_plan_agrees(FaultSide side, FerryFaultPoint point, FaultMode mode, bool passed)
{
    char letter = letter_of(side, point, mode);

    return letter == '*' || (letter == 'y') == passed;
}

bool fault_plan_is_sure(FaultSide side, FerryFaultPoint point, FaultMode mode)
{
    return letter_of(side, point, mode) == 'y';
}

const char *fault_plan_cell(FaultSide side, FerryFaultPoint point, FaultMode mode)
{
    for (size_t i = 0; i < G_N_ELEMENTS(reasons); i++) {
        if (reasons[i].letter == letter_of(side, point, mode)) {
            return reasons[i].word;
        }
    }
    return "not now";
}

void fault_plan_print_reasons(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(reasons); i++) {
        printf("# %s\n", reasons[i].words);
    }
    printf("# not now: whether it is passed depends on time\n");
}
