/*
 * A migration's dirty tracking: one of three trackers, and QEMU's dirty bitmap beside it for
 * what devices write.
 *
 * Threads: opened and driven by the migration thread; `lock` is for queries.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "exec/cpu-common.h"
#include "exec/memory.h"
#include "exec/ramblock.h"
#include "system/dirtylimit.h"
#include "system/kvm.h"
#include "qapi/qapi-types-migration.h"
#include "migration/options.h"

#include "ferry/accel/kvm-ring.h"
#include "ferry/accel/pagemap.h"
#include "ferry/glue/kvm/kvm.h"
#include "ferry/migration/error.h"
#include "../internal.h"
#include "../trace.h"
#include "bitmap.h"
#include "dirty.h"
#include "tracker.h"

#define EAGER_PAGE_SPLIT "/sys/module/kvm/parameters/eager_page_split"

static struct {
    FerryTrackerMode mode;
    const FerryRegions *regions;
    RAMBlock **blocks; /* one for each region; referenced, lest one be unplugged meanwhile */
    bool *has_display; /* one for each region: whether a display is drawn from it */
    FerryKvmRing *ring;
    FerryPagemap *pagemap;
    FerryTracker pages;        /* over the pagemap */
    FerryTrackerClient client; /* the engine */
    bool begun;
    char *why_no_rings; /* they failed in an earlier migration, and would again */

    GMutex lock;
    FerryTrackerInfo *info; /* mode and reason; NULL before the first migration */
    GArray *vcpus; /* of FerryKvmRingStats: what was counted, when the rings are returned */
    bool retiring; /* a thread ends the tracker of the last migration */
    GCond retired;
} tracking;

/* The memory listeners are the BQL's; the bitmap is not, and the blocks are referenced. */
static void sync_listeners(bool last)
{
    if (bql_locked()) {
        ferry_kvm_sync_others(last);
    } else {
        BQL_LOCK_GUARD();
        ferry_kvm_sync_others(last);
    }
}

static void harvest_bitmap(bool last, FerryBitmapFn fn)
{
    ferry_kvm_sync_log();
    sync_listeners(last);
    ferry_bitmap_harvest(tracking.blocks, tracking.regions->nr, last, fn, tracking.client.opaque);
}

static bool has_rings(void)
{
    return kvm_enabled() && ferry_kvm_ring_size() > 0;
}

static bool arm_slots(uint32_t region, uint64_t first_page, uint64_t nr_pages, GError **errp)
{
    int ret = ferry_kvm_arm(tracking.blocks[region], first_page << FERRY_PAGE_SHIFT,
                            nr_pages << FERRY_PAGE_SHIFT);

    if (ret < 0) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM,
                    "cannot switch on dirty logging for RAM block '%s': %s",
                    tracking.regions->list[region].id, strerror(-ret));
    }
    return ret >= 0;
}

/* --- QEMU's bitmap alone; with rings, QEMU reaps them into it -------------------------------- */

static bool bitmap_start(void *opaque, const FerryTrackerClient *client, GError **errp)
{
    tracking.client = *client;
    return true;
}

static bool bitmap_arm(void *opaque, uint32_t region, uint64_t first_page, uint64_t nr_pages,
                       GError **errp)
{
    ferry_bitmap_forget(tracking.blocks[region], first_page, nr_pages);
    if (has_rings()) {
        return arm_slots(region, first_page, nr_pages, errp);
    }
    ferry_bitmap_protect(tracking.blocks[region], first_page, nr_pages);
    return true;
}

static bool bitmap_reset(void *opaque, uint32_t region, uint64_t first_page, uint64_t nr_pages,
                         GError **errp)
{
    /* The engine's threads are not QEMU's: RCU does not know them. */
    rcu_register_thread();
    ferry_bitmap_protect(tracking.blocks[region], first_page, nr_pages);
    rcu_unregister_thread();
    return true;
}

static bool bitmap_harvest(void *opaque, bool last, GError **errp)
{
    harvest_bitmap(last, last ? tracking.client.report : tracking.client.found);
    return true;
}

