/*
 * One vCPU's dirty ring: see vcpu-ring.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "vcpu-ring.h"

#include "ring-overrun.h"

/* What is left free in a ring: a quarter, or this many entries if that is less than half of it. */
#define ROOM_MIN 8192

struct FerryVcpuRing {
    FerryRingSet *set;
    struct kvm_dirty_gfn *entries;
    uint32_t reset;     /* the first entry that is not reset; those before it are free */
    uint32_t seen;      /* the first entry not looked at; from reset to here they are held back */
    uint32_t round_end; /* entries before this one are the round's */
    uint32_t most_held;
    uint32_t suspect; /* after an overrun: so many of KVM's entries may come after a gap */
    bool is_fresh;    /* nothing was found since ferry_vcpu_ring_begin() */
    FerryRingLap lap; /* at the last exit because of a full ring */
    FerryKvmRingStats stats;
};

FerryVcpuRing *ferry_vcpu_ring_new(FerryRingSet *set, unsigned vcpu, struct kvm_dirty_gfn *entries,
                                   uint32_t fetch)
{
    FerryVcpuRing *ring = g_new0(FerryVcpuRing, 1);

    ring->set = set;
    ring->entries = entries;
    ring->reset = ring->seen = ring->round_end = fetch;
    ring->stats.vcpu = vcpu;
    return ring;
}

void ferry_vcpu_ring_begin(FerryVcpuRing *ring)
{
    ring->stats = (FerryKvmRingStats){.vcpu = ring->stats.vcpu};
    ring->most_held = 0;
    ring->round_end = ring->reset;
    ring->is_fresh = true;
}

const FerryKvmRingStats *ferry_vcpu_ring_stats(const FerryVcpuRing *ring)
{
    return &ring->stats;
}

uint32_t ferry_vcpu_ring_fetch(const FerryVcpuRing *ring)
{
    return ring->reset;
}

uint32_t ferry_vcpu_ring_nr_held(const FerryVcpuRing *ring)
{
    return ring->seen - ring->reset;
}

uint32_t ferry_vcpu_ring_nr_left(const FerryVcpuRing *ring)
{
    int32_t left = (int32_t)(ring->round_end - ring->reset);

    return left > 0 ? (uint32_t)left : 0;
}

/* --- Overruns -------------------------------------------------------------------------------- */

/* The ring as overrun recovery sees it. */
static FerryRing ring_at(const FerryVcpuRing *ring, uint32_t position)
{
    return (FerryRing){
        .entries = ring->entries,
        .nr_entries = ring->set->nr_entries,
        .position = position,
    };
}

static void note_overrun(FerryVcpuRing *ring)
{
    ring->suspect = 2 * ring->set->nr_entries;
    if (!ring->set->overrun) {
        ring->set->overrun = true;
        ring->set->overrun_vcpu = ring->stats.vcpu;
    }
}

/* How wide the gap is that KVM left out before what it fills now. */
static uint32_t find_gap(const FerryVcpuRing *ring)
{
    const FerryRing at = ring_at(ring, ring->seen);

    return ferry_ring_find_gap(&at, at.nr_entries - ferry_vcpu_ring_nr_held(ring));
}

static void fill_blank(const FerryVcpuRing *ring, uint32_t nr)
{
    const FerryRing at = ring_at(ring, ring->seen);

    ferry_ring_fill_blank(&at, nr, KVM_DIRTY_GFN_F_DIRTY);
}

/* Returns whether there was a gap. */
static bool fill_gap(const FerryVcpuRing *ring)
{
    uint32_t nr = find_gap(ring);

    fill_blank(ring, nr);
    return nr > 0;
}

/* With nothing held back; returns whether there was a lap. */
static bool fill_lap(FerryVcpuRing *ring)
{
    const FerryRing at = ring_at(ring, ring->seen);

    if (!ferry_ring_is_stuck(&at, &ring->lap)) {
        return false;
    }
    fill_blank(ring, ferry_ring_lap_entries(&at));
    return true;
}

void ferry_vcpu_ring_take_back(FerryVcpuRing *ring)
{
    FerryRing at = ring_at(ring, ring->reset);
    uint32_t nr = ferry_ring_take_back(&at, ring->set->nr_flagged, false);

    ring->reset = at.position;
    ring->set->nr_flagged -= nr;
    if (nr > 0) {
        note_overrun(ring);
    }
}

/* --- Entries --------------------------------------------------------------------------------- */

static struct kvm_dirty_gfn *entry_at(const FerryVcpuRing *ring, uint32_t number)
{
    const FerryRing at = ring_at(ring, number);

    return ferry_ring_entry(&at, 0);
}

static bool resolve(const FerryVcpuRing *ring, const struct kvm_dirty_gfn *entry,
                    FerryRingPage *page)
{
    return ferry_ring_slots_resolve(ring->set->slots, entry, page);
}

/* Returns whether the page had been reported before. */
static bool notice(const FerryVcpuRing *ring, FerryRingPage page)
{
    const FerryTrackerClient *client = &ring->set->client;

    return client->noticed(client->opaque, page.region, page.page / 64,
                           UINT64_C(1) << (page.page % 64)) != 0;
}

