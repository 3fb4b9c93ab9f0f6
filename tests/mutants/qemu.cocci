// SPDX-License-Identifier: GPL-2.0-or-later

// strangers-connected: strangers that are too many stay connected
//    file: migration/destination/acceptor.c
//    tests: qtest:/ferry/strangers/silent-crowd
@@
expression oldest;
@@
  oldest->dropped = true;
- ferry_channel_shutdown(oldest->channel);

// handshakes-kept: handshakes that are too many, or take too long, stay
//    file: qemu/glue/destination/handshakes.c
//    tests: qtest:/ferry/tls/half-open
@@
expression handshake;
@@
- qio_channel_shutdown(handshake->ioc, QIO_CHANNEL_SHUTDOWN_BOTH, NULL);

// handshake-late: whose handshake ends after the migration is let in
//    file: qemu/glue/destination/handshakes.c
//    tests: qtest:/ferry/tls/late-stranger
@@
expression one;
@@
- if (!err && (one->ended || ferry_incoming_is_over()))
+ if (!err && one->ended)
  {
      ...
  }

// handshake-order: a handshake that is over waits for all before it
//    file: qemu/glue/destination/handshakes.c
//    tests: qtest:/ferry/tls/strangers-multifd
@@
expression one;
@@
- ferry_incoming_clock_ms() - one->ready_ms >= ORDER_MS
+ false

// parked-never: a connection that says nothing goes to QEMU
//    file: qemu/glue/destination/parked.c
//    tests: qtest:/ferry/strangers/first-of-multifd
@@
@@
  said = look_at_words(ioc);
- if (said == SAID_ALL)
+ if (said == SAID_ALL || said == SAID_NOTHING)
  {
      return false;
  }

// packet-unread: a connection of multifd's goes to QEMU when it has said a word
//    file: qemu/glue/destination/parked.c
//    tests: qtest:/ferry/strangers/half-of-multifd
@@
@@
- return MULTIFD_FIRST_BYTES;
+ return 4;

// handshake-main-loop: handshakes go on in the main loop, whoever takes connections
//    file: qemu/glue/destination/handshakes.c
//    tests: qtest:/ferry/postcopy/blocked/recover-tls
@@
@@
- qio_channel_tls_handshake(tls, over, NULL, NULL, handshake.context);
+ qio_channel_tls_handshake(tls, over, NULL, NULL, NULL);

// abandoned-twice: who abandons a migration before GO has it fail as well
//    file: qemu/glue/destination/run.c
//    tests: qtest:/ferry/ending/abandon-before-go
@@
expression mis;
@@
- qatomic_read(&mis->state) == MIGRATION_STATUS_CANCELLING
+ false

// recovery-unlimited: a recovery that does not get on stays
//    file: qemu/glue/destination/recovery.c
//    tests: qtest:/ferry/postcopy/recover/hangs
@@
@@
- qio_channel_shutdown(recovery.main, QIO_CHANNEL_SHUTDOWN_BOTH, NULL);

// lost-runs: a guest whose source is lost goes on until it needs a page
//    file: qemu/glue/destination/lost.c
//    tests: guest:the_source_is_lost
@@
@@
- vm_stop(RUN_STATE_IO_ERROR);

// slots-unaligned: slots begin where the memory before them ends
//    file: qemu/glue/kvm/kvm-all.c.inc
//    tests: qtest:/ferry/tracker/kvm-slots
@@
expression longest, start_addr;
@@
- longest -= start_addr % longest;

// handed-nothing: query-ferry says that nothing was left missing
//    file: qemu/glue/monitor.c
//    tests: qtest:/ferry/postcopy/recover/all guest-storm:kvm/postcopy-shared
@@
expression fetch, stats;
@@
- fetch->handed_pages = stats->handed_pages;
+ fetch->handed_pages = 0;

// dial-unlimited: channels may take as long as they like to be connected
//    file: qemu/glue/source/dial.c
//    tests: qtest:/ferry/opening/relay-drops
@@
identifier now;
expression calls;
@@
- now >= calls->deadline_us
+ false

// storm-stop-waits: a storm that is stopped waits for what it cannot write
//    file: hw/misc/ferry-storm.c
//    tests: qtest:/ferry/ending/storm-stop-due
@@
expression s;
@@
- wait_for_thread(s)
+ (wait_for_thread(s) || true)

// silence-kept: a guest that was given to a silent destination is not taken back when that speaks
//    file: qemu/glue/source/release.c
//    tests: qtest:/ferry/opening/late-words
@@
@@
- if (kept) {
-     BQL_LOCK_GUARD();
-     take_guest_back(s, own_path.old_state);
- }

// last-word-missed: a return path that breaks on QEMU's own path brings the guest back
//    file: qemu/glue/source/release.c
//    tests: qtest:/ferry/fallback/last-word-breaks
@@
@@
- own_path.old_state = give_up_guest(s);
+ own_path.old_state = s->vm_old_state;

// silence-passes: a destination that was asked to speak and does not is taken for one that has the guest
//    file: qemu/glue/source/last-word.c
//    tests: qtest:/ferry/fallback/last-word-awaited
@@
expression s;
@@
- fail_unanswered(s)
+ 0

