/*
 * Fetching: see fetch.h.
 *
 * Threads: the control channel's, up to going live; fault threads; and whatever thread places a page.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "fetch-internal.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../memory/discard.h"
#include "../error.h"
#include "../fault.h"
#include "../thread.h"
#include "describe.h"
#include "../wire/missing.h"

/* Faults read at once by a thread. */
#define EVENTS_MAX 16

FerryFetch *ferry_fetch_new(const FerryRegions *regions, unsigned nr_threads,
                            const FerryFetchOps *ops, void *opaque, GError **errp)
{
    g_autoptr(FerryUserfault) uffd = NULL;
    FerryFetch *fetch;
    int quit_fd;

    if (!ferry_pageset_fits(regions, 2, errp)) {
        return NULL;
    }
    uffd = ferry_userfault_new(errp);
    for (size_t i = 0; uffd && i < regions->nr; i++) {
        if (!(regions->list[i].flags & FERRY_REGION_SAME) &&
            !ferry_userfault_probe(uffd, &regions->list[i], errp)) {
            return NULL;
        }
    }
    if (!uffd) {
        return NULL;
    }
    if (ferry_fault(FERRY_FAULT_EVENTFD, errp)) {
        return NULL;
    }
    quit_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (quit_fd < 0) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM, "cannot get an eventfd: %s",
                    g_strerror(errno));
        return NULL;
    }
    fetch = g_new0(FerryFetch, 1);
    fetch->regions = regions;
    fetch->ops = *ops;
    fetch->opaque = opaque;
    fetch->uffd = g_steal_pointer(&uffd);
    fetch->quit_fd = quit_fd;
    fetch->nr_threads = nr_threads;
    fetch->threads = g_new0(FaultThread, nr_threads);
    fetch->missing = g_new0(FerryPageset *, regions->nr);
    fetch->incoming = g_new0(FerryPageset *, regions->nr);
    fetch->registered = g_new0(bool, regions->nr);
    for (size_t i = 0; i < regions->nr; i++) {
        fetch->incoming[i] = ferry_pageset_new(ferry_region_nr_pages(&regions->list[i]));
        fetch->missing[i] = ferry_pageset_new(ferry_region_nr_pages(&regions->list[i]));
    }
    for (size_t i = 0; i < NR_LOCKS; i++) {
        g_mutex_init(&fetch->locks[i]);
    }
    g_mutex_init(&fetch->gather_lock);
    fetch->gather = ferry_gather_new();
    fetch->waiters = ferry_waiters_new(fetch->missing);
    g_mutex_init(&fetch->starved_lock);
    fetch->starved = g_array_new(FALSE, FALSE, sizeof(FerryWanted));
    return fetch;
}

/* Whether all that was missing has been placed. */
static bool is_complete(const FerryFetch *fetch)
{
    return atomic_load(&fetch->live) && atomic_load(&fetch->nr_missing) == 0;
}

void ferry_fetch_free(FerryFetch *fetch)
{
    const uint64_t one = 1;

    if (!fetch) {
        return;
    }
    /* It stays readable, for all of them. */
    if (write(fetch->quit_fd, &one, sizeof(one)) != sizeof(one)) {
        g_assert_not_reached();
    }
    for (unsigned i = 0; i < fetch->nr_threads; i++) {
        if (fetch->threads[i].thread) {
            g_thread_join(fetch->threads[i].thread);
        }
    }
    ferry_userfault_free(fetch->uffd);
    if (fetch->drafted && !is_complete(fetch)) {
        ferry_fetch_advise(fetch, MADV_HUGEPAGE);
    }
    close(fetch->quit_fd);
    for (size_t i = 0; i < fetch->regions->nr; i++) {
        ferry_pageset_free(fetch->missing[i]);
        ferry_pageset_free(fetch->incoming[i]);
    }
    for (size_t i = 0; i < NR_LOCKS; i++) {
        g_mutex_clear(&fetch->locks[i]);
    }
    g_mutex_clear(&fetch->gather_lock);
    ferry_gather_free(fetch->gather);
    ferry_waiters_free(fetch->waiters);
    g_mutex_clear(&fetch->starved_lock);
    g_array_unref(fetch->starved);
    g_free(fetch->missing);
    g_free(fetch->incoming);
    g_free(fetch->registered);
    g_free(fetch->threads);
    g_free(fetch);
}

FerryPageset *const *ferry_fetch_missing(FerryFetch *fetch)
{
    return fetch->missing;
}

FerryPageset *const *ferry_fetch_incoming(FerryFetch *fetch)
{
    return fetch->incoming;
}