static void bitmap_stop(void *opaque)
{
}

static const FerryTrackerOps bitmap_ops = {
    .name = "bitmap",
    .start = bitmap_start,
    .arm = bitmap_arm,
    .reset = bitmap_reset,
    .harvest = bitmap_harvest,
    .stop = bitmap_stop,
};

/* --- KVM's rings ----------------------------------------------------------------------------- */

/* A display is drawn from QEMU's bitmap, so it has to see what the guest wrote. */
static void tell_display(uint32_t region, uint64_t word, uint64_t mask)
{
    if (tracking.has_display[region]) {
        for (uint64_t left = mask; left; left &= left - 1) {
            ferry_bitmap_mark_vga(tracking.blocks[region], word * 64 + ctz64(left), 1);
        }
    }
}

static void ring_report(void *opaque, uint32_t region, uint64_t word, uint64_t mask)
{
    tell_display(region, word, mask);
    tracking.client.report(opaque, region, word, mask);
}

static void ring_early(void *opaque, uint32_t region, uint64_t word, uint64_t mask)
{
    tell_display(region, word, mask);
    tracking.client.early(opaque, region, word, mask);
}

static bool ring_start(void *opaque, const FerryTrackerClient *client, GError **errp)
{
    FerryTrackerClient own = *client;

    tracking.client = *client;
    own.report = ring_report;
    own.early = ring_early;
    tracking.ring = ferry_kvm_take_rings(tracking.regions, tracking.blocks);
    if (!ferry_kvm_ring_start(tracking.ring, &own, errp)) {
        ferry_kvm_return_rings();
        return false;
    }
    return true;
}

static bool ring_arm(void *opaque, uint32_t region, uint64_t first_page, uint64_t nr_pages,
                     GError **errp)
{
    ferry_bitmap_forget(tracking.blocks[region], first_page, nr_pages);
    return arm_slots(region, first_page, nr_pages, errp);
}

static bool ring_harvest(void *opaque, bool last, GError **errp)
{
    harvest_bitmap(last, tracking.client.report);
    return ferry_kvm_ring_harvest(tracking.ring, last, errp);
}

static bool ring_feed(void *opaque, uint64_t max_pages, uint64_t *left_pages, GError **errp)
{
    return ferry_kvm_ring_feed(tracking.ring, max_pages, left_pages, errp);
}

static bool ring_check(void *opaque, GError **errp)
{
    return ferry_kvm_ring_check(tracking.ring, errp);
}

static void keep_vcpu_stats(void)
{
    g_mutex_lock(&tracking.lock);
    g_clear_pointer(&tracking.vcpus, g_array_unref);
    tracking.vcpus = ferry_kvm_ring_query(tracking.ring);
    tracking.ring = NULL;
    g_mutex_unlock(&tracking.lock);
}

static void ring_stop(void *opaque)
{
    FerryKvmRing *ring = tracking.ring;

    ferry_kvm_ring_stop(ring);
    keep_vcpu_stats();
    ferry_kvm_return_rings();
}

static const FerryTrackerOps ring_ops = {
    .name = "kvm-ring",
    .start = ring_start,
    .arm = ring_arm,
    .harvest = ring_harvest,
    .feed = ring_feed,
    .check = ring_check,
    .stop = ring_stop,
};

/* --- Page tables ----------------------------------------------------------------------------- */

static bool pagemap_start(void *opaque, const FerryTrackerClient *client, GError **errp)
{
    tracking.client = *client;
    qatomic_set(&ferry_discards_count, true);
    return tracking.pages.ops->start(tracking.pages.opaque, client, errp);
}

static bool pagemap_arm(void *opaque, uint32_t region, uint64_t first_page, uint64_t nr_pages,
                        GError **errp)
{
    ferry_bitmap_forget(tracking.blocks[region], first_page, nr_pages);
    return tracking.pages.ops->arm(tracking.pages.opaque, region, first_page, nr_pages, errp);
}

static bool pagemap_reset(void *opaque, uint32_t region, uint64_t first_page, uint64_t nr_pages,
                          GError **errp)
{
    return tracking.pages.ops->reset(tracking.pages.opaque, region, first_page, nr_pages, errp);
}

