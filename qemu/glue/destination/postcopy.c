/*
 * The destination in post-copy: standing in for what QEMU does with memory there.
 *
 * Threads: the main thread, and the one that reads the stream once the guest runs (QEMU's listen
 * thread); what the engine calls on threads of its own is marked.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "block/aio.h"
#include "exec/cpu-common.h"
#include "hw/core/cpu.h"
#include "net/net.h"
#include "qapi/qapi-types-migration.h"
#include "qapi/qapi-types-net.h"
#include "qapi/util.h"
#include "system/runstate.h"
#include "migration/misc.h"
#include "migration/migration.h"
#include "migration/options.h"
#include "migration/postcopy-ram.h"
#include "migration/qemu-file.h"
#include "migration/ram.h"

#include "ferry/glue/ferry.h"
#include "../internal.h"
#include "lost.h"
#include "postcopy.h"
#include "session.h"
#include "wait.h"

/* As many network backends are looked at. */
#define MAX_NETDEVS 256

static struct {
    bool advised;    /* QEMU wanted memory emptied, and Ferry does that */
    int64_t part_ms; /* since when something is due on the stream; 0: nothing is.  Atomic */
} postcopy;

/* --- Before the guest runs ---------------------------------------------------------------------- */

static bool has_vhost_user_net(void)
{
    NetClientState *clients[MAX_NETDEVS];
    int nr = qemu_find_net_clients_except(NULL, clients, NET_CLIENT_DRIVER_NIC, MAX_NETDEVS);

    for (int i = 0; i < MIN(nr, MAX_NETDEVS); i++) {
        if (clients[i]->info->type == NET_CLIENT_DRIVER_VHOST_USER) {
            return true;
        }
    }
    return false;
}

static int find_vhost_user_device(Object *object, void *opaque)
{
    if (strstr(object_get_typename(object), "vhost-user")) {
        *(bool *)opaque = true;
    }
    return 0;
}

const char *ferry_postcopy_why_not(void)
{
    bool found = has_vhost_user_net();

    if (!migrate_postcopy_ram()) {
        return NULL;
    }
    object_child_foreach_recursive(object_get_root(), find_vhost_user_device, &found);
    return found ? "capability postcopy-ram is set, and there is a vhost-user device: pages that "
                   "it waits for are QEMU's to fetch"
                 : NULL;
}

int ferry_postcopy_init(MigrationIncomingState *mis)
{
    if (!ferry_incoming_destination()) {
        return ram_postcopy_incoming_init(mis);
    }
    /* It may be receiving pages already. */
    postcopy.advised = true;
    return 0;
}

void ferry_postcopy_stand_down(void)
{
    if (postcopy.advised) {
        postcopy.advised = false;
        ram_postcopy_incoming_init(migration_incoming_get_current());
    }
}

int ferry_postcopy_prepare(MigrationIncomingState *mis)
{
    return ferry_incoming_destination() ? 0 : postcopy_ram_prepare_discard(mis);
}

static void note_due(bool due)
{
    qatomic_set(&postcopy.part_ms, due ? g_get_monotonic_time() / 1000 : 0);
}

void ferry_postcopy_hold_stream(MigrationIncomingState *mis)
{
    FerryDestination *destination = ferry_incoming_destination();

    ferry_stream_hold(ferry_incoming_stream(), mis ? qemu_file_get_ioc(mis->from_src_file) : NULL);
    if (mis && destination) {
        ferry_destination_stream_came(destination);
    }
    /* Resumed, the source sends parts again; at first, only once the guest runs here. */
    note_due(mis && runstate_is_running());
}

/* The source sends one several times a second while it pushes pages. */
void ferry_postcopy_note_part(void)
{
    FerryDestination *destination = ferry_incoming_destination();

    if (destination && ferry_destination_is_left(destination)) {
        note_due(true);
    }
}

