/*
 * Kinds of memory, and what may be done to each: the table of docs/design.md, cell by cell, on real memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "migration/memory/discard.h"
#include "migration/memory/empty.h"
#include "migration/memory/userfault.h"
#include "migration/memory/zero.h"
#include "migration/source/heat.h"
#include "migration/wire/pages-frame.h"

#define PAGE       4096
#define HUGE_BYTES (UINT64_C(2) << 20)
#define NR_BYTES   (2 * HUGE_BYTES)
#define NR_PAGES   (NR_BYTES / PAGE)

/* What becomes of memory that is to be emptied. */
typedef enum {
    GIVEN_BACK, /* it has no pages any more */
    CLEARED,    /* it has, and they are zero */
    LEFT,       /* it is as it was */
} Emptied;

typedef struct MemoryKind {
    const char *name;
    uint32_t flags;
    bool is_file; /* on tmpfs; else a memfd, if it has any of these: */
    bool is_memfd;
    bool with_data; /* the file has had data before it was mapped */
    bool locked;
    bool all_is_data; /* what was never touched cannot be told from what was */
    Emptied emptied;
    bool fetched; /* its pages may be left missing */
} MemoryKind;

#define SHARED    FERRY_REGION_SHARED
#define HUGETLB   FERRY_REGION_HUGETLB
#define KEEP      FERRY_REGION_KEEP_PAGES
#define FOREIGN   FERRY_REGION_FOREIGN
#define READ_ONLY FERRY_REGION_READ_ONLY
#define SPARSE    FERRY_REGION_SPARSE

static const MemoryKind kinds[] = {
    {.name = "anonymous", .emptied = GIVEN_BACK, .fetched = true},
    {.name = "prealloc", .flags = KEEP, .emptied = CLEARED, .fetched = true},
    {.name = "mlock", .locked = true, .emptied = CLEARED},
    {.name = "memfd", .flags = SHARED, .is_memfd = true, .emptied = GIVEN_BACK, .fetched = true},
    {.name = "memfd-private", .is_memfd = true, .emptied = GIVEN_BACK, .fetched = true},
    {.name = "hugetlb-shared",
     .flags = SHARED | HUGETLB | KEEP,
     .is_memfd = true,
     .all_is_data = true,
     .emptied = CLEARED,
     .fetched = true},
    {.name = "hugetlb-private",
     .flags = HUGETLB | KEEP,
     .is_memfd = true,
     .emptied = CLEARED,
     .fetched = true},
    {.name = "file-shared",
     .flags = SHARED | FOREIGN,
     .is_file = true,
     .emptied = LEFT,
     .fetched = true},
    {.name = "nvdimm",
     .flags = SHARED | FOREIGN,
     .is_file = true,
     .with_data = true,
     .all_is_data = true,
     .emptied = LEFT,
     .fetched = true},
    {.name = "file-private",
     .flags = FOREIGN,
     .is_file = true,
     .with_data = true,
     .all_is_data = true,
     .emptied = CLEARED},
    {.name = "hugetlb-file-private",
     .flags = HUGETLB | KEEP | FOREIGN,
     .is_memfd = true,
     .all_is_data = true,
     .emptied = CLEARED,
     .fetched = true},
    {.name = "read-only",
     .flags = SHARED | FOREIGN | READ_ONLY,
     .is_file = true,
     .with_data = true,
     .all_is_data = true,
     .emptied = LEFT},
    {.name = "virtio-mem", .flags = SPARSE, .emptied = GIVEN_BACK, .fetched = true},
    {.name = "virtio-mem-memfd",
     .flags = SHARED | SPARSE,
     .is_memfd = true,
     .emptied = GIVEN_BACK,
     .fetched = true},
    {.name = "virtio-mem-file-private",
     .flags = FOREIGN | SPARSE,
     .is_file = true,
     .with_data = true,
     .all_is_data = true,
     .emptied = LEFT},
    {.name = "virtio-mem-hugetlb-shared",
     .flags = SHARED | HUGETLB | KEEP | SPARSE,
     .is_memfd = true,
     .all_is_data = true,
     .emptied = GIVEN_BACK,
     .fetched = true},
    {.name = "virtio-mem-hugetlb-private",
     .flags = HUGETLB | KEEP | SPARSE,
     .is_memfd = true,
     .emptied = GIVEN_BACK,
     .fetched = true},
};