/* What is in QEMU's bitmap needs no reset of its own; if its page does, it is found here too. */
static bool pagemap_harvest(void *opaque, bool last, GError **errp)
{
    harvest_bitmap(last, tracking.client.report);
    return tracking.pages.ops->harvest(tracking.pages.opaque, last, errp);
}

/* It reports only when it is asked.  Taking off the protection is work for retire(). */
static void pagemap_stop(void *opaque)
{
}

static const FerryTrackerOps pagemap_ops = {
    .name = "pagemap",
    .start = pagemap_start,
    .arm = pagemap_arm,
    .reset = pagemap_reset,
    .harvest = pagemap_harvest,
    .stop = pagemap_stop,
};

/* --- Choosing -------------------------------------------------------------------------------- */

static void set_info(FerryTrackerMode mode, const char *reason)
{
    FerryTrackerInfo *info = g_new0(FerryTrackerInfo, 1);

    info->mode = mode;
    info->reason = g_strdup(reason);
    trace_ferry_tracker_chosen(FerryTrackerMode_str(mode), reason);
    g_mutex_lock(&tracking.lock);
    qapi_free_FerryTrackerInfo(tracking.info);
    tracking.info = info;
    g_mutex_unlock(&tracking.lock);
}

/*
 * The best one without Ferry's own look at the rings.  Only QEMU's can slow vCPUs down when their
 * rings are full, for its dirty limit.
 */
static FerryTrackerMode second_best(const char *why, char **reason)
{
    g_autofree char *why_not = NULL;

    if (has_rings() && (migrate_dirty_limit() || dirtylimit_in_service())) {
        *reason = g_strdup_printf("%s; the dirty limit needs QEMU's own look at them", why);
        return FERRY_TRACKER_MODE_BITMAP;
    }
    why_not = ferry_pagemap_unsupported();
    *reason = g_strdup_printf("%s%s%s", why, why_not ? "; " : "", why_not ?: "");
    return why_not ? FERRY_TRACKER_MODE_BITMAP : FERRY_TRACKER_MODE_PAGEMAP;
}

/* Pick one for `auto`, and say why. */
static FerryTrackerMode choose(char **reason)
{
    if (!kvm_enabled()) {
        *reason = g_strdup("KVM is not in use");
        return FERRY_TRACKER_MODE_BITMAP;
    }
    if (ferry_kvm_rings_are_unwanted()) {
        *reason = g_strdup("KVM's dirty rings are switched off with dirty-ring-size=0");
        return FERRY_TRACKER_MODE_BITMAP;
    }
    if (has_rings() && !tracking.why_no_rings) {
        *reason = g_strdup("KVM has dirty rings");
        return FERRY_TRACKER_MODE_KVM_RING;
    }
    return second_best(tracking.why_no_rings ?: "this kernel has no dirty rings", reason);
}

static bool use(FerryTrackerMode mode, FerryTracker *tracker, GError **errp)
{
    tracking.mode = mode;
    switch (mode) {
    case FERRY_TRACKER_MODE_KVM_RING:
        if (!has_rings()) {
            g_set_error_literal(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM,
                                "ferry.tracker is kvm-ring, but KVM's dirty rings are not in use");
            return false;
        }
        *tracker = (FerryTracker){.ops = &ring_ops};
        return true;
    case FERRY_TRACKER_MODE_PAGEMAP:
        tracking.pagemap = ferry_pagemap_new(tracking.regions, errp);
        if (!tracking.pagemap) {
            return false;
        }
        tracking.pages = ferry_pagemap_tracker(tracking.pagemap);
        *tracker = (FerryTracker){.ops = &pagemap_ops};
        return true;
    default:
        *tracker = (FerryTracker){.ops = &bitmap_ops};
        return true;
    }
}

/*
 * As use(), where the choice was ours.  Memory of a kind that the page tables' tracker does not take shows only
 * now; QEMU's bitmap takes all.
 */
