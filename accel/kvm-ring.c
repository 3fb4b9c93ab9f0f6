/*
 * KVM's dirty rings: see kvm-ring.h.
 *
 * Threads: everything is under `lock`, which is held over KVM_RESET_DIRTY_RINGS (some 13 ns an
 * entry) and over the client's functions.  The kernel and this file share the entries themselves:
 *
 *   KVM, on the vCPU                 here                            KVM, in the ioctl
 *   ----------------                 ----                            -----------------
 *   fill slot and offset
 *   flags := DIRTY (release)
 *                                    flags == DIRTY (acquire)
 *                                    read slot and offset
 *                                    ...
 *                                    copy slot and offset
 *                                    flags := RESET (release)
 *                                                                    flags == RESET (acquire)
 *                                                                    protect the page
 *                                                                    flags := 0
 *   may fill it again
 *                                    report the copy
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "kvm-ring.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>

#include "../migration/error.h"
#include "ring-sort.h"

/*
 * How often the thread looks at the rings: often enough that none gains an eighth meanwhile, and
 * that what is free does not fill suddenly.  LOOK_MAX_US is for rings that are all free.
 */
#define LOOK_MIN_US 1000
#define LOOK_MAX_US 40000

/* What is left free in a ring: a quarter, or this many entries if that is less than half of it. */
#define ROOM_MIN 8192

/* Address spaces of a VM: x86 has two, the second for SMM. */
#define NR_SPACES 2

/* KVM's own limit on the number of a slot. */
#define SLOT_MAX 32767

/* No memory slot has this number, so KVM passes over an entry that says so. */
#define SLOT_NONE UINT32_MAX

typedef struct Slot {
    uint32_t region;
    uint64_t first_page;
    uint64_t nr_pages; /* 0: not known */
} Slot;

/* Entries are numbered as KVM numbers them: from 0 on, wrapping at 2^32. */
typedef struct Vcpu {
    struct kvm_dirty_gfn *entries;
    uint32_t reset;     /* the first entry that is not reset; those before it are free */
    uint32_t seen;      /* the first entry not looked at; from reset to here they are held back */
    uint32_t round_end; /* entries before this one are the round's */
    uint32_t most_held;
    uint32_t suspect;    /* after an overrun: so many of KVM's entries may come after a gap */
    bool is_fresh;       /* nothing was found since ferry_kvm_ring_start() */
    bool was_drained;    /* at the last exit because of a full ring, */
    uint32_t drained_at; /* up to here */
    FerryKvmRingStats stats;
} Vcpu;

typedef struct Page {
    uint32_t region;
    uint64_t page;
} Page;

struct FerryKvmRing {
    int vm_fd;
    uint32_t nr_entries;
    GThread *thread;

    GMutex lock;
    GCond stopping;
    bool quit;
    bool fill;
    bool started;
    FerryTrackerClient client;
    GPtrArray *vcpus;         /* of Vcpu */
    GArray *slots[NR_SPACES]; /* of Slot, by number */
    FerryRingSort *sort;
    GArray *batch;       /* of Page: being reset, to be reported */
    uint32_t nr_flagged; /* entries flagged for reset, the ioctl to come */
    bool overrun;
    unsigned overrun_vcpu;
    int reset_errno; /* why KVM did not reset what it was given, or 0 */
};

uint32_t ferry_kvm_ring_supported(int vm_fd)
{
    int nr_bytes = ioctl(vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_DIRTY_LOG_RING_ACQ_REL);

    if (nr_bytes <= 0) {
        nr_bytes = ioctl(vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_DIRTY_LOG_RING);
    }
    return nr_bytes > 0 ? (uint32_t)nr_bytes / (uint32_t)sizeof(struct kvm_dirty_gfn) : 0;
}

