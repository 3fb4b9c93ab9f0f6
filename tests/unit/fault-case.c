/*
 * The referee of one case: see fault-world.h.
 *
 * An attempt with a fault, and what a person would do then, until the guest is where it can stay: a paused
 * migration is resumed, or abandoned where its other side is gone; a source in doubt is told to go on if its guest
 * was not let go of over there; and whoever has failed tries again, without a fault.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "fault-world.h"

#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* Network time-outs: where nothing but silence tells that something is wrong, and where something else does. */
#define SHORT_MS 2000
#define LONG_MS  120000

/* An attempt that takes longer waits for something that does not come. */
#define LIMIT_MS 60000

/* The same for a side that is known to wait for ever. */
#define SHORT_LIMIT_MS 3000

/* As many attempts as a person has patience for. */
#define ATTEMPTS_MAX 4

typedef struct Side {
    pid_t pid;
    int order;
} Side;

typedef struct Referee {
    const FaultCase *c;
    FaultResult *result;
    FaultWorld *world;
    FaultNet *net;
    int ask[2];
    Side sides[FAULT_SIDES];
    uint64_t sessions;
    bool wrong;
} Referee;

const char *fault_mode_name(FaultMode mode)
{
    static const char *const names[] = {"pre-copy", "post-copy", "resume",   "fallback",
                                        "cancel",   "doubt",     "no-memory"};

    return names[mode];
}

const char *fault_effect_name(FaultEffect effect)
{
    static const char *const names[] = {
        "error",      "delay",          "silence", "crash-source", "crash-destination",
        "cut-source", "cut-destination"};

    return names[effect];
}

const char *fault_outcome_name(FaultOutcome outcome)
{
    static const char *const names[] = {"undecided", "completed", "kept", "failed",
                                        "in-doubt",  "paused",    "dead"};

    return names[outcome];
}

static gint64 limit_us(const Referee *referee)
{
    return g_get_monotonic_time() +
           (referee->c->lie == FAULT_LIE_WAIT ? SHORT_LIMIT_MS : LIMIT_MS) * INT64_C(1000);
}

static void find_wrong(Referee *referee, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* The first finding counts. */
static void find_wrong(Referee *referee, const char *format, ...)
{
    va_list args;

    if (!referee->wrong) {
        va_start(args, format);
        g_vsnprintf(referee->result->why, sizeof(referee->result->why), format, args);
        va_end(args);
        referee->wrong = true;
    }
}

/* --- Sides as processes ----------------------------------------------------------------------- */

static void start_side(Referee *referee, FaultSide side)
{
    FaultPlugs plugs = {.ask = referee->ask[1], .listener = {-1, -1}};
    FaultWorld *world = referee->world;
    int numbers[2], order[2];
    pid_t parent = getpid(), pid;

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, order), ==, 0);
    for (unsigned i = 0; i < 2; i++) {
        plugs.dial[i] = fault_net_number(referee->net, i);
        if (side == FAULT_DESTINATION) {
            plugs.listener[i] = fault_listen(&numbers[i]);
        }
    }
    atomic_store(&world->dead[side], false);
    pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) {
            _exit(1);
        }
        fault_net_leave(referee->net);
        close(order[0]);
        if (referee->sides[!side].pid) {
            close(referee->sides[!side].order);
        }
        plugs.order = order[1];
        fault_world = world;
        fault_me = side;
        fault_ask_fd = plugs.ask;
        atomic_store(&world->pids[side], getpid());
        _exit(side == FAULT_SOURCE ? fault_source_run(&plugs) : fault_destination_run(&plugs));
    }
    atomic_store(&world->pids[side], pid);
    referee->sides[side] = (Side){.pid = pid, .order = order[0]};
    close(order[1]);
    if (side == FAULT_DESTINATION) {
        close(plugs.listener[0]);
        close(plugs.listener[1]);
        fault_net_set_destination(referee->net, numbers);
    }
}

