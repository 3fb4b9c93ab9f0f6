// SPDX-License-Identifier: GPL-2.0-or-later

// stripe-once: a stripe that filled while its hint was withdrawn is not announced again
//    file: migration/memory/pageset.c
//    tests: pageset-orders
//    sample: yes
@@
@@
- if (atomic_load(&set->granule_words[stripe]) != 0) {
-     announce(set->stripe_words, stripe);
- }

// hint-after-pages: a taker withdraws the hint after the pages
//    file: migration/memory/pageset.c
//    tests: pageset-orders
//    places: 2
@@
@@
- if ((atomic_fetch_and(&set->granule_words[granule / 64], ~bit) & ~bit) == 0) {
-     settle_stripe(set, granule / STRIPE_GRANULES);
- }
  ...
+ if ((atomic_fetch_and(&set->granule_words[granule / 64], ~bit) & ~bit) == 0) {
+     settle_stripe(set, granule / STRIPE_GRANULES);
+ }
  atomic_fetch_sub_explicit(&set->count, nr, memory_order_relaxed);

// announce-first: a granule is announced before its page is in the set
//    file: migration/memory/pageset.c
//    tests: pageset-orders
//    places: 2
@@
@@
+ announce_granule(set, word / FERRY_GRANULE_WORDS);
  nr_new = (unsigned)__builtin_popcountll(set_bits(set, word, mask));
  if (nr_new) {
      atomic_fetch_add_explicit(&set->count, nr_new, memory_order_relaxed);
-     announce_granule(set, word / FERRY_GRANULE_WORDS);
  }

// stripe-first: a stripe is announced before its granule
//    file: migration/memory/pageset.c
//    tests: pageset-orders
//    places: 2
@@
@@
- announce(set->granule_words, granule);
  announce(set->stripe_words, granule / STRIPE_GRANULES);
+ announce(set->granule_words, granule);

// pages-after-last: pages after the last can be in a set
//    file: migration/memory/pageset.c
//    tests: pageset
@@
@@
- set->nr_pages - first < 64
+ false

// count-of-removed: pages that are removed still count
//    file: migration/memory/pageset.c
//    tests: pageset
@@
@@
- atomic_fetch_sub_explicit(&set->count, __builtin_popcountll(mask), memory_order_relaxed);

// share-skew: shares do not go on from one stripe to the next
//    file: migration/memory/pageset.c
//    tests: pageset
@@
@@
- (share + nr_shares - skew) % nr_shares
+ share

// clear-some: a set is only cleared up to the limit, from its start
//    file: migration/memory/pageset.c
//    tests: pageset backlog
@@
typedef uint64_t;
@@
  ferry_pageset_clear_some(...)
  {
  <...
- (uint64_t)granule + 1
+ (uint64_t)granule + 2
  ...>
  }

// scan-end: a scan goes beyond what was asked for
//    file: migration/memory/scan.c
//    tests: scan kinds
@@
@@
- end = MIN(end, scan->ask_end);

// scan-absent: memory that is not there is looked at
//    file: migration/memory/scan.c
//    tests: kinds
@@
@@
- scan.ask_start = MAX(scan.ask_start, gap->end_bytes);

// scan-short-file: beyond the end of a file there is nothing
//    file: migration/memory/scan.c
//    tests: scan-shared
@@
typedef uint64_t;
@@
- (uint64_t)st.st_size >= target->fd_offset + target->length_bytes
+ true

// not-emptied: the destination does not empty its memory
//    file: migration/memory/empty.c
//    tests: kinds migrate:/migrate/idle/1
@@
@@
- !ferry_kind_may_empty(region->flags) || region->length_bytes == 0
+ true

// emptied-file: a file that somebody else maps is emptied with private memory
//    file: migration/memory/empty.c
//    tests: kinds settle
@@
@@
- target->fd >= 0 && !(target->flags & FERRY_REGION_FOREIGN)
+ target->fd >= 0

// emptied-in-part: the part of a huge page before the first whole one is left as it was
//    file: migration/memory/empty.c
//    tests: kinds scan scan-shared
@@
@@
- clear_in_place(discard, offset_bytes, whole_start);

