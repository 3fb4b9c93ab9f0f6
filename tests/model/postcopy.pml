/*
 * The hand-off with pages missing, fetching, pause and resume: the steps.  See docs/model.md.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "postcopy-state.pml"

init
{
    if
    :: touched = 0
    :: touched = ALL
    fi;
    do
    /* --- The driver: QEMU's migration thread ----------------------------------------------------- */

    /* Before the stop */
    :: AT_S(driver == s_round && !cause && state_s == ACTIVE)
        send(CONTROL, control_d, DRAFT); driver = s_draft;
        SAY(driver, ferry_source_draft, sends the draft) }
    :: AT_S(driver == s_draft && drafted) drafted = false; driver = s_drafted;
        SAY(driver, ferry_source_wait, the destination has the draft) }
#ifdef UNDRAFT
    :: AT_S(driver == s_drafted && !undrafted && !cause && state_s == ACTIVE)
        undrafted = true; send(CONTROL, control_d, FORGET); driver = s_forget;
        SAY(driver, ferry_source_undraft, takes the draft back) }
    :: AT_S(driver == s_forget && drafted) drafted = false; driver = s_round;
        SAY(driver, ferry_source_undraft, the destination has forgotten the draft) }
#endif
    :: AT_S(driver == s_drafted && state_s == ACTIVE) runs_s = false; state_s = DEVICE; driver = s_stopped;
        SAY(driver, migration_switchover_start, the vCPUs have stopped; one more page was written) }
    :: AT_S((driver == s_round || driver == s_draft || driver == s_drafted || driver == s_forget) &&
            (cause || error_main || state_s == CANCELLING))
        take_back(); driver = s_back;
        SAY(driver, migration_detect_error, fails before the stop) }

    /* The hand-off */
    :: AT_S(driver == s_stopped && !cause)
        send(CONTROL, control_d, HANDOFF); driver = s_left;
        SAY(driver, ferry_source_leave, says what is missing and hands off) }
    :: AT_S(driver == s_left && !ENDED(MAIN, S) && !cause) put(main_d, PACKAGE); driver = s_loaded;
        SAY(driver, ferry_send_packaged, sends the device state) }
    :: AT_S((driver == s_stopped || driver == s_left) && (cause || ENDED(MAIN, S)))
        take_back(); driver = s_back;
        SAY(driver, ferry_source_fail, fails while it hands off) }
    :: AT_S(driver == s_loaded && MAY_GO)
        send(CONTROL, control_d, GO); gone = true; loaded = false;
#ifdef VERSION3
        driver = s_gone;
#else
        live_s = false; state_s = POSTCOPY_ACTIVE; driver = s_push;
#endif
        SAY(driver, ferry_source_go, sends GO) }
    :: AT_S(driver == s_loaded && !MAY_WAIT) take_back(); driver = s_back;
        SAY(driver, ferry_source_wait_loaded, will not hear LOADED or may not say GO) }
#ifndef NO_LIMIT
    :: AT_S(driver == s_loaded)
#ifdef MUTE
        cut_control(S); cut_pages(S);
#endif
        take_back(); driver = s_back;
        SAY(heartbeat, look_at_blackout, switchover-timeout is over) }
#endif
#ifdef VERSION3
    :: AT_S(driver == s_gone && ENDED(MAIN, S)) driver = s_back;
        SAY(driver, postcopy_start, the main stream has an error after GO) }
    :: AT_S(driver == s_gone && !ENDED(MAIN, S)) state_s = POSTCOPY_ACTIVE; driver = s_push;
        SAY(driver, postcopy_start, goes on to postcopy-active) }
