/*
 * System calls that the kernel denies: see deny.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "deny.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define LOAD(field) \
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (guint32)offsetof(struct seccomp_data, field))
#define UNLESS(value, skip) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (guint32)(value), 0, skip)
#define RETURN(value)       BPF_STMT(BPF_RET | BPF_K, (guint32)(value))

static void filter_calls(struct sock_filter *filter, unsigned short len)
{
    struct sock_fprog program = {.len = len, .filter = filter};

    g_assert_cmpint(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), ==, 0);
    g_assert_cmpint(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), ==, 0);
}

void deny_call(int call, int error)
{
    struct sock_filter filter[] = {
        LOAD(nr),
        UNLESS(call, 1),
        RETURN(SECCOMP_RET_ERRNO | (unsigned)error),
        RETURN(SECCOMP_RET_ALLOW),
    };

    filter_calls(filter, G_N_ELEMENTS(filter));
}

static void deny_second(int call, guint64 second, int error)
{
    struct sock_filter filter[] = {
        LOAD(nr),
        UNLESS(call, 3),
        LOAD(args[1]),
        UNLESS(second, 1),
        RETURN(SECCOMP_RET_ERRNO | (unsigned)error),
        RETURN(SECCOMP_RET_ALLOW),
    };

    filter_calls(filter, G_N_ELEMENTS(filter));
}

void deny_ioctl(guint64 request, int error)
{
    deny_second(SYS_ioctl, request, error);
}

void deny_mmap(guint64 nr_bytes, int error)
{
    g_assert_cmpuint(nr_bytes, <=, G_MAXUINT32);
    deny_second(SYS_mmap, nr_bytes, error);
}

void deny_elsewhere(void (*fn)(void))
{
    if (g_test_subprocess()) {
        fn();
        return;
    }
    g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_INHERIT_STDERR);
    g_test_trap_assert_passed();
}
