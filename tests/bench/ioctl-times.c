/*
 * How long each system call of a QEMU takes that write-protects a guest's memory
 *
 *   IOCTL_TIMES=FILE LD_PRELOAD=ioctl-times.so qemu-system-x86_64 ...
 *
 * Stands before the C library's ioctl() and adds a line to FILE for each such call:
 *
 *   when it began (seconds since the epoch), its name, how long it took, CPU time of it
 *
 * times in microseconds.  A tracer would stop the thread at each, and wait for a CPU itself.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

typedef int (*IoctlFn)(int fd, unsigned long request, ...);

static IoctlFn next_ioctl;
static int file = -1;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("IOCTL_TIMES");

    next_ioctl = (IoctlFn)dlsym(RTLD_NEXT, "ioctl");
    if (path) {
        file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    }
    if (!next_ioctl || file < 0) {
        fprintf(stderr, "ioctl-times: cannot begin\n");
        _exit(1);
    }
}

static double now_s(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* NULL: not of interest. */
static const char *name_of(unsigned long request, const void *arg)
{
    const struct kvm_userspace_memory_region *slot = arg;

    switch (request) {
    case KVM_SET_USER_MEMORY_REGION:
#ifdef KVM_SET_USER_MEMORY_REGION2
    case KVM_SET_USER_MEMORY_REGION2: /* begins as the other does */
#endif
        return slot->flags & KVM_MEM_LOG_DIRTY_PAGES ? "set" : NULL;
    case KVM_CLEAR_DIRTY_LOG:
        return "clear";
    case KVM_RESET_DIRTY_RINGS:
        return "reset";
    default:
        return NULL;
    }
}

int ioctl(int fd, unsigned long request, ...)
{
    double start_s, start_real_s, start_cpu_s;
    const char *name;
    va_list args;
    void *arg;
    int ret;

    va_start(args, request);
    arg = va_arg(args, void *);
    va_end(args);
    name = name_of(request, arg);
    if (!name) {
        return next_ioctl(fd, request, arg);
    }
    start_real_s = now_s(CLOCK_REALTIME);
    start_cpu_s = now_s(CLOCK_THREAD_CPUTIME_ID);
    start_s = now_s(CLOCK_MONOTONIC);
    ret = next_ioctl(fd, request, arg);
    /* One write: lines of several threads do not mix. */
    dprintf(file, "%.6f %s %.1f %.1f\n", start_real_s, name,
            (now_s(CLOCK_MONOTONIC) - start_s) * 1e6,
            (now_s(CLOCK_THREAD_CPUTIME_ID) - start_cpu_s) * 1e6);
    return ret;
}