FerryKvmRing *ferry_kvm_ring_new(int vm_fd, uint32_t nr_entries)
{
    FerryKvmRing *ring = g_new0(FerryKvmRing, 1);

    ring->vm_fd = vm_fd;
    ring->nr_entries = nr_entries;
    ring->vcpus = g_ptr_array_new_with_free_func(g_free);
    for (unsigned i = 0; i < NR_SPACES; i++) {
        ring->slots[i] = g_array_new(FALSE, TRUE, sizeof(Slot));
    }
    ring->sort = ferry_ring_sort_new(nr_entries);
    ring->batch = g_array_new(FALSE, FALSE, sizeof(Page));
    g_mutex_init(&ring->lock);
    g_cond_init(&ring->stopping);
    return ring;
}

void ferry_kvm_ring_free(FerryKvmRing *ring)
{
    if (!ring) {
        return;
    }
    g_ptr_array_unref(ring->vcpus);
    for (unsigned i = 0; i < NR_SPACES; i++) {
        g_array_unref(ring->slots[i]);
    }
    ferry_ring_sort_free(ring->sort);
    g_array_unref(ring->batch);
    g_mutex_clear(&ring->lock);
    g_cond_clear(&ring->stopping);
    g_free(ring);
}

/* --- Entries; all of this with the lock held ------------------------------------------------- */

static struct kvm_dirty_gfn *entry_at(const FerryKvmRing *ring, const Vcpu *vcpu, uint32_t number)
{
    return &vcpu->entries[number & (ring->nr_entries - 1)];
}

static bool is_dirty(const struct kvm_dirty_gfn *entry)
{
    return __atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) == KVM_DIRTY_GFN_F_DIRTY;
}

static uint32_t nr_held(const Vcpu *vcpu)
{
    return vcpu->seen - vcpu->reset;
}

/* How many of the entries held back belong to the round. */
static uint32_t nr_left(const Vcpu *vcpu)
{
    int32_t left = (int32_t)(vcpu->round_end - vcpu->reset);

    return left > 0 ? (uint32_t)left : 0;
}

static Slot *find_slot(const FerryKvmRing *ring, uint32_t number)
{
    uint32_t space = number >> 16, id = number & 0xffff;

    if (space >= NR_SPACES || id >= ring->slots[space]->len) {
        return NULL;
    }
    return &g_array_index(ring->slots[space], Slot, id);
}

/* False when the entry is about memory that is none of ours. */
static bool resolve(const FerryKvmRing *ring, const struct kvm_dirty_gfn *entry, Page *page)
{
    const Slot *slot = find_slot(ring, entry->slot);

    if (!slot || entry->offset >= slot->nr_pages) {
        return false;
    }
    *page = (Page){.region = slot->region, .page = slot->first_page + entry->offset};
    return true;
}

static void note_overrun(FerryKvmRing *ring, Vcpu *vcpu)
{
    vcpu->suspect = 2 * ring->nr_entries;
    if (!ring->overrun) {
        ring->overrun = true;
        ring->overrun_vcpu = vcpu->stats.vcpu;
    }
}

/* Returns whether the page had been reported before. */
static bool notice(const FerryKvmRing *ring, Page page)
{
    return ring->client.noticed(ring->client.opaque, page.region, page.page / 64,
                                UINT64_C(1) << (page.page % 64)) != 0;
}

/*
 * After an overrun KVM's position in the ring is ahead of ours: what it fills now comes after a gap
 * that is never filled.  Returns how far ahead, if it has filled anything; else 0.
 */
static uint32_t find_gap(const FerryKvmRing *ring, const Vcpu *vcpu)
{
    for (uint32_t i = 0; i < ring->nr_entries - nr_held(vcpu); i++) {
        if (is_dirty(entry_at(ring, vcpu, vcpu->seen + i))) {
            /* The vCPU may run, and have filled those before it since they were looked at. */
            while (i > 0 && is_dirty(entry_at(ring, vcpu, vcpu->seen + i - 1))) {
                i--;
            }
            return i;
        }
    }
    return 0;
}

