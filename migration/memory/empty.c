/*
 * Making memory read as zero: see empty.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "empty.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "../error.h"
#include "holes.h"
#include "zero.h"

/* Linux 5.14; the headers may be older. */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

/* Memory of a file is looked at by way of a buffer of this size, on the stack. */
#define PEEK_BYTES (UINT64_C(64) << 10)

/* Or so much of it is mapped at once, and looked at where it is. */
#define MAP_BYTES (UINT64_C(2) << 20)

/* How much is emptied before it looks whether it is to stop: some 200 ms where it is cleared. */
#define STEP_BYTES (UINT64_C(1) << 30)

static uint64_t system_page_bytes(void)
{
    return (uint64_t)sysconf(_SC_PAGESIZE);
}

/* --- Providing -------------------------------------------------------------------------------- */

/* Before Linux 5.14: a system call that stores says that it cannot. */
static int provide_zeroed(void *host, size_t nr_bytes)
{
    int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    int error = fd < 0 ? errno : 0;

    while (!error && nr_bytes > 0) {
        ssize_t done = read(fd, host, nr_bytes);

        if (done > 0) {
            host = (char *)host + done;
            nr_bytes -= (size_t)done;
        } else if (done == 0 || errno != EINTR) {
            error = done == 0 ? EFAULT : errno;
        }
    }
    if (fd >= 0) {
        close(fd);
    }
    return error;
}

int ferry_provide(void *host, size_t nr_bytes)
{
    const uintptr_t mask = system_page_bytes() - 1;
    const uintptr_t start = (uintptr_t)host & ~mask;
    const uintptr_t end = ((uintptr_t)host + nr_bytes + mask) & ~mask;

    while (madvise((void *)start, end - start, MADV_POPULATE_WRITE) != 0) {
        if (errno == EINVAL) {
            return provide_zeroed(host, nr_bytes);
        }
        if (errno != EINTR && errno != EAGAIN) {
            return errno;
        }
    }
    return 0;
}

/* --- Dropping --------------------------------------------------------------------------------- */

static int punch(const FerryScanTarget *target, uint64_t start, uint64_t end)
{
    return fallocate(target->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                     (off_t)(target->fd_offset + start), (off_t)(end - start)) == 0
               ? 0
               : errno;
}

static int drop_private(const FerryScanTarget *target, uint64_t start, uint64_t end)
{
    bool ours = target->fd >= 0 && !(target->flags & FERRY_REGION_FOREIGN);
    int error = ours ? punch(target, start, end) : 0;

    if (error || madvise((char *)target->host + start, end - start, MADV_DONTNEED) == 0) {
        return error;
    }
    /* Linux before 5.18 takes no huge pages away like this, but the hole has taken them already. */
    return ours && errno == EINVAL && target->page_size_bytes > system_page_bytes() ? 0 : errno;
}

int ferry_target_drop(const FerryScanTarget *target, uint64_t start_bytes, uint64_t end_bytes)
{
    if (!(target->flags & FERRY_REGION_SHARED)) {
        return drop_private(target, start_bytes, end_bytes);
    }
    if (target->fd >= 0) {
        return punch(target, start_bytes, end_bytes);
    }
    return madvise((char *)target->host + start_bytes, end_bytes - start_bytes, MADV_REMOVE) == 0
               ? 0
               : errno;
}

/* Locked memory, a file system without holes or something that is not a file. */
static bool means_cannot_drop(int error)
{
    return error == EINVAL || error == EOPNOTSUPP || error == ENODEV || error == ESPIPE;
}

/* --- Emptying --------------------------------------------------------------------------------- */

typedef struct {
    const FerryScanTarget *target;
    bool is_file;     /* pread() shows what is in it, and allocates nothing */
    int failed_errno; /* 0: none yet */
} Discard;

static bool is_regular_file(int fd)
{
    struct stat st;

    return fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
}

