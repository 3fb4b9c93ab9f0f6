/*
 * Watch: see watch.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "heartbeat.h"

#include "../error.h"
#include "frame.h"

/* How often it is looked for silence. */
#define LOOK_MS 100

typedef struct Watched {
    FerryChannel *channel;
    bool writes, reads;
    uint64_t sent_bytes;     /* at the last beat; the beating thread's */
    uint64_t received_bytes; /* the looking thread's, like what follows */
    gint64 heard_us;         /* when received_bytes last grew */
} Watched;

struct FerryWatch {
    unsigned timeout_ms;
    FerryWatchFn *silent;
    void *opaque;
    GArray *channels; /* of Watched */
    const char *probe_name;
    FerryWatchProbe *probe;
    void *probe_opaque;
    GThread *beating, *looking;

    GMutex lock;
    GCond quitting;
    bool quit;
};

FerryWatch *ferry_watch_new(unsigned timeout_ms, FerryWatchFn *silent, void *opaque)
{
    FerryWatch *watch = g_new0(FerryWatch, 1);

    watch->timeout_ms = MAX(timeout_ms, FERRY_NETWORK_TIMEOUT_MIN_MS);
    watch->silent = silent;
    watch->opaque = opaque;
    watch->channels = g_array_new(FALSE, FALSE, sizeof(Watched));
    g_mutex_init(&watch->lock);
    g_cond_init(&watch->quitting);
    return watch;
}

void ferry_watch_add(FerryWatch *watch, FerryChannel *channel, bool writes, bool reads)
{
    Watched watched = {
        .channel = channel,
        .writes = writes,
        .reads = reads,
        .sent_bytes = channel->sent_bytes,
        .received_bytes = channel->received_bytes,
        .heard_us = g_get_monotonic_time(),
    };

    g_array_append_val(watch->channels, watched);
}

void ferry_watch_set_probe(FerryWatch *watch, const char *name, FerryWatchProbe *probe,
                           void *opaque)
{
    watch->probe_name = name;
    watch->probe = probe;
    watch->probe_opaque = opaque;
}

/* Sleep; false when it is over. */
static bool wait_ms(FerryWatch *watch, unsigned ms)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)ms * 1000;
    bool quit;

    g_mutex_lock(&watch->lock);
    while (!watch->quit && g_cond_wait_until(&watch->quitting, &watch->lock, deadline)) {
    }
    quit = watch->quit;
    g_mutex_unlock(&watch->lock);
    return !quit;
}

static gpointer beat_run(gpointer opaque)
{
    FerryWatch *watch = opaque;
    const FerryFrame frame = {.type = FERRY_FRAME_BEAT};
    uint8_t head[FERRY_FRAME_BYTES];

    ferry_frame_encode(&frame, head);
    while (wait_ms(watch, FERRY_BEAT_MS)) {
        for (guint i = 0; i < watch->channels->len; i++) {
            Watched *watched = &g_array_index(watch->channels, Watched, i);
            bool written;

            /* Whoever is writing is heard anyway; and a channel that broke shows where it is read. */
            if (watched->writes && watched->channel->sent_bytes == watched->sent_bytes) {
                ferry_channel_try_write_all(watched->channel, head, sizeof(head), &written, NULL);
            }
            watched->sent_bytes = watched->channel->sent_bytes;
        }
    }
    return NULL;
}

/* What is wrong with a channel, or NULL. */
static GError *look_at(FerryWatch *watch, Watched *watched)
{
    gint64 now_us = g_get_monotonic_time();
    gint64 timeout_us = (gint64)watch->timeout_ms * 1000;
    gint64 began_us = watched->channel->write_began_us;
    uint64_t received_bytes = watched->channel->received_bytes;

    if (received_bytes != watched->received_bytes) {
        watched->received_bytes = received_bytes;
        watched->heard_us = now_us;
    }
    if (watched->reads && now_us - watched->heard_us > timeout_us) {
        return g_error_new(FERRY_ERROR, FERRY_ERROR_IO, "channel '%s': nothing came for %u ms",
                           watched->channel->name, watch->timeout_ms);
    }
    if (watched->writes && began_us && now_us - began_us > timeout_us) {
        return g_error_new(FERRY_ERROR, FERRY_ERROR_IO, "channel '%s': nothing went out for %u ms",
                           watched->channel->name, watch->timeout_ms);
    }
    return NULL;
}

/* What is wrong with any of them, or NULL. */
static GError *look(FerryWatch *watch)
{
    GError *error = NULL;

    for (guint i = 0; i < watch->channels->len && !error; i++) {
        error = look_at(watch, &g_array_index(watch->channels, Watched, i));
    }
    if (!error && watch->probe && watch->probe(watch->probe_opaque) > watch->timeout_ms) {
        error = g_error_new(FERRY_ERROR, FERRY_ERROR_IO, "%s: nothing came for %u ms",
                            watch->probe_name, watch->timeout_ms);
    }
    return error;
}

static gpointer look_run(gpointer opaque)
{
    FerryWatch *watch = opaque;

    while (wait_ms(watch, LOOK_MS)) {
        GError *error = look(watch);

        if (error) {
            watch->silent(watch->opaque, error);
            break;
        }
    }
    return NULL;
}

void ferry_watch_start(FerryWatch *watch)
{
    watch->beating = g_thread_new("ferry-beat", beat_run, watch);
    watch->looking = g_thread_new("ferry-watch", look_run, watch);
}

void ferry_watch_free(FerryWatch *watch)
{
    if (!watch) {
        return;
    }
    g_mutex_lock(&watch->lock);
    watch->quit = true;
    g_cond_broadcast(&watch->quitting);
    g_mutex_unlock(&watch->lock);
    if (watch->beating) {
        g_thread_join(watch->beating);
        g_thread_join(watch->looking);
    }
    g_array_unref(watch->channels);
    g_mutex_clear(&watch->lock);
    g_cond_clear(&watch->quitting);
    g_free(watch);
}