/* Fill @nr entries with what means nothing, to be taken like others. */
static void fill_blank(const FerryKvmRing *ring, const Vcpu *vcpu, uint32_t nr)
{
    for (uint32_t i = 0; i < nr; i++) {
        struct kvm_dirty_gfn *entry = entry_at(ring, vcpu, vcpu->seen + i);

        entry->slot = SLOT_NONE;
        entry->offset = 0;
        __atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_DIRTY, __ATOMIC_RELEASE);
    }
}

/* Returns whether there was a gap. */
static bool fill_gap(const FerryKvmRing *ring, const Vcpu *vcpu)
{
    uint32_t nr = find_gap(ring, vcpu);

    fill_blank(ring, vcpu, nr);
    return nr > 0;
}

/* Take notice of what is new in a ring; returns how many entries. */
static uint32_t look(FerryKvmRing *ring, Vcpu *vcpu)
{
    uint32_t first = vcpu->seen;

    while (nr_held(vcpu) < ring->nr_entries) {
        const struct kvm_dirty_gfn *entry = entry_at(ring, vcpu, vcpu->seen);
        Page page;

        if (!is_dirty(entry) && !(vcpu->suspect && fill_gap(ring, vcpu))) {
            break;
        }
        if (resolve(ring, entry, &page) && notice(ring, page)) {
            vcpu->stats.redirtied++;
        }
        /* Blank entries make up for laps, however many there are. */
        if (entry->slot != SLOT_NONE) {
            vcpu->is_fresh = false;
            vcpu->suspect -= vcpu->suspect > 0;
        }
        vcpu->seen++;
    }
    vcpu->most_held = MAX(vcpu->most_held, nr_held(vcpu));
    vcpu->stats.collected += vcpu->seen - first;
    /* KVM keeps some entries in reserve: a ring without a free one has been written over. */
    if (nr_held(vcpu) == ring->nr_entries) {
        note_overrun(ring, vcpu);
    }
    return vcpu->seen - first;
}

static uint32_t look_all(FerryKvmRing *ring)
{
    uint32_t most = 0;

    for (guint i = 0; i < ring->vcpus->len; i++) {
        most = MAX(most, look(ring, g_ptr_array_index(ring->vcpus, i)));
    }
    return most;
}

/*
 * Bring @nr entries, the oldest ones, into the order in which they cost least to reset.  KVM may
 * write over one at the same time only in a ring without a free entry: that is noticed later.
 */
static void sort_oldest(FerryKvmRing *ring, const Vcpu *vcpu, uint32_t nr)
{
    ferry_ring_sort(ring->sort, vcpu->entries, vcpu->reset, nr);
}

/* Flag @nr entries, the oldest ones, for reset. */
static void flag_oldest(FerryKvmRing *ring, Vcpu *vcpu, uint32_t nr)
{
    const struct kvm_dirty_gfn *last_free = entry_at(ring, vcpu, vcpu->reset - 1);

    for (uint32_t i = 0; i < nr; i++) {
        struct kvm_dirty_gfn *entry = entry_at(ring, vcpu, vcpu->reset++);
        Page page;

        if (resolve(ring, entry, &page)) {
            g_array_append_val(ring->batch, page);
        }
        __atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
    }
    vcpu->stats.resets += nr;
    ring->nr_flagged += nr;
    /* With no entry free, KVM may have written over one before it was copied or flagged. */
    if (is_dirty(last_free)) {
        note_overrun(ring, vcpu);
    }
}

/* Hold back again what is flagged and KVM will not reset: it wrote over it after it was flagged. */
static void take_back_flagged(FerryKvmRing *ring)
{
    for (guint i = 0; i < ring->vcpus->len; i++) {
        Vcpu *vcpu = g_ptr_array_index(ring->vcpus, i);

        while (ring->nr_flagged > 0 &&
               __atomic_load_n(&entry_at(ring, vcpu, vcpu->reset - 1)->flags, __ATOMIC_RELAXED)) {
            vcpu->reset--;
            /* No longer flagged, lest KVM take more of them the next time than it is given. */
            __atomic_store_n(&entry_at(ring, vcpu, vcpu->reset)->flags, KVM_DIRTY_GFN_F_DIRTY,
                             __ATOMIC_RELAXED);
            ring->nr_flagged--;
            note_overrun(ring, vcpu);
        }
    }
}

