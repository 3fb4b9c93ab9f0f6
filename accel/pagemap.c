/*
 * Writes found in the page tables: see pagemap.h.
 *
 * What the kernel tells about a page, and what it means here:
 *
 *   present or swapped, and WRITTEN       written
 *   present or swapped, and not WRITTEN   not written since it was protected
 *   neither: there is no entry            private memory: nothing was ever written there, or it was
 *                                         discarded since.  Elsewhere the entry may have gone while
 *                                         the page stayed in the file (memory was short, say), and
 *                                         with it the knowledge: written, unless the file has a
 *                                         hole there.
 *
 * Whether WRITTEN is set where there is no entry differs from kernel to kernel, so nothing depends
 * on it.  To tell "never mapped" from "gone", arm() makes entries (markers) for what a file has
 * and nobody has mapped; that costs page tables, 2 per mille of the data at most.  Where the entry
 * of a protected page goes, the kernel leaves a marker itself.
 *
 * Why no write is lost.  A page's protection is put back only in arm(), before its first copy, and
 * in reset(), which tells the client of each page that it protects, unless a harvest has done so
 * since the last reset: that is what `found` holds.
 *
 *   harvest                     reset                         guest
 *   -------                     -----                         -----
 *   sees page p written
 *   puts p into `found`
 *   tells the client of p
 *                               takes p out of `found`
 *                               protects p
 *                               returns; p is read
 *                                                             writes p: WRITTEN again
 *
 * The client reads p only after a reset that begins after it was told.  That reset, or one between
 * the first two steps of the harvest, is the one that takes p out of `found`; so whenever reset()
 * protects p and keeps silent, p is going to be read later than that.  If the harvest's look was
 * out of date because a reset had come in between, p is told once too often and nothing else.
 *
 * Measured (Linux 6.18 on 2 processors, itself virtual), in ms per GiB that is populated:
 *
 *                                     4 KiB pages   huge pages   memfd
 *   arm                                   10            0.2        13
 *   harvest, nothing written               0.8          0.04        2.9
 *   harvest, all written                   2.9          2.9         2.9
 *   reset, 1 % written, scattered          4.2          4.2         4.2
 *   reset, all written                    11           11          11
 *   stop                                  22            7          18
 *   first write to a page, in us           0.9          2.9         1.0
 *
 * Under KVM a fault of the guest's comes on top of a first write.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "pagemap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../migration/error.h"
#include "../migration/memory/pageset.h"
#include "../migration/memory/kernel-abi.h"

#define DEVICE "/dev/userfaultfd"

/*
 * Ranges that one call returns: 12 KiB of stack.  Not more, as the kernel fills 512 at a time and
 * says where it stopped for the last time that they were full.
 */
#define NR_RANGES 512

/*
 * Written pages that are no more than this apart are protected in one call.  A call takes a round
 * of interrupts to all processors that run this process, and ends KVM's mappings of all of its
 * range, written or not; those that the guest needs have to be made again.  With one page in six
 * written, at random, by a guest under KVM, a page takes 5.9 us one by one, 2 us with 16 and 1.4 us
 * with 64; more does not help.
 */
#define GAP_PAGES 64

/* Granules are what reset() works on, and hugetlb pages must be in one of them. */
#define PAGE_SIZE_MAX (FERRY_GRANULE_PAGES * FERRY_PAGE_BYTES)

#define THERE (FERRY_PAGE_IS_PRESENT | FERRY_PAGE_IS_SWAPPED)

typedef struct {
    FerryRegion region;
    bool registered;
    FerryPageset *found; /* told the client since they were last reset */
    _Atomic bool *armed; /* one for each chunk */
    uint64_t nr_chunks;
} Tracked;

struct FerryPagemap {
    int uffd;
    int pagemap_fd;
    FerryScanner *scanner;
    Tracked *tracked;
    size_t nr;
    const FerryTrackerClient *client;
};

/* --- What the kernel can do -------------------------------------------------------------------- */

/*
 * A userfaultfd for faults in user mode is for everybody.  That is enough: who writes in the
 * kernel, be it for read(2) or for KVM, takes the protection off as well, as long as it is done
 * asynchronously and nobody has to be told.
 */