/* It has ended with @status. */
static void bury(Referee *referee, FaultSide side, int status)
{
    FaultWorld *world = referee->world;
    bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;

    if (!killed && status != 0) {
        find_wrong(referee, "the %s ended with status 0x%x while %s",
                   side == FAULT_SOURCE ? "source" : "destination", (unsigned)status,
                   world->told[side].doing);
    }
    close(referee->sides[side].order);
    referee->sides[side] = (Side){0};
    atomic_store(&world->runs[side], false);
    atomic_store(&world->told[side].outcome, FAULT_DEAD);
    atomic_store(&world->dead[side], true);
}

static void look_for_dead(Referee *referee)
{
    for (unsigned side = 0; side < FAULT_SIDES; side++) {
        int status;

        if (referee->sides[side].pid &&
            waitpid(referee->sides[side].pid, &status, WNOHANG) == referee->sides[side].pid) {
            bury(referee, side, status);
        }
    }
}

/* Let the world go on for a moment. */
static void turn(Referee *referee)
{
    FaultWorld *world = referee->world;
    int fds[] = {referee->ask[0], referee->sides[0].pid ? referee->sides[0].order : -1,
                 referee->sides[1].pid ? referee->sides[1].order : -1};
    char bytes[16];

    fault_net_run(referee->net, fds, G_N_ELEMENTS(fds), 10);
    if (recv(referee->ask[0], bytes, sizeof(bytes), MSG_DONTWAIT) > 0) {
        for (unsigned side = 0; side < FAULT_SIDES; side++) {
            int effect = atomic_load(&world->asked[side]);

            if (effect >= 0) {
                fault_net_apply(referee->net, (FaultEffect)effect);
                atomic_store(&world->asked[side], -1);
            }
        }
    }
    look_for_dead(referee);
}

/* --- Orders ----------------------------------------------------------------------------------- */

static FaultOutcome outcome_of(const Referee *referee, FaultSide side)
{
    return atomic_load(&referee->world->told[side].outcome);
}

/* The next byte that @side says; 0 when it is dead, or too late. */
static char hear(Referee *referee, FaultSide side, gint64 deadline)
{
    char byte = 0;

    while (referee->sides[side].pid && g_get_monotonic_time() < deadline &&
           recv(referee->sides[side].order, &byte, 1, MSG_DONTWAIT) != 1) {
        byte = 0;
        turn(referee);
    }
    return byte;
}

static void give_order(Referee *referee, FaultSide side, char order)
{
    if (referee->sides[side].pid) {
        atomic_store(&referee->world->told[side].outcome, FAULT_UNDECIDED);
        if (send(referee->sides[side].order, &order, 1, MSG_NOSIGNAL) != 1) {
            find_wrong(referee, "no order can be given");
        }
    }
}

static void await(Referee *referee, FaultSide side, gint64 deadline)
{
    FaultTold *told = &referee->world->told[side];

    if (referee->sides[side].pid && !hear(referee, side, deadline) && referee->sides[side].pid) {
        find_wrong(referee, "a wait of the %s did not end: %s",
                   side == FAULT_SOURCE ? "source" : "destination", told->doing);
    }
    if (told->complaint[0]) {
        find_wrong(referee, "%s", told->complaint);
    }
}

static void order_alone(Referee *referee, FaultSide side, char order)
{
    give_order(referee, side, order);
    await(referee, side, limit_us(referee));
}

static void order_both(Referee *referee, char order)
{
    gint64 deadline;

    fault_net_reset(referee->net);
    if (order == ORDER_ATTEMPT) {
        referee->world->session = 0xfe44 + referee->sessions++;
        atomic_store(&referee->world->went, false);
        atomic_store(&referee->world->cancel, false);
        for (unsigned side = 0; side < FAULT_SIDES; side++) {
            referee->world->told[side].reason[0] = 0;
            referee->world->told[side].warnings[0] = 0;
        }
        if (referee->sessions == 1 && referee->c->mode == FAULT_FALLBACK) {
            /* A data channel. */
            fault_net_refuse(referee->net, 2);
        }
    }
    deadline = limit_us(referee);
    give_order(referee, FAULT_DESTINATION, order);
    hear(referee, FAULT_DESTINATION, deadline);
    give_order(referee, FAULT_SOURCE, order);
    await(referee, FAULT_SOURCE, deadline);
    await(referee, FAULT_DESTINATION, deadline);
}

