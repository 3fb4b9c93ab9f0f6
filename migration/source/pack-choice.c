/*
 * Whether compressing is worth it: see pack-choice.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "pack-choice.h"

#include <glib.h>

#define MIB (UINT64_C(1) << 20)

/* What is judged by is an average over as much content, and not judged by before that much was seen. */
#define HORIZON_BYTES (8 * MIB)

#define TRY_INTERVAL_MAX (256 * MIB)

/* After compressing has stopped to pay, it is not tried for as long. */
#define TRY_INTERVAL_STOPPED (32 * MIB)

/* How much it packs before some go plain again, times what packing gains: so these cost 2 %. */
#define PACKED_SPAN_BYTES (50 * HORIZON_BYTES)

/* It has to gain that much: a guess may be wrong. */
#define GAIN_MIN 0.05

/* Where sending takes that share of what would make it pay, another look is worth while. */
#define NEAR 0.7

static void begin(FerryPackChoice *choice, bool packs, uint64_t try_at_bytes)
{
    choice->packs = packs;
    choice->seen_bytes = 0;
    choice->build_ns = choice->send_ns = choice->worth_send_ns = 0;
    choice->try_at_bytes = choice->try_interval_bytes = MAX(try_at_bytes, HORIZON_BYTES);
}

void ferry_pack_choice_init(FerryPackChoice *choice)
{
    *choice = (FerryPackChoice){0};
    begin(choice, false, HORIZON_BYTES);
}

bool ferry_pack_choice_wants_try(const FerryPackChoice *choice)
{
    return !choice->packs && choice->seen_bytes >= choice->try_at_bytes;
}

void ferry_pack_choice_tried(FerryPackChoice *choice, uint32_t in_bytes, uint32_t out_bytes,
                             int64_t ns)
{
    const double plain_ns = choice->build_ns + choice->send_ns;
    double pack_ns, packed_ns, saved;

    if (in_bytes == 0 || choice->packs) {
        return;
    }
    pack_ns = (double)ns / in_bytes;
    saved = 1 - (double)MIN(out_bytes, in_bytes) / in_bytes;
    packed_ns = plain_ns + pack_ns - saved * choice->send_ns;
    if (packed_ns < plain_ns * (1 - GAIN_MIN)) {
        begin(choice, true, 0);
        choice->plain_ns = plain_ns;
        return;
    }
    choice->try_interval_bytes *= packed_ns > 2 * plain_ns ? 4 : 2;
    choice->try_interval_bytes = MIN(choice->try_interval_bytes, TRY_INTERVAL_MAX);
    choice->try_at_bytes = choice->seen_bytes + choice->try_interval_bytes;
    choice->worth_send_ns = saved > 0 ? NEAR * pack_ns / saved : 0;
}

/* Sending has become so slow that it is to be tried before its time, with what plain costs now. */
static bool has_slowed_down(const FerryPackChoice *choice)
{
    return choice->worth_send_ns > 0 && choice->send_ns > choice->worth_send_ns &&
           choice->try_at_bytes - choice->seen_bytes > HORIZON_BYTES;
}

/* The average goes on from @before; @share of it is new. */
static double average(double before, double ns, double share)
{
    return before + (ns - before) * share;
}

void ferry_pack_choice_sent(FerryPackChoice *choice, uint32_t content_bytes, int64_t build_ns,
                            int64_t send_ns)
{
    double share, packed_ns;

    if (content_bytes == 0) {
        return;
    }
    choice->seen_bytes += content_bytes;
    share = (double)content_bytes / (double)MIN(choice->seen_bytes, HORIZON_BYTES);
    choice->build_ns = average(choice->build_ns, (double)build_ns / content_bytes, share);
    choice->send_ns = average(choice->send_ns, (double)send_ns / content_bytes, share);
    if (!choice->packs) {
        if (has_slowed_down(choice)) {
            begin(choice, false, HORIZON_BYTES);
        }
        return;
    }
    if (choice->seen_bytes < HORIZON_BYTES) {
        return;
    }
    packed_ns = choice->build_ns + choice->send_ns;
    if (packed_ns > choice->plain_ns) {
        begin(choice, false, TRY_INTERVAL_STOPPED);
    } else if ((double)choice->seen_bytes * packed_ns >
               (double)PACKED_SPAN_BYTES * choice->plain_ns) {
        /* What plain costs may have changed. */
        begin(choice, false, HORIZON_BYTES);
    }
}