static int open_userfaultfd(void)
{
    const int flags = O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY;
    int fd = (int)syscall(SYS_userfaultfd, flags);
    int device, saved_errno;

    if (fd >= 0) {
        return fd;
    }
    /* The system call can be filtered away; the device has permissions instead. */
    saved_errno = errno;
    device = open(DEVICE, O_RDWR | O_CLOEXEC);
    if (device >= 0) {
        fd = ioctl(device, USERFAULTFD_IOC_NEW, flags);
        close(device);
    }
    errno = saved_errno;
    return fd;
}

static int open_uffd(char **why)
{
    struct uffdio_api api = {.api = UFFD_API, .features = FERRY_UFFD_FEATURE_WP_ASYNC};
    int fd = open_userfaultfd();

    if (fd < 0) {
        *why = g_strdup_printf("userfaultfd is not to be had here: %s (have a seccomp filter allow "
                               "userfaultfd(2), or make " DEVICE " accessible)",
                               g_strerror(errno));
        return -1;
    }
    if (ioctl(fd, UFFDIO_API, &api) != 0) {
        *why = g_strdup_printf("this kernel's userfaultfd has no UFFD_FEATURE_WP_ASYNC: %s (Linux "
                               "6.7 or newer has, with CONFIG_PTE_MARKER_UFFD_WP)",
                               g_strerror(errno));
        close(fd);
        return -1;
    }
    return fd;
}

static int open_pagemap(char **why)
{
    struct ferry_pm_scan_arg arg = {.size = sizeof(arg)};
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        *why = g_strdup_printf("/proc/self/pagemap cannot be opened: %s (/proc must be mounted, "
                               "and this process not barred from being traced)",
                               g_strerror(errno));
        return -1;
    }
    if (ioctl(fd, FERRY_PAGEMAP_SCAN, &arg) != 0) {
        *why = g_strdup_printf("this kernel has no PAGEMAP_SCAN: %s (Linux 6.7 or newer has)",
                               g_strerror(errno));
        close(fd);
        return -1;
    }
    return fd;
}

char *ferry_pagemap_unsupported(void)
{
    char *why = NULL;
    int uffd = open_uffd(&why);
    int pagemap_fd;

    if (uffd < 0) {
        return why;
    }
    pagemap_fd = open_pagemap(&why);
    if (pagemap_fd >= 0) {
        close(pagemap_fd);
    }
    close(uffd);
    return why;
}

/* --- Looking and protecting -------------------------------------------------------------------- */

/* Someone who is told of written pages; @opaque is the walk's. */
typedef void (*VisitFn)(void *opaque, uint64_t first_page, uint64_t nr_pages);

/* Whether pages without an entry in the page tables can have been written. */
static bool absent_counts(const FerryRegion *region)
{
    return region->scan != FERRY_SCAN_PRIVATE;
}

static bool fail_ioctl(const FerryRegion *region, const char *what, GError **errp)
{
    g_set_error(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM,
                "cannot trace writes to memory region '%s': %s: %s", region->id, what,
                g_strerror(errno));
    return false;
}

typedef struct {
    VisitFn visit;
    void *opaque;
} Data;

static void visit_data(void *opaque, uint64_t offset_bytes, uint64_t nr_bytes, FerryScanKind kind)
{
    const Data *data = opaque;

    data->visit(data->opaque, offset_bytes >> FERRY_PAGE_SHIFT, nr_bytes >> FERRY_PAGE_SHIFT);
}

/* There are no entries from address @start on: visit what the file has there all the same. */
static bool walk_absent(const FerryPagemap *pagemap, const FerryRegion *region, uint64_t start,
                        uint64_t end, VisitFn visit, void *opaque, GError **errp)
{
    const FerryScanTarget target = ferry_region_scan_target(region);
    Data data = {.visit = visit, .opaque = opaque};

    return start >= end || ferry_scan(pagemap->scanner, &target, start - (uintptr_t)region->host,
                                      end - start, visit_data, &data, errp);
}

