/*
 * userfaultfd: see userfault.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "userfault.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../error.h"
#include "../fault.h"
#include "unavailable.h"

#define DEVICE "/dev/userfaultfd"
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

/* As many events as one system call reads. */
#define READ_MAX 16

/* The longest page of any memory. */
#define ZERO_BYTES (UINT64_C(1) << 30)

struct FerryUserfault {
    int fd;
    uint8_t *zero; /* for memory that has no ioctl for zero pages; ZERO_BYTES long */
};

static int open_fd(void)
{
    const int flags = O_CLOEXEC | O_NONBLOCK;
    int device = open(DEVICE, O_RDWR | O_CLOEXEC);
    int fd = -1;

    if (device >= 0) {
        fd = ioctl(device, USERFAULTFD_IOC_NEW, flags);
        close(device);
    }
    return fd >= 0 ? fd : (int)syscall(SYS_userfaultfd, flags);
}

FerryUserfault *ferry_userfault_new(GError **errp)
{
    struct uffdio_api api = {
        .api = UFFD_API,
        .features =
            UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_THREAD_ID,
    };
    FerryUserfault *uffd;
    void *zero;
    int fd = open_fd();

    if (ferry_fault(FERRY_FAULT_USERFAULTFD, errp)) {
        close(fd);
        return NULL;
    }
    if (fd < 0) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM,
                    "userfaultfd is not to be had here: %s (set the sysctl "
                    "vm.unprivileged_userfaultfd to 1, or let QEMU open " DEVICE ")",
                    g_strerror(errno));
        return NULL;
    }
    if (ioctl(fd, UFFDIO_API, &api) != 0) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM,
                    "this kernel's userfaultfd lacks shared memory, hugetlb or thread numbers: %s "
                    "(Linux 4.14 has them)",
                    g_strerror(errno));
        close(fd);
        return NULL;
    }
    zero = mmap(NULL, ZERO_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (zero == MAP_FAILED) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM, "cannot map memory: %s",
                    g_strerror(errno));
        close(fd);
        return NULL;
    }
    uffd = g_new0(FerryUserfault, 1);
    uffd->fd = fd;
    uffd->zero = zero;
    return uffd;
}

void ferry_userfault_free(FerryUserfault *uffd)
{
    if (uffd) {
        close(uffd->fd);
        munmap(uffd->zero, ZERO_BYTES);
        g_free(uffd);
    }
}

int ferry_userfault_fd(const FerryUserfault *uffd)
{
    return uffd->fd;
}

static bool register_range(FerryUserfault *uffd, const FerryRegion *region, uint64_t nr_bytes,
                           GError **errp)
{
    struct uffdio_register arg = {
        .range = {.start = (uintptr_t)region->host, .len = nr_bytes},
        .mode = UFFDIO_REGISTER_MODE_MISSING,
    };

    if (ioctl(uffd->fd, UFFDIO_REGISTER, &arg) != 0) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM,
                    "missing pages of RAM block '%s' cannot be fetched: userfaultfd: %s (it takes "
                    "anonymous memory, memfd, tmpfs and hugetlbfs; not other files)",
                    region->id, g_strerror(errno));
        return false;
    }
    return true;
}

static void unregister_range(FerryUserfault *uffd, const FerryRegion *region, uint64_t nr_bytes)
{
    struct uffdio_range range = {.start = (uintptr_t)region->host, .len = nr_bytes};

    /* It fails only for memory that is not registered, which is what is wanted. */
    (void)ioctl(uffd->fd, UFFDIO_UNREGISTER, &range);
}

bool ferry_userfault_probe(FerryUserfault *uffd, const FerryRegion *region, GError **errp)
{
    if (region->page_size_bytes > ZERO_BYTES) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_REFUSED,
                    "missing pages of RAM block '%s' cannot be fetched: they are %u MiB each, the "
                    "limit is 1024 MiB",
                    region->id, region->page_size_bytes >> 20);
        return false;
    }
    if (region->length_bytes == 0) {
        return true;
    }
    if (!register_range(uffd, region, region->page_size_bytes, errp)) {
        return false;
    }
    unregister_range(uffd, region, region->page_size_bytes);
    return true;
}

