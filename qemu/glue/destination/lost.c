/*
 * The destination has lost its source, with pages missing.
 *
 * The guest goes on with the pages that have come.  If the source stays away, the guest is stopped, so
 * that it is found as it was, and runs on when the source is back.  If that will never be, a person
 * abandons the migration: then all of memory can be read, and the guest is not to run again.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <linux/kvm.h>
#include <sys/syscall.h>
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "qemu/timer.h"
#include "block/aio.h"
#include "hw/core/cpu.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-ferry.h"
#include "system/cpus.h"
#include "system/runstate.h"
#include "system/tcg.h"
#include "migration/migration.h"

#include "../internal.h"
#include "listen.h"
#include "lost.h"
#include "session.h"

/* How long vCPUs may take to stop, and how often they are looked at meanwhile. */
#define STOP_MS 1000
#define LOOK_MS 10

static struct {
    QEMUTimer *timer;
    int64_t stop_by_ms; /* when they are to have stopped; 0: they were not told to */
    bool stopped;       /* by us */
    bool gives_up; /* atomic: vCPUs may read zeros where pages are missing, and are told to stop */
} lost;            /* the main thread's, but for that */

bool ferry_gives_guest_up(void)
{
    return qatomic_read(&lost.gives_up);
}

/* Before they can see pages that are not what they should be.  With the BQL, or before QEMU stops them itself. */
static void kick_all_vcpus(void)
{
    CPUState *cpu;

    WITH_RCU_READ_LOCK_GUARD()
    {
        CPU_FOREACH(cpu)
        {
            qatomic_set(&cpu->stop, true);
            qemu_cpu_kick(cpu);
        }
    }
}

/* A guest that is given up meanwhile stays as it is. */
static bool is_given_up(void)
{
    return migration_incoming_get_current()->state == MIGRATION_STATUS_CANCELLING;
}

/* It was not stopped, or not abandoned, after all. */
static void let_vcpus_go_on(void *opaque)
{
    if (runstate_is_running() && !is_given_up()) {
        resume_all_vcpus();
    }
}

/* --- Who waits for a page ------------------------------------------------------------------------ */

/* A thread of the kernel's that does nothing but bring a page in for a vCPU (KVM's asynchronous page faults). */
static bool is_kvms(uint32_t thread)
{
    g_autofree char *task = g_strdup_printf("/proc/self/task/%" PRIu32, thread);
    g_autofree char *path = g_strdup_printf("/proc/%" PRIu32 "/comm", thread);
    g_autofree char *name = NULL;

    return access(task, F_OK) != 0 && g_file_get_contents(path, &name, NULL, NULL) &&
           g_str_has_prefix(name, "kworker/");
}

static bool is_vcpus(uint32_t thread)
{
    CPUState *cpu;

    RCU_READ_LOCK_GUARD();
    CPU_FOREACH(cpu)
    {
        if ((uint32_t)cpu->thread_id == thread) {
            return true;
        }
    }
    return false;
}

/* For so long a thread is looked at that is neither here nor there. */
#define UNSURE_MS      50
#define UNSURE_STEP_MS 5

typedef enum Waiter {
    WAITER_GUEST,
    WAITER_DEVICE,
    WAITER_UNSURE,
} Waiter;

/*
 * What a vCPU's thread, which waits for a page or did so until it was told to stop, runs.  The guest, if it is in
 * KVM, or stands still.  TCG runs both alike, and waits for a page outside of any system call.
 */
static Waiter vcpu_waits_for(uint32_t thread)
{
    g_autofree char *path = g_strdup_printf("/proc/self/task/%" PRIu32 "/syscall", thread);
    g_autofree char *text = NULL;
    int64_t number;
    uint64_t request;

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return WAITER_DEVICE;
    }
    if (g_str_has_prefix(text, "running")) {
        return WAITER_UNSURE;
    }
    if (sscanf(text, "%" SCNi64 " %*s 0x%" SCNx64, &number, &request) < 2) {
        return WAITER_DEVICE;
    }
    return number == SYS_futex || (number == SYS_ioctl && request == KVM_RUN) ? WAITER_GUEST
                                                                              : WAITER_DEVICE;
}

/* The storm device writes to nothing but memory, and is not waited for when the guest is stopped. */
static bool is_storms(uint32_t thread)
{
    g_autofree char *path = g_strdup_printf("/proc/self/task/%" PRIu32 "/comm", thread);
    g_autofree char *name = NULL;

    return g_file_get_contents(path, &name, NULL, NULL) && g_str_equal(name, "ferry-storm\n");
}

