/*
 * No memory is left for what comes: huge pages of which the pool has none
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "migration/destination/receiver.h"
#include "migration/error.h"
#include "migration/memory/empty.h"
#include "migration/memory/unavailable.h"
#include "migration/memory/userfault.h"
#include "migration/wire/pages-frame.h"

#define HUGE_BYTES (UINT64_C(1) << 30)

static bool make(FerryRegion *region)
{
    int fd = memfd_create("ferry-test-no-memory", MFD_CLOEXEC | MFD_HUGETLB | 30 << MAP_HUGE_SHIFT);

    *region = (FerryRegion){
        .id = "ram",
        .length_bytes = HUGE_BYTES,
        .page_size_bytes = HUGE_BYTES,
        .flags = FERRY_REGION_SHARED | FERRY_REGION_HUGETLB | FERRY_REGION_KEEP_PAGES,
        .fd = fd,
        .scan = FERRY_SCAN_SHARED,
        .host = MAP_FAILED,
    };
    if (fd >= 0 && ftruncate(fd, HUGE_BYTES) == 0) {
        region->host =
            mmap(NULL, HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    }
    if (region->host == MAP_FAILED) {
        g_test_skip("no huge pages of 1 GiB in this kernel or processor");
    } else if (ferry_provide(region->host, FERRY_PAGE_BYTES) == 0) {
        g_test_skip("there are huge pages of 1 GiB: memory is not short");
        munmap(region->host, HUGE_BYTES);
        region->host = MAP_FAILED;
    }
    if (region->host == MAP_FAILED && fd >= 0) {
        close(fd);
    }
    return region->host != MAP_FAILED;
}

static void assert_words(const GError *error)
{
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_SYSTEM);
    g_assert_true(g_str_has_prefix(error->message,
                                   "RAM block 'ram': the destination has no memory left at 0x"));
    g_assert_nonnull(strstr(error->message, "vm.nr_hugepages"));
}

/* A page comes as it is, or compressed: then it is the processor that stores it. */
static void test_receive(gconstpointer data)
{
    const bool compress = GPOINTER_TO_INT(data);
    g_autofree uint8_t *content = g_malloc0(FERRY_GRANULE_PAGES * FERRY_PAGE_BYTES);
    const FerryRegion from = {
        .host = content,
        .length_bytes = FERRY_GRANULE_PAGES * FERRY_PAGE_BYTES,
        .page_size_bytes = FERRY_PAGE_BYTES,
        .fd = -1,
    };
    FerryReceiver receiver = {.scanner = ferry_scanner_new()};
    uint64_t pages[FERRY_GRANULE_WORDS] = {3};
    FerryPagesFrame sent = {0};
    g_autoptr(GError) error = NULL;
    FerryRegions regions = {.list = g_new0(FerryRegion, 1), .nr = 1};
    FerryUnpacker *unpacker = ferry_unpacker_new();

    if (make(&regions.list[0])) {
        FerryRegion region = regions.list[0];
        FerryChannel *out, *in;
        FerryFrame frame;
        uint8_t head[FERRY_FRAME_BYTES];
        int ends[2];

        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), ==, 0);
        out = ferry_channel_new_socket(ends[0], "out");
        in = ferry_channel_new_socket(ends[1], "data 0");
        memset(content, 'c', 2 * FERRY_PAGE_BYTES);
        ferry_pages_frame_init(&sent, false, compress);
        ferry_pages_frame_build(&sent, &from, 0, 0, pages);
        g_assert_cmpint(!!(sent.frame.flags & FERRY_FRAME_ZSTD), ==, compress);
        g_assert_true(ferry_pages_frame_send(&sent, out, NULL));
        g_assert_true(ferry_channel_read_all(in, head, sizeof(head), NULL));
        g_assert_true(ferry_frame_decode(head, &frame, NULL));
        ferry_receiver_set_regions(&receiver, &regions);
        g_assert_false(ferry_receive_pages(&receiver, in, &frame, unpacker, &error));
        assert_words(error);
        ferry_pages_frame_clear(&sent);
        ferry_channel_free(in);
        ferry_channel_free(out);
        munmap(region.host, HUGE_BYTES);
        close(region.fd);
    }
    ferry_regions_clear(&regions);
    ferry_receiver_clear(&receiver);
    ferry_unpacker_free(unpacker);
}

