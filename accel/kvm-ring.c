/*
 * KVM's dirty rings, all those of a VM: see kvm-ring.h; one of them: see vcpu-ring.h.
 *
 * Threads: everything is under `lock`, which is held over KVM_RESET_DIRTY_RINGS (some 13 ns an
 * entry) and over the client's functions.  Who sorts all rings lets others have it after each: a
 * full ring's vCPU waits for it, and whoever asks for statistics, with locks of his own.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "kvm-ring.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/ioctl.h>

#include "../migration/clock.h"
#include "../migration/error.h"
#include "../migration/thread.h"
#include "ring-overrun.h"

/*
 * How often the thread looks at the rings: often enough that none gains an eighth meanwhile, and
 * that what is free does not fill suddenly.  LOOK_MAX_US is for rings that are all free.
 */
#define LOOK_MIN_US 1000
#define LOOK_MAX_US 40000

/* How long somebody who has work to go on with leaves the lock to those who wait for it. */
#define GIVE_WAY_US 2000

/* How often KVM may reset nothing before what is flagged is taken back. */
#define IDLE_RESETS_MAX 10

struct FerryKvmRing {
    int vm_fd;
    GThread *thread;

    GMutex lock;
    _Atomic unsigned nr_waiting; /* threads that want the lock */
    GCond stopping;
    bool quit;
    bool fill;
    bool started;
    FerryRingSet set;
    GPtrArray *vcpus; /* of FerryVcpuRing */
    int reset_errno;  /* why KVM did not reset what it was given, or 0 */
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
    ring->vcpus = g_ptr_array_new_with_free_func(g_free);
    ring->set = (FerryRingSet){
        .nr_entries = nr_entries,
        .slots = ferry_ring_slots_new(),
        .sort = ferry_ring_sort_new(nr_entries),
        .batch = g_array_new(FALSE, FALSE, sizeof(FerryRingPage)),
    };
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
    ferry_ring_slots_free(ring->set.slots);
    ferry_ring_sort_free(ring->set.sort);
    g_array_unref(ring->set.batch);
    g_mutex_clear(&ring->lock);
    g_cond_clear(&ring->stopping);
    g_free(ring);
}

static void lock(FerryKvmRing *ring)
{
    atomic_fetch_add(&ring->nr_waiting, 1);
    g_mutex_lock(&ring->lock);
    atomic_fetch_sub(&ring->nr_waiting, 1);
}

/* With the lock held, and again afterwards.  A mutex is not fair: it would be had again at once. */
static void give_way(FerryKvmRing *ring)
{
    gint64 end_us;

    if (atomic_load(&ring->nr_waiting) == 0) {
        return;
    }
    end_us = ferry_now_us() + GIVE_WAY_US;
    g_mutex_unlock(&ring->lock);
    while (atomic_load(&ring->nr_waiting) > 0 && ferry_now_us() < end_us) {
        sched_yield();
    }
    lock(ring);
}

/* --- All rings at once; with the lock held --------------------------------------------------- */

static FerryVcpuRing *vcpu_at(const FerryKvmRing *ring, guint i)
{
    return g_ptr_array_index(ring->vcpus, i);
}

/* Returns how much is new in the ring in which most is. */
static uint32_t look_all(FerryKvmRing *ring)
{
    uint32_t most = 0;

    for (guint i = 0; i < ring->vcpus->len; i++) {
        most = MAX(most, ferry_vcpu_ring_look(vcpu_at(ring, i)));
    }
    return most;
}

static int call_reset(void *opaque)
{
    const FerryKvmRing *ring = opaque;
    int nr = ioctl(ring->vm_fd, KVM_RESET_DIRTY_RINGS, 0);

    return nr < 0 ? -errno : nr;
}

static void take_back_flagged(FerryKvmRing *ring)
{
    for (guint i = 0; i < ring->vcpus->len; i++) {
        ferry_vcpu_ring_take_back(vcpu_at(ring, i));
    }
    ring->set.nr_flagged = 0;
}

