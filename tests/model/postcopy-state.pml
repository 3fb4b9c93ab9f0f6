/*
 * The hand-off with pages missing, fetching, pause and resume: what the actors know, and what several
 * steps have in common.  See docs/model.md.
 *
 * Of the guest's memory it has two pages: EARLY is in the draft, LATE is written after it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "session.pml"

/* Version 3 has none of what mends these. */
#ifdef VERSION3
#define COMPLETE_UNTAKEN
#define LISTEN_EXITS
#define PARTED_WAITS
#define END_FAILS
#define DEAF
#define COMPLETE_PAUSES
#define NO_LIMIT
#define SHUT_FOR_EVER
#define TAKEN_PAUSED
#define RESUMED_PAUSED
#define UNTOLD_ENDS
#define PARTED_READS
#define ERROR_UNHEARD
#endif

/* With it, the destination may lack memory for a page, once. */
#ifdef ERROR_UNHEARD
#define STARVE
#endif

#define EARLY 1
#define LATE  2
#define ALL   3

mtype = { DRAFT, FORGET, DRAFTED, HANDOFF, LOADED, GO, TAKEN, COMPLETE, RESUME, RESUMED, ERROR };
byte told; /* the missing pages that RESUMED tells of */

mtype = { PACKAGE, PING, RESUME_COMMAND, END, PONG, RESUME_ACK, SHUT };

/* Pages under way, of which the order does not matter. */
byte data_d, fetch_d, fetch_s;

/* --- The source ------------------------------------------------------------------------------------ */

mtype = { ACTIVE, DEVICE, POSTCOPY_ACTIVE, POSTCOPY_PAUSED, POSTCOPY_RECOVER, FAILED, CANCELLING, COMPLETED };
mtype state_s = ACTIVE; /* MigrationState.state */
bool runs_s = true;     /* the vCPUs */
bool live_s = true;     /* vm_old_state is live: QEMU may start them again */
bool gone;              /* GO was sent: ferry_source_is_gone() */
bool cause;             /* of a failure, is known */
bool drafted, undrafted, loaded, taken, complete, resumed, pong, ended;
byte backlog = ALL;     /* what the senders have still to send */
bool error_main;        /* the return path thread has seen the end of it */
bool control_thread_s = true, return_path = true, servers = true;

mtype = {
    s_round, s_draft, s_drafted, s_forget, s_stopped, s_left, s_loaded, s_gone, s_back, s_finish, s_push, s_shut,
    s_pause, s_paused, s_ping, s_pong, s_open, s_resumed, s_handshake, s_ack, s_over
};
mtype driver = s_round;

/* Nothing is missing, as the source sees it. */
#ifdef COMPLETE_UNTAKEN
#define IS_COMPLETE complete
#else
#define IS_COMPLETE (complete && taken)
#endif

/* The connection has served its purpose: that it breaks is no failure. */
#define OVER (IS_COMPLETE && gone)

/* Whether the driver looks for COMPLETE once more when the connection has broken. */
#ifdef COMPLETE_PAUSES
#define LOOKS_AGAIN false
#else
#define LOOKS_AGAIN true
#endif

/* Threads of a connection that broke must not break the next one. */
#ifdef STALE_BREAKS
#define STALE_ARE_GONE true
#else
#define STALE_ARE_GONE (!control_thread_s)
#endif

/* What speaks against GO. */
#define REFUSED (cause || error_main || state_s != DEVICE)

#if defined(VERSION3)
#define MAY_GO   loaded
#define MAY_WAIT (loaded || !cause)
#elif defined(EARLY_GO)
#define MAY_GO   (!REFUSED)
#define MAY_WAIT (!REFUSED)
#else
#define MAY_GO   (loaded && !REFUSED)
#define MAY_WAIT (!cause && state_s == DEVICE && !(loaded && error_main))
#endif

/* Whether QMP gets the BQL, which the driver has at some places. */
#ifdef VERSION3
#define BQL_IS_FREE (driver == s_round || driver == s_draft || driver == s_drafted)
#else
#define BQL_IS_FREE true
#endif

/* Whether an end says that the main connection is of no use when its session has failed. */
#ifdef VERSION3
#define BREAKS_MAIN false
#else
#define BREAKS_MAIN true
#endif

/* --- The destination -------------------------------------------------------------------------------- */

mtype = { p_copying, p_handed_off, p_fetching, p_paused, p_done, p_parted, p_failed };
mtype phase = p_copying;

mtype state_d = ACTIVE;      /* MigrationIncomingState.state */
bool runs_d;                 /* the vCPUs */
bool may_run, scheduled;     /* GO was heard; run_now() is due */
byte missing;                /* pages that are registered as missing */
byte current = LATE;         /* pages that are as they are at the source */
byte touched;                /* pages that loading the device state needs */
byte asked;                  /* pages that were asked for on this connection */
bool all_came;               /* nothing is missing any more */
bool told_taken, told_complete; /* the source may have heard that */
bool starved;                /* there was no memory for a page */
bool resuming;               /* another connection is being taken */
bool stream_broke;           /* the main stream has, and there is no other yet */
bool running;                /* POSTCOPY_INCOMING_RUNNING */
bool control_thread_d = true, readers = true;
bool hangs;                  /* the device state takes for ever to load */

