/*
 * Fetching: see fetch.h.
 *
 * Threads: the control channel's, up to going live; fault threads; and whatever thread places a page.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "fetch.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../memory/discard.h"
#include "../error.h"
#include "../thread.h"
#include "describe.h"
#include "gather.h"
#include "../wire/missing.h"
#include "waiters.h"

/* Granules share locks; more than there are threads to want them. */
#define NR_LOCKS 64

/* Faults read at once by a thread. */
#define EVENTS_MAX 16

typedef struct FaultThread {
    FerryFetch *fetch;
    unsigned index;
    GThread *thread;
} FaultThread;

struct FerryFetch {
    const FerryRegions *regions;
    FerryFetchOps ops;
    void *opaque;
    FerryUserfault *uffd;
    /* Of each region, as are the next two: pages that are not there, as they were discarded. */
    FerryPageset **missing;
    FerryPageset **incoming; /* what is to be discarded next, and missing from then on */
    bool *registered;        /* its faults are ours to answer */
    FaultThread *threads;
    unsigned nr_threads;
    int quit_fd;       /* readable: the fault threads end */
    bool drafted;      /* the kernel was told not to provide huge pages */
    _Atomic bool live; /* all missing pages are known, and can be asked for; for good */

    GMutex locks[NR_LOCKS]; /* of granules: see fetch.h */
    GMutex gather_lock;     /* of all pages longer than those, and of: */
    FerryGather *gather;
    _Atomic uint64_t nr_missing; /* once live */
    uint64_t nr_handed;          /* how many these were at first */
    _Atomic uint64_t placed_pages;
    _Atomic uint64_t duplicates;
    _Atomic uint64_t zero_faults;
    FerryWaiters *waiters;
    GMutex starved_lock; /* for the next one */
    GArray *starved;     /* of FerryWanted: zero pages for which there was no memory */
};

static void advise(FerryFetch *fetch, int advice)
{
    for (size_t i = 0; i < fetch->regions->nr; i++) {
        const FerryRegion *region = &fetch->regions->list[i];

        if (!(region->flags & FERRY_REGION_HUGETLB) && region->length_bytes) {
            /* A kernel that does not know it has no huge pages. */
            (void)madvise(region->host, region->length_bytes, advice);
        }
    }
}

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
        advise(fetch, MADV_HUGEPAGE);
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

static uint64_t unit_pages(const FerryFetch *fetch, uint32_t region)
{
    return fetch->regions->list[region].page_size_bytes / FERRY_PAGE_BYTES;
}

static GMutex *lock_of(FerryFetch *fetch, uint32_t region, uint64_t page)
{
    return unit_pages(fetch, region) > FERRY_GRANULE_PAGES
               ? &fetch->gather_lock
               : &fetch->locks[page / FERRY_GRANULE_PAGES % NR_LOCKS];
}

static bool is_missing(const FerryFetch *fetch, uint32_t region, uint64_t page)
{
    return ferry_pageset_get(fetch->missing[region], page / 64) >> (page % 64) & 1;
}

void ferry_fetch_set_vcpus(FerryFetch *fetch, const uint32_t *threads, unsigned nr_threads)
{
    ferry_waiters_set_vcpus(fetch->waiters, threads, nr_threads);
}

/* --- Placing ---------------------------------------------------------------------------------- */

static void unregister_all(FerryFetch *fetch)
{
    for (size_t i = 0; i < fetch->regions->nr; i++) {
        if (fetch->registered[i]) {
            ferry_userfault_unregister(fetch->uffd, &fetch->regions->list[i]);
        }
    }
}

/* @nr_pages have been placed: is that all? */
static void note_placed(FerryFetch *fetch, uint64_t nr_pages)
{
    atomic_fetch_add_explicit(&fetch->placed_pages, nr_pages, memory_order_relaxed);
    if (nr_pages && atomic_fetch_sub(&fetch->nr_missing, nr_pages) == nr_pages) {
        unregister_all(fetch);
        advise(fetch, MADV_HUGEPAGE);
        fetch->ops.complete(fetch->opaque);
    }
}

