/*
 * What the kernel denies: each time there is an error that says so, and says what of
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "deny.h"
#include "fake-machine.h"
#include "migration/destination/fetch.h"
#include "migration/error.h"
#include "migration/memory/discard.h"
#include "migration/memory/empty.h"
#include "migration/memory/kernel-abi.h"
#include "migration/memory/userfault.h"

#define NR_PAGES UINT64_C(64)

static const FakeRegion regions[] = {{.id = "pc.ram", .nr_pages = NR_PAGES}, {0}};

static void assert_says(const GError *error, const char *words)
{
    g_assert_nonnull(error);
    if (!strstr(error->message, words)) {
        g_error("'%s' is not in '%s'", words, error->message);
    }
}

/* --- userfaultfd ------------------------------------------------------------------------------- */

static void assert_no_userfaultfd(const char *words)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(ferry_userfault_new(&error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_SYSTEM);
    assert_says(error, words);
}

static void no_userfaultfd(void)
{
    deny_call(SYS_userfaultfd, EPERM);
    if (geteuid() == 0) {
        /* Nobody in particular may not open the device either. */
        g_assert_cmpint(setresuid(65534, 65534, 65534), ==, 0);
    }
    assert_no_userfaultfd("set the sysctl vm.unprivileged_userfaultfd to 1");
}

static void old_userfaultfd(void)
{
    deny_ioctl(UFFDIO_API, EINVAL);
    assert_no_userfaultfd("Linux 4.14 has them");
}

static void no_zeroes(void)
{
    deny_mmap(UINT64_C(1) << 30, ENOMEM);
    assert_no_userfaultfd("cannot map memory: Cannot allocate memory");
}

static void want(void *opaque, unsigned index, uint32_t region, uint64_t page)
{
}

static void complete(void *opaque)
{
    g_assert_not_reached();
}

static void failed(void *opaque, GError *error)
{
    g_error("%s", error->message);
}

static const FerryFetchOps fetch_ops = {.want = want, .complete = complete, .failed = failed};

