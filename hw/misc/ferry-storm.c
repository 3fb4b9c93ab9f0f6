/*
 * ferry-storm: a PCI device that writes guest memory to order, with no guest software.
 *
 * The storm itself is in storm.c; here is what binds it to QEMU: memory through the device's DMA
 * address space, a thread, run states, properties, migration.
 *
 * Threads: one of its own touches guest memory, for writing and for verifying, and nobody else does.
 * It never takes the BQL, so it may wait for a page that a post-copy migration has yet to fetch.
 * `lock` guards everything that is not marked otherwise; it is never held while memory is touched.
 *
 * When the VM stops, the handler (which has the BQL) waits until the thread is not writing:
 *
 *   main thread                              storm's thread
 *     lock; vm_running = false                 lock; writing = true; unlock
 *     while (writing) wait   <------------     writes at most TURN_PAGES, marks them dirty
 *     unlock                                   lock; writing = false; signal
 *
 * The thread looks at vm_running under the lock before each turn. So after the handler nothing is
 * written, and everything written was marked dirty; a migration's last harvest comes after the handlers.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "hw/pci/pci_device.h"
#include "migration/vmstate.h"
#include "qapi/error.h"
#include "qapi/qapi-types-ferry.h"
#include "qapi/visitor.h"
#include "qemu/error-report.h"
#include "qemu/module.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "system/qtest.h"
#include "system/runstate.h"

#include "ferry/glue/enum-property.h"

#include "dma-memory.h"
#include "storm.h"

#define TYPE_FERRY_STORM "ferry-storm"
OBJECT_DECLARE_SIMPLE_TYPE(StormDevice, FERRY_STORM)

/*
 * Nobody's: 1234 is what QEMU and Bochs use for devices that stand for no vendor's (its standard VGA,
 * edu). The ranges in 1af4 and 1b36 are Red Hat's to give.
 */
#define STORM_VENDOR_ID 0x1234
#define STORM_DEVICE_ID 0xfe57

/* Written between two looks at the lock: far below a millisecond. */
#define TURN_PAGES        64
#define VERIFY_TURN_PAGES 256

#define TICK_NS        (NANOSECONDS_PER_SECOND / 1000)
#define TICKS_A_SECOND 1000
/* With the virtual clock, what "as fast as it can" means: a million pages a second. */
#define VIRTUAL_RATE   1000000
/* A thread that was held up (by a page that did not come, say) makes up for no more than this. */
#define MOST_DUE_NS    (NANOSECONDS_PER_SECOND / 10)

#define DEFAULT_WORKING_BYTES (256 * MiB)
#define DEFAULT_RATE          10000
/* More than any memory can be written; keeps products in 64 bits. */
#define MOST_RATE             UINT64_C(10000000000)

QEMU_BUILD_BUG_ON((int)FERRY_STORM_SEQUENTIAL != (int)STORM_PATTERN_SEQUENTIAL);
QEMU_BUILD_BUG_ON((int)FERRY_STORM_RANDOM != (int)STORM_PATTERN_RANDOM);
QEMU_BUILD_BUG_ON((int)FERRY_STORM_ZIPF != (int)STORM_PATTERN_ZIPF);
QEMU_BUILD_BUG_ON((int)FERRY_STORM_HOT_SPOT != (int)STORM_PATTERN_HOT_SPOT);
QEMU_BUILD_BUG_ON((int)FERRY_STORM_NR_PATTERNS != (int)STORM_PATTERN__MAX);
QEMU_BUILD_BUG_ON((int)FERRY_STORM_ZERO != (int)STORM_FILL_ZERO);
QEMU_BUILD_BUG_ON((int)FERRY_STORM_NOISE != (int)STORM_FILL_RANDOM);
QEMU_BUILD_BUG_ON((int)FERRY_STORM_COMPRESSIBLE != (int)STORM_FILL_COMPRESSIBLE);
QEMU_BUILD_BUG_ON((int)FERRY_STORM_TEXT != (int)STORM_FILL_TEXT);
QEMU_BUILD_BUG_ON((int)FERRY_STORM_NR_CONTENTS != (int)STORM_FILL__MAX);

