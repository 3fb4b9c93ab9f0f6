/*
 * ferry-storm: a PCI device that writes guest memory to order, with no guest software.
 *
 * The storm itself is in storm.c; here is what binds it to QEMU: memory through the device's DMA
 * address space, a thread, run states, migration. The properties are in ferry-storm-props.c.
 *
 * Threads: one of its own touches guest memory, for writing and for verifying, and nobody else does.
 * It never takes the BQL, so it may wait for a page that a post-copy migration has yet to fetch.
 * `lock` guards everything that is not marked otherwise; it is never held while memory is touched.
 *
 * Who has the BQL never waits for a page, because nothing else may bring it then. So the thread touches what it
 * writes next before it writes: what has been there once stays. When the VM stops, the handler (which has the
 * BQL) waits only until the thread is not writing:
 *
 *   main thread                              storm's thread
 *                                              touches at most TURN_PAGES, however long that takes
 *     lock; vm_running = false                 lock; not if the VM has stopped since: writing = true; unlock
 *     while (writing) wait   <------------     writes them, marks them dirty
 *     unlock                                   lock; writing = false; signal
 *
 * The thread looks at nr_stops under the lock before each turn. So after the handler nothing is
 * written, and everything written was marked dirty; a migration's last harvest comes after the handlers.
 * An unplugged device whose thread waits for a page is cleared up when that has come.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "migration/misc.h"
#include "migration/vmstate.h"
#include "qapi/error.h"
#include "block/aio.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/units.h"
#include "system/qtest.h"

#include "ferry-storm-props.h"
#include "ferry-storm-state.h"

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
/* Who waits for the thread takes it for held up by a page that is missing. */
#define STUCK_NS       (NANOSECONDS_PER_SECOND / 2)
#define STUCK_LOOK_MS  50
/* A thread that was held up (by a page that did not come, say) makes up for no more than this. */
#define MOST_DUE_NS    (NANOSECONDS_PER_SECOND / 10)

/* For how long an unplugged device waits for its thread, and everybody with it. */
#define PATIENCE_MS 100

#define DEFAULT_WORKING_BYTES (256 * MiB)

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

/* Whether the next @nr pages can be written at once, and the storm is as it was.  Lets go of the lock. */
static bool touch_turn(StormDevice *s, const FerryStormMemory *memory, uint64_t nr)
{
    FerryStormPattern ahead = *ferry_storm_pattern(s->storm);
    uint64_t nr_stops = s->nr_stops;

    s->touching_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    qemu_mutex_unlock(&s->lock);
    ferry_storm_touch(&ahead, memory, nr);
    qemu_mutex_lock(&s->lock);
    s->touching_ns = 0;
    return may_write(s) && !s->exiting && s->nr_stops == nr_stops;
}

static void write_turn(StormDevice *s)
{
    uint64_t nr = MIN(s->due, TURN_PAGES);
    uint64_t done = 0;
    FerryStormMemory memory = storm_memory_begin(s->memory, true);
    g_autofree char *error = NULL;

    ferry_storm_set(s->storm, &s->settings);
    s->writing = touch_turn(s, &memory, nr);
    qemu_mutex_unlock(&s->lock);
    if (s->writing) {
        done = ferry_storm_write(s->storm, &memory, nr);
    }
    error = storm_memory_end(s->memory);
    qemu_mutex_lock(&s->lock);
    /* It may have been changed meanwhile, with the rate. */
    s->due -= MIN(done, s->due);
    s->nr_written = ferry_storm_nr_written(s->storm);
    if (error && s->writing && !s->exiting) {
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

/* A storm that is plugged in again begins anew.  Main thread. */
static void clear_up(StormDevice *s)
{
    g_thread_join(g_steal_pointer(&s->thread));
    s->nr_verified = 0;
    s->nr_written = 0;
    s->due = 0;
    s->verdict = (FerryStormVerdict){0};
    g_clear_pointer(&s->verdict_error, g_free);
    g_clear_pointer(&s->error, g_free);
    g_clear_pointer(&s->storm, ferry_storm_free);
    g_clear_pointer(&s->memory, storm_memory_free);
}

/* Main thread. */
static void clear_up_orphan(void *opaque)
{
    StormDevice *s = opaque;

    clear_up(s);
    object_unref(OBJECT(s));
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
    s->ended = true;
    if (s->orphaned) {
        aio_bh_schedule_oneshot(qemu_get_aio_context(), clear_up_orphan, s);
    }
    qemu_cond_broadcast(&s->quiet);
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
        parts = (s->rate ? s->rate : FERRY_STORM_COUNTED_RATE) + s->due_rest;
        s->due += parts / TICKS_A_SECOND;
        s->due_rest = parts % TICKS_A_SECOND;
        qemu_cond_signal(&s->wake);
    }
    qemu_mutex_unlock(&s->lock);
    timer_mod(s->timer, qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL) + TICK_NS);
}

