// SPDX-License-Identifier: GPL-2.0-or-later

// content-checksum: damaged content is taken
//    file: migration/destination/receiver.c
//    tests: receiver
//    sample: yes
@@
@@
- crc != arrival->frame->payload_crc
+ false

// direct-checksum: content that goes straight into memory is not compared with its checksum
//    file: migration/destination/receiver.c
//    tests: receiver
@@
@@
- return is_undamaged(arrival, channel, crc, errp);
+ return true;

// buffered-checksum: content that goes by way of a buffer is not compared with its checksum
//    file: migration/destination/receiver.c
//    tests: receiver
@@
@@
- !is_undamaged(arrival, channel, ferry_crc32c(0, to, frame->payload_bytes), errp)
+ false

// region-number: pages may be of a region that there is not
//    file: migration/destination/receiver.c
//    tests: receiver
@@
@@
- frame->region >= receiver->regions.nr
+ frame->region > receiver->regions.nr

// same-memory-written: pages of memory that both ends map are written
//    file: migration/destination/receiver.c
//    tests: receiver settle
@@
@@
- arrival.region->flags & FERRY_REGION_SAME
+ false

// read-only-written: memory that is read-only is written
//    file: migration/destination/receiver.c
//    tests: receiver kinds
@@
@@
- ferry_kind_may_store(receiver->regions.list[frame->region].flags)
+ true

// read-only-compared: read-only memory may differ
//    file: migration/destination/receiver.c
//    tests: receiver kinds
@@
@@
- extent->zero ? !ferry_is_zero(host, nr_bytes) : memcmp(host, from, nr_bytes) != 0
+ false

// no-memory-provided: pages are stored where there may be no memory
//    file: migration/destination/receiver.c
//    tests: no-memory
@@
@@
- extent->zero ? !clear(receiver, arrival, extent, errp) : !provide(receiver, arrival, extent, errp)
+ extent->zero ? !clear(receiver, arrival, extent, errp) : false

// zero-pages-kept: zero pages leave memory as it was
//    file: migration/destination/receiver.c
//    tests: receiver migrate:/migrate/busy/7
@@
@@
- extent->zero ? !clear(receiver, arrival, extent, errp) : !provide(receiver, arrival, extent, errp)
+ extent->zero ? false : !provide(receiver, arrival, extent, errp)

// provided-again: memory that was given back counts as provided
//    file: migration/destination/receiver.c
//    tests: no-memory receiver
@@
@@
- ferry_pageset_remove(receiver->provided[arrival->frame->region], first, extent->nr_pages);

// fence-repeated: a channel may bring the same fence again
//    file: migration/destination/data-channel.c
//    tests: turns
//    sample: yes
@@
@@
- number > reader->fenced
+ number >= reader->fenced

// fence-of-one: a fence is reached with the first channel that brings it
//    file: migration/destination/data-channel.c
//    tests: turns
@@
expression a;
@@
- reached = MIN(reached, a);
+ (void)(a);

// early-fetch: pages come on a fetch channel before any is missing
//    file: migration/destination/data-channel.c
//    tests: turns
@@
@@
- is_fetch && !ferry_fetch_is_live(receiver->fetch)
+ false

// fence-on-fetch: a fence may come on a fetch channel
//    file: migration/destination/data-channel.c
//    tests: turns
@@
@@
- is_fetch || ferry_fetch_is_live(receiver->fetch)
+ ferry_fetch_is_live(receiver->fetch)

// late-fence: a fence may come when pages are missing already
//    file: migration/destination/data-channel.c
//    tests: turns
@@
@@
- is_fetch || ferry_fetch_is_live(receiver->fetch)
+ is_fetch

// pages-before-ready: pages are written before memory has been emptied
//    file: migration/destination/data-channel.c
//    tests: turns
@@
@@
- destination->phase == FERRY_DESTINATION_OPENING || ferry_destination_is_cut_off(destination)
+ ferry_destination_is_cut_off(destination)

// fault-not-asked: pages that were waited for before the hand-off are not asked for
//    file: migration/destination/fetch.c
//    tests: fetch-parts
@@
@@
  atomic_store(&fetch->live, true);
- ferry_fetch_ask_again(fetch);

// draft-remembered: pages of a draft that was taken back stay missing
//    file: migration/destination/fetch.c
//    tests: fetch-parts
@@
@@
- ferry_pageset_clear(fetch->missing[i]);

// release-nobody: whoever waits for a page when the session fails waits for ever
//    file: migration/destination/fetch.c
//    tests: fetch-parts fetch:/fetch/abandon
@@
@@
  ferry_fetch_release(...)
  {
-     ferry_fetch_unregister(fetch);
  }

// part-of-huge-page: a part of a huge page will do
//    file: migration/destination/fetch-place.c
//    tests: fetch-parts
@@
@@
- nr_pages != FERRY_GRANULE_PAGES
+ false

// gather-region: pages of two regions are gathered as one
//    file: migration/destination/gather.c
//    tests: fetch-parts
//    sample: yes
@@
@@
- part->region == region && part->first_page == first_page
+ part->first_page == first_page