uint32_t ferry_vcpu_ring_look(FerryVcpuRing *ring)
{
    const FerryRing at = ring_at(ring, ring->seen);
    uint32_t first = ring->seen;

    while (ferry_vcpu_ring_nr_held(ring) < ring->set->nr_entries) {
        const struct kvm_dirty_gfn *entry = entry_at(ring, ring->seen);
        FerryRingPage page;

        if (!ferry_ring_entry_is_dirty(entry) && !(ring->suspect && fill_gap(ring))) {
            break;
        }
        if (resolve(ring, entry, &page) && notice(ring, page)) {
            ring->stats.redirtied++;
        }
        /* Blank entries make up for laps, however many there are. */
        if (entry->slot != FERRY_RING_SLOT_NONE) {
            ring->is_fresh = false;
            ring->suspect -= ring->suspect > 0;
        }
        ring->seen++;
    }
    ring->most_held = MAX(ring->most_held, ferry_vcpu_ring_nr_held(ring));
    ring->stats.collected += ring->seen - first;
    if (ferry_ring_was_full(&at, ferry_vcpu_ring_nr_held(ring))) {
        note_overrun(ring);
    }
    return ring->seen - first;
}

void ferry_vcpu_ring_end_round(FerryVcpuRing *ring)
{
    ring->round_end = ring->seen;
}

void ferry_vcpu_ring_notice_again(const FerryVcpuRing *ring)
{
    for (uint32_t number = ring->reset; number != ring->seen; number++) {
        FerryRingPage page;

        if (resolve(ring, entry_at(ring, number), &page)) {
            notice(ring, page);
        }
    }
}

/* KVM may write over one at the same time only in a ring without a free entry: noticed later. */
static void sort_oldest(FerryVcpuRing *ring, uint32_t nr)
{
    ferry_ring_sort(ring->set->sort, ring->entries, ring->reset, nr);
}

void ferry_vcpu_ring_sort(FerryVcpuRing *ring)
{
    sort_oldest(ring, ferry_vcpu_ring_nr_left(ring));
}

void ferry_vcpu_ring_flag(FerryVcpuRing *ring, uint32_t nr)
{
    const struct kvm_dirty_gfn *last_free = entry_at(ring, ring->reset - 1);

    for (uint32_t i = 0; i < nr; i++) {
        struct kvm_dirty_gfn *entry = entry_at(ring, ring->reset++);
        FerryRingPage page;

        if (resolve(ring, entry, &page)) {
            g_array_append_val(ring->set->batch, page);
        }
        __atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
    }
    ring->stats.resets += nr;
    ring->set->nr_flagged += nr;
    /* With no entry free, KVM may have written over one before it was copied or flagged. */
    if (ferry_ring_entry_is_dirty(last_free)) {
        note_overrun(ring);
    }
}

void ferry_vcpu_ring_flag_all(FerryVcpuRing *ring)
{
    ferry_vcpu_ring_flag(ring, ferry_vcpu_ring_nr_held(ring));
}

/* --- Rings that fill ------------------------------------------------------------------------- */

/* Flag what is held back beyond @nr_kept entries, without being asked for it. */
static void flag_excess(FerryVcpuRing *ring, uint32_t nr_kept)
{
    uint32_t nr = ferry_vcpu_ring_nr_held(ring) - nr_kept;

    ring->stats.forced_resets += nr;
    sort_oldest(ring, nr);
    ferry_vcpu_ring_flag(ring, nr);
}

void ferry_vcpu_ring_trim(FerryVcpuRing *ring)
{
    const uint32_t size = ring->set->nr_entries;
    const uint32_t held_max = size - MAX(size / 4, MIN(size / 2, ROOM_MIN));

    if (ferry_vcpu_ring_nr_held(ring) > held_max) {
        flag_excess(ring, held_max - size / 16);
    }
}

/* Empty, drained by somebody else meanwhile, or what KVM filled is beyond a gap. */
static void make_room_in_little(FerryVcpuRing *ring)
{
    bool gap;

    ferry_vcpu_ring_flag_all(ring);
    gap = fill_gap(ring);
    if (gap || fill_lap(ring)) {
        /* If nothing was found since the start, a lap too many is left from before it. */
        if (gap || !ring->is_fresh || !ring->suspect) {
            note_overrun(ring);
        }
        ferry_vcpu_ring_look(ring);
        ferry_vcpu_ring_flag_all(ring);
    }
}

void ferry_vcpu_ring_make_room(FerryVcpuRing *ring)
{
    const uint32_t nr_kept = ring->set->nr_entries / 4;

    ring->stats.full_exits++;
    ferry_vcpu_ring_look(ring);
    if (ferry_vcpu_ring_nr_held(ring) > nr_kept) {
        flag_excess(ring, nr_kept);
        ring->lap = (FerryRingLap){0};
    } else {
        make_room_in_little(ring);
    }
}

void ferry_vcpu_ring_list_last(FerryVcpuRing *ring, bool new_only)
{
    const uint32_t first = ring->reset + (new_only ? ferry_vcpu_ring_nr_left(ring) : 0);

    /* A ring that never got near its end cannot have been overrun. */
    if ((ring->stats.full_exits || ring->most_held > ring->set->nr_entries / 4) &&
        find_gap(ring) > 0) {
        note_overrun(ring);
    }
    for (uint32_t number = first; number != ring->seen; number++) {
        FerryRingPage page;

        if (resolve(ring, entry_at(ring, number), &page)) {
            g_array_append_val(ring->set->batch, page);
        }
    }
}