#endif

    /* The guest goes on here */
    :: AT_S(driver == s_back)
        state_s = (state_s == CANCELLING -> CANCELLING : FAILED); driver = s_finish;
        SAY(driver, postcopy_start, the migration has failed or was cancelled) }
    :: AT_S(driver == s_finish) runs_s = runs_s || live_s; driver = s_over; cut_all(S);
        SAY(driver, migration_iteration_finish, ends; the guest goes on here unless it has gone);
        CLAIM(ONE_GUEST, both run, !(runs_s && runs_d)) }

    /* The guest has gone */
    :: AT_S(driver == s_push && backlog != 0 && !ENDED(DATA, S))
        if
        :: dead[DATA] == 0 -> data_d = data_d | (backlog & EARLY -> EARLY : LATE)
        :: else
        fi;
        backlog = backlog & ~(backlog & EARLY -> EARLY : LATE);
        SAY(sender, ferry_senders_start, sends a page) }
    :: AT_S(driver == s_push && IS_COMPLETE) put(main_d, END); backlog = 0; driver = s_shut;
        SAY(driver, migration_completion_postcopy, nothing is missing; ends the stream) }
    /* Not when only the main stream is broken: pages are served until the session ends, or breaks as well. */
    :: AT_S(driver == s_push && !IS_COMPLETE && cause) driver = s_pause;
        SAY(driver, ferry_source_push, the connection is broken) }
    :: AT_S(driver == s_shut && ended) state_s = COMPLETED; driver = s_over; cut_all(S);
        SAY(driver, migration_completion_end, completed) }
    :: AT_S(driver == s_shut && error_main)
#ifdef END_FAILS
        state_s = FAILED; driver = s_finish;
        SAY(driver, migration_completion, the return path broke at the very end: failed)
#else
        state_s = COMPLETED; driver = s_over; cut_all(S);
        SAY(driver, migration_completion, the return path broke at the very end: completed all the same)
#endif
        }

    /* Pause and resume */
    :: AT_S(driver == s_pause && !ENDED(CONTROL, S)) cut_control(S); cut_pages(S);
        SAY(driver, ferry_source_fail, hangs up) }
    :: AT_S(driver == s_pause && STALE_ARE_GONE && !(LOOKS_AGAIN && IS_COMPLETE))
        cut_all(S); cause = true; state_s = POSTCOPY_PAUSED; backlog = 0; driver = s_paused;
        SAY(driver, postcopy_pause, paused) }
    :: AT_S(driver == s_pause && STALE_ARE_GONE && LOOKS_AGAIN && IS_COMPLETE)
        put(main_d, END); state_s = POSTCOPY_ACTIVE; backlog = 0; driver = s_shut;
        SAY(driver, ferry_source_push, COMPLETE has come just before; ends the stream) }
    :: AT_S(driver == s_ping) put(main_d, PING); driver = s_pong;
        SAY(driver, ferry_peer_ask, asks for the session) }
    :: AT_S(driver == s_pong && pong) pong = false; driver = s_open;
        SAY(driver, ferry_peer_ask, is answered) }
    :: AT_S(driver == s_pong && !pong && (error_main || silent[MAIN] || process_d == FROZEN)) driver = s_pause;
        SAY(driver, ferry_peer_ask, is not answered) }
    :: AT_S(driver == s_open && !control_thread_s)
        drain(control_d); drain(control_s); data_d = 0; fetch_d = 0; fetch_s = 0; asked = 0;
        dead[CONTROL] = (process_d == KILLED || process_d == EXITED -> D : 0);
        dead[DATA] = dead[CONTROL]; dead[FETCH] = dead[CONTROL];
        silent[CONTROL] = false; silent[DATA] = false; silent[FETCH] = false;
        control_thread_s = true; servers = true; cause = false; resumed = false;
        control_thread_d = true; readers = true; resuming = CUT_OFF;
        send(CONTROL, control_d, RESUME); driver = s_resumed;
        SAY(driver, ferry_source_reconnect, opens channels and sends RESUME) }
    :: AT_S(driver == s_resumed && resumed) resumed = false; backlog = told;
#ifndef NO_GO_AGAIN
        send(CONTROL, control_d, GO);