static bool madvise_is_old; /* as before Linux 5.18 */

/* In place of the C library's. */
int madvise(void *addr, size_t nr_bytes, int advice)
{
    if (madvise_is_old && advice == MADV_DONTNEED) {
        errno = EINVAL;
        return -1;
    }
    return (int)syscall(SYS_madvise, addr, nr_bytes, advice);
}

static int open_file(const MemoryKind *kind)
{
    char path[] = "/dev/shm/ferry-test-kinds-XXXXXX";
    int fd = -1;

    if (kind->is_file) {
        fd = mkstemp(path);
        g_assert_cmpint(fd, >=, 0);
        unlink(path);
    } else if (kind->is_memfd) {
        fd = memfd_create("ferry-test-kinds",
                          MFD_CLOEXEC |
                              (kind->flags & HUGETLB ? MFD_HUGETLB | 21 << MAP_HUGE_SHIFT : 0));
    }
    if (fd >= 0) {
        g_assert_cmpint(ftruncate(fd, NR_BYTES), ==, 0);
    }
    for (uint64_t page = 0; kind->with_data && page < NR_PAGES; page++) {
        g_assert_cmpint(pwrite(fd, "data", 4, (off_t)(page * PAGE)), ==, 4);
    }
    return fd;
}

/* False, and the test is skipped, where there is no such memory.  @untouched: it need not be had, ever. */
static bool make(FerryRegion *region, const MemoryKind *kind, bool untouched)
{
    const bool shared = kind->flags & SHARED;
    const int fd = open_file(kind);
    int flags = (shared ? MAP_SHARED : MAP_PRIVATE) | (fd < 0 ? MAP_ANONYMOUS : 0);
    int prot = PROT_READ | (kind->flags & READ_ONLY ? 0 : PROT_WRITE);

    *region = (FerryRegion){
        .id = "kind",
        .length_bytes = NR_BYTES,
        .page_size_bytes = kind->flags & HUGETLB ? HUGE_BYTES : PAGE,
        .flags = kind->flags,
        .fd = fd,
        .scan = shared                               ? FERRY_SCAN_SHARED
                : kind->flags & FERRY_REGION_FOREIGN ? FERRY_SCAN_ALL
                                                     : FERRY_SCAN_PRIVATE,
    };
    region->host = MAP_FAILED;
    if (fd >= 0 || !kind->is_memfd) {
        region->host = mmap(NULL, NR_BYTES, prot, flags | (untouched ? MAP_NORESERVE : 0), fd, 0);
    }
    if (region->host == MAP_FAILED) {
        g_test_skip("no 2 MiB pages reserved (vm.nr_hugepages)");
        return false;
    }
    if (!(kind->flags & HUGETLB)) {
        (void)madvise(region->host, NR_BYTES, MADV_NOHUGEPAGE);
    }
    /* Sanitizers have an mlock() of their own, which locks nothing. */
    if (kind->locked && syscall(SYS_mlock, region->host, NR_BYTES) != 0) {
        g_test_skip("may not lock memory");
        return false;
    }
    return true;
}

static void drop(FerryRegion *region)
{
    if (region->host != MAP_FAILED) {
        munmap(region->host, region->length_bytes);
    }
    if (region->fd >= 0) {
        close(region->fd);
    }
    g_clear_pointer(&region->absent, g_array_unref);
}

static void touch(const FerryRegion *region, uint64_t page)
{
    region->host[page * PAGE + 7] = 'x';
}

/* How many bytes it takes up, in its file or in our page tables. */
static uint64_t resident_bytes(const FerryRegion *region)
{
    g_autofree unsigned char *resident = g_malloc(NR_PAGES);
    uint64_t nr_bytes = 0;
    struct stat st;

    if (region->fd >= 0 && (region->flags & SHARED)) {
        g_assert_cmpint(fstat(region->fd, &st), ==, 0);
        return (uint64_t)st.st_blocks * 512;
    }
    g_assert_cmpint(mincore(region->host, NR_BYTES, resident), ==, 0);
    for (uint64_t page = 0; page < NR_PAGES; page++) {
        nr_bytes += resident[page] & 1 ? PAGE : 0;
    }
    return nr_bytes;
}