static void no_eventfd(void)
{
    FakeMachine *machine = fake_machine_new(regions, false);
    g_autoptr(GError) error = NULL;

    deny_call(SYS_eventfd2, EMFILE);
    g_assert_null(ferry_fetch_new(&machine->regions, 1, &fetch_ops, NULL, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_SYSTEM);
    assert_says(error, "cannot get an eventfd: Too many open files");
    fake_machine_free(machine);
}

/* A page of several parts, for which there is no memory until they are all there. */
static void no_memory_to_gather(void)
{
    static const FakeRegion huge[] = {
        {.id = "huge", .nr_pages = 16 * FERRY_GRANULE_PAGES, .huge_pages = 4 * FERRY_GRANULE_PAGES},
        {0},
    };
    const FerryFrame frame = {.type = FERRY_FRAME_PAGES, .nr_extents = 1};
    const FerryExtent extent = {.nr_pages = FERRY_GRANULE_PAGES, .zero = true};
    FakeMachine *machine = fake_machine_new(huge, false);
    g_autoptr(GError) error = NULL;
    FerryFetch *fetch = ferry_fetch_new(&machine->regions, 1, &fetch_ops, NULL, &error);

    g_assert_no_error(error);
    ferry_pageset_add(ferry_fetch_incoming(fetch)[0], 0, 4 * FERRY_GRANULE_PAGES);
    g_assert_true(ferry_fetch_go_live(fetch, &error));
    deny_mmap(4 * FERRY_GRANULE_PAGES * FERRY_PAGE_BYTES, ENOMEM);
    g_assert_false(ferry_fetch_place(fetch, &frame, &extent, NULL, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_SYSTEM);
    assert_says(error, "no memory to gather a page of RAM block 'huge': Cannot allocate memory");
    ferry_fetch_free(fetch);
    fake_machine_free(machine);
}

/* --- Looking at memory ------------------------------------------------------------------------- */

static void visit_none(void *opaque, uint64_t offset_bytes, uint64_t nr_bytes, FerryScanKind kind)
{
    g_assert_not_reached();
}

static void assert_no_scan(const FerryScanner *scanner, const char *words)
{
    FakeMachine *machine = fake_machine_new(regions, false);
    const FerryScanTarget target = ferry_region_scan_target(&machine->regions.list[0]);
    g_autoptr(GError) error = NULL;

    g_assert_false(ferry_scan(scanner, &target, 0, target.length_bytes, visit_none, NULL, &error));
    assert_says(error, words);
    fake_machine_free(machine);
}

static void no_pagemap_scan(void)
{
    g_autoptr(FerryScanner) scanner = ferry_scanner_new();

    if (strcmp(ferry_scanner_method_name(scanner), "pagemap-scan") == 0) {
        deny_ioctl(FERRY_PAGEMAP_SCAN, ENOMEM);
        assert_no_scan(scanner, "PAGEMAP_SCAN failed on ");
    }
}

static void no_pagemap(void)
{
    g_autoptr(FerryScanner) scanner = ferry_scanner_new_full(FERRY_SCANNER_NO_IOCTL);

    deny_call(SYS_pread64, EIO);
    assert_no_scan(scanner, "reading /proc/self/pagemap failed on ");
}

/* --- Discarding, and placing ------------------------------------------------------------------- */

/* Memory of one page, which is locked: nothing of it can be discarded. */
static FerryRegion lock_page(uint32_t flags)
{
    FerryRegion region = {
        .id = "ram",
        .length_bytes = FERRY_PAGE_BYTES,
        .page_size_bytes = FERRY_PAGE_BYTES,
        .flags = flags,
        .fd = -1,
        /* Sanitizers make nothing of mlock(). */
        .host = mmap(NULL, FERRY_PAGE_BYTES, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0),
    };

    g_assert_true(region.host != MAP_FAILED);
    return region;
}

static void test_locked(void)
{
    FerryRegion region = lock_page(0);
    FerryPageset *incoming = ferry_pageset_new(1), *missing = ferry_pageset_new(1);
    g_autoptr(GError) error = NULL;
    GMutex lock;

    g_mutex_init(&lock);
    ferry_pageset_add(incoming, 0, 1);
    g_assert_false(ferry_discard_missing(&region, incoming, missing, &lock, 1, &error));
    g_mutex_clear(&lock);
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_SYSTEM);
    assert_says(error, "cannot discard out-of-date pages of RAM block 'ram': ");
    ferry_pageset_free(incoming);
    ferry_pageset_free(missing);
    munmap(region.host, region.length_bytes);
}

/* Of memory that a device unplugs, nothing is looked at before it is dropped. */
static void test_locked_sparse(void)
{
    FerryRegion region = lock_page(FERRY_REGION_SPARSE);
    g_autoptr(FerryScanner) scanner = ferry_scanner_new();
    g_autoptr(GError) error = NULL;

    g_assert_false(ferry_region_empty(scanner, &region, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_SYSTEM);
    assert_says(error, "RAM block 'ram': its memory, of which parts may be unplugged, cannot be");
    munmap(region.host, region.length_bytes);
}

static void test_stopped(void)
{
    FakeMachine *machine = fake_machine_new(regions, false);
    g_autoptr(FerryScanner) scanner = ferry_scanner_new();
    g_autoptr(GError) error = NULL;

    ferry_scanner_stop(scanner);
    g_assert_false(ferry_region_empty(scanner, &machine->regions.list[0], &error));
    assert_says(error, "RAM block 'pc.ram': stopped while memory was being emptied");
    fake_machine_free(machine);
}

static FerryUserfault *open_userfault(void)
{
    g_autoptr(GError) error = NULL;
    FerryUserfault *uffd = ferry_userfault_new(&error);

    g_assert_no_error(error);
    return uffd;
}

/* Somebody else fetches its pages: a snapshot in the background, say. */
static void test_taken(void)
{
    FakeMachine *machine = fake_machine_new(regions, false);
    const FerryRegion *region = &machine->regions.list[0];
    FerryUserfault *other = open_userfault(), *uffd = open_userfault();
    g_autoptr(GError) error = NULL;

    g_assert_true(ferry_userfault_register(other, region, NULL));
    g_assert_false(ferry_userfault_probe(uffd, region, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_SYSTEM);
    assert_says(error, "missing pages of RAM block 'pc.ram' cannot be fetched: userfaultfd: ");
    ferry_userfault_unregister(other, region);
    ferry_userfault_free(other);
    ferry_userfault_free(uffd);
    fake_machine_free(machine);
}

static void test_too_large(void)
{
    const FerryRegion region = {.id = "ram", .page_size_bytes = UINT32_C(2) << 30, .fd = -1};
    FerryUserfault *uffd = open_userfault();
    g_autoptr(GError) error = NULL;

    g_assert_false(ferry_userfault_probe(uffd, &region, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_REFUSED);
    assert_says(error, "they are 2048 MiB each, the limit is 1024 MiB");
    ferry_userfault_free(uffd);
}

/* What is no place of a page. */
static void test_misplaced(void)
{
    FakeMachine *machine = fake_machine_new(regions, false);
    const FerryRegion *region = &machine->regions.list[0];
    FerryUserfault *uffd = open_userfault();
    g_autoptr(GError) error = NULL;
    uint64_t done_bytes;

    g_assert_true(ferry_userfault_register(uffd, region, NULL));
    g_assert_cmpint(
        ferry_userfault_place(uffd, region, 1, NULL, FERRY_PAGE_BYTES, &done_bytes, &error), ==,
        FERRY_PLACE_FAILED);
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_SYSTEM);
    assert_says(error, "cannot place a page at 0x1 of RAM block 'pc.ram': Invalid argument");
    ferry_userfault_unregister(uffd, region);
    ferry_userfault_free(uffd);
    fake_machine_free(machine);
}

/* Somebody maps something else in its place. */
static void test_gone(void)
{
    const FerryFrame frame = {.type = FERRY_FRAME_PAGES, .nr_extents = 1};
    const FerryExtent extent = {.nr_pages = 1, .zero = true};
    FakeMachine *machine = fake_machine_new(regions, false);
    const FerryRegion *region = &machine->regions.list[0];
    g_autoptr(GError) error = NULL;
    FerryFetch *fetch = ferry_fetch_new(&machine->regions, 1, &fetch_ops, NULL, &error);

    g_assert_no_error(error);
    ferry_pageset_add(ferry_fetch_incoming(fetch)[0], 0, 1);
    g_assert_true(ferry_fetch_go_live(fetch, &error));
    g_assert_true(mmap(region->host, region->length_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == region->host);
    g_assert_false(ferry_fetch_place(fetch, &frame, &extent, NULL, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_SYSTEM);
    assert_says(error, "RAM block 'pc.ram' went away while pages of it were missing");
    ferry_fetch_free(fetch);
    fake_machine_free(machine);
}

/* A page set ends the program, so who needs many asks first whether there is room. */
static void test_no_pageset(void)
{
    if (g_test_subprocess()) {
        ferry_pageset_new(UINT64_C(1) << 60);
        return;
    }
    g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_DEFAULT);
    g_test_trap_assert_failed();
    g_test_trap_assert_stderr("*cannot map a page set of *");
}

typedef struct Denial {
    const char *path;
    void (*fn)(void);
    bool needs_userfaultfd;
    bool elsewhere; /* in a process of its own */
} Denial;

static bool has_userfaultfd(void)
{
    FerryUserfault *uffd = ferry_userfault_new(NULL);

    ferry_userfault_free(uffd);
    return uffd != NULL;
}

static void test_denial(gconstpointer data)
{
    const Denial *denial = data;

    if (denial->needs_userfaultfd && !has_userfaultfd()) {
        g_test_skip("no userfaultfd");
    } else if (denial->elsewhere) {
        deny_elsewhere(denial->fn);
    } else {
        denial->fn();
    }
}

int main(int argc, char **argv)
{
    static const Denial denials[] = {
        {"/denied/userfaultfd/call", no_userfaultfd, false, true},
        {"/denied/userfaultfd/api", old_userfaultfd, true, true},
        {"/denied/userfaultfd/zeroes", no_zeroes, true, true},
        {"/denied/fetch/eventfd", no_eventfd, true, true},
        {"/denied/fetch/gather", no_memory_to_gather, true, true},
        {"/denied/scan/ioctl", no_pagemap_scan, false, true},
        {"/denied/scan/read", no_pagemap, false, true},
        {"/denied/place/taken", test_taken, true, false},
        {"/denied/place/too-large", test_too_large, true, false},
        {"/denied/place/misplaced", test_misplaced, true, false},
        {"/denied/place/gone", test_gone, true, false},
        {"/denied/discard/locked", test_locked, false, false},
        {"/denied/discard/locked-sparse", test_locked_sparse, false, false},
        {"/denied/discard/stopped", test_stopped, false, false},
        {"/denied/page-set", test_no_pageset, false, false},
    };

    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(denials); i++) {
        g_test_add_data_func(denials[i].path, &denials[i], test_denial);
    }
    return g_test_run();
}