/* --- What must hold --------------------------------------------------------------------------- */

static bool is_injected_error_told(const FaultWorld *world)
{
    for (unsigned side = 0; side < FAULT_SIDES; side++) {
        if (strstr(world->told[side].reason, "fault point") ||
            strstr(world->told[side].warnings, "fault point")) {
            return true;
        }
    }
    return false;
}

static void check_reasons(Referee *referee)
{
    static const char *const names[] = {"source", "destination"};
    bool all_completed = true;

    for (unsigned side = 0; side < FAULT_SIDES; side++) {
        FaultOutcome outcome = outcome_of(referee, side);

        all_completed &= outcome == FAULT_COMPLETED;
        if (outcome != FAULT_COMPLETED && outcome != FAULT_DEAD &&
            !referee->world->told[side].reason[0]) {
            find_wrong(referee, "the %s does not say why it %s", names[side],
                       fault_outcome_name(outcome));
        }
    }
    /*
     * That a channel broke, whoever reads it finds out, and has words of its own.  In doubt, the session is over:
     * nobody asks what fails then.
     */
    if (referee->c->fault.effect == FAULT_ERROR && !all_completed &&
        referee->c->fault.point != FERRY_FAULT_SOURCE_IN_DOUBT &&
        !fault_is_frame(referee->c->fault.point) && referee->c->mode != FAULT_CANCELLED &&
        !is_injected_error_told(referee->world)) {
        find_wrong(referee, "nobody tells of the error: the source says '%s', the destination '%s'",
                   referee->world->told[FAULT_SOURCE].reason,
                   referee->world->told[FAULT_DESTINATION].reason);
    }
}

/* After an attempt, whatever has happened. */
static void check_guest(Referee *referee)
{
    FaultOutcome source = outcome_of(referee, FAULT_SOURCE);
    FaultOutcome destination = outcome_of(referee, FAULT_DESTINATION);
    const FaultWorld *world = referee->world;

    if (atomic_load(&world->ran_both)) {
        find_wrong(referee, "both sides ran the guest");
    }
    if (source == FAULT_COMPLETED && destination != FAULT_COMPLETED && destination != FAULT_DEAD) {
        find_wrong(referee, "the source has completed, and the destination %s",
                   fault_outcome_name(destination));
    }
    if (source == FAULT_KEPT && atomic_load(&world->went)) {
        find_wrong(referee, "the source keeps a guest that the destination was told to run");
    }
    if (destination == FAULT_FAILED && atomic_load(&world->went)) {
        find_wrong(referee, "the destination failed with a guest that it was told to run: %s",
                   world->told[FAULT_DESTINATION].reason);
    }
    if (source == FAULT_KEPT && !atomic_load(&world->runs[FAULT_SOURCE])) {
        find_wrong(referee, "nobody runs the guest");
    }
}

/* --- What a person does ----------------------------------------------------------------------- */

static void try_again(Referee *referee)
{
    for (unsigned side = 0; side < FAULT_SIDES; side++) {
        if (!referee->sides[side].pid) {
            start_side(referee, side);
        }
    }
    referee->world->timeout_ms = LONG_MS;
    order_both(referee, ORDER_ATTEMPT);
    if (!referee->wrong && (outcome_of(referee, FAULT_SOURCE) != FAULT_COMPLETED ||
                            outcome_of(referee, FAULT_DESTINATION) != FAULT_COMPLETED)) {
        find_wrong(referee, "the next attempt ends %s (%s), %s (%s)",
                   fault_outcome_name(outcome_of(referee, FAULT_SOURCE)),
                   referee->world->told[FAULT_SOURCE].reason,
                   fault_outcome_name(outcome_of(referee, FAULT_DESTINATION)),
                   referee->world->told[FAULT_DESTINATION].reason);
    }
}