/*
 * Visit the written pages among @nr_pages from @first on.  @protect: of those that have an entry,
 * and protect each before anybody else can write it; else of all.
 */
static bool walk(const FerryPagemap *pagemap, const FerryRegion *region, uint64_t first,
                 uint64_t nr_pages, bool protect, VisitFn visit, void *opaque, GError **errp)
{
    const uint64_t host = (uintptr_t)region->host;
    const bool want_absent = !protect && absent_counts(region);
    struct ferry_page_region ranges[NR_RANGES];
    struct ferry_pm_scan_arg arg = {
        .size = sizeof(arg),
        .flags = protect ? FERRY_PM_SCAN_WP_MATCHING : 0,
        .start = host + (first << FERRY_PAGE_SHIFT),
        .end = host + ((first + nr_pages) << FERRY_PAGE_SHIFT),
        .vec = (uintptr_t)ranges,
        .vec_len = NR_RANGES,
        .category_mask = want_absent ? 0 : FERRY_PAGE_IS_WRITTEN,
        .category_anyof_mask = want_absent ? 0 : THERE,
        .return_mask = FERRY_PAGE_IS_WRITTEN | (want_absent ? THERE : 0),
    };
    uint64_t there_end = arg.start; /* the end of the last range with entries */

    while (arg.start < arg.end) {
        int nr = ioctl(pagemap->pagemap_fd, FERRY_PAGEMAP_SCAN, &arg);

        if (nr < 0) {
            if (errno == EINTR) {
                continue;
            }
            return fail_ioctl(region, "PAGEMAP_SCAN", errp);
        }
        if (arg.walk_end <= arg.start) {
            errno = EIO; /* it could go on for ever */
            return fail_ioctl(region, "PAGEMAP_SCAN stands still", errp);
        }
        for (int i = 0; i < nr; i++) {
            if (want_absent) {
                if (!(ranges[i].categories & THERE)) {
                    continue;
                }
                if (!walk_absent(pagemap, region, there_end, ranges[i].start, visit, opaque,
                                 errp)) {
                    return false;
                }
                there_end = ranges[i].end;
            }
            if (ranges[i].categories & FERRY_PAGE_IS_WRITTEN) {
                visit(opaque, (ranges[i].start - host) >> FERRY_PAGE_SHIFT,
                      (ranges[i].end - ranges[i].start) >> FERRY_PAGE_SHIFT);
            }
        }
        arg.start = arg.walk_end;
    }
    return !want_absent || walk_absent(pagemap, region, there_end, arg.end, visit, opaque, errp);
}

/* Pages from @first to before @end, those of word @word as bits; advances *@first past them. */
static uint64_t next_mask(uint64_t *first, uint64_t end, uint64_t *word)
{
    unsigned from = *first % 64;
    uint64_t nr = MIN(64 - from, end - *first);

    *word = *first / 64;
    *first += nr;
    return (UINT64_MAX >> (64 - nr)) << from;
}

/* --- The tracker ------------------------------------------------------------------------------- */

static void unregister_range(const FerryPagemap *pagemap, const Tracked *tracked, uint64_t first,
                             uint64_t nr_pages)
{
    struct uffdio_range range = {
        .start = (uintptr_t)tracked->region.host + (first << FERRY_PAGE_SHIFT),
        .len = nr_pages << FERRY_PAGE_SHIFT,
    };

    /* Part of it may have been unmapped, and is not registered then; what is left, close() ends. */
    (void)ioctl(pagemap->uffd, UFFDIO_UNREGISTER, &range);
}

/*
 * Chunk by chunk: nobody can take a page fault while the kernel walks over a range to take the
 * protection off.
 */
static void unregister_all(FerryPagemap *pagemap)
{
    for (size_t i = 0; i < pagemap->nr; i++) {
        Tracked *tracked = &pagemap->tracked[i];
        uint64_t nr_pages = ferry_region_nr_pages(&tracked->region);

        if (!tracked->registered) {
            continue;
        }
        for (uint64_t first = 0; first < nr_pages; first += FERRY_CHUNK_PAGES) {
            unregister_range(pagemap, tracked, first, MIN(FERRY_CHUNK_PAGES, nr_pages - first));
        }
        tracked->registered = false;
    }
}