/* Place pages that are missing, all of them; with the granule locked. */
static bool place_run(FerryFetch *fetch, uint32_t region, uint64_t first, uint64_t nr_pages,
                      const uint8_t *from, uint64_t *nr_placed, GError **errp)
{
    const char *id = fetch->regions->list[region].id;
    uint64_t done_bytes, done_pages;
    GError *error = NULL;
    FerryPlaceResult result =
        ferry_userfault_place(fetch->uffd, &fetch->regions->list[region], first * FERRY_PAGE_BYTES,
                              from, nr_pages * FERRY_PAGE_BYTES, &done_bytes, &error);

    done_pages = done_bytes / FERRY_PAGE_BYTES;
    ferry_pageset_remove(fetch->missing[region], first, done_pages);
    *nr_placed += done_pages;
    if (result == FERRY_PLACE_PRESENT) {
        /* Someone wrote it before it was registered: what is in it cannot be told. */
        g_set_error(&error, FERRY_ERROR, FERRY_ERROR_SYSTEM,
                    "page 0x%" PRIx64 " of RAM block '%s' was touched before its content had come",
                    first + done_pages, id);
        fetch->ops.failed(fetch->opaque, g_error_copy(error));
    } else if (result == FERRY_PLACE_UNREGISTERED) {
        g_set_error(&error, FERRY_ERROR, FERRY_ERROR_SYSTEM,
                    "RAM block '%s' went away while pages of it were missing", id);
    }
    if (error) {
        g_propagate_error(errp, error);
        return false;
    }
    return true;
}

/* Of @nr_pages from @first on, in one granule that is locked, those that are missing. */
static bool place_missing(FerryFetch *fetch, uint32_t region, uint64_t first, uint64_t nr_pages,
                          const uint8_t *from, uint64_t *nr_placed, GError **errp)
{
    const uint64_t end = first + nr_pages;

    for (uint64_t page = first, next; page < end; page = next) {
        uint64_t bits = ferry_pageset_get(fetch->missing[region], page / 64) >> (page % 64);
        uint64_t room = MIN(end - page, 64 - page % 64);

        if (!(bits & 1)) {
            uint64_t gap = bits ? (uint64_t)__builtin_ctzll(bits) : 64;

            next = page + MIN(gap, room);
            continue;
        }
        /* A run, which may go on in the words that follow. */
        for (next = page; next < end && is_missing(fetch, region, next); next++) {
        }
        if (!place_run(fetch, region, page, next - page,
                       from ? from + (page - first) * FERRY_PAGE_BYTES : NULL, nr_placed, errp)) {
            return false;
        }
    }
    return true;
}

/* A whole granule of a page that is longer; it is placed when all of them have come. */
static bool place_gathered(FerryFetch *fetch, const FerryFrame *frame, const FerryExtent *extents,
                           const uint8_t *payload, uint64_t *nr_placed, GError **errp)
{
    const uint64_t nr_pages = unit_pages(fetch, frame->region);
    const uint64_t first = frame->first_page - frame->first_page % nr_pages;
    const uint8_t *content;
    GError *error = NULL;
    uint64_t nr_whole = 0;
    bool is_new = false;

    if (!is_missing(fetch, frame->region, first)) {
        atomic_fetch_add_explicit(&fetch->duplicates, FERRY_GRANULE_PAGES, memory_order_relaxed);
        return true;
    }
    content = ferry_gather_add(fetch->gather, &fetch->regions->list[frame->region], frame, extents,
                               payload, &is_new, &error);
    if (error) {
        g_propagate_error(errp, error);
        return false;
    }
    atomic_fetch_add_explicit(&fetch->duplicates, is_new ? 0 : FERRY_GRANULE_PAGES,
                              memory_order_relaxed);
    if (content) {
        if (!place_run(fetch, frame->region, first, nr_pages, content, &nr_whole, errp)) {
            return false;
        }
        ferry_gather_forget(fetch->gather, frame->region, first);
    }
    *nr_placed += nr_whole;
    return true;
}

/* A page larger than those on the wire is placed as a whole: it must have come as a whole. */
static bool place_huge(FerryFetch *fetch, const FerryFrame *frame, const FerryExtent *extents,
                       const uint8_t *payload, uint64_t *nr_placed, GError **errp)
{
    const FerryRegion *region = &fetch->regions->list[frame->region];
    g_autofree uint8_t *whole = NULL;
    uint64_t nr_pages = 0;

    for (uint32_t i = 0; i < frame->nr_extents; i++) {
        nr_pages += extents[i].nr_pages;
    }
    if (nr_pages != FERRY_GRANULE_PAGES) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_PROTOCOL,
                    "%" PRIu64 " of the %" PRIu64 " pages in a huge page of RAM block '%s'",
                    nr_pages, FERRY_GRANULE_PAGES, region->id);
        return false;
    }
    if (unit_pages(fetch, frame->region) > FERRY_GRANULE_PAGES) {
        return place_gathered(fetch, frame, extents, payload, nr_placed, errp);
    }
    if (frame->nr_extents > 1) {
        whole = g_malloc(FERRY_GRANULE_PAGES * FERRY_PAGE_BYTES);
        ferry_gather_unpack(whole, frame, extents, payload);
        payload = whole;
    } else if (extents[0].zero) {
        payload = NULL;
    }
    return place_missing(fetch, frame->region, frame->first_page, FERRY_GRANULE_PAGES, payload,
                         nr_placed, errp);
}

