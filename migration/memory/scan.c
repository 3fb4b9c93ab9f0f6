/*
 * Which pages of a mapping were ever touched?
 *
 * A FerryScanner does not change once made, but for the runs of data that it has found, which have a lock of
 * their own; what a scan needs besides is on its thread's stack.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "scan.h"

#include "../clock.h"
#include "holes.h"
#include "kernel-abi.h"
#include "zero.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Regions a PAGEMAP_SCAN call returns at most: 12 KiB of stack. */
#define NR_REGIONS 512

/* Pagemap entries read at a time: 16 KiB of stack for 8 MiB of address space. */
#define NR_ENTRIES 2048

/* What scanning as much takes, of memory that has no page tables: a walk, or reading entries for it. */
#define QUICK_BYTES (UINT64_C(32) << 20)
#define QUICK_NS    UINT64_C(10000)
#define QUICK_TRIES 5

#define ENTRY_SWAPPED (UINT64_C(1) << 62)
#define ENTRY_PRESENT (UINT64_C(1) << 63)

struct FerryScanner {
    int pagemap_fd; /* -1: none */
    bool has_ioctl;
    uint32_t page_size_bytes; /* of the system */
    uint64_t quick_ns;
    FerryDataRuns *runs; /* in files */
    _Atomic bool stopped;
};

static FerryScannerFlags without; /* set by tests, before there are threads */

/* One scan: what was asked for, and the range that is still growing. Offsets in the target. */
typedef struct {
    const FerryScanner *scanner;
    const FerryScanTarget *target;
    FerryScanFn fn;
    void *opaque;
    uint64_t ask_start;
    uint64_t ask_end;
    uint64_t start;
    uint64_t end;
    FerryScanKind kind;
} Scan;

static bool probe_ioctl(int fd)
{
    struct ferry_page_region region;
    struct ferry_pm_scan_arg arg = {
        .size = sizeof(arg),
        .vec = (uintptr_t)&region,
        .vec_len = 1,
        .category_anyof_mask = FERRY_PAGE_IS_PRESENT,
        .return_mask = FERRY_PAGE_IS_PRESENT,
    };

    /* An empty range will do: an old kernel does not know the number. */
    return ioctl(fd, FERRY_PAGEMAP_SCAN, &arg) == 0;
}

FerryScanner *ferry_scanner_new(void)
{
    return ferry_scanner_new_full(without);
}

void ferry_scanner_do_without(FerryScannerFlags flags)
{
    without = flags;
}

static void ignore(void *opaque, uint64_t offset_bytes, uint64_t nr_bytes, FerryScanKind kind)
{
}