// emptied-too-much: a page of which only a part is to go, goes
//    file: migration/memory/empty.c
//    tests: kinds scan scan-shared
@@
@@
- (offset_bytes + unit - 1) / unit * unit
+ offset_bytes / unit * unit

// denied-unread: memory is not emptied where reading it in one way is denied
//    file: migration/memory/empty.c
//    tests: no-memory:/no-memory/denied
@@
@@
- errno == EPERM || errno == ENOSYS || errno == EACCES
+ false

// looked-at-allocates: to look at memory that cannot be scanned allocates it
//    file: migration/memory/empty.c
//    tests: scan-shared:/scan/shared/unscanned
@@
@@
  is_mapped(...)
  {
  <...
- discard->target->method != FERRY_SCAN_ALL
+ true
  ...>
  }

// blank-file: any file counts as one without data
//    file: migration/memory/empty.c
//    tests: settle
@@
typedef uint64_t;
@@
- data < 0 ? errno == ENXIO : (uint64_t)data >= target->fd_offset + target->length_bytes
+ true

// honest-holes: any file system knows where a file has data
//    file: migration/memory/holes.c
//    tests: settle
@@
typedef uint32_t;
@@
- (uint32_t)fs.f_type
+ TMPFS_MAGIC

// marks-of-anybody: any lock on a file is a mark
//    file: migration/memory/mark.c
//    tests: settle
@@
@@
- !are_marks(&flock, session_start)
+ false

// region-length-compared: a region may have another length at the destination
//    file: migration/memory/region.c
//    tests: migrate:/migrate/regions
@@
@@
- ours->length_bytes != theirs->length_bytes
+ false

// page-sizes-compared: page sizes may differ where pages are left missing
//    file: migration/memory/region.c
//    tests: settle
@@
@@
- may_leave && ours->page_size_bytes != theirs->page_size_bytes
+ false

// absent-after: the page after unplugged memory counts as unplugged
//    file: migration/memory/region.c
//    tests: page-server
@@
@@
- start < range->end_bytes
+ start <= range->end_bytes

// absent-before: the page before unplugged memory counts as unplugged
//    file: migration/memory/region.c
//    tests: page-server
@@
@@
- range->start_bytes < end
+ range->start_bytes <= end

// data-in-file: of a file's data, the last page is not known
//    file: migration/memory/region.c
//    tests: holes
@@
off_t page, hole, start;
@@
- page << FERRY_PAGE_SHIFT < hole - start
+ (page + 1) << FERRY_PAGE_SHIFT < hole - start

// placed-there: a page that is there already counts as placed
//    file: migration/memory/userfault.c
//    tests: fetch-parts
@@
@@
- return FERRY_PLACE_PRESENT;
+ return FERRY_PLACED;

// unavailable-mapped: memory that is not mapped seems to be
//    file: migration/memory/unavailable.c
//    tests: no-memory:/no-memory/not-mapped
@@
@@
- maps ? FERRY_UNAVAILABLE_NOT_MAPPED : FERRY_UNAVAILABLE_UNKNOWN
+ FERRY_UNAVAILABLE_UNKNOWN

// unavailable-rights: memory that may not be written seems to be writable
//    file: migration/memory/unavailable.c
//    tests: no-memory:/no-memory/protected
@@
@@
- rights[1] == 'w'
+ true

// unavailable-cut: a file that ends where the memory is seems long enough
//    file: migration/memory/unavailable.c
//    tests: no-memory:/no-memory/cut
@@
typedef uint64_t;
@@
- target->fd_offset + offset_bytes >= (uint64_t)st.st_size
+ target->fd_offset + offset_bytes > (uint64_t)st.st_size

// unavailable-full: a file system that is full seems to have room
//    file: migration/memory/unavailable.c
//    tests: no-memory:/no-memory/full
@@
@@
- fs.f_bavail == 0
+ false

// unavailable-unsaid: the kernel says that there is no memory, and nobody believes it
//    file: migration/memory/unavailable.c
//    tests: no-memory:/no-memory/said
@@
@@
- error == ENOMEM || error == ENOSPC || error == EDQUOT
+ false

// zero-by-its-ends: the end of a page is not looked at
//    file: migration/memory/zero.c
//    tests: zero
@@
@@
- p = last - p > 128 ? p + 128 : last
+ p = last
