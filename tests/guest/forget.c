/*
 * A KVM that forgets: the positive control of the tests with real guests.
 *
 * Preloaded into a QEMU with dirty rings, it has one entry in FORGET_EVERY pass over when rings are
 * reset: the page of that entry stays writable, and what is written there later is never logged.  A
 * migration then completes with stale pages, and the guest's own check must find them.  Its program
 * and stacks are spared: a guest that has lost those ends before it can check anything.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <dlfcn.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#define FORGET_EVERY 16
#define FORGET_FROM  (0x1000000 / 4096) /* page of the slot; see tests/guest/native/layout.h */
#define RINGS_MAX    64
#define RING_OFFSET  (KVM_DIRTY_LOG_PAGE_OFFSET * 4096)

/* No memory slot has this number. */
#define SLOT_NONE UINT32_MAX

static struct {
    struct kvm_dirty_gfn *entries;
    size_t nr;
} rings[RINGS_MAX];
static unsigned nr_rings;
static unsigned nr_seen;

static void forget_some(void)
{
    for (unsigned i = 0; i < nr_rings; i++) {
        for (size_t j = 0; j < rings[i].nr; j++) {
            struct kvm_dirty_gfn *entry = &rings[i].entries[j];

            if (__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) == KVM_DIRTY_GFN_F_RESET &&
                entry->offset >= FORGET_FROM && ++nr_seen % FORGET_EVERY == 0) {
                entry->slot = SLOT_NONE;
            }
        }
    }
}

void *mmap64(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    static void *(*next)(void *, size_t, int, int, int, off_t);
    void *result;

    if (!next) {
        next = (void *(*)(void *, size_t, int, int, int, off_t))dlsym(RTLD_NEXT, "mmap64");
    }
    result = next(address, length, protection, flags, fd, offset);
    if (result != MAP_FAILED && fd >= 0 && offset == RING_OFFSET && (flags & MAP_SHARED) &&
        nr_rings < RINGS_MAX) {
        rings[nr_rings].entries = result;
        rings[nr_rings].nr = length / sizeof(struct kvm_dirty_gfn);
        nr_rings++;
    }
    return result;
}

int ioctl(int fd, unsigned long request, ...)
{
    static int (*next)(int, unsigned long, ...);
    va_list arguments;
    void *argument;

    if (!next) {
        next = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
    }
    va_start(arguments, request);
    argument = va_arg(arguments, void *);
    va_end(arguments);
    if (request == KVM_RESET_DIRTY_RINGS) {
        forget_some();
    }
    return next(fd, request, argument);
}