/* Waits for a change of what the thread does. False if that seems to wait for a page. */
static bool wait_for_thread(StormDevice *s)
{
    qemu_cond_timedwait(&s->quiet, &s->lock, STUCK_LOOK_MS);
    return !s->touching_ns || qemu_clock_get_ns(QEMU_CLOCK_REALTIME) - s->touching_ns < STUCK_NS;
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
        do {
            qemu_cond_signal(&s->wake);
        } while (may_write(s) && s->due > 0 && !s->verifying && wait_for_thread(s));
    }
    s->vm_running = running;
    s->nr_stops += !running;
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
    FerryStormPace pace = {.rate = s->rate, .due = s->due, .rest = s->due_rest};
    const FerryStormSettings *settings;
    bool ok;

    qemu_mutex_lock(&s->lock);
    g_assert(!s->writing && !s->verifying);
    ok = ferry_storm_pace_load(&pace, &error) &&
         ferry_storm_load(s->storm, s->saved, s->saved_bytes, &error);
    if (ok) {
        s->due = pace.due;
        s->due_rest = s->clock == STORM_CLOCK_MODE_HOST ? pace.rest : pace.rest % TICKS_A_SECOND;
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
        /* Somebody may have the guest go on all the same. */
        s->running = false;
        s->rate = s->due = s->due_rest = 0;
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

/* As cards that a migration concerns do: they give the network up when one is set up, and take it back. */
static int migration_event(NotifierWithReturn *notifier, MigrationEvent *event, Error **errp)
{
    static const char *const words[] = {
        [MIG_EVENT_PRECOPY_SETUP] = "setup",
        [MIG_EVENT_PRECOPY_DONE] = "done",
        [MIG_EVENT_PRECOPY_FAILED] = "failed",
    };

    container_of(notifier, StormDevice, migration)->heard = words[event->type];
    return 0;
}

/* --- Life -------------------------------------------------------------------------------------- */

static void storm_init(Object *obj)
{
    StormDevice *s = FERRY_STORM(obj);

    qemu_mutex_init(&s->lock);
    qemu_cond_init(&s->wake);
    qemu_cond_init(&s->quiet);
    ferry_storm_init_props(s);
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

static void storm_realize(PCIDevice *pci, Error **errp)
{
    StormDevice *s = FERRY_STORM(pci);
    uint64_t nr_pages;
    g_autoptr(GError) error = NULL;

    if (s->thread) {
        error_setg(errp,
                   "ferry-storm: it still waits for a page from when it was plugged in before");
        return;
    }
    s->memory =
        storm_memory_new(pci_device_iommu_address_space(pci), s->start, s->size, s->forget, errp);
    if (!s->memory) {
        return;
    }
    nr_pages = storm_memory_nr_pages(s->memory);
    if (s->working_bytes == 0) {
        s->working_bytes = MIN(DEFAULT_WORKING_BYTES, nr_pages * FERRY_STORM_PAGE_BYTES);
    }
    if (!ferry_storm_apply_sizes(s, errp)) {
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
    s->exiting = s->ended = s->orphaned = false;
    s->touching_ns = 0;
    s->vm_running = runstate_is_running();
    s->last_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    if (s->timer && s->vm_running) {
        timer_mod(s->timer, qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL) + TICK_NS);
    }
    s->thread = g_thread_try_new("ferry-storm", storm_thread, s, &error);
    if (!s->thread) {
        error_setg(errp, "ferry-storm: there is no thread to be had: %s", error->message);
        g_clear_pointer(&s->timer, timer_free);
        g_clear_pointer(&s->storm, ferry_storm_free);
        g_clear_pointer(&s->memory, storm_memory_free);
        return;
    }
    s->realized = true;
    s->state_entry = qdev_add_vm_change_state_handler(DEVICE(pci), run_state_changed, s);
    migration_add_notifier(&s->migration, migration_event);
}

static void storm_exit(PCIDevice *pci)
{
    StormDevice *s = FERRY_STORM(pci);

    migration_remove_notifier(&s->migration);
    qemu_del_vm_change_state_handler(s->state_entry);
    qemu_mutex_lock(&s->lock);
    s->exiting = true;
    s->verify_wanted = false;
    s->verify_stop = true;
    storm_memory_cut_off(s->memory);
    qemu_cond_signal(&s->wake);
    while (!s->ended && !s->orphaned) {
        s->orphaned = !qemu_cond_timedwait(&s->quiet, &s->lock, PATIENCE_MS) && !s->ended;
    }
    qemu_mutex_unlock(&s->lock);
    g_clear_pointer(&s->timer, timer_free);
    s->realized = false;
    if (s->orphaned) {
        /* The thread's. */
        object_ref(OBJECT(s));
    } else {
        clear_up(s);
    }
}

static void storm_class_init(ObjectClass *class, void *data)
{
    DeviceClass *device = DEVICE_CLASS(class);
    PCIDeviceClass *pci = PCI_DEVICE_CLASS(class);

    device->desc = "writes guest memory to order, to rehearse migrations";
    set_bit(DEVICE_CATEGORY_MISC, device->categories);
    device->vmsd = &storm_vmstate;
    pci->realize = storm_realize;
    pci->exit = storm_exit;
    pci->vendor_id = STORM_VENDOR_ID;
    pci->device_id = STORM_DEVICE_ID;
    pci->class_id = PCI_CLASS_OTHERS;

    ferry_storm_add_props(class);
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