/* One step towards an end; true if there is nothing more to do. */
static bool go_on(Referee *referee)
{
    FaultOutcome source = outcome_of(referee, FAULT_SOURCE);
    FaultOutcome destination = outcome_of(referee, FAULT_DESTINATION);
    bool went = atomic_load(&referee->world->went);

    if (destination == FAULT_COMPLETED || (destination == FAULT_DEAD && went)) {
        /* It is there, or is lost with the one that had it. */
        return true;
    }
    if (source == FAULT_PAUSED && destination == FAULT_PAUSED) {
        order_both(referee, ORDER_RESUME);
        return false;
    }
    if (destination == FAULT_PAUSED) {
        order_alone(referee, FAULT_DESTINATION, ORDER_ABANDON);
        /* A guest that ran there with pages missing is lost, and nobody has it. */
        atomic_store(&referee->world->went, false);
        return went || outcome_of(referee, FAULT_DESTINATION) != FAULT_FAILED;
    }
    if (source == FAULT_IN_DOUBT) {
        order_alone(referee, FAULT_SOURCE, ORDER_TAKE);
        return false;
    }
    if (source == FAULT_KEPT || source == FAULT_DEAD) {
        try_again(referee);
        return true;
    }
    if (source != FAULT_PAUSED || destination != FAULT_DEAD) {
        find_wrong(referee, "it cannot go on: the source %s (%s), the destination %s (%s)",
                   fault_outcome_name(source), referee->world->told[FAULT_SOURCE].reason,
                   fault_outcome_name(destination), referee->world->told[FAULT_DESTINATION].reason);
    }
    /* GO was said, and nobody heard it: the guest is lost with the destination. */
    return true;
}

/* --- A case ----------------------------------------------------------------------------------- */

static bool waits_for_silence(FaultEffect effect)
{
    return effect == FAULT_SILENCE || effect == FAULT_CUT_SOURCE || effect == FAULT_CUT_DESTINATION;
}

static void set_up(Referee *referee)
{
    const FaultSpec nothing = {.effect = FAULT_NOTHING};
    const uint64_t nr_bytes = sizeof(FaultWorld) + fault_memory_bytes();
    FaultWorld *world =
        mmap(NULL, nr_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    const FaultCase *c = referee->c;

    g_assert_true(world != MAP_FAILED);
    referee->world = world;
    world->mode = c->mode;
    world->fault = c->fault;
    world->lie = c->lie;
    world->event = nothing;
    world->asked[0] = world->asked[1] = -1;
    world->timeout_ms = waits_for_silence(c->fault.effect) ? SHORT_MS : LONG_MS;
    switch (c->mode) {
    case FAULT_RESUME:
        /* The source does that itself, with pages missing. */
        world->event = (FaultSpec){FAULT_SIDES, 0, FAULT_CUT_BOTH, 1};
        break;
    case FAULT_CANCELLED:
        world->event = (FaultSpec){FAULT_SOURCE, FERRY_FAULT_SAY_HANDOFF, FAULT_CANCEL, 1};
        break;
    case FAULT_DOUBT:
        world->event = (FaultSpec){FAULT_DESTINATION, FERRY_FAULT_SAY_TAKEN, FAULT_CUT_BOTH, 1};
        break;
    case FAULT_NO_MEMORY:
        world->event = (FaultSpec){FAULT_DESTINATION, FERRY_FAULT_PROVIDE, FAULT_ERROR, 1};
        break;
    default:
        break;
    }
    world->event_armed = true;
    world->armed = c->mode != FAULT_RESUME && c->mode != FAULT_DOUBT && c->mode != FAULT_NO_MEMORY;
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, referee->ask), ==, 0);
    referee->net = fault_net_new();
    start_side(referee, FAULT_DESTINATION);
    start_side(referee, FAULT_SOURCE);
}