/* Have KVM protect the pages of all entries that are flagged. */
static void reset_flagged(FerryKvmRing *ring)
{
    uint32_t *nr_flagged = &ring->set.nr_flagged;
    unsigned nr_idle = 0;

    while (*nr_flagged > 0) {
        int nr = ferry_ring_reset(call_reset, ring);

        if (nr < 0 || (uint32_t)nr > *nr_flagged) {
            ring->reset_errno = nr < 0 ? -nr : EIO;
            *nr_flagged = 0;
        } else if (nr > 0) {
            *nr_flagged -= (uint32_t)nr;
            ring->reset_errno = *nr_flagged ? EINTR : ring->reset_errno;
        } else if (++nr_idle > IDLE_RESETS_MAX) {
            /* KVM wrote over it after it was flagged. */
            take_back_flagged(ring);
            ring->reset_errno = EIO;
        }
    }
}

typedef void (*ReportFn)(void *opaque, uint32_t region, uint64_t word, uint64_t mask);

/* Report the pages of the batch; neighbours in one word go together. */
static void report_batch(FerryKvmRing *ring, ReportFn report)
{
    const FerryRingPage *pages = (const FerryRingPage *)(void *)ring->set.batch->data;
    guint nr = ring->set.batch->len;

    for (guint i = 0; i < nr;) {
        uint32_t region = pages[i].region;
        uint64_t word = pages[i].page / 64, mask = 0;

        for (; i < nr && pages[i].region == region && pages[i].page / 64 == word; i++) {
            mask |= UINT64_C(1) << (pages[i].page % 64);
        }
        report(ring->set.client.opaque, region, word, mask);
    }
    g_array_set_size(ring->set.batch, 0);
}

static void reset_and_report(FerryKvmRing *ring, ReportFn report)
{
    reset_flagged(ring);
    report_batch(ring, report);
}

static uint64_t drain(FerryKvmRing *ring)
{
    uint64_t nr_new = 0;

    for (guint i = 0; i < ring->vcpus->len; i++) {
        nr_new += ferry_vcpu_ring_look(vcpu_at(ring, i));
        ferry_vcpu_ring_flag_all(vcpu_at(ring, i));
    }
    reset_and_report(ring, ring->set.client.early);
    return nr_new;
}

static bool check(FerryKvmRing *ring, GError **errp)
{
    if (ring->set.overrun) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_TRACKER,
                    "the dirty ring of vCPU %u was overrun (KVM emulates its instructions)",
                    ring->set.overrun_vcpu);
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
    const uint32_t size = ring->set.nr_entries;
    gint64 eighth_us = nr_new ? (gint64)(size / 8) * period_us / nr_new : LOOK_MAX_US;
    gint64 room_us = (gint64)(size - nr_most) * LOOK_MAX_US / size;

    return MAX(MIN(eighth_us, room_us), LOOK_MIN_US);
}

static gpointer collect_run(gpointer opaque)
{
    FerryKvmRing *ring = opaque;
    gint64 period_us = LOOK_MIN_US;
    gint64 last_us = ferry_now_us();

    ferry_ring_resets_here();
    lock(ring);
    while (!ring->quit) {
        uint32_t nr_new = look_all(ring), nr_most = 0;
        gint64 now_us = ferry_now_us();

        for (guint i = 0; i < ring->vcpus->len; i++) {
            if (!ring->fill) {
                ferry_vcpu_ring_trim(vcpu_at(ring, i));
            }
            nr_most = MAX(nr_most, ferry_vcpu_ring_nr_held(vcpu_at(ring, i)));
        }
        reset_and_report(ring, ring->set.client.early);
        period_us = next_period_us(ring, nr_new, MAX(now_us - last_us, 1), nr_most);
        last_us = now_us;
        ferry_cond_wait_until(&ring->stopping, &ring->lock, now_us + period_us);
    }
    g_mutex_unlock(&ring->lock);
    return NULL;
}

