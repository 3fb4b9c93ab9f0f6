/*
 * The world that fault points are walked in: a source and a destination, a process each, the network between them,
 * and a referee, who is the network as well, gives the orders that a person would, and looks at what came of them.
 *
 * A side is a process so that it can be killed: its memory, threads and connections are gone at once, and nobody says
 * goodbye.  What is not there: QEMU.  The sides do around the engine what qemu/glue does, in a few lines, with a stream
 * of their own for device state.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_FAULT_WORLD_H
#define FERRY_FAULT_WORLD_H

/* What reads this without the build's own flags, to look for faults of ours, sees the points as well. */
#ifndef FERRY_FAULTS
#define FERRY_FAULTS
#endif

#include <stdatomic.h>
#include <sys/types.h>

#include "fake-machine.h"
#include "migration/fault.h"

typedef enum FaultSide {
    FAULT_SOURCE,
    FAULT_DESTINATION,
    FAULT_SIDES
} FaultSide;

typedef enum FaultEffect {
    FAULT_ERROR,        /* what comes next fails; at a phase, something else of that side does */
    FAULT_DELAY,        /* the thread that is there goes on later */
    FAULT_SILENCE,      /* nothing comes through any more, and nothing breaks */
    FAULT_CRASH_SOURCE, /* the process is killed */
    FAULT_CRASH_DESTINATION,
    FAULT_CUT_SOURCE, /* connections break towards that side; the other end stays open, and silent */
    FAULT_CUT_DESTINATION,
    FAULT_EFFECTS,
    FAULT_CUT_BOTH = FAULT_EFFECTS, /* of use in a mode's own event */
    FAULT_CANCEL,
    FAULT_NOTHING,
} FaultEffect;

typedef enum FaultMode {
    FAULT_PRECOPY,
    FAULT_POSTCOPY,
    FAULT_RESUME,    /* the connection has broken with pages missing, and is made anew */
    FAULT_FALLBACK,  /* a channel breaks while the session is opened: memory goes some other way */
    FAULT_CANCELLED, /* somebody cancels, at the fault point or else at the hand-off */
    FAULT_DOUBT,     /* the connection breaks before the answer to GO, with nothing missing */
    FAULT_NO_MEMORY, /* the destination fails while it copies */
    FAULT_MODES
} FaultMode;

/* How an attempt ended for a side. */
typedef enum FaultOutcome {
    FAULT_UNDECIDED,
    FAULT_COMPLETED,
    FAULT_KEPT,     /* the source has the guest */
    FAULT_FAILED,   /* the destination has not */
    FAULT_IN_DOUBT, /* the source was not told */
    FAULT_PAUSED,   /* and can be resumed */
    FAULT_DEAD,
} FaultOutcome;

typedef struct FaultSpec {
    FaultSide side;
    FerryFaultPoint point;
    FaultEffect effect;
    unsigned nth; /* pass, from 1 on */
} FaultSpec;

/* A source that is wrong itself: the referee must find that. */
typedef enum FaultLie {
    FAULT_HONEST,
    FAULT_LIE_BOTH,   /* it runs the guest that it has let go of */
    FAULT_LIE_PAGE,   /* a page is not what it is said to be */
    FAULT_LIE_LEAK,   /* a descriptor stays open */
    FAULT_LIE_REASON, /* it does not say why */
    FAULT_LIE_WAIT,   /* it waits for ever */
    FAULT_LIES
} FaultLie;

/* What a side tells. */
typedef struct FaultTold {
    _Atomic FaultOutcome outcome;
    char reason[512];    /* of an attempt that has not completed */
    char warnings[512];  /* for the log */
    char complaint[512]; /* what this side finds wrong with the engine; empty: nothing */
    char doing[64];      /* for when it does not come back */
} FaultTold;

/* Shared by all three processes. */
typedef struct FaultWorld {
    FaultMode mode;
    FaultLie lie;
    FaultSpec fault; /* what is walked */
    FaultSpec event; /* what the mode consists of */
    unsigned timeout_ms;
    uint64_t session; /* of this attempt */
    _Atomic bool armed, event_armed;
    _Atomic bool fired, event_fired;
    _Atomic unsigned passes[FAULT_SIDES][FERRY_FAULT_NR_POINTS]; /* while armed */
    _Atomic bool cancel;            /* somebody cancels: the source's monitor takes note */
    _Atomic bool runs[FAULT_SIDES]; /* the guest runs there, or may */
    _Atomic bool ran_both;
    _Atomic bool went; /* the destination was let go in this attempt */
    _Atomic pid_t pids[FAULT_SIDES];
    _Atomic bool dead[FAULT_SIDES];
    _Atomic int asked[FAULT_SIDES]; /* of the network, a FaultEffect; or -1 */
    FaultTold told[FAULT_SIDES];
    uint8_t reference[]; /* guest memory when the vCPUs stopped: region after region */
} FaultWorld;

/* How the sides reach each other, and the referee reaches them. */
typedef struct FaultPlugs {
    int order; /* orders come on it, and that an attempt is over goes out */
    int ask;   /* a byte on it has the network look at what is asked */
    int dial
        [2]; /* numbers of listeners: the stream's, and that of channels; the source's to dial */
    int listener[2]; /* the destination's */
} FaultPlugs;