static void tear_down(Referee *referee)
{
    gint64 deadline = limit_us(referee);

    for (unsigned side = 0; side < FAULT_SIDES; side++) {
        give_order(referee, side, ORDER_QUIT);
    }
    while ((referee->sides[0].pid || referee->sides[1].pid) && g_get_monotonic_time() < deadline &&
           !referee->wrong) {
        turn(referee);
    }
    for (unsigned side = 0; side < FAULT_SIDES; side++) {
        if (referee->sides[side].pid) {
            find_wrong(referee, "the %s did not end: %s",
                       side == FAULT_SOURCE ? "source" : "destination",
                       referee->world->told[side].doing);
            kill(referee->sides[side].pid, SIGKILL);
            waitpid(referee->sides[side].pid, NULL, 0);
        } else if (referee->world->told[side].complaint[0]) {
            find_wrong(referee, "%s", referee->world->told[side].complaint);
        }
    }
    fault_net_free(referee->net);
}

/* How a mode ends when nothing else goes wrong. */
static void check_usual(Referee *referee)
{
    static const FaultOutcome usual[FAULT_MODES][FAULT_SIDES] = {
        [FAULT_PRECOPY] = {FAULT_COMPLETED, FAULT_COMPLETED},
        [FAULT_POSTCOPY] = {FAULT_COMPLETED, FAULT_COMPLETED},
        [FAULT_RESUME] = {FAULT_COMPLETED, FAULT_COMPLETED},
        [FAULT_FALLBACK] = {FAULT_COMPLETED, FAULT_COMPLETED},
        [FAULT_CANCELLED] = {FAULT_KEPT, FAULT_FAILED},
        [FAULT_DOUBT] = {FAULT_IN_DOUBT, FAULT_COMPLETED},
        [FAULT_NO_MEMORY] = {FAULT_KEPT, FAULT_FAILED},
    };

    for (unsigned side = 0; side < FAULT_SIDES; side++) {
        if (outcome_of(referee, side) != usual[referee->c->mode][side]) {
            find_wrong(referee, "the %s is %s (%s), and nothing was to harm it",
                       side == FAULT_SOURCE ? "source" : "destination",
                       fault_outcome_name(outcome_of(referee, side)),
                       referee->world->told[side].reason);
        }
    }
}

static void run(Referee *referee)
{
    const FaultCase *c = referee->c;
    FaultWorld *world = referee->world;
    bool over = false;

    order_both(referee, ORDER_ATTEMPT);
    if (c->mode == FAULT_RESUME && outcome_of(referee, FAULT_SOURCE) == FAULT_PAUSED &&
        outcome_of(referee, FAULT_DESTINATION) == FAULT_PAUSED) {
        order_both(referee, ORDER_RESUME);
    }
    atomic_store(&world->armed, false);
    atomic_store(&world->event_armed, false);
    for (unsigned side = 0; side < FAULT_SIDES; side++) {
        referee->result->outcomes[side] = outcome_of(referee, side);
        for (unsigned point = 0; point < FERRY_FAULT_NR_POINTS; point++) {
            referee->result->passes[side][point] = atomic_load(&world->passes[side][point]);
        }
    }
    check_reasons(referee);
    if (c->fault.effect == FAULT_NOTHING ||
        (c->fault.effect == FAULT_DELAY && atomic_load(&world->fired))) {
        check_usual(referee);
    }
    for (unsigned i = 0; i < ATTEMPTS_MAX && !over && !referee->wrong; i++) {
        check_guest(referee);
        over = go_on(referee);
    }
    check_guest(referee);
    if (!over) {
        find_wrong(
            referee, "it does not come to an end: the source %s (%s), the destination %s (%s)",
            fault_outcome_name(outcome_of(referee, FAULT_SOURCE)), world->told[FAULT_SOURCE].reason,
            fault_outcome_name(outcome_of(referee, FAULT_DESTINATION)),
            world->told[FAULT_DESTINATION].reason);
    }
}

void fault_case_run(const FaultCase *c, FaultResult *result)
{
    Referee referee = {.c = c, .result = result};
    gint64 began_us = g_get_monotonic_time();

    set_up(&referee);
    run(&referee);
    tear_down(&referee);
    result->ms = (unsigned)((g_get_monotonic_time() - began_us) / 1000);
    result->verdict = referee.wrong ? FAULT_WRONG
                      : c->fault.effect != FAULT_NOTHING && !atomic_load(&referee.world->fired)
                          ? FAULT_NOT_REACHED
                          : FAULT_PASSED;
}