bool ferry_kvm_ring_start(FerryKvmRing *ring, const FerryTrackerClient *client, GError **errp)
{
    bool ok;

    lock(ring);
    ring->set.client = *client;
    ring->quit = false;
    ring->set.overrun = false;
    ring->reset_errno = 0;
    for (guint i = 0; i < ring->vcpus->len; i++) {
        ferry_vcpu_ring_begin(vcpu_at(ring, i));
    }
    ring->thread = ferry_thread_new("ferry-collect", collect_run, ring, errp);
    /* Without it nobody calls the client, who will be gone when the rings are taken the next time. */
    ring->started = ok = ring->thread != NULL;
    g_mutex_unlock(&ring->lock);
    return ok;
}

void ferry_kvm_ring_stop(FerryKvmRing *ring)
{
    if (ring->thread) {
        lock(ring);
        ring->quit = true;
        g_cond_signal(&ring->stopping);
        g_mutex_unlock(&ring->lock);
        g_thread_join(ring->thread);
        ring->thread = NULL;
    }
    lock(ring);
    if (ring->started) {
        look_all(ring);
        for (guint i = 0; i < ring->vcpus->len; i++) {
            ferry_vcpu_ring_flag_all(vcpu_at(ring, i));
        }
        /* A display may be drawn from what nobody else wants any more. */
        reset_and_report(ring, ring->set.client.early);
        ring->started = false;
    }
    g_mutex_unlock(&ring->lock);
}

/* --- The source's calls ---------------------------------------------------------------------- */

/*
 * The vCPUs have stopped: nothing of what they wrote may be left in a place not looked at.  Where pages
 * are to be left missing this is part of a blackout, which is not to grow with what is held back.
 */
static bool report_last(FerryKvmRing *ring, GError **errp)
{
    const bool new_only = ring->set.client.knows_noticed(ring->set.client.opaque);

    for (guint i = 0; i < ring->vcpus->len; i++) {
        ferry_vcpu_ring_list_last(vcpu_at(ring, i), new_only);
    }
    report_batch(ring, ring->set.client.report);
    return check(ring, errp);
}

/*
 * One after the other: a ring whose vCPU comes or goes meanwhile need not be in order.  Where what is held back
 * is about to be left missing, the client has to know of each page, though it was reported since, by another
 * entry: if a page has two addresses, or an address in SMM as well, a reset protects it at one of them only.
 */
static void sort_all(FerryKvmRing *ring)
{
    for (guint i = 0; i < ring->vcpus->len; i++) {
        if (ring->set.client.knows_noticed(ring->set.client.opaque)) {
            ferry_vcpu_ring_notice_again(vcpu_at(ring, i));
        }
        ferry_vcpu_ring_sort(vcpu_at(ring, i));
        give_way(ring);
    }
}

bool ferry_kvm_ring_harvest(FerryKvmRing *ring, bool last, GError **errp)
{
    bool ok;

    lock(ring);
    look_all(ring);
    if (last) {
        ok = report_last(ring, errp);
    } else {
        for (guint i = 0; i < ring->vcpus->len; i++) {
            ferry_vcpu_ring_end_round(vcpu_at(ring, i));
        }
        sort_all(ring);
        ok = check(ring, errp);
    }
    g_mutex_unlock(&ring->lock);
    return ok;
}

bool ferry_kvm_ring_check(FerryKvmRing *ring, GError **errp)
{
    bool ok;

    lock(ring);
    ok = check(ring, errp);
    g_mutex_unlock(&ring->lock);
    return ok;
}

bool ferry_kvm_ring_feed(FerryKvmRing *ring, uint64_t max_pages, uint64_t *left_pages,
                         GError **errp)
{
    bool ok;

    *left_pages = 0;
    lock(ring);
    if (ring->vcpus->len) {
        uint64_t share = max_pages / ring->vcpus->len + 1;

        for (guint i = 0; i < ring->vcpus->len; i++) {
            FerryVcpuRing *vcpu = vcpu_at(ring, i);

            ferry_vcpu_ring_flag(vcpu, (uint32_t)MIN(share, ferry_vcpu_ring_nr_left(vcpu)));
            *left_pages += ferry_vcpu_ring_nr_left(vcpu);
        }
    }
    reset_and_report(ring, ring->set.client.report);
    ok = check(ring, errp);
    g_mutex_unlock(&ring->lock);
    return ok;
}