static bool is_all_zero(const FerryRegion *region)
{
    return ferry_is_zero(region->host, NR_BYTES);
}

/* --- At the source ---------------------------------------------------------------------------- */

static void mark_found(void *opaque, uint64_t offset_bytes, uint64_t nr_bytes, FerryScanKind found)
{
    bool *pages = opaque;

    for (uint64_t at = offset_bytes; at < offset_bytes + nr_bytes; at += PAGE) {
        pages[at / PAGE] = true;
    }
}

/* What was touched is found, and nothing else where the kind says so. */
static void test_scanned(gconstpointer data)
{
    const MemoryKind *kind = data;
    const uint64_t per_unit = kind->flags & HUGETLB ? HUGE_BYTES / PAGE : 1;
    g_autoptr(FerryScanner) scanner = ferry_scanner_new();
    g_autofree bool *found = g_new0(bool, NR_PAGES);
    g_autoptr(GError) error = NULL;
    FerryRegion region;

    if (make(&region, kind, false)) {
        FerryScanTarget target = ferry_region_scan_target(&region);

        if (!(kind->flags & READ_ONLY)) {
            touch(&region, 600);
        }
        g_assert_true(ferry_scan(scanner, &target, 0, NR_BYTES, mark_found, found, &error));
        for (uint64_t page = 0; page < NR_PAGES; page++) {
            bool expected = (kind->all_is_data && (kind->with_data || (kind->flags & HUGETLB))) ||
                            kind->locked || page / per_unit == 600 / per_unit;

            g_assert_cmpint(found[page], ==, expected);
        }
    }
    drop(&region);
}

/*
 * What a device has unplugged is neither sampled nor found nor read: to touch it would be our end, as the
 * memory may not be accessed at all here.
 */
static void test_absent(gconstpointer data)
{
    const MemoryKind *kind = data;
    const FerryRange gaps[] = {
        {.start_bytes = 0, .end_bytes = HUGE_BYTES / 2},
        {.start_bytes = HUGE_BYTES, .end_bytes = NR_BYTES},
    };
    const bool nothing_plugged = kind->flags & HUGETLB;
    g_autoptr(FerryScanner) scanner = ferry_scanner_new();
    g_autofree bool *found = g_new0(bool, NR_PAGES);
    g_autoptr(GError) error = NULL;
    FerryRegion region;

    if (make(&region, kind, true)) {
        FerryRegions regions = {.list = &region, .nr = 1};
        g_autoptr(FerryHeat) heat = ferry_heat_new(&regions, scanner);
        FerryScanTarget target;

        if (nothing_plugged) {
            const FerryRange all = {.end_bytes = NR_BYTES};

            region.absent = g_array_new(FALSE, FALSE, sizeof(FerryRange));
            g_array_append_val(region.absent, all);
            g_assert_cmpint(mprotect(region.host, NR_BYTES, PROT_NONE), ==, 0);
        } else {
            for (uint64_t page = 0; page < NR_PAGES; page++) {
                touch(&region, page);
            }
            region.absent = g_array_new(FALSE, FALSE, sizeof(FerryRange));
            g_array_append_vals(region.absent, gaps, G_N_ELEMENTS(gaps));
            for (size_t i = 0; i < G_N_ELEMENTS(gaps); i++) {
                g_assert_cmpint(mprotect(region.host + gaps[i].start_bytes,
                                         gaps[i].end_bytes - gaps[i].start_bytes, PROT_NONE),
                                ==, 0);
            }
        }
        target = ferry_region_scan_target(&region);
        g_assert_true(ferry_heat_look(heat, 0, 0, 1, &error));
        g_assert_cmpuint(ferry_heat_changed(heat, 0, 0), ==, 0);
        g_assert_true(ferry_scan(scanner, &target, 0, NR_BYTES, mark_found, found, &error));
        for (uint64_t page = 0; page < NR_PAGES; page++) {
            bool plugged = !nothing_plugged && page * PAGE >= gaps[0].end_bytes &&
                           page * PAGE < gaps[1].start_bytes;

            g_assert_cmpint(found[page], ==, plugged);
        }
        g_assert_cmpuint(ferry_region_skip_absent(&region, 0), ==,
                         nothing_plugged ? NR_BYTES : gaps[0].end_bytes);
    }
    drop(&region);
}

