/*
 * Serving: see serve.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "page-server.h"

#include <inttypes.h>
#include <string.h>

#include "../error.h"
#include "../wire/pages-frame.h"

/* Pages that go along with the one asked for: 64 KiB around it. */
#define NEIGHBOUR_PAGES 16
_Static_assert(64 % NEIGHBOUR_PAGES == 0, "neighbours are in one word of a page set");

struct FerryServer {
    FerryCopy *copy;
    FerryChannel *channel;
    _Atomic uint64_t *nr_requests;
    GThread *thread;
    FerryPagesFrame frame;
};

static bool send_pages(FerryServer *server, uint32_t region, uint64_t granule,
                       const uint64_t pages[FERRY_GRANULE_WORDS], GError **errp)
{
    FerryCopy *copy = server->copy;
    FerryPagesFrame *frame = &server->frame;

    ferry_pages_frame_build(frame, &copy->regions.list[region], region, granule, pages);
    if (!ferry_pages_frame_send(frame, server->channel, errp)) {
        return false;
    }
    ferry_copy_count_sent(copy, frame);
    return true;
}

/* Pages that need not be sent any more; returns those that had been to be. */
static uint64_t take(FerryCopy *copy, uint32_t region, uint64_t word, uint64_t mask)
{
    FerryCopyRegion *state = &copy->state[region];

    return ferry_pageset_remove_mask(state->pages, word, mask) |
           ferry_pageset_remove_mask(state->base, word, mask) |
           ferry_pageset_remove_mask(state->swapped, word, mask);
}

/* A page of the wire's size, then what is next to it. */
static bool serve_page(FerryServer *server, uint32_t region, uint64_t page, GError **errp)
{
    const uint64_t granule = page / FERRY_GRANULE_PAGES, word = page / 64;
    const uint64_t window = ((UINT64_C(1) << NEIGHBOUR_PAGES) - 1)
                            << (page % 64 / NEIGHBOUR_PAGES * NEIGHBOUR_PAGES);
    const uint64_t bit = UINT64_C(1) << (page % 64);
    uint64_t pages[FERRY_GRANULE_WORDS] = {0}, *mask = &pages[word % FERRY_GRANULE_WORDS];
    FerryCopy *copy = server->copy;
    const FerryCopyRegion *state = &copy->state[region];

    take(copy, region, word, bit);
    *mask = bit;
    if (!send_pages(server, region, granule, pages, errp)) {
        return false;
    }
    /* Not those that are swapped out: nobody has asked for them. */
    *mask = take(copy, region, word, window & ~bit & ~ferry_pageset_get(state->swapped, word));
    return *mask == 0 || send_pages(server, region, granule, pages, errp);
}

/* Takes a whole granule; whether there was any of it. */
static bool take_granule(FerryCopy *copy, uint32_t region, uint64_t granule)
{
    uint64_t any = 0;

    for (uint32_t i = 0; i < FERRY_GRANULE_WORDS; i++) {
        any |= take(copy, region, granule * FERRY_GRANULE_WORDS + i, UINT64_MAX);
    }
    return any;
}

static bool serve_huge_page(FerryServer *server, uint32_t region, uint64_t page, uint64_t nr_pages,
                            GError **errp)
{
    const uint64_t first = page / FERRY_GRANULE_PAGES, nr = nr_pages / FERRY_GRANULE_PAGES;
    uint64_t pages[FERRY_GRANULE_WORDS];
    bool ok = true;

    memset(pages, 0xff, sizeof(pages));
    for (uint64_t granule = first; ok && granule < first + nr; granule++) {
        /* Of several, those that are on their way already will come. */
        if (take_granule(server->copy, region, granule) || nr == 1) {
            ok = send_pages(server, region, granule, pages, errp);
        }
    }
    return ok;
}

static bool serve(FerryServer *server, const FerryFrame *frame, GError **errp)
{
    FerryCopy *copy = server->copy;
    uint64_t page = frame->first_page, unit_pages, granule;
    const FerryRegion *region;

    if (frame->payload_bytes || !atomic_load(&copy->stopped)) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL, "channel '%s': request out of turn",
                    server->channel->name);
        return false;
    }
    region = frame->region < copy->regions.nr ? &copy->regions.list[frame->region] : NULL;
    unit_pages = region ? region->page_size_bytes / FERRY_PAGE_BYTES : 1;
    if (!region || page >= ferry_region_nr_pages(region) || page % unit_pages) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL,
                    "channel '%s': request for page 0x%" PRIx64 " of region %u",
                    server->channel->name, page, frame->region);
        return false;
    }
    atomic_fetch_add_explicit(server->nr_requests, 1, memory_order_relaxed);
    granule = page / FERRY_GRANULE_PAGES;
    if (!(unit_pages > 1 ? serve_huge_page(server, frame->region, page, unit_pages, errp)
                         : serve_page(server, frame->region, page, errp))) {
        return false;
    }
    if (copy->nr_senders) {
        atomic_store(&copy->hints[granule % copy->nr_senders],
                     (uint64_t)frame->region << FERRY_HINT_SHIFT | (granule + 1));
    }
    return true;
}

static gpointer server_run(gpointer opaque)
{
    FerryServer *server = opaque;
    GError *error = NULL;

    while (!error) {
        uint8_t head[FERRY_FRAME_BYTES];
        FerryFrame frame;

        if (!ferry_channel_read_all(server->channel, head, sizeof(head), &error) ||
            !ferry_frame_decode(head, &frame, &error) || frame.type == FERRY_FRAME_BEAT) {
            continue;
        }
        if (frame.type != FERRY_FRAME_FETCH) {
            g_set_error(&error, FERRY_ERROR, FERRY_ERROR_PROTOCOL,
                        "channel '%s': frame type %u on a fetch channel", server->channel->name,
                        frame.type);
            continue;
        }
        serve(server, &frame, &error);
    }
    ferry_copy_fail(server->copy, error);
    return NULL;
}

FerryServer *ferry_server_start(FerryCopy *copy, FerryChannel *channel, unsigned index,
                                _Atomic uint64_t *nr_requests)
{
    FerryServer *server = g_new0(FerryServer, 1);
    g_autofree char *name = g_strdup_printf("ferry-serve-%u", index);

    server->copy = copy;
    server->channel = channel;
    server->nr_requests = nr_requests;
    ferry_pages_frame_init(&server->frame, copy->checksum, copy->compress);
    server->thread = g_thread_new(name, server_run, server);
    return server;
}

void ferry_server_join(FerryServer *server)
{
    g_thread_join(server->thread);
    ferry_pages_frame_clear(&server->frame);
    g_free(server);
}