struct StormDevice {
    PCIDevice parent;

    /* Properties that are fixed once it is realized. */
    uint64_t start;
    uint64_t size;
    uint64_t seed;
    uint32_t forget;
    StormClockMode clock;

    QemuThread thread;
    VMChangeStateEntry *state_entry;
    QEMUTimer *timer; /* with the virtual clock */
    StormMemory *memory;
    bool realized;

    QemuMutex lock;
    QemuCond wake;  /* for the thread */
    QemuCond quiet; /* it is not writing any more */
    bool exiting;
    bool vm_running;
    bool running; /* as asked for */
    bool writing; /* the thread is in a turn */
    uint64_t rate;
    uint64_t working_bytes;
    uint64_t hot_bytes;
    FerryStormSettings settings; /* wanted from the next turn on */
    uint64_t due;                /* pages that the clock has let through */
    uint64_t due_rest;           /* of a page, in parts of a second's ticks or nanoseconds */
    int64_t last_ns;             /* with the host's clock: when due was last worked out */
    char *error;                 /* why it does not write any more, or NULL */

    /* The thread's while it is writing or verifying, the lock's otherwise. */
    FerryStorm *storm;
    uint64_t nr_written; /* a copy, guarded by the lock */

    bool verify_wanted;
    bool verify_stop;
    bool verifying;
    uint64_t nr_verified; /* verifications that have been completed */
    FerryStormVerdict verdict;
    char *verdict_error;

    /* What travels. */
    uint8_t *saved;
    uint32_t saved_bytes;
};

/* --- The thread ------------------------------------------------------------------------------ */

static bool may_write(const StormDevice *s)
{
    return s->vm_running && s->running && !s->error;
}

/* Pages that the host's clock lets through since it was last asked. */
static void add_due_by_host(StormDevice *s)
{
    int64_t now = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    uint64_t passed = MIN(now - s->last_ns, MOST_DUE_NS);

    s->last_ns = now;
    if (s->rate == 0) {
        s->due = TURN_PAGES;
        return;
    }
    /* At most 10^8 ns times a rate that is bounded when it is set. */
    passed = passed * s->rate + s->due_rest;
    s->due = MIN(s->due + passed / NANOSECONDS_PER_SECOND, s->rate / 10 + 1);
    s->due_rest = passed % NANOSECONDS_PER_SECOND;
}

static void write_turn(StormDevice *s)
{
    uint64_t nr = MIN(s->due, TURN_PAGES);
    uint64_t done;
    FerryStormMemory memory;
    g_autofree char *error = NULL;

    s->writing = true;
    ferry_storm_set(s->storm, &s->settings);
    qemu_mutex_unlock(&s->lock);
    memory = storm_memory_begin(s->memory, true);
    done = ferry_storm_write(s->storm, &memory, nr);
    error = storm_memory_end(s->memory);
    qemu_mutex_lock(&s->lock);
    /* It may have been changed meanwhile, with the rate. */
    s->due -= MIN(done, s->due);
    s->nr_written = ferry_storm_nr_written(s->storm);
    if (error) {
        error_report("ferry-storm: it stops writing: %s", error);
        s->error = g_steal_pointer(&error);
    }
    s->writing = false;
    qemu_cond_broadcast(&s->quiet);
}