// side-handshakes-kept: the handshakes of multifd's channels have no limit
//    file: qemu/glue/source/attempt.c
//    tests: qtest:/ferry/tls/silence/multifd-limit
@@
@@
  give_up_side_handshakes(...)
  {
  <...
- break_all(side.shaking);
  ...>
  }

// side-connects-kept: multifd's connections have no limit
//    file: qemu/glue/source/dial.c
//    tests: qtest:/ferry/opening/multifd-dropped/limit
@@
typedef gint64;
@@
- calls->start_us + (gint64)side->timeout_ms * 1000
+ G_MAXINT64

// handshake-kept: the handshake of the main channel has no limit
//    file: qemu/glue/source/attempt.c
//    tests: qtest:/ferry/tls/silence/limit
@@
@@
  handshake.given_up = true;
- qio_channel_shutdown(handshake.ioc, QIO_CHANNEL_SHUTDOWN_BOTH, NULL);

// late-connection: a connection that comes after its migration was cancelled is the next one's
//    file: qemu/glue/source/attempt.c
//    tests: qtest:/ferry/opening/cancel-before-connected
@@
@@
  bool was_dialled = ...;

- if (base != awaited && (tls || was_dialled)) {
-     return true;
- }

// cancel-after-go: a guest that was given away can be cancelled
//    file: qemu/glue/source/release.c
//    tests: qtest:/ferry/postcopy/recover/fails
@@
@@
- if (!is_out_of_hand()) {
-     return false;
- }
+ return false;

// channels-delayed: what is short waits until what was said before is acknowledged
//    file: qemu/glue/channel.c
//    tests: qtest:/ferry/transport/tcp-at-once
@@
@@
- qio_channel_set_delay(ioc, false);

// main-delayed: the destination's words on the return path wait so
//    file: qemu/glue/destination/answer.c
//    tests: qtest:/ferry/transport/tcp-at-once
@@
@@
- qio_channel_set_delay(qemu_file_get_ioc(mis->from_src_file), false);

// package-taken-back: in post-copy on QEMU's own path the guest is not the destination's
//    file: qemu/glue/source/postcopy.c
//    tests: qtest:/ferry/fallback/last-word-breaks/postcopy
@@
expression s;
@@
- ferry_let_go_packaged(s);

// side-unknown: multifd's channels are not broken, whatever happens
//    file: qemu/glue/source/attempt.c
//    tests: qtest:/ferry/fallback/multifd-stalls-cancel
@@
@@
  ferry_outgoing_side_open(...)
  {
- add_side(...);
  }

// bitmaps-later: without postcopy-ram, dirty bitmaps may come after the switch
//    file: qemu/glue/source/postcopy.c
//    tests: qtest:/ferry/devices/dirty-bitmap-postcopy
@@
expression can;
@@
- *can = 0;

// channel-ends-untold: nobody is told that a multifd channel of the destination has ended
//    file: qemu/glue/destination/connections.c
//    tests: qtest:/ferry/fallback/multifd-breaks-at-end
@@
@@
  ferry_incoming_sync_multifd(...)
  {
  <...
- qatomic_read(&multifd_has_ended)
+ false
  ...>
  }

// auto-too-early: switchover=auto leaves missing what fits the blackout
//    file: qemu/glue/source/postcopy.c
//    tests: qtest:/ferry/storm/precopy-auto
@@
@@
- left_bytes > limit && (limit > 0 || migrate_downtime_limit() == 0) &&
- !ferry_converge_wants_round(&postcopy.converge, UINT64_MAX)
+ true

// refused-taken: a connection from a subnet that is not allowed is taken
//    file: qemu/glue/destination/accept.c
//    tests: qtest:/ferry/network/not-allowed
@@
@@
- ferry_allows(socket)
+ (ferry_allows(socket) || true)

// late-unbound: what comes in on another network, since one was set, is taken
//    file: qemu/glue/destination/allowed.c
//    tests: qtest:/ferry/network/late
@@
@@
- !ferry_binding_check(QIO_CHANNEL(socket), &err)
+ false

// refused-told: every connection that is refused makes a line in the log
//    file: qemu/glue/destination/allowed.c
//    tests: qtest:/ferry/network/flood
@@
@@
- gate.told_us && now_us - gate.told_us < QUIET_US
+ false

// paused-reachable: whoever comes in a pause to where Ferry listened is taken for the source
//    file: qemu/glue/destination/listen.c
//    tests: qtest:/ferry/network/resumed-elsewhere
@@
@@
- ferry_incoming_set_listener(NULL);

// main-unbound: QEMU's main connection leaves from where the routing table says
//    file: qemu/glue/source/bound.c
//    tests: qtest:/ferry/network/address
@@
@@
- !ferry_binding_is_wanted() || address->type != SOCKET_ADDRESS_TYPE_INET
+ true

// end-unknown: a write that fails after the last byte that counts is a failure like any other
//    file: qemu/glue/source/release.c
//    tests: qtest:/ferry/opening/reset-end
@@
expression f;
@@
- own_path.ended = qemu_file_get_error(f) == 0;
+ own_path.ended = false;

// late-multifd-refused: what comes when there is a session is never QEMU's
//    file: qemu/glue/destination/connections.c
//    tests: qtest:/ferry/opening/late-multifd-channel
@@
expression ioc;
@@
- destination && lacks_multifd(ioc)
+ false
