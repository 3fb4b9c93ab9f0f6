// SPDX-License-Identifier: GPL-2.0-or-later

// header-checksum: a damaged header is taken
//    file: migration/wire/frame.c
//    tests: frame
@@
@@
- get32(in + 28) != ferry_crc32c(0, in, 28)
+ false

// payload-limit: a frame may be longer than any can be
//    file: migration/wire/frame.c
//    tests: frame
@@
@@
- frame->payload_bytes > payload_max
+ false

// extents-limit: a frame may have more extents than any can have
//    file: migration/wire/frame.c
//    tests: frame
@@
@@
- frame->nr_extents > FERRY_EXTENTS_MAX
+ false

// extents-checksum: a damaged table of extents is taken
//    file: migration/wire/frame.c
//    tests: frame
@@
@@
- get32(in + table_bytes) != ferry_crc32c(0, in, table_bytes)
+ false

// extents-alignment: a frame may begin in the middle of a granule
//    file: migration/wire/frame.c
//    tests: frame
@@
@@
- frame->first_page % FERRY_GRANULE_PAGES != 0
+ false

// extents-granule: an extent may reach one page into the next granule
//    file: migration/wire/frame.c
//    tests: frame
@@
@@
- end > FERRY_GRANULE_PAGES
+ end > FERRY_GRANULE_PAGES + 1

// extents-region: an extent may reach beyond the region
//    file: migration/wire/frame.c
//    tests: frame
//    sample: yes
@@
@@
- frame->first_page + end > region_pages
+ false

// extents-order: extents may overlap by a page
//    file: migration/wire/frame.c
//    tests: frame
@@
@@
- extent->first < next
+ extent->first + 1 < next

// extents-payload: less may come than the extents say
//    file: migration/wire/frame.c
//    tests: frame
@@
@@
- frame->payload_bytes != payload_pages * FERRY_PAGE_BYTES
+ frame->payload_bytes > payload_pages * FERRY_PAGE_BYTES

// hello-version: any version of the protocol will do
//    file: migration/wire/frame.c
//    tests: frame-body
@@
@@
- hello->version > FERRY_WIRE_VERSION_MAX
+ false

// hello-index: a channel may have the number after the last
//    file: migration/wire/frame.c
//    tests: frame-body
@@
@@
- hello->index >= max
+ hello->index > max

// layout-limit: a session may have any number of fetch channels
//    file: migration/wire/frame.c
//    tests: frame-body
@@
@@
- layout->nr_fetch > FERRY_FETCH_CHANNELS_MAX
+ false

// region-length: a region may end in the middle of a page
//    file: migration/wire/frame.c
//    tests: frame-body
@@
@@
- region->length_bytes % FERRY_PAGE_BYTES != 0
+ false

// answer-unknown: an answer for a region may be any number
//    file: migration/wire/frame.c
//    tests: frame-body settle
@@
@@
- in[i] > FERRY_ANSWER_SAME
+ false

// error-text: what the peer says goes to the terminal as it is
//    file: migration/wire/frame.c
//    tests: frame-body
@@
@@
- !g_ascii_isprint(*c)
+ false

// body-checksum: a damaged body on the control channel is taken
//    file: migration/wire/control.c
//    tests: frame-body receiver
@@
@@
- ferry_crc32c(0, received->data, received->len) != frame->payload_crc
+ false

// body-unchecked: a body on the control channel needs no checksum
//    file: migration/wire/control.c
//    tests: frame-body receiver
@@
@@
- !(frame->flags & FERRY_FRAME_PAYLOAD_CRC)
+ false

// content-unchecked: the checksum of content is that of nothing
//    file: migration/wire/pages-frame.c
//    tests: migrate:/migrate/idle/checksum
@@
@@
- frame->payload_crc = ferry_crc32c(0, iov.iov_base, iov.iov_len)
+ frame->payload_crc = ferry_crc32c(0, iov.iov_base, 0)

// extents-of-both-kinds: zero pages and others share an extent
//    file: migration/wire/pages-frame.c
//    tests: migrate:/migrate/idle/1
@@
@@
- extent->zero == zero
+ true

// extents-with-gaps: an extent goes on after pages that are not sent
//    file: migration/wire/pages-frame.c
//    tests: migrate:/migrate/idle/1 backlog holes
@@
@@
- extent->first + extent->nr_pages == page
+ true