/* Zero pages are no reason to have memory. */
static void test_clear(void)
{
    g_autoptr(FerryScanner) scanner = ferry_scanner_new();
    g_autoptr(GError) error = NULL;
    FerryRegion region;

    if (make(&region)) {
        FerryScanTarget target = ferry_region_scan_target(&region);

        g_assert_true(ferry_scan_discard_populated(scanner, &target, 5 * FERRY_PAGE_BYTES,
                                                   FERRY_PAGE_BYTES, &error));
        g_assert_true(ferry_region_empty(scanner, &region, &error));
        g_assert_no_error(error);
        munmap(region.host, HUGE_BYTES);
        close(region.fd);
    }
}

/* A page that the guest waits for: there may be memory later. */
static void test_place(void)
{
    g_autoptr(FerryUserfault) uffd = ferry_userfault_new(NULL);
    g_autoptr(GError) error = NULL;
    uint64_t done_bytes;
    FerryRegion region;

    if (!uffd) {
        g_test_skip("no userfaultfd");
    } else if (make(&region)) {
        g_assert_true(ferry_userfault_register(uffd, &region, &error));
        g_assert_cmpint(
            ferry_userfault_place(uffd, &region, 0, NULL, HUGE_BYTES, &done_bytes, &error), ==,
            FERRY_PLACE_NO_MEMORY);
        g_assert_cmpuint(done_bytes, ==, 0);
        assert_words(error);
        ferry_userfault_unregister(uffd, &region);
        munmap(region.host, HUGE_BYTES);
        close(region.fd);
    }
}

/* --- Not for want of memory --------------------------------------------------------------------- */

#define NR_PAGES 16

static FerryRegion map_fd(int fd, bool shared)
{
    FerryRegion region = {
        .id = "ram",
        .length_bytes = NR_PAGES * FERRY_PAGE_BYTES,
        .page_size_bytes = FERRY_PAGE_BYTES,
        .flags = FERRY_REGION_KEEP_PAGES | (shared ? FERRY_REGION_SHARED : 0),
        .fd = fd,
        .scan = shared ? FERRY_SCAN_SHARED : FERRY_SCAN_ALL,
    };

    g_assert_cmpint(ftruncate(region.fd, NR_PAGES * FERRY_PAGE_BYTES), ==, 0);
    region.host = mmap(NULL, region.length_bytes, PROT_READ | PROT_WRITE,
                       shared ? MAP_SHARED : MAP_PRIVATE, region.fd, 0);
    g_assert_true(region.host != MAP_FAILED);
    return region;
}

static FerryRegion map_file(bool shared)
{
    return map_fd(memfd_create("ferry-test-unavailable", MFD_CLOEXEC), shared);
}

/* What providing the second half of @region says. */
static void assert_reason(FerryRegion *region, const char *what, const char *reason)
{
    const uint64_t half = NR_PAGES / 2 * FERRY_PAGE_BYTES;
    g_autoptr(GError) error = NULL;
    int code = ferry_provide(region->host + half, FERRY_PAGE_BYTES);

    g_assert_cmpint(code, !=, 0);
    ferry_set_unavailable(&error, region, half, code);
    if (!g_str_has_prefix(error->message, "RAM block 'ram': the destination ") ||
        !strstr(error->message, what) || !strstr(error->message, reason)) {
        g_error("'%s' instead of '%s' and '%s'", error->message, what, reason);
    }
    munmap(region->host, region->length_bytes);
    close(region->fd);
}

static void test_cut(void)
{
    FerryRegion region = map_file(true);

    g_assert_cmpint(ftruncate(region.fd, NR_PAGES / 2 * FERRY_PAGE_BYTES), ==, 0);
    assert_reason(&region,
                  "cannot access its memory at 0x8000: ", "the file behind it has become shorter");
}