static Waiter look_at_waiters(FerryDestination *destination)
{
    g_autoptr(GArray) threads = ferry_destination_waiting(destination);
    Waiter worst = WAITER_GUEST;

    for (guint i = 0; i < threads->len && worst != WAITER_DEVICE; i++) {
        uint32_t thread = g_array_index(threads, uint32_t, i);
        Waiter waiter = is_vcpus(thread)                       ? vcpu_waits_for(thread)
                        : is_kvms(thread) || is_storms(thread) ? WAITER_GUEST
                                                               : WAITER_DEVICE;

        if (waiter != WAITER_GUEST) {
            worst = waiter;
        }
    }
    return worst;
}

/* Whether a thread waits that may be about to write to a disk what it waits for: the main one, a worker, vhost's. */
static bool device_waits(FerryDestination *destination)
{
    Waiter waiter = look_at_waiters(destination);

    /*
     * A thread that was told to stop runs its signal's handler, and waits again.  KVM's own look at a page of the
     * guest's, in shadow paging, goes round and round from then on.
     */
    for (unsigned ms = 0; waiter == WAITER_UNSURE && ms < UNSURE_MS; ms += UNSURE_STEP_MS) {
        g_usleep(UNSURE_STEP_MS * 1000);
        waiter = look_at_waiters(destination);
    }
    return waiter == WAITER_DEVICE;
}

/* --- For a time ---------------------------------------------------------------------------------- */

static bool all_vcpus_stopped(void)
{
    CPUState *cpu;

    CPU_FOREACH(cpu)
    {
        if (!cpu->stopped) {
            return false;
        }
    }
    return true;
}

static void warn_goes_on(void)
{
    warn_report("ferry: the source stays away; the guest goes on until it needs a page that is "
                "missing");
}

static void look_again(int64_t delay_ms)
{
    timer_mod(lost.timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + delay_ms);
}

/* Nothing that vm_stop() waits for, with the monitor, waits for a page: no vCPU, no device's request to a disk. */
static bool can_stop(void)
{
    FerryDestination *destination = ferry_incoming_destination();

    return all_vcpus_stopped() && !(destination && device_waits(destination));
}

/*
 * The vCPUs are told to stop, and looked at until they have.  vm_stop() would wait for them with the monitor: one
 * for which KVM itself reads a page of the guest's page tables (shadow paging does) stops when that has come.
 */
static void stop(void *opaque)
{
    int64_t now_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);

    if (migration_incoming_get_current()->state != MIGRATION_STATUS_POSTCOPY_PAUSED) {
        if (lost.stop_by_ms) {
            let_vcpus_go_on(NULL);
        }
        lost.stop_by_ms = 0;
        return;
    }
    if (!runstate_is_running()) {
        /* Somebody else has stopped it, and may let it go on. */
        lost.stop_by_ms = 0;
        look_again(STOP_MS);
        return;
    }
    if (tcg_enabled()) {
        /* Nothing takes a thread of TCG's from its waiting for a page. */
        warn_goes_on();
        return;
    }
    if (!lost.stop_by_ms) {
        lost.stop_by_ms = now_ms + STOP_MS;
        kick_all_vcpus();
        look_again(LOOK_MS);
    } else if (can_stop()) {
        lost.stop_by_ms = 0;
        error_report("ferry: the source stays away: the guest is stopped until it is back");
        lost.stopped = true;
        vm_stop(RUN_STATE_IO_ERROR);
    } else if (now_ms < lost.stop_by_ms) {
        look_again(LOOK_MS);
    } else {
        lost.stop_by_ms = 0;
        let_vcpus_go_on(NULL);
        warn_goes_on();
    }
}

static void begin(void *opaque)
{
    uint32_t timeout_s = ferry_settings()->recovery_timeout_s;

    if (!lost.timer) {
        lost.timer = timer_new_ms(QEMU_CLOCK_REALTIME, stop, NULL);
    }
    if (timeout_s) {
        timer_mod(lost.timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + (int64_t)timeout_s * 1000);
    }
}

void ferry_lost_begin(void)
{
    aio_bh_schedule_oneshot(qemu_get_aio_context(), begin, NULL);
}

static void forget_timer(void)
{
    if (lost.timer) {
        timer_del(lost.timer);
    }
    lost.stop_by_ms = 0;
}

static void go_on(void)
{
    bool told_to_stop = lost.stop_by_ms != 0;

    forget_timer();
    if (told_to_stop) {
        let_vcpus_go_on(NULL);
    }
    if (lost.stopped && runstate_check(RUN_STATE_IO_ERROR)) {
        vm_start();
    }
    lost.stopped = false;
}

static void end(void *opaque)
{
    if (!is_given_up()) {
        go_on();
    }
}

