// SPDX-License-Identifier: GPL-2.0-or-later

// read-before-reset: pages found while they are taken are read before they are reset
//    file: migration/source/backlog.c
//    tests: tracking-orders
@@
@@
- nr_pages && !ferry_backlog_make_readable(backlog, region, first, errp)
+ false

// reset-of-found: what is found during a reset counts as reset
//    file: migration/source/backlog.c
//    tests: tracking-orders
@@
@@
- atomic_store(&chunk->reset_seq, seen);
+ atomic_store(&chunk->reset_seq, atomic_load(&chunk->found_seq));

// found-late: a page is queued before it is noted that it needs a reset
//    file: migration/source/backlog-rounds.c
//    tests: tracking-orders
//    places: 2
//    sample: yes
@@
@@
- atomic_fetch_add(&ferry_backlog_chunk(backlog, region, word * 64)->found_seq, 1);
  add_written(backlog, region, word, mask, false);
+ atomic_fetch_add(&ferry_backlog_chunk(backlog, region, word * 64)->found_seq, 1);

// reset-unlocked: two who read pages of a chunk may reset it at the same time
//    file: migration/source/backlog.c
//    tests: tracking-orders
//    places: 2
@@
@@
- g_mutex_lock(&chunk->lock);
  ...
- g_mutex_unlock(&chunk->lock);

// early-lost: a page that is reported early is not sent
//    file: migration/source/backlog-rounds.c
//    tests: backlog
@@
@@
  unspare(backlog, region, word, mask);
  if (note_written(backlog, region, word, mask, round)) {
- defer(backlog, region, word, mask, round);
  }

// deferred-for-ever: pages put off in the round before are not released
//    file: migration/source/backlog-rounds.c
//    tests: migrate:/migrate/hot-pages
@@
@@
- (atomic_load(&backlog->round) + 1) & 1
+ atomic_load(&backlog->round) & 1

// deferred-half: of what was put off, half is released at the end
//    file: migration/source/backlog-rounds.c
//    tests: migrate:/migrate/hot-pages
@@
@@
- ferry_pageset_move(backlog->state[i].deferred[1], backlog->state[i].queued);

// hot-as-cold: pages that are put off count as the others compress
//    file: migration/source/rounds.c
//    tests: sample
@@
@@
- ferry_wire_cost_of(&source->hot_cost, hot_bytes)
+ ferry_wire_cost_of(&source->wire_cost, hot_bytes)

// hot-same-again: each look is at the same of the pages that are put off
//    file: migration/source/sample.c
//    tests: sample
@@
@@
- sample->granule++;

// deferred-when-stopped: pages are put off after the stop
//    file: migration/source/backlog-rounds.c
//    tests: backlog
@@
@@
- may_defer && !backlog->send_hot && !ferry_backlog_is_stopped(backlog)
+ may_defer && !backlog->send_hot

// draft-subtracted: what was drafted is queued again after the stop
//    file: migration/source/backlog-rounds.c
//    tests: backlog
@@
@@
- ~get_held(state->draft, word)
+ -1

// kept-forgotten: what the tracker gives up still counts as kept
//    file: migration/source/backlog-rounds.c
//    tests: backlog
@@
@@
- remove_held(backlog->state[region].kept, word, mask);

// kept-not-drafted: what the tracker keeps is not in the draft
//    file: migration/source/backlog-draft.c
//    tests: backlog
@@
@@
- add_all(state->draft, state->kept);

// swapped-not-drafted: what is swapped out is not in the draft
//    file: migration/source/backlog-draft.c
//    tests: backlog
@@
@@
- add_all(state->draft, state->swapped);

// draft-of-parts: a part of a huge page is missing
//    file: migration/source/backlog-draft.c
//    tests: backlog
@@
@@
- round_up(&backlog->regions.list[i], state->draft);

// subtract-parts: a part of a huge page is left over from the draft
//    file: migration/source/backlog-draft.c
//    tests: backlog
@@
@@
- round_up(&backlog->regions.list[i], backlog->state[i].queued);

// swapped-twice: what is swapped out is queued after a draft was taken back
//    file: migration/source/backlog-draft.c
//    tests: backlog
@@
@@
- remove_all(state->queued, state->swapped);