static void test_protected(void)
{
    FerryRegion region = map_file(true);

    g_assert_cmpint(mprotect(region.host, region.length_bytes, PROT_READ), ==, 0);
    assert_reason(&region, "cannot access its memory at 0x8000: ", "mapped, but not to be written");
}

static void test_not_mapped(void)
{
    FerryRegion region = map_file(true);

    g_assert_cmpint(munmap(region.host, region.length_bytes), ==, 0);
    assert_reason(&region, "cannot access its memory at 0x8000: ", "nothing is mapped there");
}

/* A file system that is mounted nowhere, with room for half of the pages; -1 if that is not permitted. */
static int mount_half(void)
{
    int context = fsopen("tmpfs", FSOPEN_CLOEXEC);
    int mount = -1;

    if (context >= 0 && fsconfig(context, FSCONFIG_SET_STRING, "size", "32k", 0) == 0 &&
        fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0) {
        mount = fsmount(context, FSMOUNT_CLOEXEC, 0);
    }
    if (context >= 0) {
        close(context);
    }
    return mount;
}

static void test_full(void)
{
    int mount = mount_half();
    FerryRegion region;

    if (mount < 0) {
        g_test_skip("no tmpfs can be mounted: not root, or Linux before 5.2");
        return;
    }
    region = map_fd(openat(mount, "ram", O_RDWR | O_CREAT | O_CLOEXEC, 0600), true);
    memset(region.host, 'x', NR_PAGES / 2 * FERRY_PAGE_BYTES);
    assert_reason(&region, "has no memory left at 0x8000: No space left",
                  "the file system behind it is full");
    close(mount);
}

/* Where all seems well: what the kernel said is what is known. */
static void test_said(void)
{
    static const struct {
        int error;
        const char *words;
    } said[] = {
        {ENOMEM, "has no memory left at 0x0: Cannot allocate"},
        {ENOSPC, "has no memory left at 0x0: No space left"},
        {EDQUOT, "has no memory left at 0x0: Disk quota"},
        {EFAULT, "cannot access its memory at 0x0: Bad address"},
    };
    FerryRegion region = map_file(true);

    for (size_t i = 0; i < G_N_ELEMENTS(said); i++) {
        g_autoptr(GError) error = NULL;

        ferry_set_unavailable(&error, &region, 0, said[i].error);
        if (!strstr(error->message, said[i].words)) {
            g_error("'%s' instead of '%s'", error->message, said[i].words);
        }
    }
    munmap(region.host, region.length_bytes);
    close(region.fd);
}

/* As in a container: process_vm_readv(2) is denied. */
static void test_denied(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_readv, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {.len = G_N_ELEMENTS(code), .filter = code};
    g_autoptr(FerryScanner) scanner = NULL;
    g_autoptr(GError) error = NULL;
    FerryRegion region;

    if (!g_test_subprocess()) {
        g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_INHERIT_STDERR);
        g_test_trap_assert_passed();
        return;
    }
    g_assert_cmpint(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), ==, 0);
    g_assert_cmpint(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), ==, 0);
    scanner = ferry_scanner_new();
    region = map_file(false);
    memset(region.host + FERRY_PAGE_BYTES, 'x', 3 * FERRY_PAGE_BYTES);
    g_assert_true(ferry_region_empty(scanner, &region, &error));
    g_assert_no_error(error);
    for (uint64_t i = 0; i < region.length_bytes; i++) {
        g_assert_cmpint(region.host[i], ==, 0);
    }
    munmap(region.host, region.length_bytes);
    close(region.fd);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/no-memory/receive/plain", GINT_TO_POINTER(false), test_receive);
    g_test_add_data_func("/no-memory/receive/compressed", GINT_TO_POINTER(true), test_receive);
    g_test_add_func("/no-memory/clear", test_clear);
    g_test_add_func("/no-memory/place", test_place);
    g_test_add_func("/no-memory/cut", test_cut);
    g_test_add_func("/no-memory/protected", test_protected);
    g_test_add_func("/no-memory/not-mapped", test_not_mapped);
    g_test_add_func("/no-memory/full", test_full);
    g_test_add_func("/no-memory/said", test_said);
    g_test_add_func("/no-memory/denied", test_denied);
    return g_test_run();
}
