/*
 * A sender: see sender.h.
 *
 * Its thread owns the FerrySender; of the FerryCopy it touches what copy.h marks as shared.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "sender.h"

#include <string.h>

#include "crc32c.h"
#include "error.h"
#include "wire.h"
#include "zero.h"

/* How many pages ahead of the zero test their first bytes are fetched. */
#define PREFETCH_PAGES 8

struct FerrySender {
    FerryCopy *copy;
    FerryChannel *channel;
    unsigned lane;
    GThread *thread;
    uint64_t fenced; /* number of the last fence sent */

    /* The frame being built. */
    FerryExtent extents[FERRY_EXTENTS_MAX];
    uint8_t head[FERRY_FRAME_BYTES + FERRY_EXTENTS_MAX * FERRY_EXTENT_BYTES + sizeof(uint32_t)];
    struct iovec iov[FERRY_EXTENTS_MAX + 1];
    uint8_t *staging; /* a stable copy of the payload, when it is checksummed */
};

/* Turn the pages of a granule into extents: runs of zero pages and runs of others. */
static uint32_t build_extents(FerrySender *sender, const uint8_t *granule_host,
                              const uint64_t pages[FERRY_GRANULE_WORDS])
{
    FerryExtent *extent = NULL;
    uint32_t nr = 0;

    for (uint32_t word = 0; word < FERRY_GRANULE_WORDS; word++) {
        for (uint64_t mask = pages[word]; mask; mask &= mask - 1) {
            uint32_t page = word * 64 + (uint32_t)__builtin_ctzll(mask);
            const uint8_t *host = granule_host + page * FERRY_PAGE_BYTES;
            bool zero;

            /* Each page is a cache miss: have those of the next ones under way meanwhile. */
            __builtin_prefetch(host + PREFETCH_PAGES * FERRY_PAGE_BYTES);
            zero = ferry_is_zero(host, FERRY_PAGE_BYTES);

            if (extent && extent->zero == zero && extent->first + extent->nr_pages == page) {
                extent->nr_pages++;
            } else {
                extent = &sender->extents[nr++];
                *extent = (FerryExtent){.first = page, .nr_pages = 1, .zero = zero};
            }
        }
    }
    return nr;
}

/* Point the vector at the payload, or at a stable copy of it when it needs a checksum. */
static int build_payload(FerrySender *sender, uint8_t *granule_host, FerryFrame *frame)
{
    struct iovec *iov = sender->iov + 1;

    for (uint32_t i = 0; i < frame->nr_extents; i++) {
        const FerryExtent *extent = &sender->extents[i];
        uint8_t *host = granule_host + extent->first * FERRY_PAGE_BYTES;
        uint32_t nr_bytes = extent->nr_pages * (uint32_t)FERRY_PAGE_BYTES;

        if (extent->zero) {
            continue;
        }
        if (sender->staging) {
            memcpy(sender->staging + frame->payload_bytes, host, nr_bytes);
        } else {
            *iov++ = (struct iovec){.iov_base = host, .iov_len = nr_bytes};
        }
        frame->payload_bytes += nr_bytes;
    }
    if (sender->staging && frame->payload_bytes) {
        frame->flags |= FERRY_FRAME_PAYLOAD_CRC;
        frame->payload_crc = ferry_crc32c(0, sender->staging, frame->payload_bytes);
        *iov++ = (struct iovec){.iov_base = sender->staging, .iov_len = frame->payload_bytes};
    }
    return (int)(iov - sender->iov);
}

/* The session is over; if it failed, that is known already, and more telling. */
static bool refuse(GError **errp)
{
    g_set_error_literal(errp, FERRY_ERROR, FERRY_ERROR_CANCELLED, "cancelled");
    return false;
}