void ferry_fetch_set_vcpus(FerryFetch *fetch, const uint32_t *threads, unsigned nr_threads)
{
    ferry_waiters_set_vcpus(fetch->waiters, threads, nr_threads);
}

/* --- Faults ----------------------------------------------------------------------------------- */

static void note_starved(FerryFetch *fetch, uint32_t region, uint64_t page)
{
    FerryWanted one = {.region = region, .page = page};

    g_mutex_lock(&fetch->starved_lock);
    g_array_append_val(fetch->starved, one);
    g_mutex_unlock(&fetch->starved_lock);
}

/*
 * A page that is not missing: it was never touched at the source, or has come meanwhile.  False if it is missing after
 * all: it has been handed off since it was touched.
 */
static bool fill_zero(FerryFetch *fetch, uint32_t number, uint64_t page)
{
    const FerryRegion *region = &fetch->regions->list[number];
    uint64_t offset_bytes = page * FERRY_PAGE_BYTES, done_bytes;
    GMutex *lock = ferry_fetch_lock_of(fetch, number, page);
    GError *error = NULL;

    g_mutex_lock(lock);
    if (ferry_fetch_is_missing(fetch, number, page)) {
        g_mutex_unlock(lock);
        return false;
    }
    switch (ferry_userfault_place(fetch->uffd, region, offset_bytes, NULL, region->page_size_bytes,
                                  &done_bytes, &error)) {
    case FERRY_PLACED:
        atomic_fetch_add_explicit(&fetch->zero_faults, 1, memory_order_relaxed);
        break;
    case FERRY_PLACE_PRESENT:
    case FERRY_PLACE_UNREGISTERED:
        ferry_userfault_wake(fetch->uffd, region, offset_bytes, region->page_size_bytes);
        break;
    case FERRY_PLACE_NO_MEMORY:
        note_starved(fetch, number, page);
        fetch->ops.starved(fetch->opaque, error);
        break;
    case FERRY_PLACE_FAILED:
        fetch->ops.failed(fetch->opaque, error);
        break;
    }
    g_mutex_unlock(lock);
    return true;
}

/* Pages that are zero and that somebody waits for, for want of memory: try once more. */
static void feed_starved(FerryFetch *fetch)
{
    g_autoptr(GArray) starved = g_array_new(FALSE, FALSE, sizeof(FerryWanted));
    GArray *mine;

    g_mutex_lock(&fetch->starved_lock);
    mine = fetch->starved;
    fetch->starved = g_steal_pointer(&starved);
    g_mutex_unlock(&fetch->starved_lock);
    for (guint i = 0; i < mine->len; i++) {
        const FerryWanted *one = &g_array_index(mine, FerryWanted, i);

        (void)fill_zero(fetch, one->region, one->page);
    }
    g_array_unref(mine);
}

void ferry_fetch_ask_again(FerryFetch *fetch)
{
    g_autoptr(GArray) wanted = ferry_waiters_list(fetch->waiters);

    feed_starved(fetch);
    for (guint i = 0; i < wanted->len; i++) {
        const FerryWanted *one = &g_array_index(wanted, FerryWanted, i);

        fetch->ops.want(fetch->opaque, i % fetch->nr_threads, one->region, one->page);
    }
}

static void take_fault(FaultThread *thread, const FerryUserfaultEvent *event)
{
    FerryFetch *fetch = thread->fetch;

    for (uint32_t i = 0; i < fetch->regions->nr; i++) {
        const FerryRegion *region = &fetch->regions->list[i];
        uint64_t offset_bytes = event->address - (uintptr_t)region->host;
        uint64_t page;

        if (event->address < (uintptr_t)region->host || offset_bytes >= region->length_bytes) {
            continue;
        }
        page =
            offset_bytes / region->page_size_bytes * (region->page_size_bytes / FERRY_PAGE_BYTES);
        /* Without the lock at first: who asks for a page is not to wait for another one. */
        if (!ferry_fetch_is_missing(fetch, i, page) && fill_zero(fetch, i, page)) {
            return;
        }
        if (ferry_waiters_add(fetch->waiters, i, page, event->thread) &&
            atomic_load(&fetch->live)) {
            fetch->ops.want(fetch->opaque, thread->index, i, page);
        }
        return;
    }
}

