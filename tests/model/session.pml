/*
 * What all models of the session share: connections and their faults, processes, and words for a trail.
 * See docs/model.md.
 *
 * A model is one process that picks any step whose guard holds, so every interleaving of all actors is
 * looked at.  A step is what an actor does without anybody else having a say: what it does with a lock
 * held, or on its own data.  It says who that is, in which function, and what happens.
 * tests/model/run checks that there are such functions.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/* A line of a trail; no quotes, and no unbalanced brackets, in the words. */
#define LITERAL(...)              #__VA_ARGS__
#define SAY(actor, function, ...) printf(LITERAL(actor: function: __VA_ARGS__\n))

/* What must hold.  ONLY: look at this claim alone, to show that a fault breaks it. */
#define ONE_GUEST 1 /* never two that run */
#define SOMEWHERE 2 /* never none for good, unless somebody has ended the process that had it */
#define ALL_OF_IT 3 /* no page of the hand-off is forgotten */
#define NO_WAIT   4 /* every wait ends */
#define AGREED    5 /* both sides know the same, and their users are told what is true */
#ifndef ONLY
#define ONLY 0
#endif
#define CLAIM(which, words, condition) \
    if \
    :: (ONLY == 0 || ONLY == which) && !(condition) -> SAY(judge, -, words); assert(false) \
    :: else \
    fi

/* How many faults the network and the processes have in one run, and how often a person meddles. */
#ifndef FAULTS
#define FAULTS 1
#endif
#ifndef MEDDLING
#define MEDDLING 1
#endif

/* The two ends of a connection, as bits. */
#define S    1
#define D    2
#define BOTH 3

/* The connections.  QEMU's return path is the other direction of the main one. */
#define MAIN        0
#define CONTROL     1
#define DATA        2
#define FETCH       3
#define CONNECTIONS 4

byte dead[CONNECTIONS];   /* the ends that are broken, or shut down */
bool silent[CONNECTIONS]; /* nothing arrives, and nobody is told */
byte held[CONNECTIONS];   /* the ends at which a relay keeps it open, though it broke at the other */

#define ENDED(connection, end) ((dead[connection] & (end)) != 0)
#define USABLE(connection, end) (!ENDED(connection, end) && !silent[connection])

/* What became of a process. */
#define ALIVE  0
#define FROZEN 1 /* it does nothing, and its connections stay; it may thaw */
#define KILLED 2
#define EXITED 3 /* by its own decision */
byte process_s, process_d;

#define ENDED_BY_SOMEBODY (process_d == KILLED || process_d == FROZEN)

#define AT_S(guard) d_step { process_s == ALIVE && (guard) ->
#define AT_D(guard) d_step { process_d == ALIVE && (guard) ->

byte faults, meddled; /* so far */
bool calm;            /* no more of either; silence lasts, and who is frozen stays so */

/* Another fault, or another meddling. */
#define FAULT(guard)  d_step { !calm && faults < FAULTS && (guard) -> faults++;
#define MEDDLE(guard) d_step { !calm && meddled < MEDDLING && (guard) -> meddled++;

/* What is under way on the control channel and on the main connection, named after who reads it. */
mtype = { NOTHING };
chan control_d = [2] of {mtype};
chan control_s = [3] of {mtype};
mtype main_d = NOTHING, main_s = NOTHING; /* one message at a time */

inline drain(queue)
{
    do
    :: len(queue) > 0 -> queue?_
    :: else -> break
    od
}

/* What is sent on a connection that is broken at either end is lost. */
inline send(connection, queue, frame)
{
    if
    :: dead[connection] == 0 -> queue!frame
    :: else
    fi
}

/* On the main connection. */
inline put(queue, message)
{
    if
    :: dead[MAIN] == 0 -> assert(queue == NOTHING); queue = message
    :: else
    fi
}

/* A connection breaks at some ends, or is shut down: what was under way to there is lost. */
inline cut_main(end)
{
    dead[MAIN] = dead[MAIN] | (end);
    if
    :: ENDED(MAIN, S) -> main_s = NOTHING
    :: else
    fi;
    if
    :: ENDED(MAIN, D) -> main_d = NOTHING
    :: else
    fi
}

inline cut_control(end)
{
    dead[CONTROL] = dead[CONTROL] | (end);
    if
    :: ENDED(CONTROL, S) -> drain(control_s)
    :: else
    fi;
    if
    :: ENDED(CONTROL, D) -> drain(control_d)
    :: else
    fi
}

/* What may happen to a connection.  BUSY: there is something left to break. */
#define CONNECTION_FAULTS(connection, name, cut) \
    :: FAULT(BUSY && !ENDED(connection, S)) cut(S); SAY(network, -, name breaks towards the source) } \
    :: FAULT(BUSY && !ENDED(connection, D)) cut(D); SAY(network, -, name breaks towards the destination) } \
    :: FAULT(BUSY && dead[connection] == 0 && !silent[connection]) silent[connection] = true; \
        SAY(network, -, name goes silent) }

/* What mends itself; and an end that is shut shows at the other once all has been read there. */
#define CONNECTION_NEWS(connection, name, cut, read_d, read_s) \
    :: d_step { !calm && silent[connection] -> silent[connection] = false; SAY(network, -, name is heard again) } \
    :: d_step { dead[connection] == S && !held[connection] && !silent[connection] && (read_d) -> cut(D); \
        SAY(network, -, the end of name shows at the destination) } \
    :: d_step { dead[connection] == D && !held[connection] && !silent[connection] && (read_s) -> cut(S); \
        SAY(network, -, the end of name shows at the source) }

/* What may happen to the two processes, which lose their connections when they are killed. */
#define PROCESS_FAULTS \
    :: FAULT(BUSY && process_d == ALIVE) process_d = FROZEN; SAY(world, -, the destination is frozen) } \
    :: FAULT(BUSY && process_s == ALIVE) process_s = FROZEN; SAY(world, -, the source is frozen) } \
    :: FAULT(BUSY && process_d == ALIVE) exit_d(KILLED); SAY(world, -, the destination is killed) } \
    :: FAULT(BUSY && process_s == ALIVE) process_s = KILLED; runs_s = false; cut_all(S); \
        SAY(world, -, the source is killed) } \
    :: d_step { !calm && process_d == FROZEN -> process_d = ALIVE; SAY(world, -, the destination thaws) } \
    :: d_step { !calm && process_s == FROZEN -> process_s = ALIVE; SAY(world, -, the source thaws) } \
    :: d_step { !calm -> calm = true; SAY(world, -, nothing else goes wrong from here on) }