/* Read the pagemap of memory that has just been mapped, some times: it takes no longer than twice that. */
static uint64_t measure_quick_ns(const FerryScanner *scanner)
{
    FerryScanTarget target = {
        .length_bytes = QUICK_BYTES,
        .fd = -1,
        .method = FERRY_SCAN_PRIVATE,
        .page_size_bytes = scanner->page_size_bytes,
    };
    uint64_t best_ns = QUICK_NS;

    target.host = mmap(NULL, QUICK_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (target.host == MAP_FAILED) {
        return best_ns;
    }
    best_ns = UINT64_MAX;
    for (int i = 0; i < QUICK_TRIES; i++) {
        uint64_t began_ns = ferry_now_ns();

        (void)ferry_scan(scanner, &target, 0, QUICK_BYTES, ignore, NULL, NULL);
        best_ns = MIN(best_ns, ferry_now_ns() - began_ns);
    }
    munmap(target.host, QUICK_BYTES);
    return MAX(QUICK_NS, 2 * best_ns);
}

uint64_t ferry_scanner_quick_ns(const FerryScanner *scanner)
{
    return scanner->quick_ns;
}

FerryScanner *ferry_scanner_new_full(FerryScannerFlags flags)
{
    FerryScanner *scanner = g_new0(FerryScanner, 1);

    scanner->page_size_bytes = (uint32_t)sysconf(_SC_PAGESIZE);
    scanner->pagemap_fd = -1;
    scanner->runs = ferry_data_runs_new();
    if (!(flags & FERRY_SCANNER_NO_PAGEMAP)) {
        scanner->pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    }
    if (scanner->pagemap_fd >= 0 && !(flags & FERRY_SCANNER_NO_IOCTL)) {
        scanner->has_ioctl = probe_ioctl(scanner->pagemap_fd);
    }
    scanner->quick_ns = QUICK_NS;
    if (scanner->pagemap_fd >= 0 && !scanner->has_ioctl) {
        scanner->quick_ns = measure_quick_ns(scanner);
    }
    return scanner;
}

void ferry_scanner_stop(FerryScanner *scanner)
{
    atomic_store(&scanner->stopped, true);
}

bool ferry_scanner_is_stopped(const FerryScanner *scanner)
{
    return atomic_load(&scanner->stopped);
}

void ferry_scanner_free(FerryScanner *scanner)
{
    if (scanner != NULL) {
        if (scanner->pagemap_fd >= 0) {
            close(scanner->pagemap_fd);
        }
        ferry_data_runs_free(scanner->runs);
        g_free(scanner);
    }
}

const char *ferry_scanner_method_name(const FerryScanner *scanner)
{
    if (scanner->pagemap_fd < 0) {
        return "none";
    }
    return scanner->has_ioctl ? "pagemap-scan" : "pagemap-read";
}

static void scan_flush(Scan *scan)
{
    if (scan->start < scan->end) {
        scan->fn(scan->opaque, scan->start, scan->end - scan->start, scan->kind);
    }
    scan->start = scan->end;
}

/* Ranges come in ascending order; rounding may have made one overlap the end of the last. */
static void scan_add(Scan *scan, uint64_t start, uint64_t end, FerryScanKind kind)
{
    start = MAX(start, MAX(scan->ask_start, scan->end));
    end = MIN(end, scan->ask_end);
    if (start >= end) {
        return;
    }
    if (start != scan->end || kind != scan->kind) {
        scan_flush(scan);
        scan->start = start;
        scan->kind = kind;
    }
    scan->end = end;
}

static uint64_t round_down(uint64_t value, uint64_t unit)
{
    return value - value % unit;
}

static uint64_t round_up(uint64_t value, uint64_t unit)
{
    return round_down(value + unit - 1, unit);
}

static bool fail_errno(GError **errp, const char *what, const Scan *scan)
{
    int saved_errno = errno;

    g_set_error(errp, G_FILE_ERROR, g_file_error_from_errno(saved_errno),
                "%s failed on %" G_GUINT64_FORMAT " bytes of memory at %p: %s", what,
                scan->ask_end - scan->ask_start,
                (void *)((char *)scan->target->host + scan->ask_start), g_strerror(saved_errno));
    return false;
}

static FerryScanKind kind_of_categories(uint64_t categories)
{
    if (categories & FERRY_PAGE_IS_SWAPPED) {
        return FERRY_SCAN_SWAPPED;
    }
    return categories & FERRY_PAGE_IS_PFNZERO ? FERRY_SCAN_ZERO : FERRY_SCAN_DATA;
}

static bool scan_private_ioctl(Scan *scan, GError **errp)
{
    const uint64_t host = (uintptr_t)scan->target->host;
    const uint64_t page_size = scan->target->page_size_bytes;
    struct ferry_page_region regions[NR_REGIONS];
    struct ferry_pm_scan_arg arg = {
        .size = sizeof(arg),
        .start = host + round_down(scan->ask_start, page_size),
        .end = host + round_up(scan->ask_end, page_size),
        .vec = (uintptr_t)regions,
        .vec_len = NR_REGIONS,
        .category_anyof_mask = FERRY_PAGE_IS_PRESENT | FERRY_PAGE_IS_SWAPPED,
        .return_mask = FERRY_PAGE_IS_PRESENT | FERRY_PAGE_IS_SWAPPED | FERRY_PAGE_IS_PFNZERO,
    };

    while (arg.start < arg.end) {
        int nr = ioctl(scan->scanner->pagemap_fd, FERRY_PAGEMAP_SCAN, &arg);

        if (nr < 0) {
            if (errno == EINTR) {
                continue;
            }
            return fail_errno(errp, "PAGEMAP_SCAN", scan);
        }
        for (int i = 0; i < nr; i++) {
            scan_add(scan, regions[i].start - host, regions[i].end - host,
                     kind_of_categories(regions[i].categories));
        }
        arg.start = arg.walk_end;
    }
    return true;
}

static bool scan_private_read(Scan *scan, GError **errp)
{
    const uint64_t page_size = scan->scanner->page_size_bytes;
    const uint64_t host_page = (uintptr_t)scan->target->host / page_size;
    uint64_t page = scan->ask_start / page_size;
    const uint64_t end_page = round_up(scan->ask_end, page_size) / page_size;
    uint64_t entries[NR_ENTRIES];

    while (page < end_page) {
        size_t want_bytes = MIN(end_page - page, NR_ENTRIES) * sizeof(entries[0]);
        ssize_t got_bytes = pread(scan->scanner->pagemap_fd, entries, want_bytes,
                                  (off_t)((host_page + page) * sizeof(entries[0])));

        if (got_bytes < (ssize_t)sizeof(entries[0])) {
            if (got_bytes < 0 && errno == EINTR) {
                continue;
            }
            if (got_bytes >= 0) {
                errno = EIO;
            }
            return fail_errno(errp, "reading /proc/self/pagemap", scan);
        }
        for (size_t i = 0; i < (size_t)got_bytes / sizeof(entries[0]); i++, page++) {
            if (entries[i] & (ENTRY_PRESENT | ENTRY_SWAPPED)) {
                scan_add(scan, page * page_size, (page + 1) * page_size,
                         entries[i] & ENTRY_SWAPPED ? FERRY_SCAN_SWAPPED : FERRY_SCAN_DATA);
            }
        }
    }
    return true;
}

/* Whether a hole in the file is sure to mean that nothing was written there. */
static bool file_has_holes(const FerryScanTarget *target)
{
    struct stat st;

    /*
     * A device claims no size, and lseek() then finds no data in it; beyond the end of a file
     * lseek() finds none either.
     */
    return fstat(target->fd, &st) == 0 && S_ISREG(st.st_mode) &&
           (uint64_t)st.st_size >= target->fd_offset + target->length_bytes;
}

static bool scan_shared(Scan *scan, GError **errp)
{
    const FerryScanTarget *target = scan->target;
    const off_t fd_offset = (off_t)target->fd_offset;
    const off_t end = fd_offset + (off_t)scan->ask_end;
    const uint64_t page_size = target->page_size_bytes;
    off_t at = fd_offset + (off_t)scan->ask_start;

    if (!file_has_holes(target)) {
        at = end;
        scan_add(scan, scan->ask_start, scan->ask_end, FERRY_SCAN_DATA);
    }
    while (at < end) {
        off_t data = lseek(target->fd, at, SEEK_DATA);
        off_t hole;

        if (data < 0 && errno == ENXIO) {
            break; /* a hole up to the end */
        }
        if (data < 0 && errno != EINVAL) {
            return fail_errno(errp, "lseek(SEEK_DATA)", scan);
        }
        data = data < 0 ? at : data;
        if (data >= end) {
            break;
        }
        hole = ferry_data_runs_end(scan->scanner->runs, target->fd, data, end);
        if (hole <= data) {
            /* Not supported here, or punched since: data, as far as is known. */
            hole = end;
        }
        scan_add(scan, round_down((uint64_t)(data - fd_offset), page_size),
                 round_up((uint64_t)(hole - fd_offset), page_size), FERRY_SCAN_DATA);
        at = hole;
    }
    return true;
}

static bool range_check(const FerryScanTarget *target, uint64_t offset_bytes, uint64_t nr_bytes,
                        GError **errp)
{
    if (offset_bytes <= target->length_bytes && nr_bytes <= target->length_bytes - offset_bytes) {
        return true;
    }
    g_set_error(errp, G_FILE_ERROR, G_FILE_ERROR_INVAL,
                "cannot scan %" G_GUINT64_FORMAT " bytes from offset %" G_GUINT64_FORMAT
                ": the mapping has only %" G_GUINT64_FORMAT,
                nr_bytes, offset_bytes, target->length_bytes);
    return false;
}

/* What was asked for, where there is something. */
static bool scan_present(Scan *scan, GError **errp)
{
    const FerryScanner *scanner = scan->scanner;

    if (scan->ask_start >= scan->ask_end) {
        return true;
    }
    switch (scan->target->method) {
    case FERRY_SCAN_NOTHING:
        return true;
    case FERRY_SCAN_SHARED:
        return scan_shared(scan, errp);
    case FERRY_SCAN_PRIVATE:
        if (scanner->pagemap_fd >= 0) {
            return scanner->has_ioctl ? scan_private_ioctl(scan, errp)
                                      : scan_private_read(scan, errp);
        }
        break;
    default:
        break;
    }
    scan_add(scan, scan->ask_start, scan->ask_end, FERRY_SCAN_DATA);
    return true;
}

bool ferry_scan(const FerryScanner *scanner, const FerryScanTarget *target, uint64_t offset_bytes,
                uint64_t nr_bytes, FerryScanFn fn, void *opaque, GError **errp)
{
    const uint64_t end = offset_bytes + nr_bytes;
    Scan scan = {
        .scanner = scanner,
        .target = target,
        .fn = fn,
        .opaque = opaque,
        .ask_start = offset_bytes,
        .start = offset_bytes,
        .end = offset_bytes,
    };
    bool ok = true;

    if (!range_check(target, offset_bytes, nr_bytes, errp)) {
        return false;
    }
    for (guint i = 0; ok && target->absent && i < target->absent->len; i++) {
        const FerryRange *gap = &g_array_index(target->absent, FerryRange, i);

        scan.ask_end = MIN(gap->start_bytes, end);
        ok = scan_present(&scan, errp);
        scan.ask_start = MAX(scan.ask_start, gap->end_bytes);
    }
    scan.ask_end = end;
    ok = ok && scan_present(&scan, errp);
    scan_flush(&scan);
    return ok;
}