mtype = { m_read, m_listen, m_load, m_run, m_loaded, m_idle };
mtype main_thread = m_read;
mtype = { l_none, l_read, l_die, l_end, l_join, l_pause, l_paused, l_recover, l_over };
mtype listen_thread = l_none;

#define CUT_OFF   (phase == p_paused || phase == p_parted)
#define COMMITTED (phase == p_fetching || phase == p_done || CUT_OFF)
#define HAS_ALL   (phase == p_done || phase == p_parted)

/* Whether the source may be done: it was told so. */
#define CONTENT (told_taken && told_complete)

/* Whether a destination ends when the stream breaks, because nothing more is to come. */
#if defined(PARTED_WAITS)
#define ENDS_NOW false
#elif defined(UNTOLD_ENDS)
#define ENDS_NOW (may_run && HAS_ALL)
#else
#define ENDS_NOW CONTENT
#endif

/* Whether a session that breaks after LOADED breaks the stream, as a source that is done does not close it. */
#ifdef PARTED_READS
#define BREAKS_STREAM (phase == p_paused)
#else
#define BREAKS_STREAM (!CONTENT)
#endif

/* Whether GO, and RESUME, are answered although the main stream has broken, and none has come since. */
#ifdef TAKEN_PAUSED
#define SAYS_TAKEN true
#else
#define SAYS_TAKEN false
#endif
#ifdef RESUMED_PAUSED
#define SAYS_RESUMED true
#else
#define SAYS_RESUMED false
#endif

#define BUSY (driver != s_over)

/* --- Connections ------------------------------------------------------------------------------------ */

inline cut_data(end)
{
    dead[DATA] = dead[DATA] | (end);
    if
    :: ENDED(DATA, D) -> data_d = 0
    :: else
    fi
}

inline cut_fetch(end)
{
    dead[FETCH] = dead[FETCH] | (end);
    if
    :: ENDED(FETCH, D) -> fetch_d = 0
    :: else
    fi;
    if
    :: ENDED(FETCH, S) -> fetch_s = 0
    :: else
    fi
}

inline cut_pages(end)
{
    cut_data(end);
    cut_fetch(end)
}

inline cut_all(end)
{
    cut_main(end);
    cut_control(end);
    cut_pages(end)
}

/* --- What several steps have in common --------------------------------------------------------------- */

/* The guest goes on at the source: break_off(), ferry_source_cancel(). */
inline take_back()
{
#ifndef VERSION3
    send(CONTROL, control_d, ERROR);
#endif
    cut_control(S);
    cut_pages(S);
    cause = true;
    drafted = false;
    loaded = false;
    backlog = 0
}

/* The control channel is over, for the source: control_run(). */
inline lose_control_s()
{
    control_thread_s = false;
    if
    :: !OVER ->
        cause = true;
        if
        :: BREAKS_MAIN -> cut_main(S)
        :: else
        fi
    :: else
    fi;
    cut_control(S);
    cut_pages(S)
}

/* The session breaks or fails at the destination: ferry_destination_fail(). */
inline fail_d()
{
    if
    :: CUT_OFF && !resuming -> skip /* that is no news */
    :: COMMITTED && (!CUT_OFF || resuming) ->
        phase = (phase == p_done -> p_parted : (phase == p_fetching -> p_paused : phase));
        resuming = false;
        cut_pages(D);
        if
        :: BREAKS_STREAM -> cut_main(D)
        :: else
        fi;
#ifndef DEAF
        /* What the source has said before may be that it takes the guest back. */
        if
        :: may_run -> cut_control(D)
        :: else
        fi
#else
        cut_control(D)
#endif
    :: phase == p_copying || phase == p_handed_off ->
        phase = p_failed;
        send(CONTROL, control_s, ERROR);
        cut_control(D);
        cut_pages(D);
        if
        :: BREAKS_MAIN -> cut_main(D)
        :: else
        fi
    :: else
    fi
}

/* Not on what is left of a connection that broke, which the source would be done after: ferry_destination_tell(). */
inline tell_d(frame, told_it)
{
    if
    :: (SAYS_TAKEN || (!CUT_OFF && !stream_broke)) && !ENDED(CONTROL, D) ->
        told_it = true;
        send(CONTROL, control_s, frame)
    :: else
    fi
}

/* Pages have come. */
inline place(pages)
{
    current = current | (missing & pages);
    missing = missing & ~pages;
    if
    :: missing == 0 && !all_came ->
        all_came = true;
        if
        :: phase == p_fetching -> phase = p_done
        :: phase == p_paused -> phase = p_parted
        :: else
        fi;
        if
        :: !CUT_OFF -> tell_d(COMPLETE, told_complete)
        :: else
        fi
    :: else
    fi
}

inline exit_d(how)
{
    process_d = how;
    runs_d = false;
    scheduled = false;
    cut_all(D)
}

#ifdef VERSION3
#define BEATS_S (driver != s_round && driver != s_draft && driver != s_drafted && driver != s_stopped)
#define BEATS_D (phase != p_copying)
#else
#define BEATS_S true
#define BEATS_D true
#endif