/* What process_vm_readv() does, where a seccomp filter or a security module denies it. */
static ssize_t read_own_memory(const void *from, void *to, size_t nr_bytes)
{
    int fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    ssize_t done = fd < 0 ? -1 : pread(fd, to, nr_bytes, (off_t)(uintptr_t)from);
    int saved_errno = errno;

    if (fd >= 0) {
        close(fd);
    }
    errno = saved_errno;
    return done;
}

/*
 * A copy of what is in memory of a file, where a load might end in a SIGBUS.  A private mapping may
 * differ from its file.  0, or an errno.
 */
static int peek(const Discard *discard, uint64_t start, void *to, size_t nr_bytes)
{
    const FerryScanTarget *target = discard->target;
    struct iovec here = {.iov_base = to, .iov_len = nr_bytes};
    struct iovec there = {.iov_base = (char *)target->host + start, .iov_len = nr_bytes};
    ssize_t done = discard->is_file && (target->flags & FERRY_REGION_SHARED)
                       ? pread(target->fd, to, nr_bytes, (off_t)(target->fd_offset + start))
                       : process_vm_readv(getpid(), &here, 1, &there, 1, 0);

    if (done < 0 && (errno == EPERM || errno == ENOSYS || errno == EACCES)) {
        done = read_own_memory(there.iov_base, to, nr_bytes);
    }
    return done == (ssize_t)nr_bytes ? 0 : done < 0 ? errno : EFAULT;
}

/* Clear the part of one page that is not zero. */
static int clear_page(const Discard *discard, char *p, const char *content, size_t nr_bytes)
{
    int error = 0;

    if (!ferry_is_zero(content, nr_bytes)) {
        error = discard->target->fd >= 0 ? ferry_provide(p, nr_bytes) : 0;
        if (!error) {
            memset(p, 0, nr_bytes);
        }
    }
    return error;
}

/*
 * Whether a load from here on to the next multiple of MAP_BYTES gets a page and allocates none: what is scanned
 * of a file is there, but not for sure of huge pages.  Three times as fast as a copy.
 */
static bool is_mapped(const Discard *discard, uint64_t start, uint64_t end)
{
    const uint64_t mask = system_page_bytes() - 1;
    char *host = discard->target->host;
    const uintptr_t from = (uintptr_t)(host + start) & ~mask;
    const uintptr_t to = ((uintptr_t)(host + end) + mask) & ~mask;

    return !(discard->target->flags & FERRY_REGION_HUGETLB) &&
           discard->target->method != FERRY_SCAN_ALL &&
           madvise((void *)from, to - from, MADV_POPULATE_READ) == 0;
}

/* Clear without dirtying what is zero already. */
static void clear_in_place(Discard *discard, uint64_t start, uint64_t end)
{
    const uint64_t page_size = system_page_bytes();
    char buffer[PEEK_BYTES];
    uint64_t mapped_end = start;

    while (start < end && !discard->failed_errno) {
        char *p = (char *)discard->target->host + start;
        uint64_t unit = discard->is_file ? PEEK_BYTES : page_size;
        uint64_t stop = MIN(start - start % unit + unit, end);
        char *content = p;

        if (discard->is_file && start >= mapped_end) {
            uint64_t map_end = MIN(start - start % MAP_BYTES + MAP_BYTES, end);

            mapped_end = is_mapped(discard, start, map_end) ? map_end : mapped_end;
        }
        if (discard->is_file && start >= mapped_end) {
            content = buffer;
            discard->failed_errno = peek(discard, start, buffer, stop - start);
        }
        for (uint64_t at = start, next; at < stop && !discard->failed_errno; at = next) {
            next = MIN(at - at % page_size + page_size, stop);
            discard->failed_errno =
                clear_page(discard, p + (at - start), content + (at - start), next - at);
        }
        start = stop;
    }
}