// closed-channel: that the other side has closed a channel is not noticed
//    file: migration/wire/channel.c
//    tests: destination
@@
@@
- done == 0
+ done == -2

// part-read: what is left of a vector is read from its start again
//    file: migration/wire/channel.c
//    tests: migrate:/migrate/idle/1 heartbeat:/heartbeat/slow
@@
expression base;
@@
- base = (char *)(*iov)->iov_base + nr_bytes;

// stuck-writes: that nothing goes out is never noticed
//    file: migration/wire/heartbeat.c
//    tests: heartbeat:/heartbeat/stuck
@@
@@
- one->writes && is_stuck(one, now_us, heartbeat->timeout_ms)
+ false

// slow-is-stuck: a slow write counts as one that stands still
//    file: migration/wire/heartbeat.c
//    tests: heartbeat:/heartbeat/slow
@@
@@
- (stalled_ms < 0 || stalled_ms > timeout_ms)
+ true

// silence: that nothing comes is never noticed
//    file: migration/wire/heartbeat.c
//    tests: heartbeat:/heartbeat/quiet fetch:/fetch/hang/control
@@
@@
- one->reads && began_us
+ false

// beat-waits: a heartbeat waits for whoever is writing
//    file: migration/wire/channel.c
//    tests: heartbeat:/heartbeat/beat-does-not-wait
@@
@@
- out.fd < 0 || poll(&out, 1, 0) != 0
+ true

// bitmap-of-nothing: a bitmap may be of a region that there is not
//    file: migration/wire/missing.c
//    tests: turns
@@
@@
- frame->region >= regions->nr
+ false

// bitmap-part: the first part of a bitmap will do
//    file: migration/wire/compact-reader.c
//    tests: compact-hostile
@@
@@
- reader->next != reader->nr_tiles
+ false

// bitmap-order: parts of a bitmap may come in any order
//    file: migration/wire/compact-reader.c
//    tests: compact-hostile
@@
@@
- get32(in) != reader->next
+ false

// bitmap-checksum: a damaged bitmap is taken
//    file: migration/wire/compact-reader.c
//    tests: compact-hostile
@@
@@
- get32(in + 5) != ferry_compact_item_crc(item->tile, in, item->payload_bytes)
+ false

// bitmap-runs: a run may reach beyond its tile
//    file: migration/wire/compact-reader.c
//    tests: compact-hostile
@@
@@
- length > item->nr_pages - page - gap
+ false

// bitmap-last-page: a bitmap may name pages after the region's last
//    file: migration/wire/compact-reader.c
//    tests: compact-hostile
@@
@@
- item->nr_pages % 64 && words[nr_words - 1] >> (item->nr_pages % 64)
+ false

// bitmap-stretch: a stretch may be longer than what is left
//    file: migration/wire/compact-reader.c
//    tests: compact-hostile
@@
@@
- item->argument > left
+ false

// bitmap-edge: a run that goes on in the next word is coded as ending
//    file: migration/wire/compact-writer.c
//    tests: compact
@@
@@
- before = bits >> 63
+ before = 0

// bitmap-changed: tiles that have changed since they were coded are sent as they were
//    file: migration/wire/compact-writer.c
//    tests: compact
@@
@@
  ferry_compact_write(...)
  {
  <...
- has_changed(writer, index)
+ has_changed(writer, index) && !slot->item
  ...>
  }

// bitmap-mark: the last tile that has changed is not marked
//    file: migration/wire/compact-writer.c
//    tests: compact
@@
@@
  ferry_compact_mark(...)
  {
  <...
- tile < end
+ tile + 1 < end
  ...>
  }

// binding-address: a socket does not leave from the address that is asked for
//    file: migration/wire/binding.c
//    tests: binding
@@
@@
- bind(fd, (const struct sockaddr *)&binding->address, binding->address_length) == 0
+ true

// binding-port: a port is chosen before it is known where the connection goes
//    file: migration/wire/binding.c
//    tests: binding
@@
@@
- (void)setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof(yes));
+ (void)yes;

// binding-scope: the same link-local address on another interface is the same
//    file: migration/wire/binding.c
//    tests: binding
@@
@@
- as_ipv6(own)->sin6_scope_id == as_ipv6(address)->sin6_scope_id
+ true