#endif
        driver = s_handshake;
        SAY(driver, ferry_source_reconnect, knows what is missing and repeats GO) }
    :: AT_S(driver == s_resumed && !resumed && cause) driver = s_pause;
        SAY(driver, ferry_source_reconnect, fails) }
    :: AT_S(driver == s_handshake) put(main_d, RESUME_COMMAND); driver = s_ack;
        SAY(driver, postcopy_resume_handshake, sends POSTCOPY_RESUME) }
    :: AT_S(driver == s_ack && state_s == POSTCOPY_ACTIVE) driver = s_push;
        SAY(driver, postcopy_pause, goes on) }
    :: AT_S(driver == s_ack && state_s != POSTCOPY_ACTIVE && error_main) driver = s_pause;
        SAY(driver, postcopy_resume_handshake, fails) }

    /* --- Other threads of the source --------------------------------------------------------------- */

    :: AT_S(control_thread_s && USABLE(CONTROL, S) && len(control_s) > 0)
        if
        :: control_s?[DRAFTED] -> control_s?DRAFTED; drafted = true; SAY(control thread, take_control_frame, DRAFTED)
        :: control_s?[LOADED] -> control_s?LOADED; loaded = true; SAY(control thread, take_control_frame, LOADED)
        :: control_s?[TAKEN] -> control_s?TAKEN; taken = true; SAY(control thread, take_control_frame, TAKEN)
        :: control_s?[COMPLETE] -> control_s?COMPLETE; complete = true;
            SAY(control thread, take_control_frame, COMPLETE)
        :: control_s?[RESUMED] -> control_s?RESUMED; resumed = true; SAY(control thread, take_missing, RESUMED)
        :: control_s?[ERROR] -> control_s?ERROR;
#ifndef ERROR_UNHEARD
            if
            :: !gone -> send(CONTROL, control_d, ERROR)
            :: else
            fi;
#endif
            lose_control_s(); SAY(control thread, control_run, the destination says ERROR)
        fi }
    :: AT_S(control_thread_s && ENDED(CONTROL, S)) lose_control_s();
        SAY(control thread, control_run, the control channel is broken) }
    :: AT_S(servers && USABLE(FETCH, S) && fetch_s != 0)
        if
        :: dead[FETCH] == 0 -> fetch_d = fetch_d | fetch_s
        :: else
        fi;
        fetch_s = 0;
        SAY(page server, ferry_page_server_start, answers with the pages) }
    :: AT_S(servers && (ENDED(DATA, S) || ENDED(FETCH, S))) servers = false; cause = cause || !OVER;
        SAY(page server, ferry_source_lose_channel, a data or fetch channel is broken) }
    :: AT_S(return_path && USABLE(MAIN, S) && main_s != NOTHING)
        if
        :: main_s == PONG -> pong = true; SAY(return path, ferry_outgoing_pong, PONG)
        :: main_s == RESUME_ACK -> state_s = POSTCOPY_ACTIVE;
            SAY(return path, migrate_handle_rp_resume_ack, RESUME_ACK)
        :: main_s == SHUT -> ended = true; return_path = false; SAY(return path, source_return_path_thread, SHUT)
        fi;
        main_s = NOTHING }
    :: AT_S(return_path && ENDED(MAIN, S)) return_path = false; error_main = true;
        SAY(return path, ferry_return_path_error, the return path is broken) }
    :: AT_S(BEATS_S && control_thread_s && !ENDED(CONTROL, S) &&
            (silent[CONTROL] || silent[DATA] || silent[FETCH] || process_d == FROZEN))
        cause = true; cut_control(S); cut_pages(S);
        SAY(heartbeat, silent, the destination is silent) }
#ifndef SHUT_FOR_EVER
    :: AT_S(BEATS_S && (driver == s_shut || driver == s_ack) && !control_thread_s && !ENDED(MAIN, S))
        cut_main(S);
        SAY(heartbeat, silent, the channels are of no use any more: no answer is waited for on the main stream) }