static bool send_granule(FerrySender *sender, uint32_t region, uint64_t granule,
                         const uint64_t pages[FERRY_GRANULE_WORDS], unsigned nr_pages,
                         GError **errp)
{
    FerryCopy *copy = sender->copy;
    uint64_t first_page = granule * FERRY_GRANULE_PAGES;
    uint8_t *host = copy->regions.list[region].host + first_page * FERRY_PAGE_BYTES;
    FerryFrame frame = {
        .type = FERRY_FRAME_PAGES,
        .region = (uint16_t)region,
        .first_page = first_page,
    };
    unsigned nr_normal;
    int nr_iov;

    /* Again: pages may have been found between the last time and their being taken. */
    if (!ferry_copy_make_readable(copy, region, first_page)) {
        return refuse(errp);
    }
    frame.nr_extents = build_extents(sender, host, pages);
    nr_iov = build_payload(sender, host, &frame);

    ferry_frame_encode(&frame, sender->head);
    ferry_extents_encode(sender->extents, frame.nr_extents, sender->head + FERRY_FRAME_BYTES);
    sender->iov[0] = (struct iovec){
        .iov_base = sender->head,
        .iov_len = FERRY_FRAME_BYTES + ferry_extents_encoded_bytes(frame.nr_extents),
    };
    if (!ferry_pace_take(copy->pace, sender->iov[0].iov_len + frame.payload_bytes)) {
        return refuse(errp);
    }
    if (!ferry_channel_writev_all(sender->channel, sender->iov, nr_iov, errp)) {
        return false;
    }
    nr_normal = frame.payload_bytes / (unsigned)FERRY_PAGE_BYTES;
    atomic_fetch_add_explicit(&copy->normal_pages, nr_normal, memory_order_relaxed);
    atomic_fetch_add_explicit(&copy->zero_pages, nr_pages - nr_normal, memory_order_relaxed);
    return true;
}

/* One pass over this sender's share of all page sets. */
static bool drain(FerrySender *sender, GError **errp)
{
    FerryCopy *copy = sender->copy;
    uint64_t pages[FERRY_GRANULE_WORDS];

    for (uint32_t region = 0; region < copy->regions.nr; region++) {
        FerryPageset *set = copy->state[region].pages;
        int64_t granule = -1;

        while ((granule = ferry_pageset_next(set, (uint64_t)(granule + 1), sender->lane,
                                             copy->nr_senders)) >= 0) {
            unsigned nr_pages;
            bool sent;

            /* First, as a reset may add pages: these can go along. */
            if (!ferry_copy_make_readable(copy, region, (uint64_t)granule * FERRY_GRANULE_PAGES)) {
                return refuse(errp);
            }
            /* Before they leave the set: pages must be counted somewhere at any moment. */
            atomic_fetch_add(&copy->in_flight_pages, FERRY_GRANULE_PAGES);
            nr_pages = ferry_pageset_take(set, (uint64_t)granule, pages);
            atomic_fetch_sub(&copy->in_flight_pages, FERRY_GRANULE_PAGES - nr_pages);
            sent = nr_pages == 0 ||
                   send_granule(sender, region, (uint64_t)granule, pages, nr_pages, errp);
            atomic_fetch_sub(&copy->in_flight_pages, nr_pages);
            if (!sent) {
                return false;
            }
        }
    }
    return true;
}

static bool send_fence(FerrySender *sender, uint64_t number, GError **errp)
{
    FerryFrame frame = {.type = FERRY_FRAME_FENCE, .first_page = number};

    ferry_frame_encode(&frame, sender->head);
    return ferry_channel_write_all(sender->channel, sender->head, FERRY_FRAME_BYTES, errp);
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

FerrySender *ferry_sender_start(FerryCopy *copy, FerryChannel *channel, unsigned lane)
{
    FerrySender *sender = g_new0(FerrySender, 1);
    g_autofree char *name = g_strdup_printf("ferry-send-%u", lane);

    sender->copy = copy;
    sender->channel = channel;
    sender->lane = lane;
    if (copy->checksum) {
        sender->staging = g_malloc(FERRY_GRANULE_PAGES * FERRY_PAGE_BYTES);
    }
    sender->thread = g_thread_new(name, sender_run, sender);
    return sender;
}

void ferry_sender_join(FerrySender *sender)
{
    g_thread_join(sender->thread);
    g_free(sender->staging);
    g_free(sender);
}
