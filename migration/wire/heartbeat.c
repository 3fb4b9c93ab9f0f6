/*
 * Heartbeat: see heartbeat.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "heartbeat.h"

#include "../clock.h"
#include "../error.h"
#include "../fault.h"
#include "../thread.h"
#include "frame.h"
#include "progress.h"

/* How often it is looked for silence. */
#define LOOK_MS 100

typedef struct BeatingChannel {
    FerryChannel *channel;
    bool writes, reads;
    uint64_t sent_bytes;    /* at the last beat; the beating thread's */
    FerryProgress progress; /* the looking thread's */
} BeatingChannel;

struct FerryHeartbeat {
    unsigned timeout_ms;
    FerrySilentFn *silent;
    void *opaque;
    GArray *channels; /* of BeatingChannel */
    FerryWatchFn *watch;
    void *watch_opaque;
    GThread *beating, *looking;

    GMutex lock;
    GCond quitting;
    bool quit;
};

FerryHeartbeat *ferry_heartbeat_new(unsigned timeout_ms, FerrySilentFn *silent, void *opaque)
{
    FerryHeartbeat *heartbeat = g_new0(FerryHeartbeat, 1);

    heartbeat->timeout_ms = MAX(timeout_ms, FERRY_NETWORK_TIMEOUT_MIN_MS);
    heartbeat->silent = silent;
    heartbeat->opaque = opaque;
    heartbeat->channels = g_array_new(FALSE, FALSE, sizeof(BeatingChannel));
    g_mutex_init(&heartbeat->lock);
    g_cond_init(&heartbeat->quitting);
    return heartbeat;
}

void ferry_heartbeat_add(FerryHeartbeat *heartbeat, FerryChannel *channel, bool writes, bool reads)
{
    BeatingChannel one = {
        .channel = channel,
        .writes = writes,
        .reads = reads,
        .sent_bytes = channel->sent_bytes,
    };

    g_array_append_val(heartbeat->channels, one);
}

void ferry_heartbeat_set_watch(FerryHeartbeat *heartbeat, FerryWatchFn *watch, void *opaque)
{
    heartbeat->watch = watch;
    heartbeat->watch_opaque = opaque;
}

/* Sleep; false when it is over. */
static bool wait_ms(FerryHeartbeat *heartbeat, unsigned ms)
{
    gint64 deadline = ferry_now_us() + (gint64)ms * 1000;
    bool quit;

    g_mutex_lock(&heartbeat->lock);
    while (!heartbeat->quit &&
           ferry_cond_wait_until(&heartbeat->quitting, &heartbeat->lock, deadline)) {
    }
    quit = heartbeat->quit;
    g_mutex_unlock(&heartbeat->lock);
    return !quit;
}

static gpointer beat_run(gpointer opaque)
{
    FerryHeartbeat *heartbeat = opaque;
    const FerryFrame frame = {.type = FERRY_FRAME_BEAT};
    uint8_t head[FERRY_FRAME_BYTES];

    ferry_frame_encode(&frame, head);
    while (wait_ms(heartbeat, FERRY_BEAT_MS)) {
        for (guint i = 0; i < heartbeat->channels->len; i++) {
            BeatingChannel *one = &g_array_index(heartbeat->channels, BeatingChannel, i);
            bool written;

            /* Whoever is writing is heard anyway; and a channel that broke shows where it is read. */
            if (one->writes && one->channel->sent_bytes == one->sent_bytes &&
                !ferry_fault(FERRY_FAULT_SAY_BEAT, NULL)) {
                ferry_channel_try_write_all(one->channel, head, sizeof(head), &written, NULL);
            }
            one->sent_bytes = one->channel->sent_bytes;
        }
    }
    return NULL;
}

/* Whether what is written waits for longer than the time-out while the peer takes nothing. */
static bool is_stuck(BeatingChannel *one, gint64 now_us, unsigned timeout_ms)
{
    gint64 began_us = one->channel->write_began_us;
    gint64 stalled_ms;

    if (!began_us) {
        return false;
    }
    stalled_ms = ferry_progress_stalled_ms(&one->progress, ferry_channel_fd(one->channel), now_us);
    return now_us - began_us > (gint64)timeout_ms * 1000 &&
           (stalled_ms < 0 || stalled_ms > timeout_ms);
}

/* What is wrong with a channel, or NULL. */
static GError *look_at(FerryHeartbeat *heartbeat, BeatingChannel *one)
{
    gint64 now_us = ferry_now_us();
    gint64 began_us = one->channel->read_began_us;

    if (one->reads && began_us && now_us - began_us > (gint64)heartbeat->timeout_ms * 1000) {
        return g_error_new(FERRY_ERROR, FERRY_ERROR_IO, "channel '%s': nothing came for %u ms",
                           one->channel->name, heartbeat->timeout_ms);
    }
    if (one->writes && is_stuck(one, now_us, heartbeat->timeout_ms)) {
        return g_error_new(FERRY_ERROR, FERRY_ERROR_IO, "channel '%s': nothing went out for %u ms",
                           one->channel->name, heartbeat->timeout_ms);
    }
    return NULL;
}

/* What is wrong with any of them, or NULL. */
static GError *look(FerryHeartbeat *heartbeat)
{
    GError *error = NULL;

    for (guint i = 0; i < heartbeat->channels->len && !error; i++) {
        error = look_at(heartbeat, &g_array_index(heartbeat->channels, BeatingChannel, i));
    }
    if (!error && heartbeat->watch) {
        error = heartbeat->watch(heartbeat->watch_opaque);
    }
    return error;
}

static gpointer look_run(gpointer opaque)
{
    FerryHeartbeat *heartbeat = opaque;

    while (wait_ms(heartbeat, LOOK_MS)) {
        GError *error = look(heartbeat);

        if (error) {
            heartbeat->silent(heartbeat->opaque, error);
            break;
        }
    }
    return NULL;
}

void ferry_heartbeat_start(FerryHeartbeat *heartbeat)
{
    GError *error = NULL;

    if (!ferry_fault(FERRY_FAULT_THREAD_BEAT, &error)) {
        heartbeat->beating = ferry_thread_new("ferry-beat", beat_run, heartbeat, &error);
    }
    if (!error && !ferry_fault(FERRY_FAULT_THREAD_SILENCE, &error)) {
        heartbeat->looking = ferry_thread_new("ferry-silence", look_run, heartbeat, &error);
    }
    if (error) {
        heartbeat->silent(heartbeat->opaque, error);
    }
}

void ferry_heartbeat_free(FerryHeartbeat *heartbeat)
{
    if (!heartbeat) {
        return;
    }
    g_mutex_lock(&heartbeat->lock);
    heartbeat->quit = true;
    g_cond_broadcast(&heartbeat->quitting);
    g_mutex_unlock(&heartbeat->lock);
    if (heartbeat->beating) {
        g_thread_join(heartbeat->beating);
    }
    if (heartbeat->looking) {
        g_thread_join(heartbeat->looking);
    }
    g_array_unref(heartbeat->channels);
    g_mutex_clear(&heartbeat->lock);
    g_cond_clear(&heartbeat->quitting);
    g_free(heartbeat);
}
