/*
 * The end of pre-copy: stop, the last page, the device state, LOADED, GO, TAKEN.  See docs/model.md.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "session.pml"

mtype = { HANDOFF, LOADED, GO, TAKEN, REPORT, ERROR };
mtype = { STATE, SHUT };
bool data_d; /* the last page and the fence are under way */

/* --- The source ------------------------------------------------------------------------------------ */

mtype = { ACTIVE, DEVICE, FAILED, CANCELLING, COMPLETED };
mtype state_s = ACTIVE; /* MigrationState.state */
bool runs_s = true;     /* the vCPUs */
bool live_s = true;     /* vm_old_state is live: QEMU may start them again */
bool gone;              /* GO was sent: ferry_source_is_gone() */
bool cause;             /* of a failure, is known */
bool loaded, taken, ended;
bool error_main;        /* the return path thread has seen the end of it */
bool control_thread_s = true, return_path = true, senders = true;

mtype = { s_active, s_stopped, s_pages, s_loaded, s_taken, s_shut, s_fail, s_finish, s_over };
mtype driver = s_active;

/* The connection has served its purpose: that it breaks is no failure. */
#define OVER (gone && taken)

/* What speaks against GO. */
#define REFUSED (cause || error_main || state_s != DEVICE)

/* Whether QMP gets the BQL, which the driver has at some places. */
#ifdef VERSION3
#define BQL_IS_FREE (driver == s_active || driver == s_shut)
#define BREAKS_MAIN false
#define BEATS false
#else
#define BQL_IS_FREE true
#define BREAKS_MAIN true
#define BEATS true
#endif

#define BUSY (driver != s_over || main_thread != m_over)

/* --- The destination -------------------------------------------------------------------------------- */

mtype = { p_copying, p_handed_off, p_done, p_loaded, p_taken, p_failed };
mtype phase = p_copying;

mtype state_d = ACTIVE;  /* MigrationIncomingState.state */
bool runs_d, scheduled;  /* the vCPUs; process_incoming_migration_bh() is due */
bool current;            /* the last page is as it is at the source */
bool control_thread_d = true, readers = true;
bool hangs;              /* the device state takes for ever to load */

mtype = { m_read, m_memory, m_load, m_go, m_fail, m_over };
mtype main_thread = m_read;

/* Whether the session can still fail: version 3 does not notice once all memory is in. */
#ifdef VERSION3
#define MAY_FAIL (phase == p_copying || phase == p_handed_off)
#else
#define MAY_FAIL (phase != p_taken && phase != p_failed)
#endif

/* --- What several steps have in common --------------------------------------------------------------- */

inline cut_data(end)
{
    dead[DATA] = dead[DATA] | (end);
    if
    :: ENDED(DATA, D) -> data_d = false
    :: else
    fi
}

inline cut_all(end)
{
    cut_main(end);
    cut_control(end);
    cut_data(end)
}

/* The session fails at the source before GO, which the destination is told: break_off(), ferry_source_cancel(). */
inline take_back()
{
    send(CONTROL, control_d, ERROR);
    cut_control(S);
    cut_data(S);
    cause = true;
    loaded = false
}

/* The session fails at the destination; but for GO, which it cannot fail after: ferry_destination_fail(). */
inline fail_d()
{
    if
    :: MAY_FAIL ->
        phase = p_failed;
        send(CONTROL, control_s, ERROR);
        cut_control(D);
        cut_data(D);
        if
        :: BREAKS_MAIN -> cut_main(D)
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

#ifdef NO_FENCE
#define MEMORY_IS_IN (phase == p_done || phase == p_handed_off)
#else
#define MEMORY_IS_IN (phase == p_done)
#endif

/* What a person looks at before cont: that it does not run there is not enough. */
#ifdef NAIVE
#define HAS_NOT_THERE (!runs_d)
#else
#define HAS_NOT_THERE (process_d == KILLED || process_d == EXITED || state_d == FAILED)
#endif

/* Both, or with a person's word. */
#define ONE_RUNS !(runs_s && runs_d)

init
{
    do
    /* --- The driver: QEMU's migration thread ----------------------------------------------------- */

    :: AT_S(driver == s_active && !cause && !error_main && state_s == ACTIVE)
        runs_s = false; state_s = DEVICE; driver = s_stopped;
        SAY(driver, migration_completion_precopy, the vCPUs have stopped; one more page was written) }
    :: AT_S(driver == s_active && (cause || error_main || state_s == CANCELLING)) take_back(); driver = s_fail;
        SAY(driver, migration_detect_error, fails before the stop) }
    :: AT_S(driver == s_stopped && !cause && !ENDED(DATA, S))
        if
        :: dead[DATA] == 0 -> data_d = true
        :: else
        fi;
        send(CONTROL, control_d, HANDOFF); driver = s_pages;
        SAY(driver, ferry_source_hand_off, sends the last page and hands off) }
    :: AT_S(driver == s_pages && !cause && !ENDED(MAIN, S))
        put(main_d, STATE);
