/*
 * The story of a migration in QEMU's trace events: what a log must hold, and in which order.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"

#include "postcopy.h"

/* QEMU writes them to its log, which vm_log() returns. */
#define TRACED "-trace 'ferry_*'"

/* Lines begin with these, in this order, and others may stand between them. */
static void expect_story(Vm *vm, const char *const *story)
{
    g_autofree char *log = vm_log(vm);
    const char *rest = log;

    for (; *story; story++) {
        const char *found = strstr(rest, *story);

        if (!found) {
            g_error("%s: '%s' is not in what is left of the story:\n%s", vm->name, *story, rest);
        }
        rest = found + strlen(*story);
    }
}

/* Nothing in the log may say so. */
static void expect_no(Vm *vm, const char *words)
{
    g_autofree char *log = vm_log(vm);

    if (strstr(log, words)) {
        g_error("%s: '%s' is in the log:\n%s", vm->name, words, log);
    }
}

/* The destination tells its last line once the source has closed its channels. */
static void settle(Run *run)
{
    g_usleep(G_USEC_PER_SEC / 2);
    expect_no(run->source, "ferry_phase_refused");
    expect_no(run->destination, "ferry_phase_refused");
}

static void check_precopy(Run *run)
{
    static const char *const at_source[] = {
        "ferry_session_wanted ",
        "ferry_tracker_chosen bitmap",
        "ferry_channel_opened source: control",
        "ferry_channel_opened source: data",
        "ferry_phase source: opening -> copying",
        "ferry_session_opened version ",
        "ferry_round_ended round 0: ",
        "ferry_round_begun round 1: ",
        "ferry_phase source: copying -> rounds",
        "ferry_switch_considered ",
        "ferry_phase source: rounds -> stopped",
        "ferry_phase source: stopped -> handed-off",
        "ferry_handoff source: 0 pages missing",
        "ferry_loaded source",
        "ferry_phase source: handed-off -> released",
        "ferry_go source",
        "ferry_taken source",
        "ferry_phase source: released -> done",
        NULL,
    };
    static const char *const at_destination[] = {
        /* In which order its channels come and prove themselves is a matter of threads. */
        "ferry_channel_opened destination: ",
        "ferry_channel_proved ",
        "ferry_phase destination: opening -> copying",
        "ferry_phase destination: copying -> handed-off",
        "ferry_handoff destination: 0 pages missing",
        "ferry_phase destination: handed-off -> in-place",
        "ferry_phase destination: in-place -> loaded",
        "ferry_loaded destination",
        "ferry_phase destination: loaded -> done",
        "ferry_go destination",
        NULL,
    };

    settle(run);
    expect_story(run->source, at_source);
    expect_story(run->destination, at_destination);
    expect_no(run->source, "ferry_cause");
    expect_no(run->source, "ferry_draft");
}

static void check_postcopy(Run *run)
{
    static const char *const at_source[] = {
        "ferry_phase source: opening -> copying",
        "ferry_draft source: ",
        "ferry_phase source: ",
        "drafted -> stopped",
        "ferry_phase source: stopped -> handed-off",
        "ferry_handoff source: ",
        "ferry_loaded source",
        "ferry_phase source: handed-off -> fetching",
        "ferry_go source",
        "ferry_taken source",
        "ferry_fault_served region ",
        "ferry_complete source",
        "ferry_phase source: fetching -> done",
        NULL,
    };
    static const char *const at_destination[] = {
        "ferry_channel_proved fetch",   "ferry_draft destination: ",  "ferry_handoff destination: ",
        "ferry_loaded destination",     "ferry_go destination",       "ferry_fault_asked region ",
        "ferry_fault_answered region ", "ferry_complete destination", NULL,
    };

    settle(run);
    expect_story(run->source, at_source);
    expect_story(run->destination, at_destination);
    /* It ended well: nothing failed, and nothing was paused. */
    expect_no(run->source, "ferry_cause");
    expect_no(run->source, "ferry_paused");
    expect_no(run->destination, "ferry_cause");
    expect_no(run->destination, "ferry_paused");
}

/* With pages missing for long enough that some are asked for. */
static void go_over_slowly(Run *run)
{
    postcopy_go_over_slowly(run);
    memory_scribble(run->memory, run->destination, MIB / 4);
}

static void break_and_resume(Run *run)
{
    go_over_slowly(run);
    postcopy_pause(run);
    postcopy_recover(run);
}

static void check_resumed(Run *run)
{
    static const char *const at_source[] = {
        "ferry_phase source: handed-off -> fetching",
        "ferry_phase source: fetching -> paused",
        "ferry_phase source: paused -> resuming",
        "ferry_channel_opened source: control",
        "ferry_resumed source: ",
        "ferry_phase source: resuming -> fetching",
        "ferry_complete source",
        "ferry_phase source: fetching -> done",
        NULL,
    };
    static const char *const at_destination[] = {
        "ferry_go destination",        "ferry_paused destination: ", "ferry_channel_proved control",
        "ferry_resumed destination: ", "ferry_complete destination", NULL,
    };

    settle(run);
    expect_story(run->source, at_source);
    expect_story(run->destination, at_destination);
}

static void check_failure(Run *run)
{
    static const char *const story[] = {
        "ferry_phase source: opening -> copying",
        "ferry_channel_lost source: channel 'control': ",
        "ferry_cause source: lost the connection to the destination: ",
        "-> failed",
        NULL,
    };

    expect_story(run->source, story);
    expect_no(run->source, "ferry_phase_refused");
}

static void check_cancel(Run *run)
{
    static const char *const story[] = {
        "ferry_phase source: opening -> copying",
        "ferry_cause source: cancelled",
        "-> cancelled",
        NULL,
    };

    expect_story(run->source, story);
    expect_no(run->source, "ferry_phase_refused");
}

static const Case cases[] = {
    {
        .name = "story/precopy",
        .options = TRACED,
        .hold = HOLD_ROUNDS,
        .after = check_precopy,
    },
    {
        .name = "story/postcopy",
        .options = TRACED,
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = go_over_slowly,
        .after = check_postcopy,
    },
    {
        .name = "story/resume",
        .options = TRACED,
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .during = break_and_resume,
        .after = check_resumed,
    },
    {
        .name = "story/kill-destination",
        .options = TRACED,
        .then = THEN_KILL_DESTINATION,
        .error = "lost the connection to the destination",
        .after = check_failure,
    },
    {
        .name = "story/cancel",
        .options = TRACED,
        .then = THEN_CANCEL,
        .after = check_cancel,
    },
};

void add_story_cases(void)
{
    cases_add(cases, G_N_ELEMENTS(cases));
}