// resumed-old: what was thought to be missing before a break is sent again
//    file: migration/source/backlog-draft.c
//    tests: backlog
@@
@@
  ferry_pageset_clear(state->swapped);
- ferry_pageset_clear(state->queued);

// withdrawn-written: a page that is withdrawn while it is written is not sent
//    file: migration/source/backlog-spare.c
//    tests: backlog-orders
@@
@@
- back = taken & get_told(state, round, word);
+ back = 0;

// withdrawn-round: a page that is withdrawn while a round ends is not sent
//    file: migration/source/backlog-spare.c
//    tests: backlog-orders
@@
@@
- ferry_backlog_is_stopped(backlog) || atomic_load(&backlog->round) != round
+ ferry_backlog_is_stopped(backlog)

// withdrawn-stopped: a page that is withdrawn while the guest stops is not sent
//    file: migration/source/backlog-spare.c
//    tests: backlog-orders
@@
@@
- ferry_backlog_is_stopped(backlog) || atomic_load(&backlog->round) != round
+ atomic_load(&backlog->round) != round

// withdrawn-found: a page that was found and not reset is withdrawn
//    file: migration/source/backlog-spare.c
//    tests: hints backlog
@@
expression chunk;
@@
- ferry_backlog_is_stopped(backlog) || atomic_load(&chunk->reset_seq) != atomic_load(&chunk->found_seq)
+ ferry_backlog_is_stopped(backlog)

// withdrawn-swapped: a hint of a page that is swapped out saves nothing
//    file: migration/source/backlog-spare.c
//    tests: backlog
@@
@@
- taken = ferry_pageset_remove_mask(state->queued, word, mask) | ferry_pageset_remove_mask(state->swapped, word, mask);
+ taken = ferry_pageset_remove_mask(state->queued, word, mask);

// spared-queued: the first pass queues what does not matter
//    file: migration/source/backlog-spare.c
//    tests: hints
@@
@@
- mask_in(word, first_page, end) & ~ferry_pageset_get(state->spared, word)
+ mask_in(word, first_page, end)

// same-memory-read: memory that both ends map is read
//    file: migration/source/backlog.c
//    tests: backlog
@@
@@
- region->scan = FERRY_SCAN_NOTHING;

// share-of-one: all senders take the same share
//    file: migration/source/senders.c
//    tests: migrate:/migrate/idle/8
@@
@@
- sender->index = i;
+ sender->index = 0;

// hint-off-by-one: a sender that is to go on elsewhere passes over the granule
//    file: migration/source/senders.c
//    tests: senders
@@
typedef int64_t;
@@
- (int64_t)(hint & ((UINT64_C(1) << HINT_SHIFT) - 1)) - 2
+ (int64_t)(hint & ((UINT64_C(1) << HINT_SHIFT) - 1)) - 1

// jump-forgotten: what a sender left behind when it went elsewhere stays there
//    file: migration/source/senders.c
//    tests: senders fetch:/fetch/leave/at-once
@@
@@
- take_hint(sender, &region, &granule)
+ (take_hint(sender, &region, &granule), false)

// hint-cancelled: memory is armed for hints when somebody has cancelled
//    file: migration/source/rounds.c
//    tests: hints:/hints/cancel
@@
@@
- ferry_source_has_failed(source)
+ false

// late-report: pages that are reported when the senders sleep stay there
//    file: migration/source/rounds.c
//    tests: late-reports
@@
@@
  if (...) { ... }
- else if (ferry_backlog_queued(source->backlog) > 0) {
-     ferry_senders_kick(source->senders);
- }

// handoff-unfenced: the hand-off names a fence that came before the last pages
//    file: migration/source/handoff.c
//    tests: turns-source
@@
@@
- !ferry_senders_drain(source->senders) || !ferry_source_send_fence(source)
+ !ferry_senders_drain(source->senders)

// handed-off-late: what comes at once after the hand-off is out of turn
//    file: migration/source/handoff.c
//    tests: turns-source
//    sample: yes
@@
expression a;
@@
- a || !ferry_source_enter(source, FERRY_SOURCE_HANDED_OFF) || !send_handoff(source, 0)
+ a || !send_handoff(source, 0) || !ferry_source_enter(source, FERRY_SOURCE_HANDED_OFF)

