// SPDX-License-Identifier: GPL-2.0-or-later

// report-first: pages are reported before KVM protects them
//    file: accel/kvm-ring.c
//    tests: ring-orders
//    places: 2
@@
@@
- reset_flagged(ring);
  report_batch(ring, report);
+ reset_flagged(ring);

// feed-reported-first: what is fed is reported before KVM protects it
//    file: accel/kvm-ring.c
//    tests: ring-orders
@@
@@
  ferry_kvm_ring_feed(...)
  {
  ...
- reset_and_report(ring, ring->set.client.report);
+ report_batch(ring, ring->set.client.report);
+ reset_flagged(ring);
  ...
  }

// drain-unlocked: a ring may be drained while somebody else flags entries of it
//    file: accel/kvm-ring.c
//    tests: ring-orders
//    places: 2
@@
@@
  ferry_kvm_ring_drain(...)
  {
  ...
- lock(ring);
  ...
- g_mutex_unlock(&ring->lock);
  ...
  }

// slot-undrained: entries are left when a slot changes its meaning
//    file: accel/kvm-ring.c
//    tests: kvm-ring-slots:/kvm-ring/slot/meaning kvm-ring-slots:/kvm-ring/slot/reused
@@
@@
- if (ring->started && known.nr_pages > 0) {
-     drain(ring);
- }

// vcpu-undrained: what a vCPU wrote goes with it
//    file: accel/kvm-ring.c
//    tests: kvm-ring:/kvm-ring/vcpu
@@
@@
- ferry_vcpu_ring_look(vcpu);
- ferry_vcpu_ring_flag_all(vcpu);
- reset_and_report(ring, ring->set.client.early);

// overrun-unsaid: that a ring was overrun is not said
//    file: accel/kvm-ring.c
//    tests: kvm-ring-overruns:/kvm-ring/overrun/native kvm-ring-overruns:/kvm-ring/overrun/emulated
@@
@@
  check(...)
  {
  <...
- ring->set.overrun
+ false
  ...>
  }

// last-not-looked-at: what was written just before the stop is not looked at
//    file: accel/kvm-ring.c
//    tests: kvm-ring
@@
@@
- look_all(ring);
  if (last) { ... } else { ... }

// lap-unnoticed: a ring that is full counts as in order
//    file: accel/vcpu-ring.c
//    tests: kvm-ring-overruns
@@
@@
- if (ferry_ring_was_full(&at, ferry_vcpu_ring_nr_held(ring))) {
-     note_overrun(ring);
- }

// last-new-only: of what is left at the end, all is passed over
//    file: accel/vcpu-ring.c
//    tests: kvm-ring:/kvm-ring/last-all
@@
@@
- ring->reset + (new_only ? ferry_vcpu_ring_nr_left(ring) : 0)
+ ring->reset + ferry_vcpu_ring_nr_left(ring)

// round-end: a round's end is not noted
//    file: accel/vcpu-ring.c
//    tests: kvm-ring
@@
@@
- ring->round_end = ring->seen;

// untrimmed: a ring may fill
//    file: accel/vcpu-ring.c
//    tests: kvm-ring-full
@@
@@
- ferry_vcpu_ring_nr_held(ring) > held_max
+ false

// sort-digit: entries are not sorted by their slots
//    file: accel/ring-sort.c
//    tests: ring-sort
@@
@@
- digit < NR_DIGITS
+ digit < NR_DIGITS - 2

// sort-strange: an entry that does not fit a key is sorted all the same
//    file: accel/ring-sort.c
//    tests: ring-sort
@@
@@
- entry->slot >> SLOT_BITS || entry->offset >> OFFSET_BITS
+ false

// slot-end: the page after a slot's last is one of its
//    file: accel/ring-slots.c
//    tests: ring-slots
@@
@@
- entry->offset >= slot->nr_pages
+ entry->offset > slot->nr_pages

// slot-first-page: pages of a slot are counted from its region's first
//    file: accel/ring-slots.c
//    tests: ring-slots
@@
@@
- slot->first_page + entry->offset
+ entry->offset

// gap-filled-meanwhile: entries filled while a gap was looked for are blanked
//    file: accel/ring-overrun.c
//    tests: ring-overrun
@@
@@
- while (i > 0 && ferry_ring_entry_is_dirty(ferry_ring_entry(ring, i - 1))) {
-     i--;
- }

// blank-published: a blank entry is published before it is one
//    file: accel/ring-overrun.c
//    tests: ring-overrun
@@
@@
- entry->slot = FERRY_RING_SLOT_NONE;
  entry->offset = 0;

// full-is-no-overrun: a ring of which no entry was free is taken for whole
//    file: accel/ring-overrun.h
//    tests: ring-overrun
@@
@@
- nr >= ring->nr_entries
+ nr > 2 * ring->nr_entries

// taken-back-too-far: more entries are taken back than KVM was given
//    file: accel/ring-overrun.c
//    tests: ring-overrun
@@
@@
- nr < nr_max
+ true

// signals-in-reset: a signal cuts a reset short
//    file: accel/ring-overrun.c
//    tests: ring-overrun
@@
@@
- pthread_sigmask(SIG_SETMASK, &all, &before);
+ pthread_sigmask(SIG_SETMASK, NULL, &before);

// lap-at-once: one look is enough to see that a vCPU is stuck
//    file: accel/ring-overrun.c
//    tests: ring-overrun
@@
@@
- lap->was_empty && lap->position == ring->position
+ lap->position == ring->position

// told-before-found: the client is told of a page before it can be reset
//    file: accel/pagemap.c
//    tests: tracking-orders
//    places: 2
@@
@@
- ferry_pageset_add_mask(found, word, mask);
  client->found(client->opaque, harvest->region, word, mask);
+ ferry_pageset_add_mask(found, word, mask);

// reset-silent: what was written between two pages that are reset is not told
//    file: accel/pagemap.c
//    tests: pagemap
@@
@@
- mask &= ~reset->told[word - reset->first_word];
+ mask = 0;

// armed-once: what was told before a chunk was armed again is not told again
//    file: accel/pagemap.c
//    tests: pagemap
@@
@@
- forget_found(tracked, first_page, nr_pages);

// arm-nothing: a chunk is armed without protection
//    file: accel/pagemap.c
//    tests: pagemap:/pagemap/exact
@@
@@
- !ferry_write_protect_all(pagemap->protect, &tracked->region, first_page, nr_pages, errp)
+ false

// started-armed: chunks are still armed when a tracker starts again
//    file: accel/pagemap.c
//    tests: pagemap
@@
@@
- atomic_store(&tracked->armed[chunk], false);

// stop-protected: pages stay protected after the end
//    file: accel/pagemap.c
//    tests: pagemap
@@
@@
- unregister_all(opaque);

// no-entry-unwritten: a file's page without an entry counts as not written
//    file: accel/write-protect.c
//    tests: pagemap
@@
@@
- region->scan != FERRY_SCAN_PRIVATE
+ false

// take-without-protection: pages are taken without protecting them
//    file: accel/write-protect.c
//    tests: pagemap
@@
@@
- take ? FERRY_PM_SCAN_WP_MATCHING : 0
+ 0