/*
 * Have KVM protect the pages of all entries that are flagged.
 *
 * Since Linux 6.16 a pending signal ends the ioctl early, and up to 64 pages whose entries it has
 * freed by then stay writable: what the guest writes there would never be told.  So signals wait;
 * what cannot be made to wait (a debugger, the freezer) shows in a count that is too small, unless
 * nothing but those pages was left to be reset.
 */
static void reset_flagged(FerryKvmRing *ring)
{
    unsigned nr_idle = 0;
    sigset_t all, before;

    if (ring->nr_flagged == 0) {
        return;
    }
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (ring->nr_flagged > 0) {
        int nr = ioctl(ring->vm_fd, KVM_RESET_DIRTY_RINGS, 0);

        if (nr < 0 || (uint32_t)nr > ring->nr_flagged) {
            ring->reset_errno = nr < 0 ? errno : EIO;
            ring->nr_flagged = 0;
        } else if (nr > 0) {
            ring->nr_flagged -= (uint32_t)nr;
            ring->reset_errno = ring->nr_flagged ? EINTR : ring->reset_errno;
        } else if (++nr_idle > 10) {
            take_back_flagged(ring);
            ring->nr_flagged = 0;
            ring->reset_errno = EIO;
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

typedef void (*ReportFn)(void *opaque, uint32_t region, uint64_t word, uint64_t mask);

/* Report the pages of a batch; neighbours in one word go together. */
static void report_batch(FerryKvmRing *ring, ReportFn report)
{
    const Page *pages = (const Page *)(void *)ring->batch->data;
    guint nr = ring->batch->len;

    for (guint i = 0; i < nr;) {
        uint32_t region = pages[i].region;
        uint64_t word = pages[i].page / 64, mask = 0;

        for (; i < nr && pages[i].region == region && pages[i].page / 64 == word; i++) {
            mask |= UINT64_C(1) << (pages[i].page % 64);
        }
        report(ring->client.opaque, region, word, mask);
    }
    g_array_set_size(ring->batch, 0);
}

static void reset_and_report(FerryKvmRing *ring, ReportFn report)
{
    reset_flagged(ring);
    report_batch(ring, report);
}

/* How many entries may be held back. */
static uint32_t held_max(const FerryKvmRing *ring)
{
    return ring->nr_entries - MAX(ring->nr_entries / 4, MIN(ring->nr_entries / 2, ROOM_MIN));
}

/* Reset what is held back beyond @nr_kept entries. */
static void flag_excess(FerryKvmRing *ring, Vcpu *vcpu, uint32_t nr_kept)
{
    if (nr_held(vcpu) > nr_kept) {
        uint32_t nr = nr_held(vcpu) - nr_kept;

        vcpu->stats.forced_resets += nr;
        sort_oldest(ring, vcpu, nr);
        flag_oldest(ring, vcpu, nr);
    }
}

static void flag_all(FerryKvmRing *ring, Vcpu *vcpu)
{
    flag_oldest(ring, vcpu, nr_held(vcpu));
}

static bool check(FerryKvmRing *ring, GError **errp)
{
    if (ring->overrun) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_TRACKER,
                    "the dirty ring of vCPU %u was overrun (KVM emulates its instructions)",
                    ring->overrun_vcpu);
        return false;
    }
    if (ring->reset_errno) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_TRACKER, "KVM_RESET_DIRTY_RINGS failed: %s",
                    g_strerror(ring->reset_errno));
        return false;
    }
    return true;
}

/* --- The thread ------------------------------------------------------------------------------ */