static const char *register_remedy(int error)
{
    switch (error) {
    case EBUSY:
        return " (something else handles its page faults: end that first)";
    case EPERM:
        return " (its file is mapped shared and may not be written: trace writes in another way)";
    case EINVAL:
        return " (the kernel does not do it for such memory: trace writes in another way)";
    default:
        return "";
    }
}

static bool register_region(FerryPagemap *pagemap, Tracked *tracked, GError **errp)
{
    const FerryRegion *region = &tracked->region;
    struct uffdio_register arg = {
        .range = {.start = (uintptr_t)region->host, .len = region->length_bytes},
        .mode = UFFDIO_REGISTER_MODE_WP,
    };

    if (region->page_size_bytes > PAGE_SIZE_MAX) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM,
                    "cannot trace writes to memory region '%s' through the page tables: its pages "
                    "are %u MiB large, the limit is 2 MiB (trace writes in another way)",
                    region->id, region->page_size_bytes >> 20);
        return false;
    }
    if (ioctl(pagemap->uffd, UFFDIO_REGISTER, &arg) != 0) {
        int error = errno;

        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM,
                    "cannot trace writes to memory region '%s' through the page tables: "
                    "UFFDIO_REGISTER: %s%s",
                    region->id, g_strerror(error), register_remedy(error));
        return false;
    }
    tracked->registered = true;
    return true;
}

static bool register_all(FerryPagemap *pagemap, GError **errp)
{
    for (size_t i = 0; i < pagemap->nr; i++) {
        Tracked *tracked = &pagemap->tracked[i];

        if (!tracked->registered && tracked->region.length_bytes > 0 &&
            !register_region(pagemap, tracked, errp)) {
            return false;
        }
    }
    return true;
}

static bool start(void *opaque, const FerryTrackerClient *client, GError **errp)
{
    FerryPagemap *pagemap = opaque;

    for (size_t i = 0; i < pagemap->nr; i++) {
        Tracked *tracked = &pagemap->tracked[i];

        ferry_pageset_clear(tracked->found);
        for (uint64_t chunk = 0; chunk < tracked->nr_chunks; chunk++) {
            atomic_store(&tracked->armed[chunk], false);
        }
    }
    pagemap->client = client;
    return register_all(pagemap, errp);
}

static void stop(void *opaque)
{
    unregister_all(opaque);
}

/* What was told of a chunk that is armed once more must not keep a later reset silent. */
static void forget_found(Tracked *tracked, uint64_t first_page, uint64_t nr_pages)
{
    uint64_t pages[FERRY_GRANULE_WORDS];

    for (uint64_t at = first_page; at < first_page + nr_pages; at += FERRY_GRANULE_PAGES) {
        ferry_pageset_take(tracked->found, at / FERRY_GRANULE_PAGES, pages);
    }
}

static void visit_nothing(void *opaque, uint64_t first, uint64_t nr_pages)
{
}

typedef struct {
    const FerryPagemap *pagemap;
    const FerryRegion *region;
    GError *error;
} Marking;

/* Protect pages whether they have an entry or not. */
static void visit_mark(void *opaque, uint64_t first, uint64_t nr_pages)
{
    Marking *marking = opaque;
    struct uffdio_writeprotect arg = {
        .range = {.start = (uintptr_t)marking->region->host + (first << FERRY_PAGE_SHIFT),
                  .len = nr_pages << FERRY_PAGE_SHIFT},
        .mode = UFFDIO_WRITEPROTECT_MODE_WP,
    };

    if (!marking->error && ioctl(marking->pagemap->uffd, UFFDIO_WRITEPROTECT, &arg) != 0) {
        fail_ioctl(marking->region, "UFFDIO_WRITEPROTECT", &marking->error);
    }
}