// left-late: the same where pages are left missing
//    file: migration/source/handoff.c
//    tests: turns-source
//    places: 2
@@
@@
- if (!ferry_source_enter(source, FERRY_SOURCE_HANDED_OFF)) {
-     return ferry_source_fail(source, errp);
- }
  if (...) { ... }
+ if (!ferry_source_enter(source, FERRY_SOURCE_HANDED_OFF)) {
+     return ferry_source_fail(source, errp);
+ }
  note_handed_off(source);
  return true;

// nothing-missing: no page need be missing where some are to be
//    file: migration/source/handoff.c
//    tests: fetch:/fetch/leave/nothing
@@
@@
- nr_pages == 0
+ false

// go-when-failed: GO is said though the session has failed
//    file: migration/source/handoff.c
//    tests: release
@@
expression phase;
@@
- ferry_cause_is_known(&source->cause) || !ferry_source_enter(source, phase)
+ !ferry_source_enter(source, phase)

// go-when-cancelled: GO is said though the phase forbids it
//    file: migration/source/handoff.c
//    tests: release
@@
expression phase;
@@
- ferry_cause_is_known(&source->cause) || !ferry_source_enter(source, phase)
+ (ferry_source_enter(source, phase), false)

// taken-unheard: a guest that was let go counts as taken
//    file: migration/source/handoff.c
//    tests: release
@@
@@
- ferry_source_await(source, &source->taken, source->config.switchover_ms)
+ (ferry_source_await(source, &source->taken, source->config.switchover_ms) || true)

// loaded-unheard: the destination counts as loaded
//    file: migration/source/handoff.c
//    tests: release fetch:/fetch/load-fails
@@
@@
- return ferry_source_wait(source, &source->loaded, 0) || ferry_source_fail(source, errp);
+ return true;

// resumed-absent: pages that cannot be missing are sent after a break
//    file: migration/source/handoff.c
//    tests: turns-source
@@
@@
- !check_resume_missing(source)
+ false

// resumed-another: another migration is resumed
//    file: migration/source/handoff.c
//    tests: fetch:/fetch/cut/resuming
@@
@@
- session != source->config.session || version != source->config.version
+ false

// loaded-out-of-turn: LOADED is taken before the hand-off
//    file: migration/source/source.c
//    tests: turns-source
//    sample: yes
@@
@@
- return left || phase == FERRY_SOURCE_HANDED_OFF;
+ return true;

// complete-out-of-turn: COMPLETE is taken with no page missing
//    file: migration/source/source.c
//    tests: turns-source
@@
@@
  is_due(...)
  {
  <...
- return left;
+ return true;
  ...>
  }

// taken-out-of-turn: TAKEN is taken before GO
//    file: migration/source/source.c
//    tests: turns-source
@@
@@
- return ferry_source_phase_is_gone(phase);
+ return true;

// missing-unasked: the destination says unasked what is missing
//    file: migration/source/source.c
//    tests: turns-source
@@
@@
- source->asked && !source->resumed
+ !source->resumed

// resumed-not-counted: both sides need not mean the same missing pages after a break
//    file: migration/source/source.c
//    tests: turns-source
@@
@@
- ferry_missing_count(regions, source->resume_missing) != frame->first_page
+ false

// ready-twice: the destination may be ready a second time
//    file: migration/source/source.c
//    tests: turns-source
@@
expression list es;
@@
- !source->ready && ferry_answers_decode(es)
+ ferry_answers_decode(es)

// stopped-unnoted: the vCPUs have stopped, and the backlog goes on as if they ran
//    file: migration/source/source.c
//    tests: migrate:/migrate/hot-pages backlog
@@
@@
- ferry_backlog_set_guest(source->backlog, FERRY_GUEST_STOPPED);

// replaced-when-stopped: a tracker is replaced after the stop
//    file: migration/source/source.c
//    tests: migrate:/migrate/tracker-fails-last
@@
@@
  ferry_source_replace_tracker(...)
  {
  <...
- ferry_source_is_stopped(source)
+ false
  ...>
  }

// error-unanswered: a destination that fails before GO is not told that the guest stays
//    file: migration/source/source.c
//    tests: release:/release/no-go/destination-says-why
@@
expression why;
@@
  end_control(...)
  {
  <...
- ferry_source_keep_guest(source, why);
  ...>
  }