static bool place_extents(FerryFetch *fetch, const FerryFrame *frame, const FerryExtent *extents,
                          const uint8_t *payload, uint64_t *nr_placed, GError **errp)
{
    for (uint32_t i = 0; i < frame->nr_extents; i++) {
        if (!place_missing(fetch, frame->region, frame->first_page + extents[i].first,
                           extents[i].nr_pages, extents[i].zero ? NULL : payload, nr_placed,
                           errp)) {
            return false;
        }
        payload += extents[i].zero ? 0 : extents[i].nr_pages * FERRY_PAGE_BYTES;
    }
    return true;
}

bool ferry_fetch_place(FerryFetch *fetch, const FerryFrame *frame, const FerryExtent *extents,
                       const uint8_t *payload, GError **errp)
{
    const FerryRegion *region = &fetch->regions->list[frame->region];
    GMutex *lock = lock_of(fetch, frame->region, frame->first_page);
    const uint64_t nr_unit_pages = unit_pages(fetch, frame->region);
    const uint64_t first_page = frame->first_page - frame->first_page % nr_unit_pages;
    uint64_t nr_placed = 0, nr_pages = 0;
    bool ok;

    for (uint32_t i = 0; i < frame->nr_extents; i++) {
        nr_pages += extents[i].nr_pages;
    }
    g_mutex_lock(lock);
    ok = region->page_size_bytes > FERRY_PAGE_BYTES
             ? place_huge(fetch, frame, extents, payload, &nr_placed, errp)
             : place_extents(fetch, frame, extents, payload, &nr_placed, errp);
    g_mutex_unlock(lock);
    ferry_waiters_resolve(fetch->waiters, frame->region, first_page,
                          first_page + MAX(FERRY_GRANULE_PAGES, nr_unit_pages));
    if (nr_unit_pages <= FERRY_GRANULE_PAGES) {
        atomic_fetch_add_explicit(&fetch->duplicates, nr_pages - nr_placed, memory_order_relaxed);
    }
    note_placed(fetch, nr_placed);
    return ok;
}

/* --- Faults ----------------------------------------------------------------------------------- */

static void note_starved(FerryFetch *fetch, uint32_t region, uint64_t page)
{
    FerryWanted one = {.region = region, .page = page};

    g_mutex_lock(&fetch->starved_lock);
    g_array_append_val(fetch->starved, one);
    g_mutex_unlock(&fetch->starved_lock);
}

/* A page that is not missing: it was never touched at the source, or has come meanwhile. */
static void fill_zero(FerryFetch *fetch, uint32_t number, uint64_t page)
{
    const FerryRegion *region = &fetch->regions->list[number];
    uint64_t offset_bytes = page * FERRY_PAGE_BYTES, done_bytes;
    GMutex *lock = lock_of(fetch, number, page);
    GError *error = NULL;

    g_mutex_lock(lock);
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

        fill_zero(fetch, one->region, one->page);
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
        if (!is_missing(fetch, i, page)) {
            fill_zero(fetch, i, page);
        } else if (ferry_waiters_add(fetch->waiters, i, page, event->thread) &&
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
        thread->thread = ferry_thread_new(name, fault_run, thread, errp);
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
        advise(fetch, MADV_NOHUGEPAGE);
    }
    for (uint32_t i = 0; i < fetch->regions->nr; i++) {
        const FerryRegion *region = &fetch->regions->list[i];

        if (!ferry_pageset_count(fetch->incoming[i])) {
            continue;
        }
        /* First, so that nobody can fill a page again that has been discarded. */
        if (!fetch->registered[i] && !ferry_userfault_register(fetch->uffd, region, errp)) {
            return false;
        }
        fetch->registered[i] = true;
        if (!ferry_discard_missing(region, fetch->incoming[i], fetch->missing[i], errp)) {
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
    unregister_all(fetch);
    memset(fetch->registered, 0, sizeof(*fetch->registered) * fetch->regions->nr);
    ferry_waiters_forget(fetch->waiters);
    if (fetch->drafted) {
        fetch->drafted = false;
        advise(fetch, MADV_HUGEPAGE);
    }
}

void ferry_fetch_release(FerryFetch *fetch)
{
    unregister_all(fetch);
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

char *ferry_fetch_describe(FerryFetch *fetch)
{
    return ferry_describe_missing(fetch->regions, fetch->missing, atomic_load(&fetch->nr_missing));
}