static bool mark_absent(FerryPagemap *pagemap, const FerryRegion *region, uint64_t first,
                        uint64_t nr_pages, GError **errp)
{
    Marking marking = {.pagemap = pagemap, .region = region};

    if (!walk(pagemap, region, first, nr_pages, false, visit_mark, &marking, errp)) {
        g_clear_error(&marking.error);
        return false;
    }
    if (marking.error) {
        g_propagate_error(errp, marking.error);
        return false;
    }
    return true;
}

static bool arm(void *opaque, uint32_t region, uint64_t first_page, uint64_t nr_pages,
                GError **errp)
{
    FerryPagemap *pagemap = opaque;
    Tracked *tracked = &pagemap->tracked[region];

    forget_found(tracked, first_page, nr_pages);
    if (!walk(pagemap, &tracked->region, first_page, nr_pages, true, visit_nothing, NULL, errp)) {
        return false;
    }
    if (absent_counts(&tracked->region) &&
        !mark_absent(pagemap, &tracked->region, first_page, nr_pages, errp)) {
        return false;
    }
    atomic_store(&tracked->armed[first_page / FERRY_CHUNK_PAGES], true);
    return true;
}

typedef struct {
    FerryPagemap *pagemap;
    uint32_t region;
    bool last;
} Harvest;

static void visit_found(void *opaque, uint64_t first, uint64_t nr_pages)
{
    const Harvest *harvest = opaque;
    const FerryTrackerClient *client = harvest->pagemap->client;
    FerryPageset *found = harvest->pagemap->tracked[harvest->region].found;
    const uint64_t end = first + nr_pages;

    while (first < end) {
        uint64_t word;
        uint64_t mask = next_mask(&first, end, &word);

        if (harvest->last) {
            client->report(client->opaque, harvest->region, word, mask);
        } else {
            /* In this order: see above. */
            ferry_pageset_add_mask(found, word, mask);
            client->found(client->opaque, harvest->region, word, mask);
        }
    }
}

static bool harvest(void *opaque, bool last, GError **errp)
{
    FerryPagemap *pagemap = opaque;

    for (uint32_t i = 0; i < pagemap->nr; i++) {
        const Tracked *tracked = &pagemap->tracked[i];
        Harvest visitor = {.pagemap = pagemap, .region = i, .last = last};

        for (uint64_t chunk = 0; chunk < tracked->nr_chunks; chunk++) {
            uint64_t first = chunk * FERRY_CHUNK_PAGES;
            uint64_t nr_pages =
                MIN(FERRY_CHUNK_PAGES, ferry_region_nr_pages(&tracked->region) - first);

            if (atomic_load(&tracked->armed[chunk]) &&
                !walk(pagemap, &tracked->region, first, nr_pages, false, visit_found, &visitor,
                      errp)) {
                return false;
            }
        }
    }
    return true;
}

typedef struct {
    const FerryTrackerClient *client;
    uint32_t region;
    uint64_t first_word;
    const uint64_t *told; /* of the granule's pages, those that the client has been told of */
} Reset;

/* Now protected.  What has been written since the last harvest, only we know of. */
static void visit_reset(void *opaque, uint64_t first, uint64_t nr_pages)
{
    const Reset *reset = opaque;
    const uint64_t end = first + nr_pages;

    while (first < end) {
        uint64_t word;
        uint64_t mask = next_mask(&first, end, &word);

        mask &= ~reset->told[word - reset->first_word];
        if (mask) {
            reset->client->report(reset->client->opaque, reset->region, word, mask);
        }
    }
}

/*
 * Protect the pages of a granule that were found, and what was written between them.  A page
 * without an entry cannot be: it gets one when it is read, without protection, so it is found once
 * more.
 */