static void verify(StormDevice *s)
{
    FerryStormVerdict verdict;
    g_autofree char *error = NULL;

    s->verify_wanted = false;
    s->verify_stop = false;
    s->verifying = true;
    g_clear_pointer(&s->verdict_error, g_free);
    ferry_storm_verify_begin(s->storm, &verdict);
    while (!error && !s->verify_stop && !ferry_storm_verify_is_complete(&verdict)) {
        FerryStormMemory memory;

        s->verdict = verdict;
        qemu_mutex_unlock(&s->lock);
        memory = storm_memory_begin(s->memory, false);
        ferry_storm_verify_go_on(s->storm, &verdict, &memory, VERIFY_TURN_PAGES);
        error = storm_memory_end(s->memory);
        qemu_mutex_lock(&s->lock);
    }
    s->verdict = verdict;
    if (s->verify_stop) {
        error = g_strdup("given up");
    }
    s->verdict_error = g_steal_pointer(&error);
    s->nr_verified += !s->verdict_error;
    s->verifying = false;
    /* What the clock let through meanwhile is not made up for. */
    s->last_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    qemu_cond_broadcast(&s->quiet);
}

static void *storm_thread(void *opaque)
{
    StormDevice *s = opaque;

    rcu_register_thread();
    qemu_mutex_lock(&s->lock);
    while (!s->exiting) {
        if (may_write(s) && s->clock == STORM_CLOCK_MODE_HOST) {
            add_due_by_host(s);
        }
        if (may_write(s) && s->due > 0) {
            write_turn(s);
            /* Let others have the lock who wait for it. */
            qemu_mutex_unlock(&s->lock);
            qemu_mutex_lock(&s->lock);
            if (!s->verify_wanted || s->clock == STORM_CLOCK_MODE_VIRTUAL) {
                continue;
            }
        }
        if (s->verify_wanted && !s->exiting) {
            verify(s);
        } else if (may_write(s) && s->clock == STORM_CLOCK_MODE_HOST) {
            qemu_cond_timedwait(&s->wake, &s->lock, 1);
        } else if (!s->exiting) {
            qemu_cond_wait(&s->wake, &s->lock);
        }
    }
    qemu_mutex_unlock(&s->lock);
    rcu_unregister_thread();
    return NULL;
}

/* --- Clocks and run states --------------------------------------------------------------------- */

/* The virtual clock: it only says how much is due. Who has the BQL here must not touch memory. */
static void tick(void *opaque)
{
    StormDevice *s = opaque;
    uint64_t parts;

    qemu_mutex_lock(&s->lock);
    if (may_write(s) && !s->verifying && !s->verify_wanted) {
        parts = (s->rate ? s->rate : VIRTUAL_RATE) + s->due_rest;
        s->due += parts / TICKS_A_SECOND;
        s->due_rest = parts % TICKS_A_SECOND;
        qemu_cond_signal(&s->wake);
    }
    qemu_mutex_unlock(&s->lock);
    timer_mod(s->timer, qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL) + TICK_NS);
}

static void run_state_changed(void *opaque, bool running, RunState state)
{
    StormDevice *s = opaque;

    if (s->timer && !running) {
        timer_del(s->timer);
    } else if (s->timer) {
        timer_mod(s->timer, qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL) + TICK_NS);
    }
    qemu_mutex_lock(&s->lock);
    if (running) {
        s->last_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    } else if (s->clock == STORM_CLOCK_MODE_VIRTUAL) {
        /* What is due by the clock is written first: how much that is must not depend on luck. */
        while (may_write(s) && s->due > 0 && !s->verifying) {
            qemu_cond_signal(&s->wake);
            qemu_cond_wait(&s->quiet, &s->lock);
        }
    }
    s->vm_running = running;
    while (!running && s->writing) {
        qemu_cond_wait(&s->quiet, &s->lock);
    }
    qemu_cond_signal(&s->wake);
    qemu_mutex_unlock(&s->lock);
}

/* Nothing is looked at any more, so that memory and storm may change under it. */
static void stop_verifying(StormDevice *s)
{
    s->verify_wanted = false;
    s->verify_stop = true;
    while (s->verifying) {
        qemu_cond_wait(&s->quiet, &s->lock);
    }
}

/* --- Migration --------------------------------------------------------------------------------- */