#endif
    :: AT_S(return_path && silent[MAIN] && !ENDED(MAIN, S)) cut_main(S);
        SAY(kernel, -, keepalive ends the main connection at the source) }

    /* --- The main thread of the destination --------------------------------------------------------- */

    :: AT_D(main_thread == m_read && USABLE(MAIN, D) && main_d == PACKAGE) main_d = NOTHING; main_thread = m_listen;
        SAY(main thread, loadvm_handle_cmd_packaged, has read the device state) }
    :: AT_D(main_thread == m_read && ENDED(MAIN, D)) exit_d(EXITED);
        SAY(main thread, process_incoming_migration_co, the stream broke; the destination exits) }
    :: AT_D(main_thread == m_listen && phase == p_handed_off)
        listen_thread = l_read; main_thread = m_load; state_d = POSTCOPY_ACTIVE;
        SAY(main thread, ferry_postcopy_listen, starts the listen thread) }
    :: AT_D(main_thread == m_listen && phase == p_failed) exit_d(EXITED);
        SAY(main thread, ferry_destination_wait_left, the session has failed; the destination exits) }
    :: AT_D(main_thread == m_load && !hangs && (missing & touched) == 0) main_thread = m_run;
        SAY(main thread, qemu_loadvm_section_start_full, the device state is loaded) }
    :: AT_D(main_thread == m_load && phase == p_failed) main_thread = m_run;
        SAY(main thread, ferry_fetch_release, the session has failed) }
    :: AT_D(main_thread == m_run) running = true; main_thread = m_loaded;
        SAY(main thread, loadvm_postcopy_handle_run, POSTCOPY_INCOMING_RUNNING) }
    :: AT_D(main_thread == m_loaded && phase == p_failed) exit_d(EXITED);
        SAY(main thread, ferry_incoming_run, the session has failed; the destination exits) }
    :: AT_D(main_thread == m_loaded && phase == p_handed_off)
        phase = (all_came -> p_done : p_fetching); send(CONTROL, control_s, LOADED); main_thread = m_idle;
        SAY(main thread, ferry_destination_loaded, says LOADED) }
    :: AT_D(main_thread == m_idle && phase == p_failed) exit_d(EXITED);
        SAY(main thread, ferry_incoming_check, the source has taken the guest back; the destination exits) }
    :: AT_D(main_thread == m_idle && scheduled) scheduled = false; runs_d = true;
        SAY(main thread, loadvm_postcopy_handle_run_bh, the guest runs here);
        CLAIM(ONE_GUEST, both run, !(runs_s && runs_d));
        CLAIM(ALL_OF_IT, a page is neither here nor missing, (missing | current) == ALL) }

    /* --- Its listen thread ---------------------------------------------------------------------------- */

    :: AT_D((listen_thread == l_read || listen_thread == l_recover) && USABLE(MAIN, D) && main_d != NOTHING)
        if
        :: main_d == END -> listen_thread = l_end; SAY(listen thread, ferry_load_state, the end of the stream)
        :: main_d == PING -> stream_broke = false; put(main_s, PONG);
            SAY(listen thread, ferry_incoming_ping, answers PING)
        :: main_d == RESUME_COMMAND -> put(main_s, RESUME_ACK); state_d = POSTCOPY_ACTIVE; listen_thread = l_read;
            SAY(listen thread, loadvm_postcopy_handle_resume, answers RESUME_ACK)
        fi;
        main_d = NOTHING }
    :: AT_D((listen_thread == l_read || listen_thread == l_recover) && ENDED(MAIN, D))
#ifdef LISTEN_EXITS
        listen_thread = (running -> l_pause : l_die);
#else
        /* Decided once, with the lock of the session: LOADED may be about to be said. */
        if
        :: ENDS_NOW -> listen_thread = l_join
        :: else -> stream_broke = true; fail_d(); listen_thread = (phase == p_failed -> l_die : l_pause)
        fi;