// gather-twice: a part of a page that comes twice counts twice
//    file: migration/destination/gather.c
//    tests: fetch-parts
@@
@@
- !*came
+ true

// second-regions: a second list of regions is taken
//    file: migration/destination/control-channel.c
//    tests: turns
@@
@@
- if (destination->layout.nr_data) {
-  ...
- }

// missing-of-same: pages of memory that both ends map are to be missing
//    file: migration/destination/control-channel.c
//    tests: turns
@@
@@
- frame->region < receiver->regions.nr && (receiver->regions.list[frame->region].flags & FERRY_REGION_SAME)
+ false

// missing-not-counted: both sides need not mean the same missing pages
//    file: migration/destination/control-channel.c
//    tests: turns
@@
@@
- here != nr_pages
+ false

// handoff-early: pages may be left missing before the fence has come
//    file: migration/destination/control-channel.c
//    tests: turns
//    sample: yes
@@
@@
- destination->reached >= frame->first_page
+ true

// draft-after-handoff: the missing pages change after the hand-off
//    file: migration/destination/control-channel.c
//    tests: destination
@@
@@
- ferry_destination_may_enter(destination, FERRY_DESTINATION_DRAFTING)
+ true

// go-any-time: GO is taken whenever it comes
//    file: migration/destination/control-channel.c
//    tests: destination
@@
@@
- ok = ferry_destination_is_committed(destination) || ferry_destination_may_enter(destination, FERRY_DESTINATION_DONE)
+ ok = true

// go-twice: the guest is let go a second time
//    file: migration/destination/control-channel.c
//    tests: destination
@@
@@
- first = ok && !destination->may_run
+ first = ok

// taken-when-cut-off: TAKEN is said on what is left of a broken connection
//    file: migration/destination/state.c
//    tests: destination
@@
@@
  ferry_destination_tell(...)
  {
  <...
- ferry_destination_is_connected(destination) && !destination->stream_broke
+ destination->control
  ...>
  }

// content-untold: a destination that has guest and pages needs nobody, whatever the source knows
//    file: migration/destination/state.c
//    tests: parted
@@
@@
- destination->told_taken && destination->told_complete
+ destination->may_run && ferry_destination_has_all(destination)

// untold-told: what could not be said counts as said
//    file: migration/destination/state.c
//    tests: parted:/parted/untold
@@
@@
- *told &= !first;

// parted-reads: a session that breaks with all pages in lets the stream be read on
//    file: migration/destination/state.c
//    tests: parted
@@
@@
- committed && news && !ferry_destination_is_content(destination)
+ committed && news && !ferry_destination_has_all(destination)

// reason-late: a session shows that it is paused before it has said why
//    file: migration/destination/state.c
//    tests: parted:/parted/reason-first
@@
@@
- while (destination->telling_why) {
-     ferry_cond_wait(&destination->changed, &destination->lock);
- }

// fails-deaf: a destination that fails before GO does not hear that the source keeps the guest
//    file: migration/destination/state.c
//    tests: parted:/parted/fails-here
@@
@@
- control && may_run
+ control

// resume-unbroken: a connection that is not broken is resumed
//    file: migration/destination/control-channel.c
//    tests: destination
@@
@@
- ok = ferry_destination_is_cut_off(destination) && destination->control == reader && layout.nr_fetch > 0;
+ ok = layout.nr_fetch > 0;

// other-channels: so many channels will do, whichever they are
//    file: migration/destination/control-channel.c
//    tests: destination
@@
@@
- !destination->data[i]
+ !destination->data[0]

// stranger-kept: whoever has not proved itself stays when all channels are in
//    file: migration/destination/control-channel.c
//    tests: turns
@@
@@
- if (!reader->proved) {
-     reader->dropped = true;
-     ferry_channel_shutdown(reader->channel);
- } else if
+ if
  (...) { ... }

// any-session: a channel of another session is let in
//    file: migration/destination/acceptor.c
//    tests: migrate:/migrate/strangers-are-named
@@
@@
- hello.session != destination->config.session
+ false

// any-attempt: a channel of another attempt is let in
//    file: migration/destination/acceptor.c
//    tests: turns
//    sample: yes
@@
@@
- hello->attempt != destination->attempt
+ false

// second-control: a second channel takes the place of the first
//    file: migration/destination/acceptor.c
//    tests: turns
@@
@@
- *place_of(destination, &hello) == NULL
+ true

// more-channels: more channels are let in than the source has said
//    file: migration/destination/acceptor.c
//    tests: turns
@@
@@
- is_open || hello->index < layout->nr_data
+ true

// stale-channels: a new connection does not wait for what the old one still places
//    file: migration/destination/acceptor.c
//    tests: turns
@@
@@
- while (is_any_stale_alive(destination) && !destination->closing) {
-  ...
- }

// strangers-limit: there may be any number of strangers
//    file: migration/destination/acceptor.c
//    tests: turns
//    sample: yes
@@
@@
- nr_strangers >= FERRY_STRANGERS_MAX
+ false