static int storm_pre_save(void *opaque)
{
    StormDevice *s = opaque;
    size_t nr_bytes;

    qemu_mutex_lock(&s->lock);
    g_assert(!s->writing);
    /* A verification only reads, the memory and the storm. */
    ferry_storm_set(s->storm, &s->settings);
    g_free(s->saved);
    s->saved = ferry_storm_save(s->storm, &nr_bytes);
    s->saved_bytes = (uint32_t)nr_bytes;
    qemu_mutex_unlock(&s->lock);
    return 0;
}

static int storm_post_save(void *opaque)
{
    StormDevice *s = opaque;

    g_clear_pointer(&s->saved, g_free);
    return 0;
}

static int storm_pre_load(void *opaque)
{
    StormDevice *s = opaque;

    qemu_mutex_lock(&s->lock);
    stop_verifying(s);
    qemu_mutex_unlock(&s->lock);
    g_clear_pointer(&s->saved, g_free);
    s->saved_bytes = 0;
    return 0;
}

static int storm_post_load(void *opaque, int version_id)
{
    StormDevice *s = opaque;
    g_autoptr(GError) error = NULL;
    const FerryStormSettings *settings;
    bool ok;

    qemu_mutex_lock(&s->lock);
    g_assert(!s->writing && !s->verifying);
    s->due = MIN(s->due, MOST_RATE);
    s->rate = MIN(s->rate, MOST_RATE);
    ok = ferry_storm_load(s->storm, s->saved, s->saved_bytes, &error);
    if (ok) {
        settings = ferry_storm_settings(s->storm);
        s->settings = *settings;
        s->working_bytes = settings->working_pages * FERRY_STORM_PAGE_BYTES;
        s->hot_bytes = settings->hot_pages * FERRY_STORM_PAGE_BYTES;
        s->nr_written = ferry_storm_nr_written(s->storm);
        s->nr_verified = 0;
        s->verdict = (FerryStormVerdict){0};
        g_clear_pointer(&s->error, g_free);
        g_clear_pointer(&s->verdict_error, g_free);
    } else {
        error_report("ferry-storm: %s", error->message);
    }
    qemu_mutex_unlock(&s->lock);
    g_clear_pointer(&s->saved, g_free);
    return ok ? 0 : -EINVAL;
}

static bool saved_size_is_sane(void *opaque, int version_id)
{
    const StormDevice *s = opaque;

    /* It comes from the wire and says how much is allocated. */
    return s->saved_bytes <= FERRY_STORM_MAX_SAVED_BYTES;
}

static const VMStateDescription storm_vmstate = {
    .name = TYPE_FERRY_STORM,
    .version_id = 1,
    .minimum_version_id = 1,
    .pre_save = storm_pre_save,
    .post_save = storm_post_save,
    .pre_load = storm_pre_load,
    .post_load = storm_post_load,
    .fields =
        (const VMStateField[]){
            VMSTATE_PCI_DEVICE(parent, StormDevice),
            VMSTATE_BOOL(running, StormDevice),
            VMSTATE_UINT64(rate, StormDevice),
            VMSTATE_UINT64(due, StormDevice),
            VMSTATE_UINT64(due_rest, StormDevice),
            VMSTATE_UINT32(saved_bytes, StormDevice),
            VMSTATE_VBUFFER_ALLOC_UINT32(saved, StormDevice, 1, saved_size_is_sane, saved_bytes),
            VMSTATE_END_OF_LIST(),
        },
};

/* --- Properties -------------------------------------------------------------------------------- */