void ferry_lost_end(void *opaque)
{
    aio_bh_schedule_oneshot(qemu_get_aio_context(), end, NULL);
}

/* --- For ever ------------------------------------------------------------------------------------ */

void ferry_lost_stop_for_ever(void)
{
    if (runstate_check(RUN_STATE_SUSPENDED)) {
        /* From there no way leads to an error. */
        vm_stop(RUN_STATE_PAUSED);
    }
    vm_stop(RUN_STATE_INTERNAL_ERROR);
    if (!runstate_check(RUN_STATE_INTERNAL_ERROR) && !runstate_check(RUN_STATE_INMIGRATE)) {
        /* It was stopped already.  The way there for such a guest leads through this state. */
        runstate_set(RUN_STATE_FINISH_MIGRATE);
        runstate_set(RUN_STATE_INTERNAL_ERROR);
    }
}

static void abandon(void *opaque)
{
    lost.stopped = false;
    forget_timer();
    ferry_lost_stop_for_ever();
    qatomic_set(&lost.gives_up, false);
    ferry_incoming_stop_listening();
    /* The session ends once QEMU's listen thread has: that may be about to ask it what is missing. */
    ferry_listen_give_up(migration_incoming_get_current(), false);
}

/* All pages are in, and the guest is this side's: it goes on, and nothing but the source was waited for. */
static void complete(void *opaque)
{
    go_on();
    if (runstate_is_running()) {
        /* Some were kicked, if the last page came meanwhile. */
        resume_all_vcpus();
    }
    ferry_incoming_stop_listening();
    ferry_listen_give_up(migration_incoming_get_current(), true);
}

/* After it was abandoned too, when nothing changes any more. */
static bool is_whole(FerryDestination *destination)
{
    return ferry_destination_has_guest(destination) &&
           ferry_destination_is_complete(destination, NULL);
}

static void refuse_for_device(Error **errp)
{
    error_setg(errp,
               "A device waits for a missing page, and would go on with zeros, which it may be "
               "about to write to a disk: kill this QEMU, or set force");
}

static void keep(MigrationIncomingState *mis)
{
    qatomic_set(&lost.gives_up, false);
    migrate_set_state(&mis->state, MIGRATION_STATUS_CANCELLING, MIGRATION_STATUS_POSTCOPY_PAUSED);
    ferry_listen_look_again();
    ferry_lost_begin();
    aio_bh_schedule_oneshot(qemu_get_aio_context(), let_vcpus_go_on, NULL);
}

/* On the monitor's thread, or on the main one. */
void qmp_ferry_abandon(bool has_force, bool force, Error **errp)
{
    FerryDestination *destination = ferry_incoming_destination();
    MigrationIncomingState *mis = migration_incoming_get_current();
    const bool spares_devices = has_force && !force;
    g_autofree char *missing = NULL;
    GError *error = NULL;

    if (!destination || mis->state != MIGRATION_STATUS_POSTCOPY_PAUSED) {
        error_setg(errp, "Only an incoming migration in state 'postcopy-paused' can be abandoned");
        return;
    }
    /* A guest that has never run here has asked for nothing. */
    if (spares_devices && !is_whole(destination) && ferry_destination_has_guest(destination) &&
        device_waits(destination)) {
        refuse_for_device(errp);
        return;
    }
    /* 'failed' is its state when nothing is left of it. */
    migrate_set_state(&mis->state, MIGRATION_STATUS_POSTCOPY_PAUSED, MIGRATION_STATUS_CANCELLING);
    if (mis->state != MIGRATION_STATUS_CANCELLING) {
        error_setg(errp, "The migration is being recovered");
        return;
    }
    if (!is_whole(destination)) {
        qatomic_set(&lost.gives_up, true);
        kick_all_vcpus();
        /* A vCPU may have begun to run a device just before it was told to stop. */
        if (spares_devices && ferry_destination_has_guest(destination) &&
            device_waits(destination)) {
            refuse_for_device(errp);
            keep(mis);
            return;
        }
    }
    if (!ferry_destination_abandon(destination, &error)) {
        keep(mis);
        ferry_propagate_error(errp, error);
        return;
    }
    if (is_whole(destination)) {
        qatomic_set(&lost.gives_up, false);
        warn_report("ferry: abandoned, with no page missing: the guest goes on here");
        aio_bh_schedule_oneshot(qemu_get_aio_context(), complete, NULL);
        return;
    }
    missing = ferry_destination_describe_missing(destination);
    error_report("ferry: abandoned; what is missing reads as zero from here on: %s", missing);
    aio_bh_schedule_oneshot(qemu_get_aio_context(), abandon, NULL);
}
