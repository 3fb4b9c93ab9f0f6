/*
 * Opening a session, or falling back to QEMU's own path.  See docs/model.md.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "session.pml"

/* Today's code. */
#ifdef VERSION3
#define NO_LIMIT
#define ERROR_ALWAYS
#define NO_LOOK
#define BEATS false
#else
#define BEATS true
#endif

mtype = { HELLO, READY, ERROR };
mtype = { PING, SETUP, STOCK, PONG, ECHO };
bool dialled, data_d; /* there are control and data channels; the hello on the latter is under way */

/* --- The source ------------------------------------------------------------------------------------ */

mtype = { ACTIVE, FAILED, CANCELLING };
mtype state_s = ACTIVE; /* MigrationState.state */
bool runs_s = true;
bool cause, refused;    /* of a failure, is known; the destination said why */
bool pong, echo, ready;
bool error_main;        /* the return path thread has seen the end of it */
bool control_thread_s, return_path = true, senders;

mtype = { s_ask, s_pong, s_dial, s_ready, s_open, s_ferry, s_fall_back, s_stock, s_over };
mtype driver = s_ask;

bool setup_sent;
bool excuse; /* something happened that no migration survives */

/* --- The destination -------------------------------------------------------------------------------- */

bool has_ferry;
mtype = { p_none, p_opening, p_copying, p_failed };
mtype phase = p_none;
bool runs_d;
bool settled;           /* SETUP was read: ferry_incoming_active() */
bool control_thread_d, data_in, reader;

mtype = { m_read, m_ferry, m_stock, m_failed };
mtype main_thread = m_read;

#define DRIVER_DONE (driver == s_ferry || driver == s_stock || driver == s_over)
#define BUSY        (driver != s_over || main_thread == m_read)

/* --- What several steps have in common --------------------------------------------------------------- */

inline cut_data(end)
{
    dead[DATA] = dead[DATA] | (end);
    if
    :: ENDED(DATA, D) -> data_d = false
    :: else
    fi
}

inline cut_channels(end)
{
    cut_control(end);
    cut_data(end)
}

inline cut_all(end)
{
    cut_main(end);
    cut_channels(end)
}

/* The session fails at the destination: ferry_destination_fail(). */
inline fail_d(refuses)
{
    if
    :: phase == p_opening || phase == p_copying ->
        phase = p_failed;
#ifdef ERROR_ALWAYS
        send(CONTROL, control_s, ERROR);
#else
        if
        :: (refuses) || settled -> send(CONTROL, control_s, ERROR)
        :: else
        fi;
#endif
        cut_channels(D);
#ifdef MAIN_AT_READY
        cut_main(D)
#else
        if
        :: settled -> cut_main(D)
        :: else
        fi
#endif
    :: else
    fi
}

inline exit_d(how)
{
    process_d = how;
    excuse = true;
    cut_all(D)
}

init
{
    if
    :: has_ferry = true
    :: has_ferry = false
    fi;
    do
    /* --- The driver: QEMU's migration thread ----------------------------------------------------- */

    :: AT_S(driver == s_ask) put(main_d, PING); driver = s_pong;
        SAY(driver, ferry_peer_ask, asks for Ferry) }
    :: AT_S(driver == s_pong && pong && state_s == ACTIVE) driver = s_dial;
        SAY(driver, ferry_peer_ask, the destination has Ferry) }
    :: AT_S(driver == s_pong && echo) driver = s_fall_back;
        SAY(driver, ferry_peer_ask, the destination has no Ferry) }
    :: AT_S(driver == s_pong && !pong && !echo) driver = s_fall_back;
        SAY(driver, ferry_peer_ask, no answer in time) }
    :: AT_S(driver == s_dial && state_s == ACTIVE)
        dialled = true; control_thread_s = true; reader = true;
        dead[CONTROL] = (process_d == KILLED -> D : 0); dead[DATA] = dead[CONTROL];
        send(CONTROL, control_d, HELLO); data_d = (dead[DATA] == 0); driver = s_ready;
        SAY(driver, ferry_source_connect, dials; says hello on all channels and sends REGIONS) }
    :: AT_S(driver == s_ready && ready && !cause) driver = s_open; senders = true;
        SAY(driver, ferry_source_connect, the session is open) }
    :: AT_S(driver == s_ready && cause) driver = (refused -> s_over : s_fall_back);
        state_s = (refused && state_s == ACTIVE -> FAILED : state_s); cut_channels(S);
        SAY(driver, open_session, falls back unless the destination refuses the guest) }
#ifndef NO_LIMIT
    :: AT_S(driver == s_ready && !ready && !cause) cut_channels(S); driver = s_fall_back;
        SAY(driver, ferry_source_wait, open-timeout is over) }
