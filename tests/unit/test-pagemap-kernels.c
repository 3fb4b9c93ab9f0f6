/*
 * Finding writes in the page tables: kernels on which that is not possible
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/pagemap.h"
#include "accel/write-protect.h"
#include "deny.h"
#include "migration/error.h"
#include "migration/memory/kernel-abi.h"
#include "tracking.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

static void assert_unsupported(const char *what, const char *remedy)
{
    g_autofree char *why = ferry_pagemap_unsupported();
    g_autoptr(GError) error = NULL;
    FerryRegions regions = {0};

    g_assert_nonnull(why);
    g_test_message("%s", why);
    g_assert_nonnull(strstr(why, what));
    g_assert_nonnull(strstr(why, remedy));
    g_assert_null(ferry_pagemap_new(&regions, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_SYSTEM);
    g_assert_nonnull(strstr(error->message, why));
}

static void without_userfaultfd(void)
{
    deny_call(SYS_userfaultfd, EPERM);
    if (geteuid() == 0) {
        /* Nobody in particular may not open the device either. */
        g_assert_cmpint(setresuid(65534, 65534, 65534), ==, 0);
    }
    assert_unsupported("userfaultfd is not to be had", "make /dev/userfaultfd accessible");
}

static void with_the_device(void)
{
    g_autofree char *why = NULL;

    deny_call(SYS_userfaultfd, EPERM);
    why = ferry_pagemap_unsupported();
    g_assert_cmpstr(why, ==, NULL);
}

static void without_wp_async(void)
{
    deny_ioctl(UFFDIO_API, EINVAL);
    assert_unsupported("UFFD_FEATURE_WP_ASYNC", "Linux 6.7");
}

static void without_pagemap_scan(void)
{
    deny_ioctl(FERRY_PAGEMAP_SCAN, ENOTTY);
    assert_unsupported("PAGEMAP_SCAN", "Linux 6.7");
}

static void without_proc(void)
{
    g_assert_cmpint(unshare(CLONE_NEWNS), ==, 0);
    g_assert_cmpint(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL), ==, 0);
    g_assert_cmpint(mount("none", "/proc", "tmpfs", 0, NULL), ==, 0);
    assert_unsupported("/proc/self/pagemap cannot be opened: No such file",
                       "/proc must be mounted");
    /* AddressSanitizer wants it when the program ends. */
    g_assert_cmpint(umount("/proc"), ==, 0);
}

/* --- What it has, and fails ------------------------------------------------------------------- */

static const FerryRegion nowhere = {
    .id = "ram",
    .length_bytes = 16 * FERRY_PAGE_BYTES,
    .page_size_bytes = FERRY_PAGE_BYTES,
    .fd = -1,
};

static void assert_refused(const GError *error, const char *words)
{
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_SYSTEM);
    if (!strstr(error->message, words)) {
        g_error("'%s' is not in '%s'", words, error->message);
    }
}

static void refuses_memory(void)
{
    g_autoptr(FerryWriteProtect) protect = ferry_write_protect_new(NULL);
    g_autoptr(GError) error = NULL;

    deny_ioctl(UFFDIO_REGISTER, EINVAL);
    g_assert_false(ferry_write_protect_register(protect, &nowhere, &error));
    assert_refused(error,
                   "(the kernel does not do it for such memory: trace writes in another way)");
}

static void visit_none(void *opaque, uint64_t first_page, uint64_t nr_pages)
{
    g_assert_not_reached();
}

/* A walk that fails; and one that comes no further, which must not go on for ever. */
static void fails_walk(void)
{
    g_autoptr(FerryWriteProtect) protect = ferry_write_protect_new(NULL);
    g_autoptr(GError) error = NULL;

    deny_ioctl(FERRY_PAGEMAP_SCAN, ENOMEM);
    g_assert_false(ferry_write_protect_find(protect, &nowhere, 0, 16, visit_none, NULL, &error));
    assert_refused(error, "PAGEMAP_SCAN: Cannot allocate memory");
}

static void stands_still(void)
{
    g_autoptr(FerryWriteProtect) protect = ferry_write_protect_new(NULL);
    g_autoptr(GError) error = NULL;

    deny_ioctl(FERRY_PAGEMAP_SCAN, 0);
    g_assert_false(ferry_write_protect_find(protect, &nowhere, 0, 16, visit_none, NULL, &error));
    assert_refused(error, "PAGEMAP_SCAN stands still");
}

/* Runs in a process of its own, as what is forbidden stays forbidden. */
static void test_elsewhere(gconstpointer data)
{
    void (*const *fn)(void) = data;

    if (!tracking_is_supported()) {
        return;
    }
    if (*fn == with_the_device && access("/dev/userfaultfd", R_OK | W_OK) != 0) {
        g_test_skip("no access to /dev/userfaultfd");
        return;
    }
    if (*fn == without_proc && geteuid() != 0) {
        g_test_skip("only root may mount something else in the place of /proc");
        return;
    }
    deny_elsewhere(*fn);
}

int main(int argc, char **argv)
{
    static void (*const elsewhere[])(void) = {
        without_userfaultfd, with_the_device, without_wp_async, without_pagemap_scan,
        without_proc,        refuses_memory,  fails_walk,       stands_still,
    };

    g_test_init(&argc, &argv, NULL);
    if (sysconf(_SC_PAGESIZE) != PAGE) {
        g_test_message("written for 4 KiB pages");
        return 77;
    }
    g_test_add_data_func("/pagemap/without/userfaultfd", &elsewhere[0], test_elsewhere);
    g_test_add_data_func("/pagemap/without/system-call", &elsewhere[1], test_elsewhere);
    g_test_add_data_func("/pagemap/without/wp-async", &elsewhere[2], test_elsewhere);
    g_test_add_data_func("/pagemap/without/pagemap-scan", &elsewhere[3], test_elsewhere);
    g_test_add_data_func("/pagemap/without/proc", &elsewhere[4], test_elsewhere);
    g_test_add_data_func("/pagemap/refused/memory", &elsewhere[5], test_elsewhere);
    g_test_add_data_func("/pagemap/refused/walk", &elsewhere[6], test_elsewhere);
    g_test_add_data_func("/pagemap/refused/stands-still", &elsewhere[7], test_elsewhere);
    return g_test_run();
}
