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

void ferry_channels_init(FerryChannels *channels)
{
    memset(channels, 0, sizeof(*channels));
    g_mutex_init(&channels->lock);
}

static FerryChannel *open_channel(FerryRole role, unsigned index, FerryHello hello,
                                  FerryDialFn *dial, void *opaque, GError **errp)
{
    g_autofree char *name = role == FERRY_ROLE_CONTROL ? g_strdup("control")
                            : role == FERRY_ROLE_DATA  ? g_strdup_printf("data %u", index)
                                                       : g_strdup_printf("fetch %u", index);
    g_autoptr(FerryChannel) channel = dial(opaque, name, errp);
    g_autoptr(GByteArray) body = NULL;

    hello.role = (uint8_t)role;
    hello.index = (uint8_t)index;
    body = ferry_hello_encode(&hello);
    if (!channel || !ferry_control_send(channel, FERRY_FRAME_HELLO, 0, body, errp)) {
        return NULL;
    }
    return g_steal_pointer(&channel);
}

/* Make it known; false when all have been shut down meanwhile. */
static bool keep(FerryChannels *channels, FerryChannel **place, FerryChannel *channel,
                 GError **errp)
{
    bool shut;

    g_mutex_lock(&channels->lock);
    *place = channel;
    shut = channels->shut;
    if (shut) {
        ferry_channel_shutdown(channel);
    }
    g_mutex_unlock(&channels->lock);
    ferry_event(channel_opened, "source", channel->name);
    if (shut) {
        g_set_error_literal(errp, FERRY_ERROR, FERRY_ERROR_IO,
                            "the connection was broken while it was opened");
    }
    return !shut;
}

bool ferry_channels_open(FerryChannels *channels, const FerryLayout *layout,
                         const FerryHello *hello, FerryDialFn *dial, void *opaque, GError **errp)
{
    FerryChannel *channel;

    g_mutex_lock(&channels->lock);
    channels->layout = *layout;
    g_mutex_unlock(&channels->lock);
    channel = open_channel(FERRY_ROLE_CONTROL, 0, *hello, dial, opaque, errp);
    if (!channel || !keep(channels, &channels->control, channel, errp)) {
        return false;
    }
    for (unsigned i = 0; i < layout->nr_data; i++) {
        channel = open_channel(FERRY_ROLE_DATA, i, *hello, dial, opaque, errp);
        if (!channel || !keep(channels, &channels->data[i], channel, errp)) {
            return false;
        }
    }
    for (unsigned i = 0; i < layout->nr_fetch; i++) {
        channel = open_channel(FERRY_ROLE_FETCH, i, *hello, dial, opaque, errp);
        if (!channel || !keep(channels, &channels->fetch[i], channel, errp)) {
            return false;
        }
    }
    return true;
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