/* --- vCPUs ----------------------------------------------------------------------------------- */

static FerryVcpuRing *find_vcpu(FerryKvmRing *ring, unsigned index, guint *position)
{
    for (guint i = 0; i < ring->vcpus->len; i++) {
        if (ferry_vcpu_ring_stats(vcpu_at(ring, i))->vcpu == index) {
            *position = i;
            return vcpu_at(ring, i);
        }
    }
    return NULL;
}

void ferry_kvm_ring_add_vcpu(FerryKvmRing *ring, unsigned index, struct kvm_dirty_gfn *entries,
                             uint32_t fetch)
{
    lock(ring);
    g_ptr_array_add(ring->vcpus, ferry_vcpu_ring_new(&ring->set, index, entries, fetch));
    g_mutex_unlock(&ring->lock);
}

uint32_t ferry_kvm_ring_remove_vcpu(FerryKvmRing *ring, unsigned index)
{
    uint32_t fetch = 0;
    guint position;
    FerryVcpuRing *vcpu;

    lock(ring);
    vcpu = find_vcpu(ring, index, &position);
    if (vcpu) {
        if (ring->started) {
            ferry_vcpu_ring_look(vcpu);
            ferry_vcpu_ring_flag_all(vcpu);
            reset_and_report(ring, ring->set.client.early);
        }
        fetch = ferry_vcpu_ring_fetch(vcpu);
        g_ptr_array_remove_index(ring->vcpus, position);
    }
    g_mutex_unlock(&ring->lock);
    return fetch;
}

void ferry_kvm_ring_full(FerryKvmRing *ring, unsigned index)
{
    guint position;
    FerryVcpuRing *vcpu;

    lock(ring);
    vcpu = find_vcpu(ring, index, &position);
    if (vcpu && ring->started) {
        ferry_vcpu_ring_make_room(vcpu);
        reset_and_report(ring, ring->set.client.early);
    }
    g_mutex_unlock(&ring->lock);
}

/* --- Slots and other users ------------------------------------------------------------------- */

void ferry_kvm_ring_slots_begin(FerryKvmRing *ring)
{
    lock(ring);
}

void ferry_kvm_ring_slots_end(FerryKvmRing *ring)
{
    g_mutex_unlock(&ring->lock);
}

void ferry_kvm_ring_set_slot(FerryKvmRing *ring, uint32_t number, uint32_t region,
                             uint64_t first_page, uint64_t nr_pages)
{
    const FerryRingSlot slot = {.region = region, .first_page = first_page, .nr_pages = nr_pages};
    const FerryRingSlot known = ferry_ring_slots_get(ring->set.slots, number);

    if (known.region == slot.region && known.first_page == slot.first_page &&
        known.nr_pages == slot.nr_pages) {
        return;
    }
    /* Entries hold numbers of slots: none may be left when one changes its meaning. */
    if (ring->started && known.nr_pages > 0) {
        drain(ring);
    }
    ferry_ring_slots_set(ring->set.slots, number, slot);
}

uint64_t ferry_kvm_ring_drain(FerryKvmRing *ring)
{
    uint64_t nr_new = 0;

    lock(ring);
    if (ring->started) {
        nr_new = drain(ring);
    }
    g_mutex_unlock(&ring->lock);
    return nr_new;
}

void ferry_kvm_ring_set_fill(FerryKvmRing *ring, bool fill)
{
    lock(ring);
    ring->fill = fill;
    g_mutex_unlock(&ring->lock);
}

GArray *ferry_kvm_ring_query(FerryKvmRing *ring)
{
    GArray *stats = g_array_new(FALSE, FALSE, sizeof(FerryKvmRingStats));

    lock(ring);
    for (guint i = 0; i < ring->vcpus->len; i++) {
        g_array_append_vals(stats, ferry_vcpu_ring_stats(vcpu_at(ring, i)), 1);
    }
    g_mutex_unlock(&ring->lock);
    return stats;
}