static void discard_range(void *opaque, uint64_t offset_bytes, uint64_t nr_bytes,
                          FerryScanKind kind)
{
    Discard *discard = opaque;
    const FerryScanTarget *target = discard->target;
    const uint64_t unit = target->page_size_bytes, end = offset_bytes + nr_bytes;
    const uint64_t whole_start = (offset_bytes + unit - 1) / unit * unit;
    const uint64_t whole_end = end / unit * unit;
    int error;

    if (kind == FERRY_SCAN_ZERO || discard->failed_errno != 0) {
        return;
    }
    if (target->method == FERRY_SCAN_ALL || !ferry_kind_may_drop(target->flags) ||
        whole_start >= whole_end) {
        clear_in_place(discard, offset_bytes, end);
        return;
    }
    clear_in_place(discard, offset_bytes, whole_start);
    error = discard->failed_errno ? 0 : ferry_target_drop(target, whole_start, whole_end);
    if (means_cannot_drop(error)) {
        clear_in_place(discard, whole_start, whole_end);
    } else if (error) {
        discard->failed_errno = error;
    }
    clear_in_place(discard, whole_end, end);
}

bool ferry_scan_discard_populated(const FerryScanner *scanner, const FerryScanTarget *target,
                                  uint64_t offset_bytes, uint64_t nr_bytes, GError **errp)
{
    Discard discard = {.target = target, .is_file = is_regular_file(target->fd)};
    const uint64_t end = offset_bytes + nr_bytes;
    /* Its pages are at most as large, and it begins at one. */
    const uint64_t step = MAX(STEP_BYTES, target->page_size_bytes);

    for (uint64_t at = offset_bytes, next; at < end && discard.failed_errno == 0; at = next) {
        next = MIN(at - at % step + step, end);
        if (ferry_scanner_is_stopped(scanner)) {
            g_set_error_literal(errp, G_FILE_ERROR, G_FILE_ERROR_INTR,
                                "stopped while memory was being emptied");
            return false;
        }
        if (!ferry_scan(scanner, target, at, next - at, discard_range, &discard, errp)) {
            return false;
        }
    }
    if (discard.failed_errno != 0) {
        g_set_error(errp, G_FILE_ERROR, g_file_error_from_errno(discard.failed_errno),
                    "cannot discard guest memory at %p, %" G_GUINT64_FORMAT " bytes: %s",
                    (void *)((char *)target->host + offset_bytes), nr_bytes,
                    g_strerror(discard.failed_errno));
        return false;
    }
    return true;
}

bool ferry_target_is_blank(const FerryScanTarget *target)
{
    struct stat st;
    off_t data;

    if (target->fd < 0 || fstat(target->fd, &st) != 0 || !S_ISREG(st.st_mode) ||
        !ferry_file_has_honest_holes(target->fd)) {
        return false;
    }
    if (st.st_blocks == 0) {
        return true;
    }
    data = lseek(target->fd, (off_t)target->fd_offset, SEEK_DATA);
    return data < 0 ? errno == ENXIO : (uint64_t)data >= target->fd_offset + target->length_bytes;
}

bool ferry_region_empty(const FerryScanner *scanner, const FerryRegion *region, GError **errp)
{
    FerryScanTarget target = ferry_region_scan_target(region);
    int error;

    if (!ferry_kind_may_empty(region->flags) || region->length_bytes == 0) {
        return true;
    }
    if (!ferry_kind_is_emptied_unseen(region->flags)) {
        if (!(region->flags & FERRY_REGION_SHARED) && ferry_target_is_blank(&target)) {
            /* Nothing is in it but our own copies; a look at all of it would allocate all of it. */
            target.method = FERRY_SCAN_PRIVATE;
        }
        if (ferry_scan_discard_populated(scanner, &target, 0, region->length_bytes, errp)) {
            return true;
        }
        g_prefix_error(errp, "RAM block '%s': ", region->id);
        return false;
    }
    error = ferry_target_drop(&target, 0, region->length_bytes);
    if (error) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM,
                    "RAM block '%s': its memory, of which parts may be unplugged, cannot be "
                    "dropped: %s",
                    region->id, g_strerror(error));
    }
    return !error;
}