#endif
#ifndef NO_LOOK
    :: AT_S(driver == s_open && cause) driver = (refused -> s_over : s_fall_back);
        state_s = (refused && state_s == ACTIVE -> FAILED : state_s); cut_channels(S);
        SAY(driver, ferry_save_setup, the session has broken since: falls back) }
    :: AT_S(driver == s_open && !cause && !ENDED(MAIN, S)) put(main_d, SETUP); setup_sent = true;
        CLAIM(AGREED, the session is known to have failed, !cause); driver = s_ferry;
        SAY(driver, ferry_save_setup, Ferry carries the memory) }
#else
    :: AT_S(driver == s_open && !ENDED(MAIN, S)) put(main_d, SETUP); setup_sent = true;
        CLAIM(AGREED, the session is known to have failed, !cause); driver = s_ferry;
        SAY(driver, ferry_save_setup, Ferry carries the memory) }
#endif
    :: AT_S(driver == s_fall_back && state_s == ACTIVE && !ENDED(MAIN, S) && main_d == NOTHING)
        cut_channels(S); put(main_d, STOCK); driver = s_stock;
        SAY(driver, ferry_negotiate, QEMU carries the memory) }
    :: AT_S(driver == s_ferry && cause) state_s = (state_s == ACTIVE -> FAILED : state_s); driver = s_over; cut_all(S);
        SAY(driver, migration_detect_error, the session broke) }
    :: AT_S(driver != s_over && (ENDED(MAIN, S) || state_s == CANCELLING))
        state_s = (state_s == ACTIVE -> FAILED : state_s); driver = s_over; cut_all(S);
        SAY(driver, migration_detect_error, the main stream broke or the migration was cancelled) }
    :: AT_S(driver == s_over && dead[MAIN] == 0) cut_all(S);
        SAY(main thread, migration_cleanup, closes the main stream) }

    /* --- Other threads of the source --------------------------------------------------------------- */

    :: AT_S(control_thread_s && USABLE(CONTROL, S) && len(control_s) > 0)
        if
        :: control_s?[READY] -> control_s?READY; ready = true; SAY(control thread, take_control_frame, READY)
        :: control_s?[ERROR] -> control_s?ERROR; cause = true; refused = true; control_thread_s = false;
            cut_channels(S);
            SAY(control thread, control_run, the destination says ERROR)
        fi }
    :: AT_S(control_thread_s && ENDED(CONTROL, S)) control_thread_s = false; cause = true; cut_channels(S);
#ifdef MAIN_AT_READY
        if
        :: senders -> cut_main(S)
        :: else
        fi;
