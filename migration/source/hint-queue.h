/*
 * Hints at free pages that wait until the first pass lets go of its lock: who brings one must not wait for
 * arming, and the guest does not give it again.  They are about pages as they were when hints were last asked
 * for: before that is done again, what still waits is forgotten.
 *
 * Threads: any, all of it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_HINT_QUEUE_H
#define FERRY_HINT_QUEUE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct FerryHint {
    uint32_t region;
    uint64_t first_page, nr_pages;
} FerryHint;

typedef struct FerryHintQueue FerryHintQueue;

FerryHintQueue *ferry_hint_queue_new(void);
void ferry_hint_queue_free(FerryHintQueue *queue);

/* Forgets it if too many wait. */
void ferry_hint_queue_add(FerryHintQueue *queue, const FerryHint *hint);

/* All that wait, oldest first (of FerryHint); NULL if none does.  The caller's to unref. */
GArray *ferry_hint_queue_take(FerryHintQueue *queue);

void ferry_hint_queue_forget(FerryHintQueue *queue);
bool ferry_hint_queue_is_empty(FerryHintQueue *queue);

#endif