/* To send what is in no file's page, when all has to be sent, allocates none. */
static void test_sent_in_full(void)
{
    static const MemoryKind kind = {.flags = SHARED, .is_memfd = true};
    uint64_t all[FERRY_GRANULE_WORDS];
    FerryPagesFrame frame = {0};
    FerryRegion region;

    memset(all, 0xff, sizeof(all));
    g_assert_true(make(&region, &kind, false));
    touch(&region, 5);
    touch(&region, 130);
    region.flags |= FERRY_REGION_IN_FULL | FERRY_REGION_HOLES_KNOWN;
    ferry_pages_frame_init(&frame, false, false);
    ferry_pages_frame_build(&frame, &region, 0, 0, all);
    g_assert_cmpuint(frame.nr_pages, ==, FERRY_GRANULE_PAGES);
    g_assert_cmpuint(frame.content_bytes, ==, 2 * PAGE);
    ferry_pages_frame_build(&frame, &region, 0, 1, all);
    g_assert_cmpuint(frame.content_bytes, ==, 0);
    g_assert_cmpuint(resident_bytes(&region), ==, 2 * PAGE);
    ferry_pages_frame_clear(&frame);
    drop(&region);
}

/* --- At the destination ----------------------------------------------------------------------- */

static void test_emptied(gconstpointer data)
{
    const MemoryKind *kind = data;
    g_autoptr(FerryScanner) scanner = ferry_scanner_new();
    g_autoptr(GError) error = NULL;
    uint64_t before;
    FerryRegion region;

    if (make(&region, kind, false)) {
        for (uint64_t page = 0; page < NR_PAGES && !(kind->flags & READ_ONLY); page += 3) {
            touch(&region, page);
        }
        before = resident_bytes(&region);
        g_assert_true(ferry_region_empty(scanner, &region, &error));
        g_assert_no_error(error);
        switch (kind->emptied) {
        case GIVEN_BACK:
            g_assert_cmpuint(resident_bytes(&region), ==, 0);
            break;
        case CLEARED:
            g_assert_cmpuint(resident_bytes(&region), >=, before);
            break;
        case LEFT:
            g_assert_cmpuint(resident_bytes(&region), ==, before);
            g_assert_false(is_all_zero(&region));
            g_assert_true((kind->flags & READ_ONLY) || region.host[7] == 'x');
            break;
        }
        if (kind->emptied != LEFT) {
            g_assert_true(is_all_zero(&region));
        }
        if (kind->with_data) {
            char text[4];

            /* Whoever else has the file has lost nothing. */
            g_assert_cmpint(pread(region.fd, text, 4, 5 * PAGE), ==, 4);
            g_assert_cmpmem(text, 4, "data", 4);
        }
    }
    drop(&region);
}

/* Nothing is allocated for memory that nobody has touched, were it only to look at it. */
static void test_emptied_untouched(gconstpointer data)
{
    const MemoryKind *kind = data;
    g_autoptr(FerryScanner) scanner = ferry_scanner_new();
    g_autoptr(GError) error = NULL;
    FerryRegion region;

    if (make(&region, kind, true)) {
        g_assert_true(ferry_region_empty(scanner, &region, &error));
        g_assert_no_error(error);
        g_assert_cmpuint(resident_bytes(&region), ==, 0);
    }
    drop(&region);
}

static gpointer read_page(gpointer host)
{
    return GINT_TO_POINTER(*(volatile const char *)host);
}