static bool use_chosen(FerryTrackerMode mode, const char *reason, FerryTracker *tracker,
                       GError **errp)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *why = NULL;

    if (mode != FERRY_TRACKER_MODE_PAGEMAP) {
        return use(mode, tracker, errp);
    }
    if (use(mode, tracker, &error)) {
        return true;
    }
    why = g_strdup_printf("%s; %s", reason, error->message);
    set_info(FERRY_TRACKER_MODE_BITMAP, why);
    return use(FERRY_TRACKER_MODE_BITMAP, tracker, errp);
}

static void reference_blocks(const FerryRegions *regions)
{
    tracking.regions = regions;
    tracking.blocks = g_new0(RAMBlock *, regions->nr);
    tracking.has_display = g_new0(bool, regions->nr);
    RCU_READ_LOCK_GUARD();
    for (size_t i = 0; i < regions->nr; i++) {
        RAMBlock *block = qemu_ram_block_by_name(regions->list[i].id);

        memory_region_ref(block->mr);
        tracking.blocks[i] = block;
        tracking.has_display[i] = memory_region_is_logging(block->mr, DIRTY_MEMORY_VGA);
    }
}

/* --- The end --------------------------------------------------------------------------------- */

/* What a tracker leaves behind. */
typedef struct Retired {
    FerryPagemap *pagemap; /* or NULL */
    RAMBlock **blocks;
    size_t nr_blocks;
} Retired;

static void unreference_blocks(Retired *retired)
{
    for (size_t i = 0; i < retired->nr_blocks; i++) {
        memory_region_unref(retired->blocks[i]->mr);
    }
    g_free(retired->blocks);
    g_free(retired);
}

static void note_retired(void)
{
    g_mutex_lock(&tracking.lock);
    tracking.retiring = false;
    g_cond_broadcast(&tracking.retired);
    g_mutex_unlock(&tracking.lock);
}

/* To take off the protection of all memory takes 22 ms a GiB, for which nobody has to wait. */
static gpointer retire_run(gpointer opaque)
{
    Retired *retired = opaque;

    rcu_register_thread();
    ferry_pagemap_free(retired->pagemap);
    note_retired();
    bql_lock();
    unreference_blocks(retired);
    bql_unlock();
    rcu_unregister_thread();
    return NULL;
}

/* With the BQL. */
static void retire(Retired *retired)
{
    GThread *thread = NULL;

    if (retired->pagemap) {
        g_mutex_lock(&tracking.lock);
        tracking.retiring = true;
        g_mutex_unlock(&tracking.lock);
        thread = g_thread_try_new("ferry-retire", retire_run, retired, NULL);
    }
    if (thread) {
        g_thread_unref(thread);
        return;
    }
    ferry_pagemap_free(retired->pagemap);
    note_retired();
    unreference_blocks(retired);
}

/* The memory of the last migration may still be protected. */
static void wait_for_retired(void)
{
    g_mutex_lock(&tracking.lock);
    while (tracking.retiring) {
        g_cond_wait(&tracking.retired, &tracking.lock);
    }
    g_mutex_unlock(&tracking.lock);
}

/* --- Opening and closing --------------------------------------------------------------------- */

bool ferry_tracker_open(FerryTrackerMode mode, const FerryRegions *regions, FerryTracker *tracker,
                        GError **errp)
{
    const bool is_ours = mode == FERRY_TRACKER_MODE_AUTO;
    g_autofree char *reason = NULL;

    if (is_ours) {
        mode = choose(&reason);
    } else {
        reason = g_strdup("ferry.tracker says so");
    }
    set_info(mode, reason);
    wait_for_retired();
    reference_blocks(regions);
    ferry_bitmap_open(tracking.blocks, regions->nr);
    if (!(is_ours ? use_chosen(mode, reason, tracker, errp) : use(mode, tracker, errp))) {
        ferry_tracker_close();
        return false;
    }
    return true;
}

bool ferry_tracker_has_news(void)
{
    return ferry_bitmap_has_news();
}