#ifdef VERSION3
        driver = s_shut;
#else
        driver = s_loaded;
#endif
        SAY(driver, ferry_save_complete, ends the memory and sends the device state) }
    :: AT_S((driver == s_stopped || driver == s_pages) && (cause || ENDED(DATA, S) || ENDED(MAIN, S)))
        take_back(); driver = s_fail;
        SAY(driver, ferry_source_fail, fails with the vCPUs stopped) }
#ifndef VERSION3
    :: AT_S(driver == s_loaded && loaded && !REFUSED)
        send(CONTROL, control_d, GO); gone = true; live_s = false; driver = s_taken;
        SAY(driver, ferry_source_go, sends GO) }
    :: AT_S(driver == s_loaded && (cause || state_s != DEVICE || (loaded && error_main))) take_back(); driver = s_fail;
        SAY(driver, ferry_source_wait_loaded, will not hear LOADED or may not say GO) }
#ifndef NO_LIMIT
    :: AT_S(driver == s_loaded) take_back(); driver = s_fail;
        SAY(heartbeat, look_at_blackout, switchover-timeout is over) }
#endif
    :: AT_S(driver == s_taken && taken) driver = s_shut;
        SAY(driver, ferry_source_wait_taken, the destination has the guest) }
    :: AT_S(driver == s_taken && !taken && !control_thread_s) driver = s_fail;
        SAY(driver, ferry_source_wait_taken, is in doubt) }
#ifndef NO_LIMIT
    :: AT_S(driver == s_taken && !taken) cut_control(S); cut_data(S); driver = s_fail;
        SAY(driver, ferry_source_wait_taken, is in doubt as nothing comes) }
#endif
#endif
    :: AT_S(driver == s_shut && ended) state_s = COMPLETED; driver = s_over; cut_all(S);
        SAY(driver, migration_completion_end, completed) }
#ifdef VERSION3
    :: AT_S(driver == s_shut && error_main) driver = s_fail;
        SAY(driver, close_return_path_on_source, the return path is broken) }
#else
#ifndef SHUT_FOR_EVER
    :: AT_S(driver == s_shut) state_s = COMPLETED; driver = s_over; cut_all(S);
        SAY(driver, migration_completion, completed whatever becomes of the return path) }