/* What is left missing is missing, for whoever touches it too, and can be put in place. */
static void test_fetched(gconstpointer data)
{
    const MemoryKind *kind = data;
    const uint64_t per_unit = kind->flags & HUGETLB ? HUGE_BYTES / PAGE : 1;
    g_autofree uint8_t *content = g_malloc(HUGE_BYTES);
    g_autoptr(FerryUserfault) uffd = NULL;
    g_autoptr(GError) error = NULL;
    FerryPageset *missing = ferry_pageset_new(NR_PAGES), *discarded = ferry_pageset_new(NR_PAGES);
    struct pollfd pollfd = {.events = POLLIN};
    FerryUserfaultEvent event;
    GThread *reader;
    GMutex lock;
    uint64_t done_bytes;
    FerryRegion region = {.host = MAP_FAILED, .fd = -1};

    g_mutex_init(&lock);
    if (!(uffd = ferry_userfault_new(NULL))) {
        g_test_skip("no userfaultfd");
    } else if (make(&region, kind, false)) {
        for (uint64_t page = 0; page < NR_PAGES; page++) {
            touch(&region, page);
        }
        memset(content, 'c', HUGE_BYTES);
        ferry_pageset_add(missing, 512, per_unit);
        g_assert_true(ferry_userfault_probe(uffd, &region, &error));
        g_assert_true(ferry_userfault_register(uffd, &region, &error));
        g_assert_true(ferry_discard_missing(&region, missing, discarded, &lock, 1, &error));
        g_assert_no_error(error);
        reader = g_thread_new("reader", read_page, region.host + 512 * PAGE);
        pollfd.fd = ferry_userfault_fd(uffd);
        g_assert_cmpint(poll(&pollfd, 1, 10000), ==, 1);
        g_assert_cmpuint(ferry_userfault_read(uffd, &event, 1), ==, 1);
        g_assert_cmpint(ferry_userfault_place(uffd, &region, 512 * PAGE, content, per_unit * PAGE,
                                              &done_bytes, &error),
                        ==, FERRY_PLACED);
        g_assert_cmpint(GPOINTER_TO_INT(g_thread_join(reader)), ==, 'c');
        g_assert_cmpint(region.host[511 * PAGE + 7], ==, 'x');
        ferry_userfault_unregister(uffd, &region);
    }
    g_mutex_clear(&lock);
    drop(&region);
    ferry_pageset_free(missing);
    ferry_pageset_free(discarded);
}

/* Private huge pages on a kernel where madvise() does not take them away. */
static void test_fetched_before_5_18(gconstpointer data)
{
    madvise_is_old = true;
    test_fetched(data);
    madvise_is_old = false;
}

/* A file that others have is left alone, when our copies of its pages are dropped. */
static void test_dropped_private_copies(void)
{
    static const MemoryKind kind = {.flags = FOREIGN, .is_file = true, .with_data = true};
    FerryRegion region;
    FerryScanTarget target;
    char text[4];

    g_assert_true(make(&region, &kind, false));
    target = ferry_region_scan_target(&region);
    memset(region.host, 'y', NR_BYTES);
    g_assert_cmpint(ferry_target_drop(&target, 0, NR_BYTES), ==, 0);
    g_assert_cmpmem(region.host, 4, "data", 4);
    g_assert_cmpint(pread(region.fd, text, 4, PAGE), ==, 4);
    g_assert_cmpmem(text, 4, "data", 4);
    drop(&region);
}

static bool is_sparse(const MemoryKind *kind)
{
    return kind->flags & SPARSE;
}

static bool begins_untouched(const MemoryKind *kind)
{
    return !kind->with_data && !kind->locked;
}

static bool is_fetched(const MemoryKind *kind)
{
    return kind->fetched;
}

static bool is_fetched_huge(const MemoryKind *kind)
{
    return kind->fetched && (kind->flags & HUGETLB) && !(kind->flags & FOREIGN);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (sysconf(_SC_PAGESIZE) != PAGE) {
        g_test_message("written for 4 KiB pages");
        return 77;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
        static const struct {
            const char *name;
            GTestDataFunc fn;
            bool (*applies)(const MemoryKind *kind); /* NULL: to all */
        } cells[] = {
            {"scanned", test_scanned, NULL},
            {"absent", test_absent, is_sparse},
            {"emptied", test_emptied, NULL},
            {"emptied-untouched", test_emptied_untouched, begins_untouched},
            {"fetched", test_fetched, is_fetched},
            {"fetched-before-5.18", test_fetched_before_5_18, is_fetched_huge},
        };

        for (size_t j = 0; j < G_N_ELEMENTS(cells); j++) {
            g_autofree char *path = g_strdup_printf("/kinds/%s/%s", cells[j].name, kinds[i].name);

            if (!cells[j].applies || cells[j].applies(&kinds[i])) {
                g_test_add_data_func(path, &kinds[i], cells[j].fn);
            }
        }
    }
    g_test_add_func("/kinds/sent-in-full", test_sent_in_full);
    g_test_add_func("/kinds/dropped-private-copies", test_dropped_private_copies);
    return g_test_run();
}