void ferry_tracker_close(void)
{
    Retired *retired;

    if (!tracking.regions) {
        return;
    }
    ferry_bitmap_close();
    retired = g_new(Retired, 1);
    *retired = (Retired){
        .pagemap = g_steal_pointer(&tracking.pagemap),
        .blocks = g_steal_pointer(&tracking.blocks),
        .nr_blocks = tracking.regions->nr,
    };
    g_clear_pointer(&tracking.has_display, g_free);
    tracking.regions = NULL;
    if (bql_locked()) {
        retire(retired);
    } else {
        BQL_LOCK_GUARD();
        retire(retired);
    }
}

/* KVM's logging is switched on slot by slot, or not at all; but all at once without rings. */
void ferry_tracker_begin(void)
{
    tracking.begun = true;
    if (kvm_enabled() && (has_rings() || tracking.mode != FERRY_TRACKER_MODE_BITMAP)) {
        ferry_kvm_defer_logging(true);
    }
}

void ferry_tracker_end(void)
{
    if (tracking.begun && kvm_enabled()) {
        ferry_kvm_defer_logging(false);
    }
    tracking.begun = false;
}

void ferry_tracker_failed(const GError *why)
{
    if (tracking.mode == FERRY_TRACKER_MODE_KVM_RING) {
        g_free(tracking.why_no_rings);
        tracking.why_no_rings = g_strdup(why->message);
    }
}

bool ferry_tracker_replace(const GError *why, FerryTracker *tracker)
{
    g_autofree char *reason = NULL;
    FerryTrackerMode mode;

    ferry_tracker_failed(why);
    if (tracking.mode != FERRY_TRACKER_MODE_KVM_RING) {
        return false;
    }
    mode = second_best(why->message, &reason);
    set_info(mode, reason);
    if (!use_chosen(mode, reason, tracker, NULL)) {
        set_info(FERRY_TRACKER_MODE_KVM_RING, why->message);
        return false;
    }
    if (tracking.mode == FERRY_TRACKER_MODE_PAGEMAP) {
        ferry_kvm_disarm();
    }
    return true;
}

/* --- Reports --------------------------------------------------------------------------------- */

static void fill_vcpus(FerryTrackerInfo *info)
{
    g_autoptr(GArray) stats = tracking.ring    ? ferry_kvm_ring_query(tracking.ring)
                              : tracking.vcpus ? g_array_ref(tracking.vcpus)
                                               : NULL;
    FerryVcpuTrackerInfoList **tail = &info->vcpus;

    if (!stats) {
        return;
    }
    info->has_vcpus = true;
    for (guint i = 0; i < stats->len; i++) {
        const FerryKvmRingStats *from = &g_array_index(stats, FerryKvmRingStats, i);
        FerryVcpuTrackerInfo *vcpu = g_new0(FerryVcpuTrackerInfo, 1);

        vcpu->vcpu = from->vcpu;
        vcpu->collected = from->collected;
        vcpu->full_exits = from->full_exits;
        vcpu->resets = from->resets;
        vcpu->forced_resets = from->forced_resets;
        vcpu->redirty_ratio =
            from->collected ? (double)from->redirtied / (double)from->collected : 0;
        QAPI_LIST_APPEND(tail, vcpu);
    }
}

FerryTrackerInfo *ferry_tracker_query(void)
{
    g_autofree char *split = NULL;
    FerryTrackerInfo *info = NULL;

    g_mutex_lock(&tracking.lock);
    if (tracking.info) {
        info = g_new0(FerryTrackerInfo, 1);
        info->mode = tracking.info->mode;
        info->reason = g_strdup(tracking.info->reason);
        info->has_ring_size = kvm_enabled() && ferry_kvm_ring_size();
        info->ring_size = info->has_ring_size ? ferry_kvm_ring_size() : 0;
        fill_vcpus(info);
    }
    g_mutex_unlock(&tracking.lock);
    if (info && kvm_enabled() && g_file_get_contents(EAGER_PAGE_SPLIT, &split, NULL, NULL)) {
        info->has_eager_page_split = true;
        info->eager_page_split = split[0] == 'Y' || split[0] == '1';
    }
    return info;
}