static gpointer fault_run(gpointer opaque)
{
    FaultThread *thread = opaque;
    FerryFetch *fetch = thread->fetch;
    struct pollfd fds[2] = {
        {.fd = ferry_userfault_fd(fetch->uffd), .events = POLLIN},
        {.fd = fetch->quit_fd, .events = POLLIN},
    };

    while (!fds[1].revents) {
        FerryUserfaultEvent events[EVENTS_MAX];
        size_t nr;

        if (poll(fds, G_N_ELEMENTS(fds), -1) < 0) {
            continue;
        }
        nr = fds[0].revents ? ferry_userfault_read(fetch->uffd, events, EVENTS_MAX) : 0;
        for (size_t i = 0; i < nr; i++) {
            take_fault(thread, &events[i]);
        }
    }
    return NULL;
}

/* --- Going live ----------------------------------------------------------------------------------- */

static bool start_threads(FerryFetch *fetch, GError **errp)
{
    for (unsigned i = 0; i < fetch->nr_threads; i++) {
        g_autofree char *name = g_strdup_printf("ferry-fault-%u", i);
        FaultThread *thread = &fetch->threads[i];

        if (thread->thread) {
            continue;
        }
        *thread = (FaultThread){.fetch = fetch, .index = i};
        if (!ferry_fault(FERRY_FAULT_THREAD_FAULT, errp)) {
            thread->thread = ferry_thread_new(name, fault_run, thread, errp);
        }
        if (!thread->thread) {
            return false;
        }
    }
    return true;
}

bool ferry_fetch_draft(FerryFetch *fetch, GError **errp)
{
    if (!start_threads(fetch, errp)) {
        return false;
    }
    if (!fetch->drafted) {
        fetch->drafted = true;
        ferry_fetch_advise(fetch, MADV_NOHUGEPAGE);
    }
    for (uint32_t i = 0; i < fetch->regions->nr; i++) {
        const FerryRegion *region = &fetch->regions->list[i];
        const bool is_long = ferry_fetch_unit_pages(fetch, i) > FERRY_GRANULE_PAGES;

        if (!ferry_pageset_count(fetch->incoming[i])) {
            continue;
        }
        /* First, so that nobody can fill a page again that has been discarded. */
        if (!fetch->registered[i] && !ferry_userfault_register(fetch->uffd, region, errp)) {
            return false;
        }
        fetch->registered[i] = true;
        if (ferry_fault(FERRY_FAULT_DISCARD, errp) ||
            !ferry_discard_missing(region, fetch->incoming[i], fetch->missing[i],
                                   is_long ? &fetch->gather_lock : fetch->locks,
                                   is_long ? 1 : NR_LOCKS, errp)) {
            return false;
        }
    }
    return true;
}

void ferry_fetch_forget(FerryFetch *fetch)
{
    for (uint32_t i = 0; i < fetch->regions->nr; i++) {
        ferry_pageset_clear(fetch->missing[i]);
        ferry_pageset_clear(fetch->incoming[i]);
    }
    /* Who waits goes on, and finds zero, as before the draft. */
    ferry_fetch_unregister(fetch);
    memset(fetch->registered, 0, sizeof(*fetch->registered) * fetch->regions->nr);
    ferry_waiters_forget(fetch->waiters);
    if (fetch->drafted) {
        fetch->drafted = false;
        ferry_fetch_advise(fetch, MADV_HUGEPAGE);
    }
}

void ferry_fetch_release(FerryFetch *fetch)
{
    ferry_fetch_unregister(fetch);
}

bool ferry_fetch_go_live(FerryFetch *fetch, GError **errp)
{
    if (!ferry_fetch_draft(fetch, errp)) {
        return false;
    }
    fetch->nr_handed = ferry_missing_count(fetch->regions, fetch->missing);
    atomic_store(&fetch->nr_missing, fetch->nr_handed);
    atomic_store(&fetch->live, true);
    ferry_fetch_ask_again(fetch);
    return true;
}

bool ferry_fetch_is_live(const FerryFetch *fetch)
{
    return fetch && atomic_load(&fetch->live);
}

/* --- Reports ---------------------------------------------------------------------------------- */

void ferry_fetch_query(FerryFetch *fetch, FerryFetchStats *stats, GArray *vcpu_ms)
{
    *stats = (FerryFetchStats){
        .zero_faults = atomic_load(&fetch->zero_faults),
        .placed_pages = atomic_load(&fetch->placed_pages),
        .duplicates = atomic_load(&fetch->duplicates),
        .missing_pages = atomic_load(&fetch->nr_missing),
        .handed_pages = fetch->nr_handed,
    };
    ferry_waiters_query(fetch->waiters, stats, vcpu_ms);
}

GArray *ferry_fetch_waiting(FerryFetch *fetch)
{
    return ferry_waiters_threads(fetch->waiters);
}

char *ferry_fetch_describe(FerryFetch *fetch)
{
    return ferry_describe_missing(fetch->regions, fetch->missing, atomic_load(&fetch->nr_missing));
}