// strangers-kept: a stranger that is gone costs a thread and a channel
//    file: migration/destination/acceptor.c
//    tests: turns:/turns/strangers-gone
@@
@@
- reader->over && !reader->proved
+ false

// strangers-newest: the newest stranger is hung up on
//    file: migration/destination/acceptor.c
//    tests: turns
@@
@@
- oldest = oldest ? oldest : reader
+ oldest = reader

// fence-not-compared: the hand-off is complete whatever fence has come
//    file: migration/destination/state.c
//    tests: destination
@@
@@
- destination->reached >= destination->handed_off
+ true

// fails-when-gone: a failure ends a session whose guest runs here
//    file: migration/destination/state.c
//    tests: destination
@@
expression a;
@@
- keeps || a
+ a

// kept-guest: a source that keeps the guest is waited for
//    file: migration/destination/state.c
//    tests: destination
@@
@@
- (destination->may_run || !g_error_matches(error, FERRY_ERROR, FERRY_ERROR_REFUSED))
+ true

// told-too-early: the source is told of failures that QEMU's own path gets around
//    file: migration/destination/state.c
//    tests: destination
@@
@@
- !opening || g_error_matches(error, FERRY_ERROR, FERRY_ERROR_REFUSED)
+ true

// done-before-loaded: a session is done before the device state is in
//    file: migration/destination/state.c
//    tests: destination
@@
@@
- destination->phase == FERRY_DESTINATION_HANDED_OFF && !left
+ destination->phase == FERRY_DESTINATION_HANDED_OFF

// cut-off-deaf: the control channel is closed while GO may be on the way
//    file: migration/destination/state.c
//    tests: destination
@@
@@
- reader->proved && reader != *control && !may_tell
+ reader->proved && reader != *control

// overlap: parts of a file that touch overlap
//    file: migration/destination/settle.c
//    tests: settle
@@
@@
- a->fd_offset_bytes < b->fd_offset_bytes + b->length_bytes
+ a->fd_offset_bytes <= b->fd_offset_bytes + b->length_bytes

// foreign-file: the source's own file counts as the destination's alone
//    file: migration/destination/settle.c
//    tests: settle
@@
@@
  if (!overlap(ours, theirs)) { ... }
- ours->flags |= FERRY_REGION_FOREIGN;

// hidden-marks: a file whose marks cannot be seen is the destination's alone
//    file: migration/destination/settle.c
//    tests: settle
@@
@@
  if (hidden) {
- ours->flags |= FERRY_REGION_FOREIGN;
  return true;
  }

// same-file-another-host: a file is the same on another host
//    file: migration/destination/settle.c
//    tests: settle
@@
@@
- !ferry_regions_share_host(local, remote)
+ false

// same-file-another-part: another part of the same file is the same memory
//    file: migration/destination/settle.c
//    tests: settle
@@
@@
- ours->fd_offset_bytes != theirs->fd_offset_bytes
+ false

// read-only-missing: pages of read-only memory are left missing
//    file: migration/destination/settle.c
//    tests: settle
@@
@@
- !ferry_kind_may_fetch(region->flags)
+ false

// private-file-missing: pages of private files with data are left missing
//    file: migration/destination/settle.c
//    tests: settle
@@
@@
- (region->flags & FERRY_REGION_HUGETLB) && ferry_target_is_blank(&target)
+ (region->flags & FERRY_REGION_HUGETLB)

// private-file-seen: pages are left missing in private files that show them all the same
//    file: migration/destination/settle.c
//    tests: settle
@@
@@
- (region->flags & FERRY_REGION_HUGETLB) && ferry_target_is_blank(&target)
+ ferry_target_is_blank(&target)

// handed-off-unseen: a page is made zero although it was handed off since it was touched
//    file: migration/destination/fetch.c
//    tests: fetch-orders:/fetch/orders/handed-off
@@
@@
- if (ferry_fetch_is_missing(fetch, number, page)) {
-     g_mutex_unlock(lock);
-     return false;
- }

// answered-empty: memory that was not emptied is said to be empty
//    file: migration/destination/settle.c
//    tests: settle
@@
@@
- return FERRY_ANSWER_IN_FULL;
+ return FERRY_ANSWER_EMPTY;

// placed-unlocked: two threads may place pages of one granule at the same time
//    file: migration/destination/fetch-place.c
//    tests: fetch-orders
//    places: 2
@@
@@
  ferry_fetch_place(...)
  {
  ...
- g_mutex_lock(lock);
  ...
- g_mutex_unlock(lock);
  ...
  }

// asked-before-live: pages that are waited for are asked for before it is known that they can be
//    file: migration/destination/fetch.c
//    tests: fetch-orders
//    places: 2
@@
@@
+ ferry_fetch_ask_again(fetch);
  atomic_store(&fetch->live, true);
- ferry_fetch_ask_again(fetch);

// draft-forgotten: with pages drafted, nothing may be missing
//    file: migration/destination/control-channel.c
//    tests: turns
@@
expression destination;
@@
- destination->phase != FERRY_DESTINATION_DRAFTING
+ true
