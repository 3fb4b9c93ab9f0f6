/*
 * The engine's events as QEMU's trace events.
 *
 * Threads: any; see migration/events.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"

#include "ferry/migration/events.h"
#include "events.h"
#include "trace.h"

static void round_begun(unsigned number, uint64_t dirty_pages, uint64_t harvest_ns)
{
    trace_ferry_round_begun(number, dirty_pages, harvest_ns / 1000);
}

static void round_ended(unsigned number, uint64_t pages, uint64_t zero_pages, uint64_t bytes,
                        uint64_t elapsed_ns)
{
    trace_ferry_round_ended(number, pages, zero_pages, bytes, elapsed_ns / 1000);
}

static void fault_answered(uint32_t region, uint64_t page, uint64_t waited_ns)
{
    trace_ferry_fault_answered(region, page, waited_ns / 1000);
}

static const FerryEvents events = {
    .phase = trace_ferry_phase,
    .phase_refused = trace_ferry_phase_refused,
    .cause = trace_ferry_cause,
    .channel_opened = trace_ferry_channel_opened,
    .channel_proved = trace_ferry_channel_proved,
    .channel_refused = trace_ferry_channel_refused,
    .channel_lost = trace_ferry_channel_lost,
    .round_begun = round_begun,
    .round_ended = round_ended,
    .tracker_replaced = trace_ferry_tracker_replaced,
    .draft = trace_ferry_draft,
    .undraft = trace_ferry_undraft,
    .handoff = trace_ferry_handoff,
    .loaded = trace_ferry_loaded,
    .go = trace_ferry_go,
    .taken = trace_ferry_taken,
    .fault_asked = trace_ferry_fault_asked,
    .fault_answered = fault_answered,
    .fault_served = trace_ferry_fault_served,
    .paused = trace_ferry_paused,
    .resumed = trace_ferry_resumed,
    .complete = trace_ferry_complete,
};

void ferry_trace_engine(void)
{
    ferry_events = &events;
}