#endif
        SAY(control thread, control_run, the control channel is broken) }
    :: AT_S(senders && ENDED(DATA, S)) senders = false; cause = true;
        SAY(sender, ferry_source_lose_channel, a data channel is broken) }
    :: AT_S(return_path && USABLE(MAIN, S) && main_s != NOTHING)
        if
        :: main_s == PONG && driver == s_pong -> pong = true
        :: main_s == ECHO && driver == s_pong -> echo = true
        :: else
        fi;
        main_s = NOTHING;
        SAY(return path, ferry_outgoing_pong, an answer, which counts unless it is too late) }
    :: AT_S(return_path && ENDED(MAIN, S)) return_path = false; cut_channels(S);
        SAY(return path, ferry_return_path_error, the return path is broken) }
    :: AT_S(BEATS && senders && !ENDED(CONTROL, S) && (silent[CONTROL] || silent[DATA] || process_d == FROZEN))
        cause = true; cut_channels(S);
        SAY(heartbeat, silent, the destination is silent) }
    :: AT_S(return_path && silent[MAIN] && !ENDED(MAIN, S)) cut_main(S);
        SAY(kernel, -, keepalive ends the main connection at the source) }

    /* --- The destination ------------------------------------------------------------------------------ */

    :: AT_D(main_thread == m_read && USABLE(MAIN, D) && main_d != NOTHING)
        if
        :: main_d == PING && has_ferry -> phase = p_opening; put(main_s, PONG);
            SAY(main thread, ferry_incoming_ping, answers PING)
        :: main_d == PING && !has_ferry -> put(main_s, ECHO); SAY(main thread, ferry_incoming_ping, echoes PING)
        :: main_d == STOCK -> main_thread = m_stock; phase = p_none; cut_channels(D);
            SAY(main thread, stand_down, the source goes on without Ferry)
        :: main_d == SETUP -> settled = true; main_thread = (phase == p_copying -> m_ferry : m_failed);
            SAY(main thread, load_setup, Ferry carries the memory)
        fi;
        main_d = NOTHING }
    :: AT_D((main_thread == m_read || main_thread == m_ferry || main_thread == m_stock) &&
            (ENDED(MAIN, D) || (settled && phase == p_failed)))
        main_thread = m_failed; cut_all(D);
        SAY(main thread, process_incoming_migration_co, the stream or the session broke) }
    :: AT_D(main_thread == m_failed && dead[MAIN] == 0) cut_all(D);
        SAY(main thread, migration_incoming_state_destroy, closes the main stream) }
    :: AT_D(phase == p_opening && !control_thread_d && USABLE(CONTROL, D) && control_d?[HELLO])
        control_d?HELLO; control_thread_d = true;
        SAY(control thread, take_regions, hello and REGIONS) }
    :: AT_D(phase == p_opening && control_thread_d && data_in)
        phase = p_copying; send(CONTROL, control_s, READY);
        SAY(control thread, take_regions, READY) }
    :: AT_D(phase == p_opening && reader && !data_in && USABLE(DATA, D) && data_d) data_d = false; data_in = true;
        SAY(data channel, admit, hello) }
    :: AT_D(reader && data_in && ENDED(DATA, D)) reader = false; fail_d(false);
        SAY(data channel, ferry_destination_run_data, a data channel is broken) }
    :: AT_D(control_thread_d && ENDED(CONTROL, D)) control_thread_d = false; fail_d(false);
        SAY(control thread, ferry_destination_run_control, the control channel is broken) }
    :: AT_D(BEATS && phase == p_copying && control_thread_d && !ENDED(CONTROL, D) &&
            (silent[CONTROL] || silent[DATA] || process_s == FROZEN)) fail_d(false);
        SAY(heartbeat, silent, the source is silent) }
    :: AT_D(main_thread == m_read && silent[MAIN] && !ENDED(MAIN, D)) cut_main(D);
        SAY(kernel, -, keepalive ends the main connection at the destination) }

    /* --- Faults --------------------------------------------------------------------------------------- */

    :: FAULT(BUSY && !ENDED(MAIN, S)) excuse = true; cut_main(S);
        SAY(network, -, the main connection breaks towards the source) }
    :: FAULT(BUSY && !ENDED(MAIN, D)) excuse = true; cut_main(D);
        SAY(network, -, the main connection breaks towards the destination) }
    :: FAULT(BUSY && dead[MAIN] == 0 && !silent[MAIN]) excuse = true; silent[MAIN] = true;
        SAY(network, -, the main connection goes silent) }
    CONNECTION_FAULTS(CONTROL, the control channel, cut_control)
    CONNECTION_FAULTS(DATA, a data channel, cut_data)
    :: FAULT(phase == p_opening && control_thread_d) excuse = true; fail_d(true);
        SAY(control thread, ferry_regions_match, refuses the guest) }
    PROCESS_FAULTS
    CONNECTION_NEWS(MAIN, the main connection, cut_main, main_d == NOTHING, main_s == NOTHING)
    CONNECTION_NEWS(CONTROL, the control channel, cut_control, len(control_d) == 0, len(control_s) == 0)
    CONNECTION_NEWS(DATA, a data channel, cut_data, !data_d, true)

    /* --- Persons --------------------------------------------------------------------------------------- */

    :: MEDDLE(process_s == ALIVE && state_s == ACTIVE && driver != s_over)
        state_s = CANCELLING; cut_all(S); cause = true;
        SAY(user, ferry_peer_cancel, migrate_cancel) }
    :: MEDDLE(process_s == ALIVE && driver != s_over) excuse = true; cut_all(S);
        SAY(user, break_channels, yank at the source) }
    :: MEDDLE(process_d == ALIVE && main_thread == m_read) excuse = true; cut_all(D);
        SAY(user, ferry_destination_shutdown, yank at the destination) }

    /* --- The end: nothing can happen any more ------------------------------------------------------------ */

    :: timeout ->
        /* A process that is frozen may have the other wait for it in QEMU's own stream, as ever. */
        CLAIM(NO_WAIT, the driver waits, process_s != ALIVE || process_d == FROZEN || DRIVER_DONE);
        CLAIM(NO_WAIT, the destination waits, process_d != ALIVE || process_s == FROZEN || main_thread != m_read);
        CLAIM(SOMEWHERE, before SETUP a trouble of the channels alone has ended the migration,
              state_s != FAILED || excuse || setup_sent);
        if
        :: process_s == ALIVE && process_d == ALIVE ->
            CLAIM(AGREED, only the source is on that of QEMU, driver != s_stock || excuse || main_thread == m_stock);
            CLAIM(AGREED, only the source is on the path of Ferry, driver != s_ferry || main_thread == m_ferry);
            CLAIM(AGREED, the source alone has ended, driver != s_over || excuse || main_thread == m_failed)
        :: else
        fi;
        break
    od
}