/* The orders. */
enum {
    ORDER_ATTEMPT = 'a',
    ORDER_RESUME = 'r',
    ORDER_ABANDON = 'b', /* a person gives up a paused destination */
    ORDER_TAKE = 't',    /* a person lets the guest go on at a source in doubt */
    ORDER_QUIT = 'q',
};

/* On the stream. */
enum {
    STREAM_FERRY = 'F', /* the session carries memory */
    STREAM_OWN = 'O',   /* the stream does: all of it follows */
    STREAM_DEVICES = 'D',
    STREAM_PART = 'P',
    STREAM_END = 'E',
    STREAM_LOADED = 'L',
    STREAM_GO = 'G',
    STREAM_TAKEN = 'T',
};

#define FAULT_STATE_BYTES 4096

extern const FakeRegion fault_regions[];

/* --- fault-side.c: what both sides have ------------------------------------------------------- */

/* This process's. */
extern FaultWorld *fault_world;
extern FaultSide fault_me;
extern int fault_ask_fd;
/* Fails the session with @error (taken over); any thread, as of a phase. */
extern void (*fault_fail_session)(GError *error);

const char *fault_point_name(FerryFaultPoint point); /* "say-hello" */
bool fault_is_phase(FerryFaultPoint point);
bool fault_is_frame(FerryFaultPoint point);

/* Have the network do that now. */
void fault_ask_network(FaultEffect effect);

/* The guest runs on this side, or does not any more. */
void fault_set_runs(bool runs);

/* What this side finds wrong. */
void fault_complain(const char *format, ...) G_GNUC_PRINTF(1, 2);
void fault_set_reason(const char *reason);
void fault_add_warning(const char *text);
void fault_doing(const char *what);

/* What a process has of these: to see whether an attempt leaves any behind. */
typedef struct FaultCensus {
    unsigned nr_fds, nr_threads;
} FaultCensus;

FaultCensus fault_census(void);
/* Complains if it does not become @before soon. */
void fault_check_census(FaultCensus before);

/* All or nothing, until @timeout_ms have passed without a byte. */
bool fault_read(int fd, void *data, size_t nr_bytes, unsigned timeout_ms);
bool fault_write(int fd, const void *data, size_t nr_bytes, unsigned timeout_ms);
bool fault_write_byte(int fd, char byte);

/* A machine with pages that @seed decides. */
FakeMachine *fault_machine_new(uint64_t seed);
uint64_t fault_memory_bytes(void);

/* Have a stream that stalls broken off, as the kernel's keep-alive does. */
unsigned fault_keepalive_ms(void);

/* --- fault-source.c, fault-destination.c: a side, to its end ---------------------------------- */

int fault_source_run(const FaultPlugs *plugs);
int fault_destination_run(const FaultPlugs *plugs);

/* --- fault-guest.c: the guest at the destination ---------------------------------------------- */

/* Once for each process; and once for each attempt. */
void fault_guest_init(FakeMachine *machine);
void fault_guest_begin(void);

/* Its vCPUs read and write all over memory, and complain; does nothing while they do already. */
void fault_guest_start(void);

/* They are to stop, and whatever they find from now on is fine if @blind; does not wait.  Any thread. */
void fault_guest_let_stop(bool blind);
void fault_guest_stop(void);

/* Complains if a page is not what it was at the source, or what was written here since. */
void fault_guest_check(void);

/* --- fault-net.c: the network, the referee's -------------------------------------------------- */

typedef struct FaultNet FaultNet;

FaultNet *fault_net_new(void);
void fault_net_free(FaultNet *net);

/* In a process that has been forked, and is none of the network: lest it keeps connections open. */
void fault_net_leave(FaultNet *net);

/* A listener with a name of its own; its number is what it is dialled by. */
int fault_listen(int *number);
int fault_dial(int number);

/* What the source dials. */
int fault_net_number(const FaultNet *net, unsigned which);
/* Where the destination listens. */
void fault_net_set_destination(FaultNet *net, const int numbers[2]);
/* The so-manieth channel that is dialled next is closed at once; 0: none. */
void fault_net_refuse(FaultNet *net, unsigned number);
/* Break, or stall, all there is, and what comes until the next reset. */
void fault_net_apply(FaultNet *net, FaultEffect effect);
/* Another network takes its place. */
void fault_net_reset(FaultNet *net);

/* Let things through for at most @timeout_ms, or until one of @fds is readable. */
void fault_net_run(FaultNet *net, const int *fds, unsigned nr_fds, unsigned timeout_ms);

/* --- fault-case.c: the referee ---------------------------------------------------------------- */

typedef struct FaultCase {
    FaultMode mode;
    FaultSpec fault; /* FAULT_NOTHING: only see what is passed */
    FaultLie lie;
} FaultCase;

typedef enum FaultVerdict {
    FAULT_NOT_RUN,
    FAULT_PASSED,
    FAULT_WRONG,
    FAULT_NOT_REACHED,
} FaultVerdict;

typedef struct FaultResult {
    FaultVerdict verdict;
    FaultOutcome outcomes[FAULT_SIDES]; /* of the attempt with the fault */
    unsigned ms;
    char why[1024];
    unsigned passes[FAULT_SIDES][FERRY_FAULT_NR_POINTS]; /* of a case without a fault */
} FaultResult;

/* In a process of its own; @result is in shared memory. */
void fault_case_run(const FaultCase *c, FaultResult *result);

const char *fault_mode_name(FaultMode mode);
const char *fault_effect_name(FaultEffect effect);
const char *fault_outcome_name(FaultOutcome outcome);

#endif