static bool reset_granule(FerryPagemap *pagemap, uint32_t region, uint64_t granule,
                          const uint64_t pages[FERRY_GRANULE_WORDS], GError **errp)
{
    const FerryRegion *at = &pagemap->tracked[region].region;
    uint64_t granule_first = granule * FERRY_GRANULE_PAGES;
    Reset visitor = {
        .client = pagemap->client,
        .region = region,
        .first_word = granule_first / 64,
        .told = pages,
    };
    unsigned first = 0, end = 0; /* of the range that is still growing */

    for (unsigned word = 0; word < FERRY_GRANULE_WORDS; word++) {
        for (uint64_t mask = pages[word]; mask; mask &= mask - 1) {
            unsigned page = word * 64 + (unsigned)__builtin_ctzll(mask);

            if (end > 0 && page > end + GAP_PAGES) {
                if (!walk(pagemap, at, granule_first + first, end - first, true, visit_reset,
                          &visitor, errp)) {
                    return false;
                }
                end = 0;
            }
            first = end > 0 ? first : page;
            end = page + 1;
        }
    }
    return end == 0 ||
           walk(pagemap, at, granule_first + first, end - first, true, visit_reset, &visitor, errp);
}

static bool reset(void *opaque, uint32_t region, uint64_t first_page, uint64_t nr_pages,
                  GError **errp)
{
    FerryPagemap *pagemap = opaque;
    FerryPageset *found = pagemap->tracked[region].found;
    uint64_t end = (first_page + nr_pages + FERRY_GRANULE_PAGES - 1) / FERRY_GRANULE_PAGES;
    uint64_t pages[FERRY_GRANULE_WORDS];

    for (uint64_t granule = first_page / FERRY_GRANULE_PAGES; granule < end; granule++) {
        if (ferry_pageset_take(found, granule, pages) > 0 &&
            !reset_granule(pagemap, region, granule, pages, errp)) {
            return false;
        }
    }
    return true;
}

static const FerryTrackerOps pagemap_ops = {
    .name = "pagemap",
    .start = start,
    .arm = arm,
    .reset = reset,
    .harvest = harvest,
    .stop = stop,
};

FerryTracker ferry_pagemap_tracker(FerryPagemap *pagemap)
{
    return (FerryTracker){.ops = &pagemap_ops, .opaque = pagemap};
}

/* --- The beginning and the end ----------------------------------------------------------------- */

static bool open_all(FerryPagemap *pagemap, GError **errp)
{
    g_autofree char *why = NULL;

    pagemap->uffd = open_uffd(&why);
    if (pagemap->uffd >= 0) {
        pagemap->pagemap_fd = open_pagemap(&why);
    }
    if (why) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM,
                    "cannot trace writes through the page tables: %s", why);
        return false;
    }
    return true;
}

FerryPagemap *ferry_pagemap_new(const FerryRegions *regions, GError **errp)
{
    g_autoptr(FerryPagemap) pagemap = g_new0(FerryPagemap, 1);

    pagemap->uffd = -1;
    pagemap->pagemap_fd = -1;
    pagemap->scanner = ferry_scanner_new();
    pagemap->tracked = g_new0(Tracked, regions->nr);
    pagemap->nr = regions->nr;
    for (size_t i = 0; i < regions->nr; i++) {
        Tracked *tracked = &pagemap->tracked[i];
        uint64_t nr_pages = ferry_region_nr_pages(&regions->list[i]);

        tracked->region = regions->list[i];
        tracked->found = ferry_pageset_new(nr_pages);
        tracked->nr_chunks = (nr_pages + FERRY_CHUNK_PAGES - 1) / FERRY_CHUNK_PAGES;
        tracked->armed = g_new0(_Atomic bool, tracked->nr_chunks);
    }
    if (!open_all(pagemap, errp) || !register_all(pagemap, errp)) {
        return NULL;
    }
    return g_steal_pointer(&pagemap);
}

void ferry_pagemap_free(FerryPagemap *pagemap)
{
    if (!pagemap) {
        return;
    }
    unregister_all(pagemap);
    for (size_t i = 0; i < pagemap->nr; i++) {
        ferry_pageset_free(pagemap->tracked[i].found);
        g_free(pagemap->tracked[i].armed);
    }
    g_free(pagemap->tracked);
    ferry_scanner_free(pagemap->scanner);
    if (pagemap->pagemap_fd >= 0) {
        close(pagemap->pagemap_fd);
    }
    if (pagemap->uffd >= 0) {
        close(pagemap->uffd);
    }
    g_free(pagemap);
}