#endif
        SAY(listen thread, qemu_loadvm_state_main, the main stream is broken) }
    :: AT_D(listen_thread == l_die) exit_d(EXITED);
        SAY(listen thread, postcopy_ram_listen_thread, the destination exits) }
#ifdef COMPLETE_UNTAKEN
    :: AT_D(listen_thread == l_end) listen_thread = (HAS_ALL -> l_join : l_pause);
#else
    :: AT_D(listen_thread == l_end) listen_thread = (HAS_ALL && may_run -> l_join : l_pause);
#endif
        SAY(listen thread, load_end, looks whether all is in) }
    :: AT_D(listen_thread == l_join && main_thread == m_idle && !scheduled)
        state_d = COMPLETED; put(main_s, SHUT); cut_all(D); listen_thread = l_over;
        SAY(listen thread, postcopy_ram_listen_thread, completed; says SHUT) }
    :: AT_D(listen_thread == l_pause) cut_main(D); fail_d(); state_d = POSTCOPY_PAUSED; listen_thread = l_paused;
        SAY(listen thread, postcopy_pause_incoming, pauses) }

    /* --- Other threads of the destination -------------------------------------------------------------- */

    :: AT_D(control_thread_d && USABLE(CONTROL, D) && len(control_d) > 0)
        if
        :: control_d?[DRAFT] -> control_d?DRAFT; missing = EARLY; current = LATE;
            send(CONTROL, control_s, DRAFTED);
            SAY(control thread, take_draft, discards the pages of the draft)
        :: control_d?[FORGET] -> control_d?FORGET; missing = 0;
            send(CONTROL, control_s, DRAFTED);
            SAY(control thread, forget_draft, forgets the draft)
        :: control_d?[HANDOFF] -> control_d?HANDOFF;
#ifdef FORGET_DRAFT
            missing = LATE;
#else
            missing = ALL;
#endif
            current = 0; phase = p_handed_off;
            SAY(control thread, take_handoff, is handed the guest with pages missing)
        :: control_d?[GO] -> control_d?GO;
            if
            :: COMMITTED ->
                scheduled = scheduled || !may_run; may_run = true;
#ifndef VERSION3
                tell_d(TAKEN, told_taken);
#endif
            :: else -> control_thread_d = false; fail_d()
            fi;
            SAY(control thread, take_go, GO)
        :: control_d?[RESUME] -> control_d?RESUME;
            if
            :: CUT_OFF && resuming && (!stream_broke || SAYS_RESUMED) ->
                send(CONTROL, control_s, RESUMED); told = missing; resuming = false;
                if
                :: phase == p_parted -> phase = p_done; tell_d(COMPLETE, told_complete)
                :: else -> phase = p_fetching
                fi
            :: else -> control_thread_d = false; fail_d()
            fi;
            SAY(control thread, take_resume, says what is missing)
        :: control_d?[ERROR] -> control_thread_d = false;
#ifndef VERSION3
            if
            :: COMMITTED && !may_run -> phase = p_failed
            :: else
            fi;