#endif
#endif
    :: AT_S(driver == s_fail) state_s = (state_s == CANCELLING -> CANCELLING : FAILED); driver = s_finish;
        SAY(driver, migration_completion, the migration has failed or was cancelled) }
    :: AT_S(driver == s_finish) runs_s = runs_s || live_s; driver = s_over; cut_all(S);
        SAY(driver, migration_iteration_finish, ends; the guest goes on here unless GO was sent);
        CLAIM(ONE_GUEST, both run, !(runs_s && runs_d)) }

    /* --- Other threads of the source --------------------------------------------------------------- */

    :: AT_S(control_thread_s && USABLE(CONTROL, S) && len(control_s) > 0)
        if
        :: control_s?[LOADED] -> control_s?LOADED; loaded = true; SAY(control thread, take_control_frame, LOADED)
        :: control_s?[TAKEN] -> control_s?TAKEN; taken = true; SAY(control thread, take_control_frame, TAKEN)
        :: control_s?[REPORT] -> control_s?REPORT; taken = true; SAY(control thread, take_report, REPORT)
        :: control_s?[ERROR] -> cause = cause || !OVER; control_thread_s = false; cut_control(S); cut_data(S);
            SAY(control thread, control_run, the destination says ERROR)
        fi }
    :: AT_S(control_thread_s && ENDED(CONTROL, S)) cause = cause || !OVER; control_thread_s = false; cut_data(S);
        if
        :: BREAKS_MAIN && !OVER -> cut_main(S)
        :: else
        fi;
        SAY(control thread, control_run, the control channel is broken) }
    :: AT_S(senders && ENDED(DATA, S)) senders = false; cause = cause || !OVER;
        SAY(sender, ferry_source_lose_channel, a data channel is broken) }
    :: AT_S(return_path && USABLE(MAIN, S) && main_s == SHUT) main_s = NOTHING; ended = true; return_path = false;
        SAY(return path, source_return_path_thread, SHUT) }
    :: AT_S(return_path && ENDED(MAIN, S)) return_path = false; error_main = true;
        SAY(return path, ferry_return_path_error, the return path is broken) }
    :: AT_S(BEATS && control_thread_s && !ENDED(CONTROL, S) &&
            (silent[CONTROL] || silent[DATA] || process_d == FROZEN))
        cause = cause || !OVER; cut_control(S); cut_data(S);
        SAY(heartbeat, silent, the destination is silent) }
    :: AT_S(return_path && silent[MAIN] && !ENDED(MAIN, S)) cut_main(S);
        SAY(kernel, -, keepalive ends the main connection at the source) }

    /* --- The destination ------------------------------------------------------------------------------ */

    :: AT_D(main_thread == m_read && USABLE(MAIN, D) && main_d == STATE) main_d = NOTHING; main_thread = m_memory;
        SAY(main thread, load_end, has read all of the stream up to the device state) }
    :: AT_D(main_thread == m_read && ENDED(MAIN, D)) main_thread = m_fail;
        SAY(main thread, qemu_loadvm_state, the stream is broken) }
    :: AT_D(main_thread == m_memory && MEMORY_IS_IN) main_thread = m_load;
        SAY(main thread, ferry_destination_is_complete, all memory is in) }
    :: AT_D(main_thread == m_memory && phase == p_failed) main_thread = m_fail;
        SAY(main thread, ferry_destination_is_complete, the session has failed) }
#ifdef VERSION3
    :: AT_D(main_thread == m_load && !hangs) scheduled = true; main_thread = m_go;
        SAY(main thread, process_incoming_migration_co, the device state is loaded) }
#else
    :: AT_D(main_thread == m_load && !hangs && phase != p_failed)
        phase = p_loaded; send(CONTROL, control_s, LOADED); main_thread = m_go;
        SAY(main thread, ferry_destination_loaded, says LOADED) }
    :: AT_D(main_thread == m_load && !hangs && phase == p_failed) main_thread = m_fail;
        SAY(main thread, ferry_destination_loaded, the session has failed) }
    :: AT_D(main_thread == m_go && phase == p_failed) main_thread = m_fail;
        SAY(main thread, ferry_incoming_check, will not be told to run the guest) }