bool ferry_userfault_register(FerryUserfault *uffd, const FerryRegion *region, GError **errp)
{
    return !ferry_fault(FERRY_FAULT_REGISTER, errp) &&
           register_range(uffd, region, region->length_bytes, errp);
}

void ferry_userfault_unregister(FerryUserfault *uffd, const FerryRegion *region)
{
    unregister_range(uffd, region, region->length_bytes);
}

size_t ferry_userfault_read(FerryUserfault *uffd, FerryUserfaultEvent *events, size_t max)
{
    struct uffd_msg messages[READ_MAX];
    ssize_t nr_bytes = read(uffd->fd, messages, sizeof(*messages) * MIN(max, READ_MAX));
    size_t nr = 0;

    for (ssize_t i = 0; i < nr_bytes / (ssize_t)sizeof(*messages); i++) {
        if (messages[i].event == UFFD_EVENT_PAGEFAULT) {
            events[nr++] = (FerryUserfaultEvent){
                .address = messages[i].arg.pagefault.address,
                .thread = messages[i].arg.pagefault.feat.ptid,
            };
        }
    }
    return nr;
}

/* One system call: how many bytes it placed, or -errno. */
static int64_t place_once(FerryUserfault *uffd, const FerryRegion *region, uint64_t offset_bytes,
                          const uint8_t *from, uint64_t nr_bytes)
{
    uintptr_t to = (uintptr_t)region->host + offset_bytes;

    if (!from && !(region->flags & FERRY_REGION_HUGETLB)) {
        struct uffdio_zeropage zero = {.range = {.start = to, .len = nr_bytes}};

        return ioctl(uffd->fd, UFFDIO_ZEROPAGE, &zero) == 0 ? (int64_t)nr_bytes
               : zero.zeropage                              ? zero.zeropage
                                                            : -errno;
    }
    struct uffdio_copy copy = {
        .dst = to,
        .src = (uintptr_t)(from ? from : uffd->zero),
        .len = nr_bytes,
    };

    return ioctl(uffd->fd, UFFDIO_COPY, &copy) == 0 ? (int64_t)nr_bytes
           : copy.copy                              ? copy.copy
                                                    : -errno;
}

FerryPlaceResult ferry_userfault_place(FerryUserfault *uffd, const FerryRegion *region,
                                       uint64_t offset_bytes, const uint8_t *from,
                                       uint64_t nr_bytes, uint64_t *done_bytes, GError **errp)
{
    *done_bytes = 0;
    if (ferry_fault(FERRY_FAULT_PLACE, errp)) {
        return FERRY_PLACE_FAILED;
    }
    if (ferry_fault(FERRY_FAULT_PLACE_MEMORY, errp)) {
        return FERRY_PLACE_NO_MEMORY;
    }
    while (*done_bytes < nr_bytes) {
        int64_t placed = place_once(uffd, region, offset_bytes + *done_bytes,
                                    from ? from + *done_bytes : NULL, nr_bytes - *done_bytes);

        if (placed > 0) {
            *done_bytes += (uint64_t)placed;
        } else if (placed == -EEXIST) {
            return FERRY_PLACE_PRESENT;
        } else if (placed == -ENOENT) {
            return FERRY_PLACE_UNREGISTERED;
        } else if (placed == -ENOMEM || placed == -ENOSPC) {
            ferry_set_unavailable(errp, region, offset_bytes + *done_bytes, (int)-placed);
            return FERRY_PLACE_NO_MEMORY;
        } else if (placed != -EAGAIN && placed != -EINTR) {
            g_set_error(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM,
                        "cannot place a page at 0x%" PRIx64 " of RAM block '%s': %s",
                        offset_bytes + *done_bytes, region->id, g_strerror((int)-placed));
            return FERRY_PLACE_FAILED;
        }
    }
    return FERRY_PLACED;
}

void ferry_userfault_wake(FerryUserfault *uffd, const FerryRegion *region, uint64_t offset_bytes,
                          uint64_t nr_bytes)
{
    struct uffdio_range range = {
        .start = (uintptr_t)region->host + offset_bytes,
        .len = nr_bytes,
    };

    (void)ioctl(uffd->fd, UFFDIO_WAKE, &range);
}
