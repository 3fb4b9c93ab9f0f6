/*
 * Lines: see lines.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "channels.h"

#include <string.h>

#include "../wire/control.h"
#include "../error.h"

void ferry_lines_init(FerryLines *lines)
{
    memset(lines, 0, sizeof(*lines));
    g_mutex_init(&lines->lock);
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
static bool keep(FerryLines *lines, FerryChannel **place, FerryChannel *channel, GError **errp)
{
    bool shut;

    g_mutex_lock(&lines->lock);
    *place = channel;
    shut = lines->shut;
    if (shut) {
        ferry_channel_shutdown(channel);
    }
    g_mutex_unlock(&lines->lock);
    if (shut) {
        g_set_error_literal(errp, FERRY_ERROR, FERRY_ERROR_IO,
                            "the connection was broken while it was opened");
    }
    return !shut;
}

bool ferry_lines_open(FerryLines *lines, const FerryLayout *layout, const FerryHello *hello,
                      FerryDialFn *dial, void *opaque, GError **errp)
{
    FerryChannel *channel;

    g_mutex_lock(&lines->lock);
    lines->layout = *layout;
    g_mutex_unlock(&lines->lock);
    channel = open_channel(FERRY_ROLE_CONTROL, 0, *hello, dial, opaque, errp);
    if (!channel || !keep(lines, &lines->control, channel, errp)) {
        return false;
    }
    for (unsigned i = 0; i < layout->nr_data; i++) {
        channel = open_channel(FERRY_ROLE_DATA, i, *hello, dial, opaque, errp);
        if (!channel || !keep(lines, &lines->data[i], channel, errp)) {
            return false;
        }
    }
    for (unsigned i = 0; i < layout->nr_fetch; i++) {
        channel = open_channel(FERRY_ROLE_FETCH, i, *hello, dial, opaque, errp);
        if (!channel || !keep(lines, &lines->fetch[i], channel, errp)) {
            return false;
        }
    }
    return true;
}

/* With the lock held. */
static void foreach_locked(FerryLines *lines, FerryLinesFn *fn, void *opaque)
{
    if (lines->control) {
        fn(opaque, lines->control);
    }
    for (unsigned i = 0; i < lines->layout.nr_data; i++) {
        if (lines->data[i]) {
            fn(opaque, lines->data[i]);
        }
    }
    for (unsigned i = 0; i < lines->layout.nr_fetch; i++) {
        if (lines->fetch[i]) {
            fn(opaque, lines->fetch[i]);
        }
    }
}

void ferry_lines_foreach(FerryLines *lines, FerryLinesFn *fn, void *opaque)
{
    g_mutex_lock(&lines->lock);
    foreach_locked(lines, fn, opaque);
    g_mutex_unlock(&lines->lock);
}

static void shut_down(void *opaque, FerryChannel *channel)
{
    ferry_channel_shutdown(channel);
}

void ferry_lines_shutdown(FerryLines *lines)
{
    g_mutex_lock(&lines->lock);
    lines->shut = true;
    foreach_locked(lines, shut_down, NULL);
    g_mutex_unlock(&lines->lock);
}

static void add_sent(void *opaque, FerryChannel *channel)
{
    *(uint64_t *)opaque += channel->sent_bytes;
}

static void release(void *opaque, FerryChannel *channel)
{
    ferry_channel_free(channel);
}

void ferry_lines_clear(FerryLines *lines)
{
    g_mutex_lock(&lines->lock);
    foreach_locked(lines, add_sent, &lines->gone_bytes);
    foreach_locked(lines, release, NULL);
    lines->control = NULL;
    memset(lines->data, 0, sizeof(lines->data));
    memset(lines->fetch, 0, sizeof(lines->fetch));
    lines->layout = (FerryLayout){0};
    lines->shut = false;
    g_mutex_unlock(&lines->lock);
}

void ferry_lines_destroy(FerryLines *lines)
{
    ferry_lines_clear(lines);
    g_mutex_clear(&lines->lock);
}

uint64_t ferry_lines_sent_bytes(FerryLines *lines)
{
    uint64_t total;

    g_mutex_lock(&lines->lock);
    total = lines->gone_bytes;
    foreach_locked(lines, add_sent, &total);
    g_mutex_unlock(&lines->lock);
    return total;
}