/* What the properties say, in pages. With the lock held. */
static bool set_sizes(StormDevice *s, Error **errp)
{
    uint64_t region_bytes = storm_memory_nr_pages(s->memory) * FERRY_STORM_PAGE_BYTES;

    if (s->working_bytes % FERRY_STORM_PAGE_BYTES || s->hot_bytes % FERRY_STORM_PAGE_BYTES) {
        error_setg(errp, "ferry-storm: working-set and hot-spot must be multiples of %u bytes",
                   FERRY_STORM_PAGE_BYTES);
        return false;
    }
    if (s->working_bytes == 0 || s->working_bytes > region_bytes) {
        error_setg(errp,
                   "ferry-storm: a working set of %" PRIu64
                   " bytes does not fit the region of %" PRIu64
                   " bytes that is the storm's (see start and size)",
                   s->working_bytes, region_bytes);
        return false;
    }
    if (s->hot_bytes > s->working_bytes) {
        error_setg(errp,
                   "ferry-storm: a hot spot of %" PRIu64
                   " bytes is more than the working set of %" PRIu64 " bytes",
                   s->hot_bytes, s->working_bytes);
        return false;
    }
    s->settings.working_pages = s->working_bytes / FERRY_STORM_PAGE_BYTES;
    s->settings.hot_pages = s->hot_bytes / FERRY_STORM_PAGE_BYTES;
    return true;
}

static void get_number(Object *obj, Visitor *v, const char *name, void *opaque, Error **errp)
{
    StormDevice *s = FERRY_STORM(obj);
    uint64_t value;

    qemu_mutex_lock(&s->lock);
    value = *(uint64_t *)((char *)s + (uintptr_t)opaque);
    qemu_mutex_unlock(&s->lock);
    visit_type_uint64(v, name, &value, errp);
}

static void set_size(Object *obj, Visitor *v, const char *name, void *opaque, Error **errp)
{
    StormDevice *s = FERRY_STORM(obj);
    uint64_t *field = (uint64_t *)((char *)s + (uintptr_t)opaque);
    uint64_t value, before;

    if (!visit_type_size(v, name, &value, errp)) {
        return;
    }
    qemu_mutex_lock(&s->lock);
    before = *field;
    *field = value;
    /* Until it is realized the region is not known. */
    if (s->realized && !set_sizes(s, errp)) {
        *field = before;
    }
    qemu_mutex_unlock(&s->lock);
}

static void set_rate(Object *obj, Visitor *v, const char *name, void *opaque, Error **errp)
{
    StormDevice *s = FERRY_STORM(obj);
    uint64_t value;

    if (!visit_type_uint64(v, name, &value, errp)) {
        return;
    }
    if (value > MOST_RATE) {
        error_setg(errp,
                   "ferry-storm: rate is at most %" PRIu64 " pages a second, or 0 for no limit",
                   MOST_RATE);
        return;
    }
    qemu_mutex_lock(&s->lock);
    s->rate = value;
    if (s->clock == STORM_CLOCK_MODE_HOST) {
        s->due = 0;
        s->due_rest = 0;
        s->last_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    }
    qemu_cond_signal(&s->wake);
    qemu_mutex_unlock(&s->lock);
}

#define BOOL_PROPERTY(what, field)                    \
    static bool get_##what(Object *obj, Error **errp) \
    {                                                 \
        StormDevice *s = FERRY_STORM(obj);            \
        QEMU_LOCK_GUARD(&s->lock);                    \
        return field;                                 \
    }

BOOL_PROPERTY(running, s->running)
BOOL_PROPERTY(whole, s->settings.whole)
BOOL_PROPERTY(verify, s->verifying || s->verify_wanted)

static void set_running(Object *obj, bool value, Error **errp)
{
    StormDevice *s = FERRY_STORM(obj);

    QEMU_LOCK_GUARD(&s->lock);
    if (value && !s->running) {
        /* Whoever switches it on again wants it to try again. */
        g_clear_pointer(&s->error, g_free);
        s->last_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    }
    s->running = value;
    qemu_cond_signal(&s->wake);
}

static void set_whole(Object *obj, bool value, Error **errp)
{
    StormDevice *s = FERRY_STORM(obj);

    QEMU_LOCK_GUARD(&s->lock);
    s->settings.whole = value;
}