#endif
    :: AT_D(main_thread == m_go && scheduled)
        scheduled = false; runs_d = true; state_d = COMPLETED; main_thread = m_over;
        send(CONTROL, control_s, REPORT); put(main_s, SHUT); cut_all(D);
        SAY(main thread, process_incoming_migration_bh, the guest runs here; says REPORT and SHUT);
        CLAIM(ONE_GUEST, both run, !(runs_s && runs_d));
        CLAIM(ALL_OF_IT, the last page has not come, current) }
    :: AT_D(main_thread == m_fail)
        phase = (phase == p_taken -> p_taken : p_failed); state_d = FAILED; main_thread = m_over;
        put(main_s, SHUT); cut_all(D);
        SAY(main thread, migration_incoming_state_destroy, the incoming migration has failed; says SHUT) }

    :: AT_D(control_thread_d && USABLE(CONTROL, D) && len(control_d) > 0)
        if
        :: control_d?[HANDOFF] -> control_d?HANDOFF;
            phase = (phase != p_copying -> phase : (current -> p_done : p_handed_off));
            SAY(control thread, take_handoff, is handed the guest)
        :: control_d?[GO] -> control_d?GO;
            if
            :: phase == p_loaded -> phase = p_taken; scheduled = true; send(CONTROL, control_s, TAKEN)
            :: else -> control_thread_d = false; fail_d()
            fi;
            SAY(control thread, take_go, GO)
        :: control_d?[ERROR] -> control_thread_d = false; fail_d();
            SAY(control thread, take_frame, ERROR)
        fi }
    :: AT_D(control_thread_d && ENDED(CONTROL, D)) control_thread_d = false; fail_d();
        SAY(control thread, ferry_destination_run_control, the control channel is broken) }
    :: AT_D(readers && USABLE(DATA, D) && data_d) data_d = false; current = true;
        phase = (phase == p_handed_off -> p_done : phase);
        SAY(data channel, ferry_destination_check_complete, the last page and the fence come) }
    :: AT_D(readers && ENDED(DATA, D)) readers = false; fail_d();
        SAY(data channel, ferry_destination_run_data, a data channel is broken) }
    :: AT_D(BEATS && MAY_FAIL && control_thread_d && !ENDED(CONTROL, D) &&
            (silent[CONTROL] || silent[DATA] || process_s == FROZEN))
        fail_d();
        SAY(heartbeat, silent, the source is silent) }
    :: AT_D(main_thread == m_read && silent[MAIN] && !ENDED(MAIN, D)) cut_main(D);
        SAY(kernel, -, keepalive ends the main connection at the destination) }

    /* --- Faults --------------------------------------------------------------------------------------- */

    CONNECTION_FAULTS(MAIN, the main connection, cut_main)
    CONNECTION_FAULTS(CONTROL, the control channel, cut_control)
    CONNECTION_FAULTS(DATA, a data channel, cut_data)
    :: FAULT(!hangs && main_thread == m_load) hangs = true; SAY(world, -, the device state takes for ever to load) }
    :: FAULT(main_thread == m_load) main_thread = m_fail; SAY(world, -, the device state cannot be loaded) }
    PROCESS_FAULTS
    CONNECTION_NEWS(MAIN, the main connection, cut_main, main_d == NOTHING, main_s == NOTHING)
    CONNECTION_NEWS(CONTROL, the control channel, cut_control, len(control_d) == 0, len(control_s) == 0)
    CONNECTION_NEWS(DATA, a data channel, cut_data, !data_d, true)

    /* --- Persons --------------------------------------------------------------------------------------- */

    :: MEDDLE(process_s == ALIVE && BQL_IS_FREE && !gone && (state_s == ACTIVE || state_s == DEVICE))
        state_s = CANCELLING; cut_main(S); take_back();
        SAY(user, ferry_source_cancel, migrate_cancel) }
    :: MEDDLE(process_s == ALIVE && driver != s_over) cut_all(S);
        SAY(user, break_channels, yank at the source) }
    :: MEDDLE(process_d == ALIVE && main_thread != m_over) cut_all(D);
        SAY(user, ferry_destination_shutdown, yank at the destination) }

    /* In doubt: a person finds out whether the destination has the guest. */
    :: AT_S(driver == s_over && gone && state_s == FAILED && !runs_s && HAS_NOT_THERE) runs_s = true;
        SAY(user, qmp_cont, cont at the source, as the destination has not got the guest);
        CLAIM(ONE_GUEST, both run, !(runs_s && runs_d)) }

    /* --- The end: nothing can happen any more ------------------------------------------------------------ */

    :: timeout ->
        CLAIM(NO_WAIT, the driver waits, process_s != ALIVE || driver == s_over);
        CLAIM(NO_WAIT, the destination waits,
              process_d != ALIVE || main_thread == m_over || (main_thread == m_load && hangs));
        CLAIM(SOMEWHERE, none runs, process_s != ALIVE || ENDED_BY_SOMEBODY || runs_s || runs_d);
        CLAIM(AGREED, the guest runs at the destination and the source is neither completed nor in doubt,
              !runs_d || process_s != ALIVE || state_s == COMPLETED || (gone && state_s == FAILED));
        CLAIM(AGREED, the source is completed and the destination is not,
              state_s != COMPLETED || process_d != ALIVE || state_d == COMPLETED);
        break
    od
}
