/*
 * Channels: see channels.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "channels.h"

#include <string.h>

#include "../wire/control.h"
#include "../error.h"
#include "../events.h"
#include "../fault.h"

void ferry_channels_init(FerryChannels *channels)
{
    memset(channels, 0, sizeof(*channels));
    g_mutex_init(&channels->lock);
}

/* A channel that is to be opened. */
typedef struct Place {
    FerryRole role;
    unsigned index;
    FerryChannel **channel; /* where it is to be known */
} Place;

/* The channels of the layout, the control channel first; returns how many. */
static unsigned list_places(FerryChannels *channels, Place *places)
{
    unsigned nr = 0;

    places[nr++] = (Place){FERRY_ROLE_CONTROL, 0, &channels->control};
    for (unsigned i = 0; i < channels->layout.nr_data; i++) {
        places[nr++] = (Place){FERRY_ROLE_DATA, i, &channels->data[i]};
    }
    for (unsigned i = 0; i < channels->layout.nr_fetch; i++) {
        places[nr++] = (Place){FERRY_ROLE_FETCH, i, &channels->fetch[i]};
    }
    return nr;
}

static char *name_place(const Place *place)
{
    return place->role == FERRY_ROLE_CONTROL ? g_strdup("control")
           : place->role == FERRY_ROLE_DATA  ? g_strdup_printf("data %u", place->index)
                                             : g_strdup_printf("fetch %u", place->index);
}

static bool say_hello(const Place *place, FerryHello hello, GError **errp)
{
    g_autoptr(GByteArray) body = NULL;

    hello.role = (uint8_t)place->role;
    hello.index = (uint8_t)place->index;
    body = ferry_hello_encode(&hello);
    return ferry_control_send(*place->channel, FERRY_FRAME_HELLO, 0, body, errp);
}

/* Make them known; false when all have been shut down meanwhile. */
static bool keep(FerryChannels *channels, const Place *places, unsigned nr, FerryChannel **dialled,
                 GError **errp)
{
    bool shut;

    g_mutex_lock(&channels->lock);
    shut = channels->shut;
    for (unsigned i = 0; i < nr; i++) {
        *places[i].channel = dialled[i];
        if (shut) {
            ferry_channel_shutdown(dialled[i]);
        }
    }
    g_mutex_unlock(&channels->lock);
    for (unsigned i = 0; i < nr; i++) {
        ferry_event(channel_opened, "source", dialled[i]->name);
    }
    if (shut) {
        g_set_error_literal(errp, FERRY_ERROR, FERRY_ERROR_IO,
                            "the connection was broken while it was opened");
    }
    return !shut;
}

bool ferry_channels_open(FerryChannels *channels, const FerryLayout *layout,
                         const FerryHello *hello, FerryDialFn *dial, void *opaque,
                         gint64 deadline_us, GError **errp)
{
    FerryChannel *dialled[FERRY_CHANNELS_MAX] = {0};
    char *names[FERRY_CHANNELS_MAX] = {0};
    Place places[FERRY_CHANNELS_MAX];
    unsigned nr;
    bool ok;

    g_mutex_lock(&channels->lock);
    channels->layout = *layout;
    g_mutex_unlock(&channels->lock);
    nr = list_places(channels, places);
    for (unsigned i = 0; i < nr; i++) {
        names[i] = name_place(&places[i]);
    }
    ok = !ferry_fault(FERRY_FAULT_DIAL, errp) &&
         dial(opaque, (const char *const *)names, nr, deadline_us, dialled, errp) &&
         keep(channels, places, nr, dialled, errp);
    for (unsigned i = 0; i < nr; i++) {
        ok = ok && say_hello(&places[i], *hello, errp);
        g_free(names[i]);
    }
    return ok;
}

/* With the lock held. */
static void foreach_locked(FerryChannels *channels, FerryChannelFn *fn, void *opaque)
{
    if (channels->control) {
        fn(opaque, channels->control);
    }
    for (unsigned i = 0; i < channels->layout.nr_data; i++) {
        if (channels->data[i]) {
            fn(opaque, channels->data[i]);
        }
    }
    for (unsigned i = 0; i < channels->layout.nr_fetch; i++) {
        if (channels->fetch[i]) {
            fn(opaque, channels->fetch[i]);
        }
    }
}

void ferry_channels_foreach(FerryChannels *channels, FerryChannelFn *fn, void *opaque)
{
    g_mutex_lock(&channels->lock);
    foreach_locked(channels, fn, opaque);
    g_mutex_unlock(&channels->lock);
}

void ferry_channels_tell(FerryChannels *channels, const char *why)
{
    g_mutex_lock(&channels->lock);
    if (channels->control) {
        ferry_control_send_error(channels->control, why);
    }
    g_mutex_unlock(&channels->lock);
}

static void find_hung_up(void *opaque, FerryChannel *channel)
{
    const char **name = opaque;

    if (!*name && ferry_channel_hung_up(channel)) {
        *name = channel->name;
    }
}

const char *ferry_channels_find_hung_up(FerryChannels *channels)
{
    const char *name = NULL;

    ferry_channels_foreach(channels, find_hung_up, &name);
    return name;
}

static void shut_down(void *opaque, FerryChannel *channel)
{
    ferry_channel_shutdown(channel);
}

void ferry_channels_shutdown(FerryChannels *channels)
{
    g_mutex_lock(&channels->lock);
    channels->shut = true;
    foreach_locked(channels, shut_down, NULL);
    g_mutex_unlock(&channels->lock);
}

static void add_sent(void *opaque, FerryChannel *channel)
{
    *(uint64_t *)opaque += channel->sent_bytes;
}

static void release(void *opaque, FerryChannel *channel)
{
    ferry_channel_free(channel);
}

void ferry_channels_clear(FerryChannels *channels)
{
    g_mutex_lock(&channels->lock);
    foreach_locked(channels, add_sent, &channels->gone_bytes);
    foreach_locked(channels, release, NULL);
    channels->control = NULL;
    memset(channels->data, 0, sizeof(channels->data));
    memset(channels->fetch, 0, sizeof(channels->fetch));
    channels->layout = (FerryLayout){0};
    channels->shut = false;
    g_mutex_unlock(&channels->lock);
}

void ferry_channels_destroy(FerryChannels *channels)
{
    ferry_channels_clear(channels);
    g_mutex_clear(&channels->lock);
}

uint64_t ferry_channels_sent_bytes(FerryChannels *channels)
{
    uint64_t total;

    g_mutex_lock(&channels->lock);
    total = channels->gone_bytes;
    foreach_locked(channels, add_sent, &total);
    g_mutex_unlock(&channels->lock);
    return total;
}