static void set_verify(Object *obj, bool value, Error **errp)
{
    StormDevice *s = FERRY_STORM(obj);

    if (value && !s->realized) {
        error_setg(errp, "ferry-storm: it is not plugged in");
        return;
    }
    if (value && runstate_check(RUN_STATE_INMIGRATE)) {
        error_setg(errp, "ferry-storm: there is nothing to verify before the guest has arrived");
        return;
    }
    QEMU_LOCK_GUARD(&s->lock);
    s->verify_wanted = value;
    s->verify_stop = !value;
    qemu_cond_signal(&s->wake);
}

static int get_pattern(Object *obj, Error **errp)
{
    StormDevice *s = FERRY_STORM(obj);

    QEMU_LOCK_GUARD(&s->lock);
    return (int)s->settings.pattern;
}

static void set_pattern(Object *obj, int value, Error **errp)
{
    StormDevice *s = FERRY_STORM(obj);

    QEMU_LOCK_GUARD(&s->lock);
    s->settings.pattern = (FerryStormPatternKind)value;
}

static int get_content(Object *obj, Error **errp)
{
    StormDevice *s = FERRY_STORM(obj);

    QEMU_LOCK_GUARD(&s->lock);
    return (int)s->settings.content;
}

static void set_content(Object *obj, int value, Error **errp)
{
    StormDevice *s = FERRY_STORM(obj);

    QEMU_LOCK_GUARD(&s->lock);
    s->settings.content = (FerryStormContent)value;
}

/* --- What it has found: read only -------------------------------------------------------------- */

static void get_first_wrong(Object *obj, Visitor *v, const char *name, void *opaque, Error **errp)
{
    StormDevice *s = FERRY_STORM(obj);
    uint64_t address = UINT64_MAX;

    qemu_mutex_lock(&s->lock);
    if (s->verdict.wrong > 0) {
        address = storm_memory_address(s->memory, s->verdict.first_wrong);
    }
    qemu_mutex_unlock(&s->lock);
    visit_type_uint64(v, name, &address, errp);
}

static char *get_result(Object *obj, Error **errp)
{
    StormDevice *s = FERRY_STORM(obj);

    QEMU_LOCK_GUARD(&s->lock);
    if (s->verifying || s->verify_wanted) {
        return g_strdup_printf("verifying: %" PRIu64 " of %" PRIu64 " pages", s->verdict.checked,
                               s->verdict.to_check);
    }
    if (s->verdict_error) {
        return g_strdup_printf("not completed: %s", s->verdict_error);
    }
    if (s->nr_verified == 0) {
        return g_strdup("not verified yet");
    }
    if (s->verdict.wrong == 0) {
        return g_strdup_printf("right: %" PRIu64 " pages", s->verdict.checked);
    }
    return g_strdup_printf(
        "WRONG: at least %" PRIu64 " of %" PRIu64 " pages, the first at 0x%" PRIx64 ": %s",
        s->verdict.wrong, s->verdict.checked,
        storm_memory_address(s->memory, s->verdict.first_wrong), s->verdict.description);
}

static char *get_error(Object *obj, Error **errp)
{
    StormDevice *s = FERRY_STORM(obj);

    QEMU_LOCK_GUARD(&s->lock);
    return g_strdup(s->error ? s->error : "");
}

static void storm_init(Object *obj)
{
    StormDevice *s = FERRY_STORM(obj);

    qemu_mutex_init(&s->lock);
    qemu_cond_init(&s->wake);
    qemu_cond_init(&s->quiet);
    s->running = true;
    s->rate = DEFAULT_RATE;
    s->settings.content = FERRY_STORM_NOISE;
    s->settings.whole = true;
}

static void storm_finalize(Object *obj)
{
    StormDevice *s = FERRY_STORM(obj);

    g_free(s->error);
    g_free(s->verdict_error);
    g_free(s->saved);
    qemu_cond_destroy(&s->quiet);
    qemu_cond_destroy(&s->wake);
    qemu_mutex_destroy(&s->lock);
}

/* --- Life -------------------------------------------------------------------------------------- */

