/*
 * Which pages of a mapping were ever touched?
 *
 * Asked of the kernel, without reading the memory: reading it would cost a pass over the whole
 * guest and would itself populate page tables or, in shared memory, pages.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_SCAN_H
#define FERRY_SCAN_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/** FerryScanMethod: how a mapping can be asked */
typedef enum {
    /**
     * Anonymous private memory (hugetlb too): its page tables know all. Not for a private
     * mapping of a file, where a page without an entry has the file's content.
     */
    FERRY_SCAN_PRIVATE,
    /** A memfd, tmpfs or other regular file mapped shared: the file's holes were never written */
    FERRY_SCAN_SHARED,
    /** Anything else: all of it counts as data */
    FERRY_SCAN_ALL,
    /** None of it counts: somebody else takes care of what is in it */
    FERRY_SCAN_NOTHING,
} FerryScanMethod;

/** FerryScanKind: what is known about a range that was touched */
typedef enum {
    /** Anything may be in it */
    FERRY_SCAN_DATA,
    /** It maps the kernel's zero page: it was only ever read, and is zero */
    FERRY_SCAN_ZERO,
    /**
     * Its content is not in memory now: swapped out, or at the moment being moved by the
     * kernel. Reading it is correct, but may wait for the swap device.
     */
    FERRY_SCAN_SWAPPED,
} FerryScanKind;

/**
 * FerryScanFn: one range found by ferry_scan()
 * @offset_bytes: from the start of the target
 *
 * Must not call back into the scan that calls it; scanning elsewhere, and changing the memory
 * behind the range, is allowed.
 */
typedef void (*FerryScanFn)(void *opaque, uint64_t offset_bytes, uint64_t nr_bytes,
                            FerryScanKind kind);

/** FerryRange: whole pages; offsets in the target */
typedef struct {
    uint64_t start_bytes;
    uint64_t end_bytes;
} FerryRange;

/**
 * FerryScanTarget: a mapping to scan; the caller keeps it mapped and @fd open meanwhile
 * @host: its address
 * @length_bytes: its length
 * @fd: what is mapped there, for FERRY_SCAN_SHARED; its file position gets moved
 * @fd_offset: where in @fd the mapping starts
 * @method: how it can be asked
 * @page_size_bytes: size of its pages: the system's, or larger for hugetlb
 * @flags: what else is known of it, FerryRegionFlags
 * @absent: of FerryRange, in ascending order: parts that do not exist for now (a device has
 *          unplugged them), are never reported and never looked at; or NULL
 */
typedef struct {
    void *host;
    uint64_t length_bytes;
    int fd;
    uint64_t fd_offset;
    FerryScanMethod method;
    uint32_t page_size_bytes;
    uint32_t flags;
    const GArray *absent;
} FerryScanTarget;

/**
 * FerryScannerFlags: ways of asking to do without, so that tests reach the fallbacks
 * @FERRY_SCANNER_NO_IOCTL: as on a kernel before 6.7, without PAGEMAP_SCAN
 * @FERRY_SCANNER_NO_PAGEMAP: as without /proc
 */
typedef enum {
    FERRY_SCANNER_DEFAULT = 0,
    FERRY_SCANNER_NO_IOCTL = 1 << 0,
    FERRY_SCANNER_NO_PAGEMAP = 1 << 1,
} FerryScannerFlags;

typedef struct FerryScanner FerryScanner;

/**
 * ferry_scanner_new: find out what this kernel can tell about this process's memory
 *
 * Never fails: what cannot be told counts as data. Belongs to the process that calls it, not to
 * a child forked later. Free with ferry_scanner_free(). Any thread.
 */
FerryScanner *ferry_scanner_new(void);

/** ferry_scanner_do_without: have ferry_scanner_new() do without what @flags names: for tests */
void ferry_scanner_do_without(FerryScannerFlags flags);

/** ferry_scanner_new_full: ferry_scanner_new(), doing without what @flags names */
FerryScanner *ferry_scanner_new_full(FerryScannerFlags flags);

/**
 * ferry_scanner_stop: have ferry_scan_discard_populated() fail soon, whatever is left, and at once from
 * now on. Any thread.
 */
void ferry_scanner_stop(FerryScanner *scanner);

/** ferry_scanner_is_stopped: whether ferry_scanner_stop() was called. Any thread. */
bool ferry_scanner_is_stopped(const FerryScanner *scanner);

/** ferry_scanner_free: free @scanner, which nobody may be using; NULL is allowed */
void ferry_scanner_free(FerryScanner *scanner);

/**
 * ferry_scanner_method_name: how private memory is asked, for reports
 *
 * "pagemap-scan" (Linux 6.7), "pagemap-read" (older: 8 bytes are read for each page of address
 * space, and zero pages count as data) or "none" (no /proc: all is data). A static string.
 */
const char *ferry_scanner_method_name(const FerryScanner *scanner);

/**
 * ferry_scanner_quick_ns: what no more than 32 MiB of memory without page tables takes to scan
 *
 * So whether something has page tables shows in the time, however this kernel is asked.
 */
uint64_t ferry_scanner_quick_ns(const FerryScanner *scanner);

/**
 * ferry_scan: report what was touched in @nr_bytes of @target from @offset_bytes on
 *
 * Calls @fn for each longest range of one kind, in ascending order; what is not reported was
 * never touched and reads as zero (or, having been discarded, does again). What was punched into
 * a file since @scanner found data around it may be reported all the same. Ranges are whole
 * pages, cut to the range asked for. A page first touched during the scan may be missed: arm
 * write tracking first. Takes time in proportion to what is populated.
 *
 * False, with @errp set, when the kernel fails a request or the range lies outside the target;
 * part of it may have been reported by then. Thread-safe: one scanner may scan several ranges
 * at once.
 *
 * Sources: Documentation/admin-guide/mm/pagemap.rst; lseek(2), SEEK_DATA.
 */
bool ferry_scan(const FerryScanner *scanner, const FerryScanTarget *target, uint64_t offset_bytes,
                uint64_t nr_bytes, FerryScanFn fn, void *opaque, GError **errp);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(FerryScanner, ferry_scanner_free)

#endif