#endif
            fail_d();
            if
            :: phase == p_failed -> cut_all(D)
            :: else
            fi;
            SAY(control thread, take_frame, ERROR)
        fi }
    :: AT_D(control_thread_d && ENDED(CONTROL, D)) control_thread_d = false; fail_d(); cut_control(D);
        SAY(control thread, ferry_destination_run_control, the control channel is broken) }
    :: AT_D(readers && USABLE(DATA, D) && data_d != 0) place(data_d); data_d = 0;
        SAY(data channel, ferry_receive_pages, pages come) }
    :: AT_D(readers && USABLE(FETCH, D) && fetch_d != 0) place(fetch_d); fetch_d = 0;
        SAY(fetch channel, ferry_receive_pages, pages that were asked for come) }
    :: AT_D(readers && (ENDED(DATA, D) || ENDED(FETCH, D))) readers = false; fail_d();
        SAY(data channel, ferry_destination_run_data, a data or fetch channel is broken) }
    :: AT_D(readers && !ENDED(FETCH, D) && main_thread == m_load && phase == p_handed_off &&
            (missing & touched & ~asked) != 0)
        if
        :: dead[FETCH] == 0 -> fetch_s = fetch_s | (missing & touched)
        :: else
        fi;
        asked = asked | touched;
        SAY(main thread, want, loading needs pages that are missing) }
    :: AT_D(readers && !ENDED(FETCH, D) && runs_d && phase == p_fetching && (missing & EARLY & ~asked) != 0)
        if
        :: dead[FETCH] == 0 -> fetch_s = fetch_s | EARLY
        :: else
        fi;
        asked = asked | EARLY;
        SAY(vCPU, want, needs a page that is missing) }
    :: AT_D(BEATS_D && control_thread_d && !ENDED(CONTROL, D) && !CUT_OFF &&
            (silent[CONTROL] || silent[DATA] || silent[FETCH] || process_s == FROZEN))
        fail_d();
        if
        :: CONTENT && !stream_broke -> cut_main(D)
        :: else
        fi;
        SAY(heartbeat, silent, the source is silent) }
    :: AT_D(BEATS_D && control_thread_d && !ENDED(CONTROL, D) && !CUT_OFF && may_run &&
            listen_thread == l_read && !ENDED(MAIN, D) && held[MAIN] == D)
        fail_d(); cut_main(D);
        SAY(heartbeat, look_at_rest, nothing comes on the main stream) }
#ifndef HELD_FOR_EVER
    :: AT_D(CUT_OFF && CONTENT && listen_thread == l_read && !ENDED(MAIN, D) &&
            (held[MAIN] == D || process_s == FROZEN))
        cut_main(D);
        SAY(heartbeat, look_at_rest, the session is over and nothing comes on the main stream) }
#endif
    :: AT_D(listen_thread == l_recover && !ENDED(MAIN, D) && main_d == NOTHING && process_s == FROZEN)
        cut_main(D);
        SAY(main thread, ferry_recovery_begin, the source has not resumed the migration in time) }
    :: AT_D((main_thread == m_read || listen_thread == l_read || listen_thread == l_recover) &&
            silent[MAIN] && !ENDED(MAIN, D))
        cut_main(D);
        SAY(kernel, -, keepalive ends the main connection at the destination) }

    /* --- Faults ------------------------------------------------------------------------------------------ */

    CONNECTION_FAULTS(MAIN, the main connection, cut_main)
    :: FAULT(BUSY && dead[MAIN] == 0 && state_s != POSTCOPY_RECOVER && state_s != POSTCOPY_PAUSED)
        held[MAIN] = D; cut_main(S);
        SAY(network, -, the main connection breaks towards the source; a relay keeps it at the destination) }
    :: FAULT(BUSY && dead[MAIN] == 0 && state_s != POSTCOPY_RECOVER && state_s != POSTCOPY_PAUSED)
        held[MAIN] = S; cut_main(D);
        SAY(network, -, the main connection breaks towards the destination; a relay keeps it at the source) }
    CONNECTION_FAULTS(CONTROL, the control channel, cut_control)
    CONNECTION_FAULTS(DATA, a data channel, cut_data)
#ifdef FETCH_APART
    CONNECTION_FAULTS(FETCH, a fetch channel, cut_fetch)
#endif
    :: FAULT(!hangs && main_thread == m_load) hangs = true; SAY(world, -, the device state takes for ever to load) }
    /* All at once: the host of a tunnel that the source is behind ends, say. */
    :: FAULT(BUSY && dead[MAIN] == 0 && state_s != POSTCOPY_RECOVER && state_s != POSTCOPY_PAUSED)
        held[MAIN] = D; cut_all(S);
        SAY(network, -, all break towards the source; a relay keeps the main connection at the destination) }
    :: FAULT(main_thread == m_load) send(CONTROL, control_s, ERROR); exit_d(EXITED);
        SAY(world, -, the device state cannot be loaded; the destination exits) }
