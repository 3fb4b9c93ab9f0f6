/*
 * Whether compressing pages is worth it on a channel, from what it costs and what it saves there.
 *
 * A byte of content costs so long to read, to compress where that is done, and to send what is left of it.  The
 * time to send is that of the wire where the wire is slow, or a limit is set, and next to nothing where it is not.
 * The time to compress is what it took, with what the thread waited for a CPU.
 *
 *   plain   a small part of a frame is compressed now and then, for its time and its gain alone: ever more seldom
 *           where it does not pay, and before its time where sending has become slow
 *   packed  its cost is compared with what plain cost before; now and then, some frames go plain again
 *
 * Threads: a choice belongs to one sender.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_PACK_CHOICE_H
#define FERRY_PACK_CHOICE_H

#include <stdbool.h>
#include <stdint.h>

/* As much of a frame is compressed to see what it gains. */
#define FERRY_PACK_TRY_BYTES (128 * 1024)

typedef struct FerryPackChoice {
    bool packs;
    uint64_t seen_bytes;         /* of content, in this mode */
    double build_ns, send_ns;    /* a byte of content, lately, in this mode */
    uint64_t try_at_bytes;       /* of seen_bytes */
    uint64_t try_interval_bytes; /* the last */
    double worth_send_ns;        /* at that it may pay, by the last try; 0: not known */
    double plain_ns;             /* while it packs: what plain cost */
} FerryPackChoice;

void ferry_pack_choice_init(FerryPackChoice *choice);

/** ferry_pack_choice_wants_try: whether a part of this frame, which goes plain, is to be tried */
bool ferry_pack_choice_wants_try(const FerryPackChoice *choice);

/** ferry_pack_choice_tried: compressing @in_bytes made @out_bytes of them, and took @ns nanoseconds */
void ferry_pack_choice_tried(FerryPackChoice *choice, uint32_t in_bytes, uint32_t out_bytes,
                             int64_t ns);

/** ferry_pack_choice_sent: a frame of @content_bytes took so long to be built, and to be sent */
void ferry_pack_choice_sent(FerryPackChoice *choice, uint32_t content_bytes, int64_t build_ns,
                            int64_t send_ns);

#endif