// binding-passed: a connection that was passed may have any address here
//    file: migration/wire/binding.c
//    tests: binding
@@
@@
- !ferry_binding_is_at(binding, (const struct sockaddr *)&local)
+ false

// binding-passed-interface: a connection that was passed may leave by any interface
//    file: migration/wire/binding.c
//    tests: binding
@@
@@
- index != if_nametoindex(binding->interface)
+ false

// binding-passed-network: an interface of another network namespace is one of this one
//    file: migration/wire/binding.c
//    tests: binding
@@
@@
- !ferry_binding_is_here(fd)
+ false

// binding-gone: a connection without an interface is bound to any that this host lacks
//    file: migration/wire/binding.c
//    tests: binding
@@
@@
- index == 0
+ false

// binding-checked: an address that this host does not have can be asked for
//    file: migration/wire/binding.c
//    tests: binding
@@
@@
- error == EADDRNOTAVAIL
+ false

// subnets-mapped: an IPv4 peer of a socket for both protocols is IPv6
//    file: migration/wire/subnets.c
//    tests: subnets
//    places: 2
//    sample: yes
@@
expression ipv6;
@@
- IN6_IS_ADDR_V4MAPPED(ipv6)
+ false

// subnets-prefix: a prefix may be empty, and has any form of a number
//    file: migration/wire/subnets.c
//    tests: subnets
@@
@@
- nr_digits == 0 || nr_digits > 3 || text[nr_digits] || (*text == '0' && nr_digits > 1)
+ false

// subnets-zero: a prefix may begin with a zero
//    file: migration/wire/subnets.c
//    tests: subnets
@@
@@
- (*text == '0' && nr_digits > 1)
+ false

// subnets-first: only the first subnet of a list counts
//    file: migration/wire/subnets.c
//    tests: subnets
@@
@@
- i < subnets->masks->len
+ i < MIN(subnets->masks->len, 1)

// subnets-others: a peer that has no IP address is in each of them
//    file: migration/wire/subnets.c
//    tests: subnets
@@
@@
- peer->sa_family == AF_UNIX
+ true

// binding-network: a socket of another network namespace is taken for one of this one
//    file: migration/wire/binding.c
//    tests: binding
@@
@@
- here == there
+ true

// shares-dead: who has died keeps its share
//    file: migration/wire/shares.c
//    tests: shares
@@
@@
- flock.l_type != F_UNLCK
+ true

// shares-lent: what somebody does not use is not lent
//    file: migration/wire/shares.c
//    tests: shares
@@
@@
- shares->measured && !shares->held_up
+ false

// shares-stale: who stands still keeps all of its share
//    file: migration/wire/shares.c
//    tests: shares
@@
expression record, now_ns;
@@
- now_ns - record->stamp_ns > STALE_NS
+ false

// shares-crc: a torn record counts
//    file: migration/wire/shares.c
//    tests: shares
@@
@@
- record->crc == crc_of(record)
+ true

// shares-removed: a file that was removed is gone on with
//    file: migration/wire/shares.c
//    tests: shares
@@
@@
- !is_in_place(shares)
+ false

// shares-least: the limit that somebody else has set does not count
//    file: migration/wire/shares.c
//    tests: shares
@@
@@
- MIN(stats->host_bytes_per_second, record->host_bytes_per_second)
+ stats->host_bytes_per_second

// pace-saved: idle time may be caught up on without limit
//    file: migration/wire/pace.c
//    tests: pace
@@
@@
- MAX(bucket->reserved_bytes, earliest(pace, bucket, now_us))
+ bucket->reserved_bytes

// pace-burst: what may be caught up on goes out at once
//    file: migration/wire/pace.c
//    tests: pace-exact
@@
@@
- {.percent = PEAK_PERCENT, .late_us = PEAK_LATE_US}
+ {.percent = PEAK_PERCENT, .late_us = MEAN_LATE_US}

// pace-interrupt: who waits for the pace is not interrupted
//    file: migration/wire/pace.c
//    tests: pace
@@
@@
- pace->nr_interrupts != nr_interrupts
+ false

// shares-link: a symbolic link is followed, and what is at its end is written to
//    file: migration/wire/shares.c
//    tests: shares
@@
@@
- O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK
+ O_RDWR | O_CLOEXEC | O_NONBLOCK