#ifdef STARVE
    :: AT_D(!starved && !calm && COMMITTED && !CUT_OFF && !ENDED(CONTROL, D))
        starved = true; send(CONTROL, control_s, ERROR); fail_d();
        SAY(data channel, fetch_starved, there is no memory for a page) }
#endif
    PROCESS_FAULTS
    CONNECTION_NEWS(MAIN, the main connection, cut_main, main_d == NOTHING, main_s == NOTHING)
    CONNECTION_NEWS(CONTROL, the control channel, cut_control, len(control_d) == 0, len(control_s) == 0)
    CONNECTION_NEWS(DATA, a data channel, cut_data, data_d == 0, true)
    CONNECTION_NEWS(FETCH, a fetch channel, cut_fetch, fetch_d == 0, fetch_s == 0)

    /* --- Persons ------------------------------------------------------------------------------------------ */

    :: MEDDLE(process_s == ALIVE && BQL_IS_FREE && (state_s == ACTIVE || state_s == DEVICE))
        state_s = CANCELLING; cut_main(S); take_back();
        SAY(user, ferry_source_cancel, migrate_cancel) }
    :: MEDDLE(process_s == ALIVE && driver != s_over) cut_all(S); faults++;
        SAY(user, break_channels, yank at the source) }
    :: MEDDLE(process_d == ALIVE && driver != s_over) cut_all(D); faults++;
        SAY(user, ferry_destination_shutdown, yank at the destination) }
    :: MEDDLE(process_s == ALIVE && (state_s == POSTCOPY_ACTIVE || state_s == POSTCOPY_RECOVER)) cut_main(S); faults++;
        SAY(user, qmp_migrate_pause, migrate-pause) }

    /* Who sees both sides paused has them connect again. */
    :: d_step { driver == s_paused && listen_thread == l_paused && process_s == ALIVE && process_d == ALIVE &&
                !return_path && !servers ->
        main_d = NOTHING; main_s = NOTHING; dead[MAIN] = 0; silent[MAIN] = false; held[MAIN] = 0;
        error_main = false; pong = false; return_path = true; state_s = POSTCOPY_RECOVER; driver = s_ping;
        state_d = POSTCOPY_RECOVER; listen_thread = l_recover;
        SAY(user, qmp_migrate_recover, migrate-recover and migrate with resume) }

    /* --- The end: nothing can happen any more ---------------------------------------------------------------- */

    :: timeout ->
        CLAIM(NO_WAIT, the driver waits, process_s != ALIVE || driver == s_over || driver == s_paused);
        CLAIM(NO_WAIT, the destination reads a stream on which nothing comes,
              process_d != ALIVE || (listen_thread != l_read && listen_thread != l_recover));
        CLAIM(NO_WAIT, the destination waits for the device state,
              process_d != ALIVE || (main_thread != m_read && main_thread != m_listen));
        CLAIM(SOMEWHERE, none runs, process_s != ALIVE || ENDED_BY_SOMEBODY || runs_s || runs_d);
        if
        :: runs_d && process_s == ALIVE && process_d == ALIVE ->
            CLAIM(ALL_OF_IT, pages are missing for good, current == ALL);
            CLAIM(AGREED, the destination is not completed, state_d == COMPLETED);
            CLAIM(AGREED, the source is neither completed nor paused, state_s == COMPLETED || driver == s_paused);
            CLAIM(AGREED, the source is paused and knows that nothing is missing, driver != s_paused || !IS_COMPLETE);
            CLAIM(AGREED, the source is paused for good and was never told that nothing is missing,
                  driver != s_paused || CONTENT)
        :: else
        fi;
        CLAIM(AGREED, the network did nothing and the guest was taken back; the destination waits for it for good,
              faults > 0 || !runs_s || driver != s_over || process_d == EXITED);
        break
    od
}
