/*
 * Cancelling, and either side dying, wherever a migration can be.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"

#include "case.h"

/* With no vCPUs held back by it, a guest paused by the user stays paused wherever it goes. */
static void pause_source(Run *run)
{
    vm_do(run->source, "stop", NULL);
    vm_wait_event(run->source, "STOP");
    run_release(run);
    g_free(vm_wait_status(run->source, "completed"));
}

static void expect_paused(Run *run)
{
    g_autofree char *state = vm_run_state(run->destination);

    g_assert_cmpstr(state, ==, "paused");
}

/* Of a connection that breaks on its own path, whichever of its parts sees it first. */
#define QEMUS_WORDS                                                                \
    "Channel error: Input/output error|ram_save_setup failed: Input/output error|" \
    "Unable to write to socket: |Unable to read from socket: "

/* Whichever end sees it first: the destination may get to say so yet. */
#define CUT_OFF \
    "lost the connection to the destination|the destination says: the migration stream broke"

static const Case cases[] = {
    {
        .name = "cancel/connect",
        .hold = HOLD_CONNECT,
        .then = THEN_CANCEL,
    },
    {
        .name = "cancel/channels",
        .hold = HOLD_CHANNELS,
        .then = THEN_CANCEL,
    },
    {
        .name = "cancel/copy",
        .then = THEN_CANCEL,
    },
    {
        .name = "cancel/rounds",
        .hold = HOLD_ROUNDS,
        .then = THEN_CANCEL,
    },
    {
        .name = "cancel/pre-switchover",
        .hold = HOLD_PRE_SWITCHOVER,
        .then = THEN_CANCEL,
    },
    {
        .name = "cancel/multifd",
        .capabilities = "multifd",
        .parameters = "{ 'multifd-channels': 4 }",
        .hold = HOLD_ROUNDS,
        .then = THEN_CANCEL,
    },
    {
        .name = "cancel/unix",
        .uri = "unix:{dir}/migration",
        .hold = HOLD_ROUNDS,
        .then = THEN_CANCEL,
    },
    {
        .name = "continue",
        .hold = HOLD_PRE_SWITCHOVER,
    },
    {
        .name = "late-answer",
        .hold = HOLD_CONNECT,
    },
    {
        .name = "late-channels",
        .hold = HOLD_CHANNELS,
    },
    {
        .name = "late-acknowledgement",
        .hold = HOLD_HAND_OFF,
    },
    {
        .name = "kill-destination/connect",
        .hold = HOLD_CONNECT,
        .then = THEN_KILL_DESTINATION,
        .error = QEMUS_WORDS,
    },
    {
        .name = "kill-destination/channels",
        .hold = HOLD_CHANNELS,
        .then = THEN_KILL_DESTINATION,
        .error = QEMUS_WORDS,
    },
    {
        .name = "kill-destination/copy",
        .then = THEN_KILL_DESTINATION,
        .error = "lost the connection to the destination",
    },
    {
        .name = "kill-destination/rounds",
        .hold = HOLD_ROUNDS,
        .then = THEN_KILL_DESTINATION,
        .error = "lost the connection to the destination",
    },
    {
        .name = "kill-destination/pre-switchover",
        .hold = HOLD_PRE_SWITCHOVER,
        .then = THEN_KILL_DESTINATION,
        .error = "lost the connection to the destination",
    },
    {
        .name = "kill-destination/hand-off",
        .hold = HOLD_HAND_OFF,
        .then = THEN_KILL_DESTINATION,
        .error = "lost the connection to the destination",
    },
    {
        /* The source is in the middle of sending when it happens. */
        .name = "kill-destination/hand-off-full",
        .uri = "unix:{dir}/migration",
        .hold = HOLD_HAND_OFF,
        .then = THEN_KILL_DESTINATION,
        .error = "lost the connection to the destination",
    },
    {
        .name = "kill-source/connect",
        .hold = HOLD_CONNECT,
        .then = THEN_KILL_SOURCE,
    },
    {
        .name = "kill-source/channels",
        .hold = HOLD_CHANNELS,
        .then = THEN_KILL_SOURCE,
    },
    {
        .name = "kill-source/copy",
        .then = THEN_KILL_SOURCE,
    },
    {
        .name = "kill-source/rounds",
        .hold = HOLD_ROUNDS,
        .then = THEN_KILL_SOURCE,
    },
    {
        .name = "kill-source/pre-switchover",
        .hold = HOLD_PRE_SWITCHOVER,
        .then = THEN_KILL_SOURCE,
    },
    {
        /* Little fits into a unix socket: the source dies with pages still to be sent. */
        .name = "kill-source/hand-off",
        .uri = "unix:{dir}/migration",
        .hold = HOLD_HAND_OFF,
        .then = THEN_KILL_SOURCE,
    },
    {
        .name = "cut/channels",
        .hold = HOLD_CHANNELS,
        .then = THEN_CUT,
        .error = QEMUS_WORDS,
    },
    {
        .name = "cut/copy",
        .proxy = true,
        .then = THEN_CUT,
        .error = CUT_OFF,
    },
    {
        .name = "cut/rounds",
        .proxy = true,
        .hold = HOLD_ROUNDS,
        .then = THEN_CUT,
        .error = CUT_OFF,
    },
    {
        .name = "cut/hand-off",
        .proxy = true,
        .hold = HOLD_HAND_OFF,
        .then = THEN_CUT,
        .error = CUT_OFF,
    },
    {
        .name = "paused/from-the-start",
        .paused = true,
    },
    {
        .name = "paused/meanwhile",
        .during = pause_source,
        .destination_paused = true,
        .after = expect_paused,
    },
    {
        .name = "paused/destination",
        .destination_paused = true,
    },
};

void add_phase_cases(void)
{
    cases_add(cases, G_N_ELEMENTS(cases));
}