static void storm_realize(PCIDevice *pci, Error **errp)
{
    StormDevice *s = FERRY_STORM(pci);
    uint64_t nr_pages;

    s->memory =
        storm_memory_new(pci_device_iommu_address_space(pci), s->start, s->size, s->forget, errp);
    if (!s->memory) {
        return;
    }
    nr_pages = storm_memory_nr_pages(s->memory);
    if (s->working_bytes == 0) {
        s->working_bytes = MIN(DEFAULT_WORKING_BYTES, nr_pages * FERRY_STORM_PAGE_BYTES);
    }
    if (!set_sizes(s, errp)) {
        g_clear_pointer(&s->memory, storm_memory_free);
        return;
    }
    if (s->clock == STORM_CLOCK_MODE_AUTO) {
        s->clock = qtest_enabled() ? STORM_CLOCK_MODE_VIRTUAL : STORM_CLOCK_MODE_HOST;
    }
    s->storm = ferry_storm_new(nr_pages, s->seed);
    if (s->clock == STORM_CLOCK_MODE_VIRTUAL) {
        s->timer = timer_new_ns(QEMU_CLOCK_VIRTUAL, tick, s);
    }
    s->exiting = false;
    s->vm_running = runstate_is_running();
    s->last_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    if (s->timer && s->vm_running) {
        timer_mod(s->timer, qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL) + TICK_NS);
    }
    s->realized = true;
    s->state_entry = qdev_add_vm_change_state_handler(DEVICE(pci), run_state_changed, s);
    qemu_thread_create(&s->thread, "ferry-storm", storm_thread, s, QEMU_THREAD_JOINABLE);
}

static void storm_exit(PCIDevice *pci)
{
    StormDevice *s = FERRY_STORM(pci);

    qemu_del_vm_change_state_handler(s->state_entry);
    qemu_mutex_lock(&s->lock);
    s->exiting = true;
    s->verify_stop = true;
    qemu_cond_signal(&s->wake);
    qemu_mutex_unlock(&s->lock);
    qemu_thread_join(&s->thread);
    g_clear_pointer(&s->timer, timer_free);
    s->realized = false;
    /* A storm that is plugged in again begins anew. */
    s->verify_wanted = false;
    s->nr_verified = 0;
    s->nr_written = 0;
    s->due = 0;
    s->verdict = (FerryStormVerdict){0};
    g_clear_pointer(&s->verdict_error, g_free);
    g_clear_pointer(&s->error, g_free);
    g_clear_pointer(&s->storm, ferry_storm_free);
    g_clear_pointer(&s->memory, storm_memory_free);
}

static const PropertyInfo clock_property = FERRY_ENUM_PROPERTY(
    StormClockMode, "what its rate is measured by: host, virtual, or auto: virtual under qtest");

static const Property storm_properties[] = {
    DEFINE_PROP_UINT64("start", StormDevice, start, 1 * MiB),
    DEFINE_PROP_SIZE("size", StormDevice, size, 0),
    DEFINE_PROP_UINT64("seed", StormDevice, seed, 0),
    DEFINE_PROP_UINT32("x-forget", StormDevice, forget, 0),
    DEFINE_PROP_SIGNED("clock", StormDevice, clock, STORM_CLOCK_MODE_AUTO, clock_property,
                       StormClockMode),
};