/* How long to sleep: a ring gained @nr_new entries in @period_us, and one holds @nr_most. */
static gint64 next_period_us(const FerryKvmRing *ring, uint32_t nr_new, gint64 period_us,
                             uint32_t nr_most)
{
    gint64 eighth_us = nr_new ? (gint64)(ring->nr_entries / 8) * period_us / nr_new : LOOK_MAX_US;
    gint64 room_us = (gint64)(ring->nr_entries - nr_most) * LOOK_MAX_US / ring->nr_entries;

    return MAX(MIN(eighth_us, room_us), LOOK_MIN_US);
}

static gpointer collect_run(gpointer opaque)
{
    FerryKvmRing *ring = opaque;
    gint64 period_us = LOOK_MIN_US;
    gint64 last_us = g_get_monotonic_time();

    g_mutex_lock(&ring->lock);
    while (!ring->quit) {
        uint32_t nr_new = look_all(ring), nr_most = 0;
        gint64 now_us = g_get_monotonic_time();

        for (guint i = 0; i < ring->vcpus->len; i++) {
            Vcpu *vcpu = g_ptr_array_index(ring->vcpus, i);

            if (nr_held(vcpu) > held_max(ring) && !ring->fill) {
                flag_excess(ring, vcpu, held_max(ring) - ring->nr_entries / 16);
            }
            nr_most = MAX(nr_most, nr_held(vcpu));
        }
        reset_and_report(ring, ring->client.early);
        period_us = next_period_us(ring, nr_new, MAX(now_us - last_us, 1), nr_most);
        last_us = now_us;
        g_cond_wait_until(&ring->stopping, &ring->lock, now_us + period_us);
    }
    g_mutex_unlock(&ring->lock);
    return NULL;
}

bool ferry_kvm_ring_start(FerryKvmRing *ring, const FerryTrackerClient *client, GError **errp)
{
    g_mutex_lock(&ring->lock);
    ring->client = *client;
    ring->started = true;
    ring->quit = false;
    ring->overrun = false;
    ring->reset_errno = 0;
    for (guint i = 0; i < ring->vcpus->len; i++) {
        Vcpu *vcpu = g_ptr_array_index(ring->vcpus, i);

        vcpu->stats = (FerryKvmRingStats){.vcpu = vcpu->stats.vcpu};
        vcpu->most_held = 0;
        vcpu->round_end = vcpu->reset;
        vcpu->is_fresh = true;
    }
    g_mutex_unlock(&ring->lock);
    ring->thread = g_thread_try_new("ferry-collect", collect_run, ring, errp);
    return ring->thread != NULL;
}

void ferry_kvm_ring_stop(FerryKvmRing *ring)
{
    if (ring->thread) {
        g_mutex_lock(&ring->lock);
        ring->quit = true;
        g_cond_signal(&ring->stopping);
        g_mutex_unlock(&ring->lock);
        g_thread_join(ring->thread);
        ring->thread = NULL;
    }
    g_mutex_lock(&ring->lock);
    if (ring->started) {
        look_all(ring);
        for (guint i = 0; i < ring->vcpus->len; i++) {
            flag_all(ring, g_ptr_array_index(ring->vcpus, i));
        }
        reset_flagged(ring);
        g_array_set_size(ring->batch, 0);
        ring->started = false;
    }
    g_mutex_unlock(&ring->lock);
}

/* --- The source's calls ---------------------------------------------------------------------- */

/* The vCPUs have stopped: nothing of what they wrote may be left in a place not looked at. */
static bool report_last(FerryKvmRing *ring, GError **errp)
{
    for (guint i = 0; i < ring->vcpus->len; i++) {
        Vcpu *vcpu = g_ptr_array_index(ring->vcpus, i);

        /* A ring that never got near its end cannot have been overrun. */
        if ((vcpu->stats.full_exits || vcpu->most_held > ring->nr_entries / 4) &&
            find_gap(ring, vcpu) > 0) {
            note_overrun(ring, vcpu);
        }
        for (uint32_t number = vcpu->reset; number != vcpu->seen; number++) {
            Page page;

            if (resolve(ring, entry_at(ring, vcpu, number), &page)) {
                g_array_append_val(ring->batch, page);
            }
        }
    }
    report_batch(ring, ring->client.report);
    return check(ring, errp);
}

