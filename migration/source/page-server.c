/*
 * Page servers: see page-server.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "page-server.h"

#include <inttypes.h>
#include <string.h>

#include "../error.h"
#include "../events.h"
#include "../fault.h"
#include "../thread.h"
#include "../wire/pages-frame.h"

/* Pages that go along with the one asked for: 64 KiB around it. */
#define NEIGHBOUR_PAGES 16
_Static_assert(64 % NEIGHBOUR_PAGES == 0, "neighbours are in one word of a page set");

struct FerryPageServer {
    FerryPageServerConfig config;
    const FerryRegions *regions; /* the backlog's */
    GThread *thread;
    FerryPagesFrame frame;
};

static bool send_pages(FerryPageServer *server, uint32_t region, uint64_t granule,
                       const uint64_t pages[FERRY_GRANULE_WORDS], GError **errp)
{
    FerryPagesFrame *frame = &server->frame;

    ferry_pages_frame_build(frame, &server->regions->list[region], region, granule, pages);
    if (ferry_fault(FERRY_FAULT_SAY_PAGES, errp) ||
        !ferry_pages_frame_send(frame, server->config.channel, errp)) {
        return false;
    }
    ferry_backlog_count_sent(server->config.backlog, frame);
    return true;
}

/* A page of the wire's size, then what is next to it. */
static bool serve_page(FerryPageServer *server, uint32_t region, uint64_t page, GError **errp)
{
    const uint64_t granule = page / FERRY_GRANULE_PAGES, word = page / 64;
    const uint64_t window = ((UINT64_C(1) << NEIGHBOUR_PAGES) - 1)
                            << (page % 64 / NEIGHBOUR_PAGES * NEIGHBOUR_PAGES);
    const uint64_t bit = UINT64_C(1) << (page % 64);
    uint64_t pages[FERRY_GRANULE_WORDS] = {0}, *mask = &pages[word % FERRY_GRANULE_WORDS];
    FerryBacklog *backlog = server->config.backlog;
    const FerryPageset *swapped = ferry_backlog_set(backlog, region, FERRY_BACKLOG_SWAPPED);

    ferry_backlog_take_asked(backlog, region, word, bit);
    *mask = bit;
    if (!send_pages(server, region, granule, pages, errp)) {
        return false;
    }
    /* Not those that are swapped out: nobody has asked for them. */
    *mask = ferry_backlog_take_asked(backlog, region, word,
                                     window & ~bit & ~ferry_pageset_get(swapped, word));
    return *mask == 0 || send_pages(server, region, granule, pages, errp);
}

/* Takes a whole granule; whether there was any of it. */
static bool take_granule(FerryBacklog *backlog, uint32_t region, uint64_t granule)
{
    uint64_t any = 0;

    for (uint32_t i = 0; i < FERRY_GRANULE_WORDS; i++) {
        any |= ferry_backlog_take_asked(backlog, region, granule * FERRY_GRANULE_WORDS + i,
                                        UINT64_MAX);
    }
    return any;
}

static bool serve_huge_page(FerryPageServer *server, uint32_t region, uint64_t page,
                            uint64_t nr_pages, GError **errp)
{
    const uint64_t first = page / FERRY_GRANULE_PAGES, nr = nr_pages / FERRY_GRANULE_PAGES;
    uint64_t pages[FERRY_GRANULE_WORDS];
    bool ok = true;

    memset(pages, 0xff, sizeof(pages));
    for (uint64_t granule = first; ok && granule < first + nr; granule++) {
        /* Of several, those that are on their way already will come. */
        if (take_granule(server->config.backlog, region, granule) || nr == 1) {
            ok = send_pages(server, region, granule, pages, errp);
        }
    }
    return ok;
}

static bool serve(FerryPageServer *server, const FerryFrame *frame, GError **errp)
{
    uint64_t page = frame->first_page, unit_pages, granule;
    const FerryRegion *region;

    if (frame->payload_bytes || ferry_backlog_guest(server->config.backlog) == FERRY_GUEST_RUNS) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL, "channel '%s': request out of turn",
                    server->config.channel->name);
        return false;
    }
    region = frame->region < server->regions->nr ? &server->regions->list[frame->region] : NULL;
    unit_pages = region ? region->page_size_bytes / FERRY_PAGE_BYTES : 1;
    if (!region || page >= ferry_region_nr_pages(region) || page % unit_pages ||
        !ferry_region_may_send(region, page, unit_pages)) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL,
                    "channel '%s': request for page 0x%" PRIx64 " of region %u",
                    server->config.channel->name, page, frame->region);
        return false;
    }
    atomic_fetch_add_explicit(server->config.nr_requests, 1, memory_order_relaxed);
    granule = page / FERRY_GRANULE_PAGES;
    if (!(unit_pages > 1 ? serve_huge_page(server, frame->region, page, unit_pages, errp)
                         : serve_page(server, frame->region, page, errp))) {
        return false;
    }
    ferry_event(fault_served, frame->region, page);
    ferry_senders_hint(server->config.senders, frame->region, granule);
    return true;
}

static gpointer server_run(gpointer opaque)
{
    FerryPageServer *server = opaque;
    GError *error = NULL;

    while (!error) {
        uint8_t head[FERRY_FRAME_BYTES];
        FerryFrame frame;

        if (!ferry_channel_read_all(server->config.channel, head, sizeof(head), &error) ||
            !ferry_frame_decode(head, &frame, &error) ||
            ferry_fault_frame(HEAR, frame.type, &error) || frame.type == FERRY_FRAME_BEAT) {
            continue;
        }
        if (frame.type != FERRY_FRAME_FETCH) {
            g_set_error(&error, FERRY_ERROR, FERRY_ERROR_PROTOCOL,
                        "channel '%s': frame type %u on a fetch channel",
                        server->config.channel->name, frame.type);
            continue;
        }
        serve(server, &frame, &error);
    }
    server->config.failed(server->config.opaque, error);
    return NULL;
}

FerryPageServer *ferry_page_server_start(const FerryPageServerConfig *config, unsigned index)
{
    FerryPageServer *server = g_new0(FerryPageServer, 1);
    g_autofree char *name = g_strdup_printf("ferry-serve-%u", index);
    GError *error = NULL;

    server->config = *config;
    server->regions = ferry_backlog_regions(config->backlog);
    ferry_senders_init_frame(config->senders, &server->frame);
    if (!ferry_fault(FERRY_FAULT_THREAD_SERVER, &error)) {
        server->thread = ferry_thread_new(name, server_run, server, &error);
    }
    if (!server->thread) {
        config->failed(config->opaque, error);
    }
    return server;
}

void ferry_page_server_join(FerryPageServer *server)
{
    if (server->thread) {
        g_thread_join(server->thread);
    }
    ferry_pages_frame_clear(&server->frame);
    g_free(server);
}
