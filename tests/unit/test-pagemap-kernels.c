/*
 * Finding writes in the page tables: kernels on which that is not possible
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/pagemap.h"
#include "migration/error.h"
#include "migration/memory/kernel-abi.h"
#include "tracking.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LOAD(field) \
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, field))
#define UNLESS(value, skip) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(value), 0, skip)
#define RETURN(value)       BPF_STMT(BPF_RET | BPF_K, (uint32_t)(value))

static void filter_calls(struct sock_filter *filter, unsigned short len)
{
    struct sock_fprog program = {.len = len, .filter = filter};

    g_assert_cmpint(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), ==, 0);
    g_assert_cmpint(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), ==, 0);
}

static void forbid_userfaultfd(void)
{
    struct sock_filter filter[] = {
        LOAD(nr),
        UNLESS(SYS_userfaultfd, 1),
        RETURN(SECCOMP_RET_ERRNO | EPERM),
        RETURN(SECCOMP_RET_ALLOW),
    };

    filter_calls(filter, G_N_ELEMENTS(filter));
}

/* As on a kernel that does not know it. */
static void forbid_ioctl(uint64_t request, int error)
{
    struct sock_filter filter[] = {
        LOAD(nr),
        UNLESS(SYS_ioctl, 3),
        LOAD(args[1]),
        UNLESS(request, 1),
        RETURN(SECCOMP_RET_ERRNO | (unsigned)error),
        RETURN(SECCOMP_RET_ALLOW),
    };

    filter_calls(filter, G_N_ELEMENTS(filter));
}

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
    forbid_userfaultfd();
    if (geteuid() == 0) {
        /* Nobody in particular may not open the device either. */
        g_assert_cmpint(setresuid(65534, 65534, 65534), ==, 0);
    }
    assert_unsupported("userfaultfd is not to be had", "make /dev/userfaultfd accessible");
}

static void with_the_device(void)
{
    g_autofree char *why = NULL;

    forbid_userfaultfd();
    why = ferry_pagemap_unsupported();
    g_assert_cmpstr(why, ==, NULL);
}

static void without_wp_async(void)
{
    /* UFFDIO_API, which this test has no other use for */
    forbid_ioctl(0xc018aa3f, EINVAL);
    assert_unsupported("UFFD_FEATURE_WP_ASYNC", "Linux 6.7");
}

static void without_pagemap_scan(void)
{
    forbid_ioctl(FERRY_PAGEMAP_SCAN, ENOTTY);
    assert_unsupported("PAGEMAP_SCAN", "Linux 6.7");
}

/* Runs in a process of its own, as what is forbidden stays forbidden. */
static void test_elsewhere(gconstpointer data)
{
    void (*const *fn)(void) = data;

    if (!tracking_is_supported()) {
        return;
    }
    if (g_test_subprocess()) {
        (*fn)();
        return;
    }
    if (*fn == with_the_device && access("/dev/userfaultfd", R_OK | W_OK) != 0) {
        g_test_skip("no access to /dev/userfaultfd");
        return;
    }
    g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_INHERIT_STDERR);
    g_test_trap_assert_passed();
}

int main(int argc, char **argv)
{
    static void (*const elsewhere[])(void) = {
        without_userfaultfd,
        with_the_device,
        without_wp_async,
        without_pagemap_scan,
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
    return g_test_run();
}