bool ferry_kvm_ring_harvest(FerryKvmRing *ring, bool last, GError **errp)
{
    bool ok;

    g_mutex_lock(&ring->lock);
    look_all(ring);
    for (guint i = 0; i < ring->vcpus->len; i++) {
        Vcpu *vcpu = g_ptr_array_index(ring->vcpus, i);

        vcpu->round_end = vcpu->seen;
        if (!last) {
            sort_oldest(ring, vcpu, nr_held(vcpu));
        }
    }
    ok = last ? report_last(ring, errp) : check(ring, errp);
    g_mutex_unlock(&ring->lock);
    return ok;
}

bool ferry_kvm_ring_check(FerryKvmRing *ring, GError **errp)
{
    bool ok;

    g_mutex_lock(&ring->lock);
    ok = check(ring, errp);
    g_mutex_unlock(&ring->lock);
    return ok;
}

bool ferry_kvm_ring_feed(FerryKvmRing *ring, uint64_t max_pages, uint64_t *left_pages,
                         GError **errp)
{
    bool ok;

    *left_pages = 0;
    g_mutex_lock(&ring->lock);
    if (ring->vcpus->len) {
        uint64_t share = max_pages / ring->vcpus->len + 1;

        for (guint i = 0; i < ring->vcpus->len; i++) {
            Vcpu *vcpu = g_ptr_array_index(ring->vcpus, i);

            flag_oldest(ring, vcpu, (uint32_t)MIN(share, nr_left(vcpu)));
            *left_pages += nr_left(vcpu);
        }
    }
    reset_and_report(ring, ring->client.report);
    ok = check(ring, errp);
    g_mutex_unlock(&ring->lock);
    return ok;
}

/* --- vCPUs ----------------------------------------------------------------------------------- */

static Vcpu *find_vcpu(FerryKvmRing *ring, unsigned index, guint *position)
{
    for (guint i = 0; i < ring->vcpus->len; i++) {
        Vcpu *vcpu = g_ptr_array_index(ring->vcpus, i);

        if (vcpu->stats.vcpu == index) {
            *position = i;
            return vcpu;
        }
    }
    return NULL;
}

void ferry_kvm_ring_add_vcpu(FerryKvmRing *ring, unsigned index, struct kvm_dirty_gfn *entries,
                             uint32_t fetch)
{
    Vcpu *vcpu = g_new0(Vcpu, 1);

    vcpu->entries = entries;
    vcpu->reset = vcpu->seen = vcpu->round_end = fetch;
    vcpu->stats.vcpu = index;
    g_mutex_lock(&ring->lock);
    g_ptr_array_add(ring->vcpus, vcpu);
    g_mutex_unlock(&ring->lock);
}

uint32_t ferry_kvm_ring_remove_vcpu(FerryKvmRing *ring, unsigned index)
{
    uint32_t fetch = 0;
    guint position;
    Vcpu *vcpu;

    g_mutex_lock(&ring->lock);
    vcpu = find_vcpu(ring, index, &position);
    if (vcpu) {
        if (ring->started) {
            look(ring, vcpu);
            flag_all(ring, vcpu);
            reset_and_report(ring, ring->client.early);
        }
        fetch = vcpu->reset;
        g_ptr_array_remove_index(ring->vcpus, position);
    }
    g_mutex_unlock(&ring->lock);
    return fetch;
}

/*
 * After an overrun by more than a lap KVM calls a ring full in which there is nothing, and when its
 * vCPU enters the guest, at once again.  Half of the ring is less than KVM believes to be in it.
 * Returns whether it is so; with nothing held back.
 */
static bool fill_lap(const FerryKvmRing *ring, Vcpu *vcpu)
{
    bool stuck = vcpu->was_drained && vcpu->drained_at == vcpu->seen;

    vcpu->was_drained = !stuck;
    vcpu->drained_at = vcpu->seen;
    if (stuck) {
        fill_blank(ring, vcpu, ring->nr_entries / 2);
    }
    return stuck;
}

