/*
 * The session at the destination: see session.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/timer.h"
#include "qemu/guest-random.h"
#include "qemu/main-loop.h"
#include "qemu/yank.h"
#include "block/aio.h"
#include "system/runstate.h"
#include "migration/misc.h"
#include "migration/migration.h"

#include "ferry/glue/shares.h"
#include "ferry/migration/wire/pace.h"
#include "../internal.h"
#include "session.h"

static struct {
    /*
     * Held while another thread than the main one uses the session: connections come in on the monitor's own
     * after an oob migrate-recover.  For what is marked with (*) as well.
     */
    GMutex lock;
    FerryDestination *destination;
    GPtrArray *memory; /* what is held for it */
    uint8_t version;
    uint64_t token;           /* of the session */
    bool active;              /* the source's stream says that Ferry carries the memory */
    QIONetListener *listener; /* (*) our own, when QEMU has none */
    VMChangeStateEntry *vm_change;
    char *reason; /* why Ferry is not in use */
    bool has_last;
    FerryStats last;
} incoming;

static void yank(void *opaque)
{
    ferry_destination_shutdown(opaque);
}

void ferry_incoming_open(uint8_t version, const FerryDestinationOps *ops)
{
    FerryDestinationConfig config = {
        .timeout_ms = ferry_settings()->network_timeout_ms,
        .bytes_per_second = (uint64_t)ferry_settings()->incoming_mb * 1000 * 1000,
    };
    uint64_t host = ferry_host_limit(FERRY_INCOMING, &config.shares);

    if (host && !config.shares) {
        config.bytes_per_second = ferry_pace_lower(config.bytes_per_second, host);
    }
    incoming.version = version;
    qemu_guest_getrandom_nofail(&incoming.token, sizeof(incoming.token));
    config.session = incoming.token;
    incoming.memory = g_ptr_array_new();
    qatomic_set(&incoming.destination, ferry_destination_new(&config, ops, incoming.memory));
    yank_register_function(MIGRATION_YANK_INSTANCE, yank, incoming.destination);
    ferry_incoming_set_reason(NULL);
}

FerryDestination *ferry_incoming_destination(void)
{
    return qatomic_read(&incoming.destination);
}

FerryStream *ferry_incoming_stream(void)
{
    static FerryStream stream;

    return &stream;
}

GError *ferry_incoming_cause(void)
{
    FerryDestination *destination = ferry_incoming_destination();
    GError *error = NULL;

    if (destination) {
        ferry_destination_is_complete(destination, &error);
    }
    return error;
}

void ferry_incoming_identify(uint8_t *version, uint64_t *token)
{
    *version = incoming.version;
    *token = incoming.token;
}

bool ferry_incoming_add(QIOChannel *ioc)
{
    bool open;

    g_mutex_lock(&incoming.lock);
    open = incoming.destination;
    if (open) {
        ferry_destination_add_channel(incoming.destination, ferry_channel_new_ioc(ioc, "new"));
    }
    g_mutex_unlock(&incoming.lock);
    return open;
}

bool ferry_incoming_has_all(bool *all)
{
    bool open;

    g_mutex_lock(&incoming.lock);
    open = incoming.destination;
    *all = open && ferry_destination_has_all_channels(incoming.destination);
    g_mutex_unlock(&incoming.lock);
    return open;
}

bool ferry_incoming_resuming_bytes(uint64_t *nr_bytes)
{
    bool open;

    g_mutex_lock(&incoming.lock);
    open = incoming.destination;
    if (open) {
        *nr_bytes = ferry_destination_resuming_bytes(incoming.destination);
    }
    g_mutex_unlock(&incoming.lock);
    return open;
}

void ferry_incoming_set_listener(QIONetListener *listener)
{
    QIONetListener *old;

    g_mutex_lock(&incoming.lock);
    old = incoming.listener;
    incoming.listener = listener;
    g_mutex_unlock(&incoming.lock);
    if (old) {
        qio_net_listener_disconnect(old);
        object_unref(OBJECT(old));
    }
}

static void vm_changed(void *opaque, bool running, RunState state)
{
    if (running && incoming.destination) {
        ferry_destination_running(incoming.destination);
    }
}

void ferry_incoming_begin(void)
{
    incoming.active = true;
    incoming.vm_change = qemu_add_vm_change_state_handler(vm_changed, NULL);
}

bool ferry_incoming_active(void)
{
    return incoming.active;
}

bool ferry_incoming_is_over(void)
{
    MigrationStatus state = qatomic_read(&migration_incoming_get_current()->state);

    return state == MIGRATION_STATUS_COMPLETED || state == MIGRATION_STATUS_FAILED ||
           state == MIGRATION_STATUS_CANCELLING;
}

int64_t ferry_incoming_clock_ms(void)
{
    return qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
}

int64_t ferry_incoming_limit_ms(void)
{
    return (int64_t)ferry_settings()->network_timeout_ms + ferry_settings()->open_timeout_ms;
}

void ferry_incoming_set_reason(const char *reason)
{
    g_free(incoming.reason);
    incoming.reason = g_strdup(reason);
}

void ferry_incoming_suggest_reason(const char *reason)
{
    if (!incoming.reason) {
        ferry_incoming_set_reason(reason);
    }
}

void ferry_incoming_stop_listening(void)
{
    if (incoming.vm_change) {
        qemu_del_vm_change_state_handler(incoming.vm_change);
        incoming.vm_change = NULL;
    }
    ferry_incoming_set_listener(NULL);
}

void ferry_incoming_keep_last(bool failed)
{
    if (incoming.has_last) {
        ferry_stats_clear(&incoming.last);
    }
    ferry_destination_query(incoming.destination, &incoming.last);
    incoming.has_last = true;
    if (failed) {
        /* Whatever it was doing when QEMU ended it. */
        incoming.last.phase = FERRY_SESSION_FAILED;
    }
}

/* A session that has ended. */
typedef struct Ended {
    FerryDestination *destination;
    GPtrArray *memory;
    const char *reason; /* for the source, or NULL */
} Ended;

/* With the BQL, which the engine's threads may be waiting for to resize a block. */
static void free_ended(Ended *ended)
{
    bql_unlock();
    ferry_destination_free(ended->destination, ended->reason);
    bql_lock();
    ferry_release_ram(ended->memory);
}

static void free_later(void *opaque)
{
    g_autofree Ended *ended = opaque;

    free_ended(ended);
}

void ferry_incoming_end(const char *reason, bool later)
{
    Ended ended = {
        .destination = incoming.destination,
        .memory = incoming.memory,
        .reason = later ? NULL : reason,
    };

    incoming.active = false;
    g_mutex_lock(&incoming.lock);
    qatomic_set(&incoming.destination, NULL);
    g_mutex_unlock(&incoming.lock);
    yank_unregister_function(MIGRATION_YANK_INSTANCE, yank, ended.destination);
    if (later) {
        aio_bh_schedule_oneshot(qemu_get_aio_context(), free_later,
                                g_memdup2(&ended, sizeof(ended)));
    } else {
        free_ended(&ended);
    }
}

bool ferry_incoming_query(FerryStats *stats, bool *active, uint8_t *version, char **reason)
{
    *active = incoming.active;
    *version = incoming.version;
    *reason = g_strdup(incoming.reason);
    if (incoming.destination) {
        ferry_destination_query(incoming.destination, stats);
        return true;
    }
    if (incoming.has_last) {
        ferry_stats_copy(stats, &incoming.last);
        return true;
    }
    return false;
}