// blackout-for-ever: the guest may be stopped for ever
//    file: migration/source/connect.c
//    tests: release:/release/limit
@@
@@
- !give_up_us || ferry_now_us() < give_up_us
+ true

// blackout-too-short: a blackout may be over the limit when it begins
//    file: migration/source/connect.c
//    tests: release
@@
typedef gint64;
@@
- (gint64)limit_ms * 1000
+ (gint64)limit_ms

// opening-for-ever: a destination that says nothing is waited for
//    file: migration/source/settle.c
//    tests: opening:/opening/silent
@@
@@
- late = ferry_now_us() > MAX(deadline_us, source->heard_us + patience_us);

// opening-unlimited: opening a session has no limit
//    file: migration/source/connect.c
//    tests: opening:/opening/silent
@@
@@
- source->config.open_deadline_us ?: G_MAXINT64
+ G_MAXINT64

// beat-unheard: that a destination is at work is not noted
//    file: migration/source/source.c
//    tests: opening:/opening/at-work
@@
@@
- source->heard_us = ferry_now_us();

// opening-impatient: a destination that is at work is given up
//    file: migration/source/settle.c
//    tests: opening:/opening/at-work
@@
@@
- MAX(deadline_us, source->heard_us + patience_us)
+ deadline_us

// opening-broken: a data channel that breaks before READY is not noticed
//    file: migration/source/settle.c
//    tests: opening
@@
@@
- lost = ferry_source_lost_channel(source);

// cause-of-less: a symptom takes the place of its cause
//    file: migration/source/cause.c
//    tests: cause
@@
@@
- rank(error) > rank(cause->error)
+ rank(error) >= rank(cause->error)

// cause-reset: a migration that was cancelled goes on with the next connection
//    file: migration/source/cause.c
//    tests: cause
@@
@@
- !g_error_matches(cause->error, FERRY_ERROR, FERRY_ERROR_CANCELLED)
+ true

// fetch-beyond: a page beyond the region is read
//    file: migration/source/page-server.c
//    tests: page-server
//    sample: yes
@@
@@
- page >= ferry_region_nr_pages(region)
+ false

// fetch-region: a page of a region that there is not is one of the first
//    file: migration/source/page-server.c
//    tests: page-server
@@
@@
- frame->region < server->regions->nr ? &server->regions->list[frame->region] : NULL
+ &server->regions->list[0]

// fetch-part: a part of a huge page is asked for
//    file: migration/source/page-server.c
//    tests: page-server
@@
@@
- page % unit_pages
+ 0

// fetch-absent: memory that is not there is read
//    file: migration/source/page-server.c
//    tests: page-server
@@
@@
- !ferry_region_may_send(region, page, unit_pages)
+ false

// fetch-early: pages are asked for while the guest runs here
//    file: migration/source/page-server.c
//    tests: page-server
@@
@@
- frame->payload_bytes || ferry_backlog_guest(server->config.backlog) == FERRY_GUEST_RUNS
+ frame->payload_bytes

// converge-for-ever: rounds go on without gain
//    file: migration/source/converge.c
//    tests: converge
@@
@@
- converge->nr_stale < FERRY_CONVERGE_PATIENCE
+ true

// throttle-at-once: a single bad round throttles the guest
//    file: migration/source/converge.c
//    tests: converge
@@
@@
- ++throttle->nr_bad < 2
+ ++throttle->nr_bad < 1

// heat-cold: a chunk that the guest writes counts as cold
//    file: migration/source/heat.c
//    tests: heat first-pass
@@
@@
- (nr_changed * FERRY_HEAT_MAX + nr - 1) / nr
+ 0

// cost-in-full: pages count in full, however little they take on the wire
//    file: migration/source/converge.c
//    tests: converge:/converge/wire-cost
@@
expression cost;
@@
- cost->page_bytes ? (double)cost->wire_bytes / (double)cost->page_bytes : 1
+ 1

// cost-of-old: rounds long past count as much as the last one
//    file: migration/source/converge.c
//    tests: converge:/converge/wire-cost
@@
expression cost;
@@
- cost->page_bytes / 2
+ cost->page_bytes
