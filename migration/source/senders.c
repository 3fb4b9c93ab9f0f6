/*
 * A sender: see sender.h.
 *
 * Its thread owns the FerrySender; of the FerryCopy it touches what copy.h marks as shared.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "senders.h"

#include <string.h>

#include "../error.h"
#include "../wire/pages-frame.h"
#include "../wire/frame.h"

struct FerrySender {
    FerryCopy *copy;
    FerryChannel *channel;
    unsigned index;
    GThread *thread;
    uint64_t fenced; /* number of the last fence sent */
    FerryPagesFrame frame;
};

/* The session is over; if it failed, that is known already, and more telling. */
static bool refuse(GError **errp)
{
    g_set_error_literal(errp, FERRY_ERROR, FERRY_ERROR_CANCELLED, "cancelled");
    return false;
}

static bool send_granule(FerrySender *sender, uint32_t region, uint64_t granule,
                         const uint64_t pages[FERRY_GRANULE_WORDS], GError **errp)
{
    FerryCopy *copy = sender->copy;
    FerryPagesFrame *frame = &sender->frame;

    /* Again: pages may have been found between the last time and their being taken. */
    if (!ferry_copy_make_readable(copy, region, granule * FERRY_GRANULE_PAGES)) {
        return refuse(errp);
    }
    ferry_pages_frame_build(frame, &copy->regions.list[region], region, granule, pages);
    if (!ferry_pace_take(copy->pace, ferry_pages_frame_bytes(frame))) {
        return refuse(errp);
    }
    if (!ferry_pages_frame_send(frame, sender->channel, errp)) {
        return false;
    }
    ferry_copy_count_sent(copy, frame);
    return true;
}

/* Send what is in @granule of @region, if anything. */
static bool drain_granule(FerrySender *sender, uint32_t region, uint64_t granule, GError **errp)
{
    FerryCopy *copy = sender->copy;
    uint64_t pages[FERRY_GRANULE_WORDS];
    unsigned nr_pages;
    bool sent;

    /* First, as a reset may add pages: these can go along. */
    if (!ferry_copy_make_readable(copy, region, granule * FERRY_GRANULE_PAGES)) {
        return refuse(errp);
    }
    /* Before they leave the set: pages must be counted somewhere at any moment. */
    atomic_fetch_add(&copy->in_flight_pages, FERRY_GRANULE_PAGES);
    nr_pages = ferry_pageset_take(copy->state[region].pages, granule, pages);
    if (nr_pages && atomic_load(&copy->fetching) &&
        copy->regions.list[region].page_size_bytes > FERRY_PAGE_BYTES) {
        /* A part of a huge page, the rest of which was asked for meanwhile, cannot be placed. */
        memset(pages, 0xff, sizeof(pages));
        nr_pages = FERRY_GRANULE_PAGES;
    }
    atomic_fetch_sub(&copy->in_flight_pages, FERRY_GRANULE_PAGES - nr_pages);
    sent = nr_pages == 0 || send_granule(sender, region, granule, pages, errp);
    atomic_fetch_sub(&copy->in_flight_pages, nr_pages);
    return sent;
}

/* Whether this sender is to go on elsewhere. */
static bool take_hint(FerrySender *sender, uint32_t *region, int64_t *granule)
{
    uint64_t hint = atomic_load(&sender->copy->hints[sender->index])
                        ? atomic_exchange(&sender->copy->hints[sender->index], 0)
                        : 0;

    if (hint) {
        *region = (uint32_t)(hint >> FERRY_HINT_SHIFT);
        *granule = (int64_t)(hint & ((UINT64_C(1) << FERRY_HINT_SHIFT) - 1)) - 2;
    }
    return hint;
}

/*
 * Passes over this sender's share of all page sets, from one end to the other; where it is told to go
 * elsewhere, what it leaves behind is left for another pass.
 */
static bool drain(FerrySender *sender, GError **errp)
{
    FerryCopy *copy = sender->copy;
    bool jumped;

    do {
        jumped = false;
        for (uint32_t region = 0; region < copy->regions.nr; region++) {
            int64_t granule = -1;

            while (!atomic_load(&copy->frozen) &&
                   (granule = ferry_pageset_next(copy->state[region].pages, (uint64_t)(granule + 1),
                                                 sender->index, copy->nr_senders)) >= 0) {
                if (!drain_granule(sender, region, (uint64_t)granule, errp)) {
                    return false;
                }
                jumped |= take_hint(sender, &region, &granule);
            }
        }
    } while (jumped && !atomic_load(&copy->frozen));
    return true;
}

static bool send_fence(FerrySender *sender, uint64_t number, GError **errp)
{
    FerryFrame frame = {.type = FERRY_FRAME_FENCE, .first_page = number};
    uint8_t head[FERRY_FRAME_BYTES];

    ferry_frame_encode(&frame, head);
    return ferry_channel_write_all(sender->channel, head, sizeof(head), errp);
}

/*
 * Say that everything up to generation @seen is sent, then sleep until there is more to do.
 * Returns the fence to send, if one is asked for; *quit when it is over.
 */
static uint64_t wait_for_work(FerrySender *sender, uint64_t seen, bool *quit)
{
    FerryCopy *copy = sender->copy;
    uint64_t fence = 0;

    g_mutex_lock(&copy->lock);
    if (copy->generation == seen) {
        copy->nr_busy--;
        g_cond_signal(&copy->idle);
        while (copy->generation == seen && copy->fence == sender->fenced && !copy->quit &&
               !copy->error) {
            g_cond_wait(&copy->work, &copy->lock);
        }
        if (copy->generation == seen && copy->fence != sender->fenced) {
            fence = copy->fence;
            copy->nr_busy++;
        }
    }
    *quit = copy->quit || copy->error;
    g_mutex_unlock(&copy->lock);
    return fence;
}

static void note_fenced(FerrySender *sender, uint64_t number)
{
    FerryCopy *copy = sender->copy;

    sender->fenced = number;
    g_mutex_lock(&copy->lock);
    /* A later fence may have been asked for meanwhile: then that one is still to be sent. */
    copy->nr_fenced += copy->fence == number;
    g_cond_signal(&copy->idle);
    g_mutex_unlock(&copy->lock);
}

static gpointer sender_run(gpointer opaque)
{
    FerrySender *sender = opaque;
    FerryCopy *copy = sender->copy;
    GError *error = NULL;
    bool quit = false;

    while (!quit) {
        uint64_t seen, fence;

        g_mutex_lock(&copy->lock);
        seen = copy->generation;
        g_mutex_unlock(&copy->lock);

        if (!drain(sender, &error)) {
            break;
        }
        fence = wait_for_work(sender, seen, &quit);
        if (fence && !quit) {
            if (!send_fence(sender, fence, &error)) {
                break;
            }
            note_fenced(sender, fence);
        }
    }
    if (error) {
        ferry_copy_fail(copy, error);
    }
    return NULL;
}

FerrySender *ferry_sender_start(FerryCopy *copy, FerryChannel *channel, unsigned index)
{
    FerrySender *sender = g_new0(FerrySender, 1);
    g_autofree char *name = g_strdup_printf("ferry-send-%u", index);

    sender->copy = copy;
    sender->channel = channel;
    sender->index = index;
    ferry_pages_frame_init(&sender->frame, copy->checksum, copy->compress);
    sender->thread = g_thread_new(name, sender_run, sender);
    return sender;
}

void ferry_sender_join(FerrySender *sender)
{
    g_thread_join(sender->thread);
    ferry_pages_frame_clear(&sender->frame);
    g_free(sender);
}
