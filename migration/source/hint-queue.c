/*
 * Hints that wait: see hint-queue.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hint-queue.h"

/* More wait only in a guest that gives hints for the sake of it: so many are 256 GiB by 4 MiB, Linux's. */
#define HINTS_MAX 65536

struct FerryHintQueue {
    GMutex lock;
    GArray *hints;
};

FerryHintQueue *ferry_hint_queue_new(void)
{
    FerryHintQueue *queue = g_new0(FerryHintQueue, 1);

    g_mutex_init(&queue->lock);
    queue->hints = g_array_new(FALSE, FALSE, sizeof(FerryHint));
    return queue;
}

void ferry_hint_queue_free(FerryHintQueue *queue)
{
    g_array_unref(queue->hints);
    g_mutex_clear(&queue->lock);
    g_free(queue);
}

void ferry_hint_queue_add(FerryHintQueue *queue, const FerryHint *hint)
{
    g_mutex_lock(&queue->lock);
    if (queue->hints->len < HINTS_MAX) {
        g_array_append_vals(queue->hints, hint, 1);
    }
    g_mutex_unlock(&queue->lock);
}

GArray *ferry_hint_queue_take(FerryHintQueue *queue)
{
    GArray *taken = NULL;

    g_mutex_lock(&queue->lock);
    if (queue->hints->len) {
        taken = queue->hints;
        queue->hints = g_array_new(FALSE, FALSE, sizeof(FerryHint));
    }
    g_mutex_unlock(&queue->lock);
    return taken;
}

void ferry_hint_queue_forget(FerryHintQueue *queue)
{
    g_mutex_lock(&queue->lock);
    g_array_set_size(queue->hints, 0);
    g_mutex_unlock(&queue->lock);
}

bool ferry_hint_queue_is_empty(FerryHintQueue *queue)
{
    bool empty;

    g_mutex_lock(&queue->lock);
    empty = queue->hints->len == 0;
    g_mutex_unlock(&queue->lock);
    return empty;
}
