/*
 * Real memory of all kinds, to find writes in
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "area.h"
#include "migration/memory/kernel-abi.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

static const char *const kind_names[NR_KINDS] = {
    "small",          "thp",          "memfd",       "hugetlb",
    "hugetlb-shared", "file-private", "file-shared", "memfd-untouched",
};

void area_clear(Area *area)
{
    if (area->mapping) {
        munmap(area->mapping, area->mapping_bytes);
    }
    if (area->region.fd >= 0) {
        close(area->region.fd);
    }
}

static int open_file(Kind kind)
{
    g_autofree char *name = NULL;
    int fd = -1;

    switch (kind) {
    case MEMFD:
    case MEMFD_UNTOUCHED:
        return memfd_create("ferry-test-pagemap", MFD_CLOEXEC);
    case HUGETLB_SHARED:
        return memfd_create("ferry-test-pagemap",
                            MFD_CLOEXEC | MFD_HUGETLB | (21 << MAP_HUGE_SHIFT));
    case FILE_PRIVATE:
    case FILE_SHARED:
        fd = g_file_open_tmp("ferry-test-pagemap-XXXXXX", &name, NULL);
        g_assert_cmpint(fd, >=, 0);
        unlink(name);
        return fd;
    default:
        return -1;
    }
}

bool area_make(Area *area, Kind kind, uint64_t nr_pages)
{
    const bool huge = kind == HUGETLB || kind == HUGETLB_SHARED;
    const bool shared =
        kind == MEMFD || kind == MEMFD_UNTOUCHED || kind == HUGETLB_SHARED || kind == FILE_SHARED;
    int flags = shared ? MAP_SHARED : MAP_PRIVATE;
    uintptr_t at;

    *area = (Area){
        .region =
            {
                .length_bytes = nr_pages * PAGE,
                .page_size_bytes = huge ? HUGE : PAGE,
                .flags = shared ? FERRY_REGION_SHARED : 0,
                .fd = open_file(kind),
                .scan = shared                 ? FERRY_SCAN_SHARED
                        : kind == FILE_PRIVATE ? FERRY_SCAN_ALL
                                               : FERRY_SCAN_PRIVATE,
            },
    };
    g_strlcpy(area->region.id, kind_names[kind], sizeof(area->region.id));
    if (kind == HUGETLB_SHARED && area->region.fd < 0) {
        g_test_skip("no hugetlb in this kernel");
        return false;
    }
    if (area->region.fd >= 0) {
        g_assert_cmpint(ftruncate(area->region.fd, (off_t)(nr_pages * PAGE)), ==, 0);
    } else {
        flags |= MAP_ANONYMOUS | MAP_NORESERVE;
    }
    if (huge) {
        flags &= ~MAP_NORESERVE;
        flags |= kind == HUGETLB ? MAP_HUGETLB | (21 << MAP_HUGE_SHIFT) : 0;
    }
    if (kind == MEMFD_UNTOUCHED || kind == FILE_PRIVATE || kind == FILE_SHARED) {
        for (uint64_t page = 0; page < nr_pages; page++) {
            g_assert_cmpint(pwrite(area->region.fd, "data", 4, (off_t)(page * PAGE)), ==, 4);
        }
    }
    /* Some more, so that it can begin at a multiple of a huge page. */
    area->mapping_bytes = nr_pages * PAGE + HUGE;
    area->mapping = mmap(NULL, area->mapping_bytes, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    g_assert_true(area->mapping != MAP_FAILED);
    at = ((uintptr_t)area->mapping + HUGE - 1) & ~(HUGE - 1);
    if (mmap((void *)at, nr_pages * PAGE, PROT_READ | PROT_WRITE, flags | MAP_FIXED,
             area->region.fd, 0) == MAP_FAILED) {
        g_test_skip("no 2 MiB pages reserved (vm.nr_hugepages)");
        return false;
    }
    area->region.host = (uint8_t *)at;
    if (kind == SMALL && madvise(area->region.host, nr_pages * PAGE, MADV_NOHUGEPAGE) != 0) {
        g_assert_cmpint(errno, ==, EINVAL); /* no transparent huge pages in this kernel */
    }
    if (kind == THP && madvise(area->region.host, nr_pages * PAGE, MADV_HUGEPAGE) != 0) {
        g_test_skip("no transparent huge pages");
        return false;
    }
    return true;
}

void area_touch(const Area *area, uint64_t page)
{
    __atomic_fetch_add((uint64_t *)(void *)area_at(area, page), 1, __ATOMIC_RELAXED);
}

uint64_t area_look(const Area *area, uint64_t page)
{
    return __atomic_load_n((uint64_t *)(void *)area_at(area, page), __ATOMIC_RELAXED);
}

uint64_t area_categories(const Area *area, uint64_t page)
{
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    struct ferry_page_region range = {0};
    struct ferry_pm_scan_arg arg = {
        .size = sizeof(arg),
        .start = (uintptr_t)area_at(area, page),
        .end = (uintptr_t)area_at(area, page + 1),
        .vec = (uintptr_t)&range,
        .vec_len = 1,
        .return_mask = FERRY_PAGE_IS_WPALLOWED | FERRY_PAGE_IS_PRESENT | FERRY_PAGE_IS_SWAPPED |
                       FERRY_PAGE_IS_HUGE,
    };

    g_assert_cmpint(ioctl(fd, FERRY_PAGEMAP_SCAN, &arg), ==, 1);
    close(fd);
    return range.categories;
}

void area_add_tests(const char *name, GTestDataFunc fn, const Kind *kinds, size_t nr)
{
    for (size_t i = 0; i < nr; i++) {
        g_autofree char *path = g_strdup_printf("/pagemap/%s/%s", name, kind_names[kinds[i]]);

        g_test_add_data_func(path, GUINT_TO_POINTER(kinds[i]), fn);
    }
}