static void add_numbers(ObjectClass *class)
{
    static const struct {
        const char *name;
        const char *type;
        ObjectPropertyAccessor *set;
        size_t offset;
        const char *description;
    } numbers[] = {
        {"rate", "uint64", set_rate, offsetof(StormDevice, rate),
         "pages written a second, 0 for as many as it can (default 10000)"},
        {"working-set", "size", set_size, offsetof(StormDevice, working_bytes),
         "bytes it writes to, from the start of its region (default 256M, or all of it)"},
        {"hot-spot", "size", set_size, offsetof(StormDevice, hot_bytes),
         "bytes of the hot spot (default 0: one in 16 of the working set)"},
        {"pages-written", "uint64", NULL, offsetof(StormDevice, nr_written),
         "writes to pages so far, also before a migration"},
        {"pages-due", "uint64", NULL, offsetof(StormDevice, due),
         "pages that the virtual clock has let through and that are not written yet"},
        {"verifications", "uint64", NULL, offsetof(StormDevice, nr_verified),
         "verifications completed by this QEMU"},
        {"verified-pages", "uint64", NULL, offsetof(StormDevice, verdict.checked),
         "pages looked at by the last verification, so far"},
        {"wrong-pages", "uint64", NULL, offsetof(StormDevice, verdict.wrong),
         "pages that the last verification found wrong; at least so many are"},
        {"stale-pages", "uint64", NULL, offsetof(StormDevice, verdict.stale),
         "those of them that hold an earlier write than the last"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
        object_class_property_add(class, numbers[i].name, numbers[i].type, get_number,
                                  numbers[i].set, NULL, (void *)numbers[i].offset);
        object_class_property_set_description(class, numbers[i].name, numbers[i].description);
    }
}

static void storm_class_init(ObjectClass *class, void *data)
{
    DeviceClass *device = DEVICE_CLASS(class);
    PCIDeviceClass *pci = PCI_DEVICE_CLASS(class);
    static const struct {
        const char *name, *description;
    } descriptions[] = {
        {"start", "guest address where its region begins"},
        {"size",
         "bytes of its region, all of which must be RAM; 0: the machine's RAM from start on, "
         "but for the last 32 MiB below 4 GiB"},
        {"seed", "what its random numbers and contents follow from"},
        {"running", "whether it writes while the VM runs (default: on)"},
        {"whole-pages", "write whole pages (default), or off: their first 48 bytes only"},
        {"pattern", "sequential (default), random, zipf or hot-spot"},
        {"content", "zero, random (default), compressible or text"},
        {"verify", "set it to look at every page ever written; on while that goes on"},
        {"verify-result", "of the last verification, in words"},
        {"first-wrong-page", "guest address of the first wrong page, or 2^64 - 1"},
        {"error", "why it has stopped writing, if it has"},
        {"x-forget", "for tests: one write in so many is not marked dirty"},
    };

    device->desc = "writes guest memory to order, to rehearse migrations";
    set_bit(DEVICE_CATEGORY_MISC, device->categories);
    device->vmsd = &storm_vmstate;
    device_class_set_props(device, storm_properties);
    pci->realize = storm_realize;
    pci->exit = storm_exit;
    pci->vendor_id = STORM_VENDOR_ID;
    pci->device_id = STORM_DEVICE_ID;
    pci->class_id = PCI_CLASS_OTHERS;

    add_numbers(class);
    object_class_property_add_bool(class, "running", get_running, set_running);
    object_class_property_add_bool(class, "whole-pages", get_whole, set_whole);
    object_class_property_add_bool(class, "verify", get_verify, set_verify);
    object_class_property_add_enum(class, "pattern", "StormPattern", &StormPattern_lookup,
                                   get_pattern, set_pattern);
    object_class_property_add_enum(class, "content", "StormFill", &StormFill_lookup, get_content,
                                   set_content);
    object_class_property_add(class, "first-wrong-page", "uint64", get_first_wrong, NULL, NULL,
                              NULL);
    object_class_property_add_str(class, "verify-result", get_result, NULL);
    object_class_property_add_str(class, "error", get_error, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(descriptions); i++) {
        object_class_property_set_description(class, descriptions[i].name,
                                              descriptions[i].description);
    }
}

static const TypeInfo storm_type = {
    .name = TYPE_FERRY_STORM,
    .parent = TYPE_PCI_DEVICE,
    .instance_size = sizeof(StormDevice),
    .instance_init = storm_init,
    .instance_finalize = storm_finalize,
    .class_init = storm_class_init,
    .interfaces =
        (InterfaceInfo[]){
            {INTERFACE_CONVENTIONAL_PCI_DEVICE},
            {},
        },
};

static void storm_register_types(void)
{
    type_register_static(&storm_type);
}

type_init(storm_register_types)
