/*
 * Write protection by userfaultfd, and PAGEMAP_SCAN: see write-protect.h.
 *
 * Whether WRITTEN is set where there is no entry differs from kernel to kernel, so nothing depends
 * on it.  Where the entry of a protected page goes, the kernel leaves a marker itself.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "write-protect.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../migration/error.h"
#include "../migration/memory/kernel-abi.h"
#include "../migration/memory/scan.h"

#define DEVICE "/dev/userfaultfd"

/*
 * Ranges that one call returns: 12 KiB of stack.  Not more, as the kernel fills 512 at a time and
 * says where it stopped for the last time that they were full.
 */
#define NR_RANGES 512

/* Granules are what a tracker works on, and hugetlb pages must be in one of them. */
#define PAGE_SIZE_MAX (FERRY_GRANULE_PAGES * FERRY_PAGE_BYTES)

#define THERE (FERRY_PAGE_IS_PRESENT | FERRY_PAGE_IS_SWAPPED)

struct FerryWriteProtect {
    int uffd;
    int pagemap_fd;
    FerryScanner *scanner;
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

char *ferry_write_protect_unsupported(void)
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

static bool open_all(FerryWriteProtect *protect, GError **errp)
{
    g_autofree char *why = NULL;

    protect->uffd = open_uffd(&why);
    if (protect->uffd >= 0) {
        protect->pagemap_fd = open_pagemap(&why);
    }
    if (why) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM,
                    "cannot trace writes through the page tables: %s", why);
        return false;
    }
    return true;
}

FerryWriteProtect *ferry_write_protect_new(GError **errp)
{
    g_autoptr(FerryWriteProtect) protect = g_new0(FerryWriteProtect, 1);

    protect->uffd = -1;
    protect->pagemap_fd = -1;
    protect->scanner = ferry_scanner_new();
    return open_all(protect, errp) ? g_steal_pointer(&protect) : NULL;
}

void ferry_write_protect_free(FerryWriteProtect *protect)
{
    if (!protect) {
        return;
    }
    ferry_scanner_free(protect->scanner);
    if (protect->pagemap_fd >= 0) {
        close(protect->pagemap_fd);
    }
    if (protect->uffd >= 0) {
        close(protect->uffd);
    }
    g_free(protect);
}

/* --- Registering ------------------------------------------------------------------------------- */

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

bool ferry_write_protect_register(FerryWriteProtect *protect, const FerryRegion *region,
                                  GError **errp)
{
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
    if (ioctl(protect->uffd, UFFDIO_REGISTER, &arg) != 0) {
        int error = errno;

        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM,
                    "cannot trace writes to memory region '%s' through the page tables: "
                    "UFFDIO_REGISTER: %s%s",
                    region->id, g_strerror(error), register_remedy(error));
        return false;
    }
    return true;
}

/*
 * Chunk by chunk: nobody can take a page fault while the kernel walks over a range to take the
 * protection off.
 */
void ferry_write_protect_unregister(FerryWriteProtect *protect, const FerryRegion *region)
{
    uint64_t nr_pages = ferry_region_nr_pages(region);

    for (uint64_t first = 0; first < nr_pages; first += FERRY_CHUNK_PAGES) {
        struct uffdio_range range = {
            .start = (uintptr_t)region->host + (first << FERRY_PAGE_SHIFT),
            .len = MIN(FERRY_CHUNK_PAGES, nr_pages - first) << FERRY_PAGE_SHIFT,
        };

        /* Part may have been unmapped, and is not registered then; what is left, close() ends. */
        (void)ioctl(protect->uffd, UFFDIO_UNREGISTER, &range);
    }
}

/* --- Looking and protecting -------------------------------------------------------------------- */

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
    FerryPagesFn visit;
    void *opaque;
} Data;

static void visit_data(void *opaque, uint64_t offset_bytes, uint64_t nr_bytes, FerryScanKind kind)
{
    const Data *data = opaque;

    data->visit(data->opaque, offset_bytes >> FERRY_PAGE_SHIFT, nr_bytes >> FERRY_PAGE_SHIFT);
}

/* There are no entries from address @start on: visit what the file has there all the same. */
static bool walk_absent(const FerryWriteProtect *protect, const FerryRegion *region, uint64_t start,
                        uint64_t end, FerryPagesFn visit, void *opaque, GError **errp)
{
    const FerryScanTarget target = ferry_region_scan_target(region);
    Data data = {.visit = visit, .opaque = opaque};

    return start >= end || ferry_scan(protect->scanner, &target, start - (uintptr_t)region->host,
                                      end - start, visit_data, &data, errp);
}

/*
 * Visit the written pages among @nr_pages from @first on.  @take: of those that have an entry,
 * and protect each before anybody else can write it; else of all.
 */
static bool walk(const FerryWriteProtect *protect, const FerryRegion *region, uint64_t first,
                 uint64_t nr_pages, bool take, FerryPagesFn visit, void *opaque, GError **errp)
{
    const uint64_t host = (uintptr_t)region->host;
    const bool want_absent = !take && absent_counts(region);
    struct ferry_page_region ranges[NR_RANGES];
    struct ferry_pm_scan_arg arg = {
        .size = sizeof(arg),
        .flags = take ? FERRY_PM_SCAN_WP_MATCHING : 0,
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
        int nr = ioctl(protect->pagemap_fd, FERRY_PAGEMAP_SCAN, &arg);

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
                if (!walk_absent(protect, region, there_end, ranges[i].start, visit, opaque,
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
    return !want_absent || walk_absent(protect, region, there_end, arg.end, visit, opaque, errp);
}

bool ferry_write_protect_find(FerryWriteProtect *protect, const FerryRegion *region,
                              uint64_t first_page, uint64_t nr_pages, FerryPagesFn visit,
                              void *opaque, GError **errp)
{
    return walk(protect, region, first_page, nr_pages, false, visit, opaque, errp);
}

bool ferry_write_protect_take(FerryWriteProtect *protect, const FerryRegion *region,
                              uint64_t first_page, uint64_t nr_pages, FerryPagesFn visit,
                              void *opaque, GError **errp)
{
    return walk(protect, region, first_page, nr_pages, true, visit, opaque, errp);
}

/* --- Protecting what has no entry -------------------------------------------------------------- */

static void visit_nothing(void *opaque, uint64_t first, uint64_t nr_pages)
{
}

typedef struct {
    const FerryWriteProtect *protect;
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

    if (!marking->error && ioctl(marking->protect->uffd, UFFDIO_WRITEPROTECT, &arg) != 0) {
        fail_ioctl(marking->region, "UFFDIO_WRITEPROTECT", &marking->error);
    }
}

bool ferry_write_protect_all(FerryWriteProtect *protect, const FerryRegion *region,
                             uint64_t first_page, uint64_t nr_pages, GError **errp)
{
    Marking marking = {.protect = protect, .region = region};

    if (!ferry_write_protect_take(protect, region, first_page, nr_pages, visit_nothing, NULL,
                                  errp)) {
        return false;
    }
    if (!absent_counts(region)) {
        return true;
    }
    if (!ferry_write_protect_find(protect, region, first_page, nr_pages, visit_mark, &marking,
                                  errp)) {
        g_clear_error(&marking.error);
        return false;
    }
    if (marking.error) {
        g_propagate_error(errp, marking.error);
        return false;
    }
    return true;
}