void ferry_kvm_ring_full(FerryKvmRing *ring, unsigned index)
{
    guint position;
    Vcpu *vcpu;

    g_mutex_lock(&ring->lock);
    vcpu = find_vcpu(ring, index, &position);
    if (vcpu && ring->started) {
        vcpu->stats.full_exits++;
        look(ring, vcpu);
        if (nr_held(vcpu) > ring->nr_entries / 4) {
            flag_excess(ring, vcpu, ring->nr_entries / 4);
            vcpu->was_drained = false;
        } else {
            /* Drained by somebody else meanwhile, or what KVM filled is beyond a gap. */
            flag_all(ring, vcpu);
            bool gap = fill_gap(ring, vcpu);

            if (gap || fill_lap(ring, vcpu)) {
                /* If nothing was found since the start, a lap too many is left from before it. */
                if (gap || !vcpu->is_fresh || !vcpu->suspect) {
                    note_overrun(ring, vcpu);
                }
                look(ring, vcpu);
                flag_all(ring, vcpu);
            }
        }
        reset_and_report(ring, ring->client.early);
    }
    g_mutex_unlock(&ring->lock);
}

/* --- Slots and other users ------------------------------------------------------------------- */

static uint64_t drain(FerryKvmRing *ring)
{
    uint64_t nr_new = 0;

    for (guint i = 0; i < ring->vcpus->len; i++) {
        Vcpu *vcpu = g_ptr_array_index(ring->vcpus, i);

        nr_new += look(ring, vcpu);
        flag_all(ring, vcpu);
    }
    reset_and_report(ring, ring->client.early);
    return nr_new;
}

void ferry_kvm_ring_slots_begin(FerryKvmRing *ring)
{
    g_mutex_lock(&ring->lock);
}

void ferry_kvm_ring_slots_end(FerryKvmRing *ring)
{
    g_mutex_unlock(&ring->lock);
}

void ferry_kvm_ring_set_slot(FerryKvmRing *ring, uint32_t number, uint32_t region,
                             uint64_t first_page, uint64_t nr_pages)
{
    Slot slot = {.region = region, .first_page = first_page, .nr_pages = nr_pages};
    uint32_t space = number >> 16, id = number & 0xffff;
    Slot *known;

    if (space >= NR_SPACES || id > SLOT_MAX) {
        return;
    }
    if (id >= ring->slots[space]->len) {
        g_array_set_size(ring->slots[space], id + 1);
    }
    known = find_slot(ring, number);
    if (known->region == slot.region && known->first_page == slot.first_page &&
        known->nr_pages == slot.nr_pages) {
        return;
    }
    /* Entries hold numbers of slots: none may be left when one changes its meaning. */
    if (ring->started && known->nr_pages > 0) {
        drain(ring);
    }
    *known = slot;
}

uint64_t ferry_kvm_ring_drain(FerryKvmRing *ring)
{
    uint64_t nr_new = 0;

    g_mutex_lock(&ring->lock);
    if (ring->started) {
        nr_new = drain(ring);
    }
    g_mutex_unlock(&ring->lock);
    return nr_new;
}

void ferry_kvm_ring_set_fill(FerryKvmRing *ring, bool fill)
{
    g_mutex_lock(&ring->lock);
    ring->fill = fill;
    g_mutex_unlock(&ring->lock);
}

GArray *ferry_kvm_ring_query(FerryKvmRing *ring)
{
    GArray *stats = g_array_new(FALSE, FALSE, sizeof(FerryKvmRingStats));

    g_mutex_lock(&ring->lock);
    for (guint i = 0; i < ring->vcpus->len; i++) {
        const Vcpu *vcpu = g_ptr_array_index(ring->vcpus, i);

        g_array_append_val(stats, vcpu->stats);
    }
    g_mutex_unlock(&ring->lock);
    return stats;
}
