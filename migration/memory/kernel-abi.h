/*
 * Kernel interfaces newer than the oldest kernel headers Ferry builds with (Linux 6.1)
 *
 * Names are the kernel's with FERRY_ in front, so that they stay apart from those of newer
 * headers. Reference: Documentation/admin-guide/mm/pagemap.rst,
 * userfaultfd.rst.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_KERNEL_ABI_H
#define FERRY_KERNEL_ABI_H

#include <linux/ioctl.h>
#include <stdint.h>

/* UFFDIO_API, Linux 6.7: the kernel takes write protection off by itself */
#define FERRY_UFFD_FEATURE_WP_ASYNC (UINT64_C(1) << 15)

/* PAGEMAP_SCAN on /proc/PID/pagemap, Linux 6.7: what kind of pages is a range made of? */

/* Page categories */
#define FERRY_PAGE_IS_WPALLOWED  (UINT64_C(1) << 0)
#define FERRY_PAGE_IS_WRITTEN    (UINT64_C(1) << 1)
#define FERRY_PAGE_IS_FILE       (UINT64_C(1) << 2)
#define FERRY_PAGE_IS_PRESENT    (UINT64_C(1) << 3)
#define FERRY_PAGE_IS_SWAPPED    (UINT64_C(1) << 4)
#define FERRY_PAGE_IS_PFNZERO    (UINT64_C(1) << 5)
#define FERRY_PAGE_IS_HUGE       (UINT64_C(1) << 6)
#define FERRY_PAGE_IS_SOFT_DIRTY (UINT64_C(1) << 7)

/* Flags: write-protect what matched; fail where the range is not set up for WP_ASYNC */
#define FERRY_PM_SCAN_WP_MATCHING   (UINT64_C(1) << 0)
#define FERRY_PM_SCAN_CHECK_WPASYNC (UINT64_C(1) << 1)

/**
 * struct ferry_page_region: consecutive pages of the same categories
 * @start: address of the first byte
 * @end: address after the last byte
 * @categories: FERRY_PAGE_IS_*, as far as the scan's return_mask asks for them
 */
struct ferry_page_region {
    uint64_t start;
    uint64_t end;
    uint64_t categories;
};

/**
 * struct ferry_pm_scan_arg: argument of FERRY_PAGEMAP_SCAN
 * @size: of this structure
 * @flags: FERRY_PM_SCAN_*
 * @start: first address, page aligned
 * @end: address to stop before
 * @walk_end: out: where the walk stopped; before @end when the vector was full
 * @vec: address of an array of struct ferry_page_region
 * @vec_len: its length in elements
 * @max_pages: stop after as many matching pages; 0 is no limit
 * @category_inverted: categories whose value is inverted before matching
 * @category_mask: categories a page must all have
 * @category_anyof_mask: categories of which a page must have one
 * @return_mask: categories to report; pages that differ in no other are one region
 */
struct ferry_pm_scan_arg {
    uint64_t size;
    uint64_t flags;
    uint64_t start;
    uint64_t end;
    uint64_t walk_end;
    uint64_t vec;
    uint64_t vec_len;
    uint64_t max_pages;
    uint64_t category_inverted;
    uint64_t category_mask;
    uint64_t category_anyof_mask;
    uint64_t return_mask;
};

_Static_assert(sizeof(struct ferry_page_region) == 24, "kernel ABI");
_Static_assert(sizeof(struct ferry_pm_scan_arg) == 96, "kernel ABI");

#define FERRY_PAGEMAP_SCAN _IOWR('f', 16, struct ferry_pm_scan_arg)

#endif