/* On a thread of the engine's. */
uint64_t ferry_postcopy_stream_idle_ms(void *opaque)
{
    int64_t part_ms = qatomic_read(&postcopy.part_ms);

    return part_ms ? (uint64_t)(g_get_monotonic_time() / 1000 - part_ms) : 0;
}

int ferry_postcopy_listen(MigrationIncomingState *mis)
{
    FerryDestination *destination = ferry_incoming_destination();
    GError *error = NULL;

    if (!destination) {
        return postcopy_ram_incoming_setup(mis);
    }
    /*
     * What the source sends for it left before the command that brought us here, but by another way.
     */
    while (ferry_destination_awaits_handoff(destination) && ferry_wait()) {
    }
    if (!ferry_destination_wait_left(destination, &error)) {
        error_report("ferry: %s", error->message);
        g_error_free(error);
        return -EIO;
    }
    ferry_postcopy_hold_stream(mis);
    return 0;
}

/* --- The guest runs ------------------------------------------------------------------------------ */

/* On a thread of the engine's. */
void ferry_postcopy_note_go(void)
{
    FerryDestination *destination = ferry_incoming_destination();

    note_due(destination && ferry_destination_is_left(destination));
}

/* On a thread of the engine's. */
void ferry_postcopy_list_vcpus(void *opaque, GArray *threads)
{
    CPUState *cpu;

    rcu_register_thread();
    WITH_RCU_READ_LOCK_GUARD()
    {
        CPU_FOREACH(cpu)
        {
            uint32_t thread = (uint32_t)cpu->thread_id;

            g_array_append_val(threads, thread);
        }
    }
    rcu_unregister_thread();
}

void ferry_fill_blocktime(MigrationInfo *info)
{
    uint32List **tail = &info->postcopy_vcpu_blocktime;
    g_autofree char *reason = NULL;
    FerryStats stats;
    bool active;
    uint8_t version;

    if (!ferry_incoming_query(&stats, &active, &version, &reason)) {
        return;
    }
    if (stats.has_fetch && migrate_postcopy_blocktime()) {
        qapi_free_uint32List(info->postcopy_vcpu_blocktime);
        info->postcopy_vcpu_blocktime = NULL;
        info->has_postcopy_blocktime = info->has_postcopy_vcpu_blocktime = true;
        info->postcopy_blocktime = (uint32_t)stats.fetch.all_blocked_ms;
        for (guint i = 0; i < stats.vcpu_blocked_ms->len; i++) {
            QAPI_LIST_APPEND(tail, (uint32_t)g_array_index(stats.vcpu_blocked_ms, uint64_t, i));
        }
    }
    ferry_stats_clear(&stats);
}

/* --- When something breaks ------------------------------------------------------------------------ */

/*
 * On any thread: the main one may be waiting for a page.  QEMU's thread that reads the stream pauses
 * the migration when that breaks.
 */
void ferry_postcopy_broken(void *opaque, const GError *why)
{
    error_report("ferry: %s", why->message);
    ferry_stream_break(ferry_incoming_stream());
}

static void stop_guest(void *opaque)
{
    ferry_lost_stop_for_ever();
}

/* On any thread. */
void ferry_postcopy_damaged(void *opaque, const GError *why)
{
    error_report("ferry: guest memory is damaged, the guest is stopped: %s", why->message);
    aio_bh_schedule_oneshot(qemu_get_aio_context(), stop_guest, NULL);
}

void ferry_postcopy_paused(MigrationIncomingState *mis)
{
    FerryDestination *destination = ferry_incoming_destination();
    g_autofree char *missing = NULL;

    if (!destination) {
        postcopy_fault_thread_notify(mis);
        return;
    }
    missing = ferry_destination_describe_missing(destination);
    error_report("ferry: %s", missing);
    ferry_lost_begin();
}

bool ferry_postcopy_empties(void)
{
    return migration_incoming_postcopy_advised() && !ferry_incoming_destination();
}
