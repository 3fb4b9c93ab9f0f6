/*
 * Memory that is not this guest's alone, or is not there: files that both ends map, read-only memory, what
 * virtio-mem has not plugged in, pages of other sizes, and hosts without memory left.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <sys/mman.h>
#include <sys/mount.h>
#include "qemu/bswap.h"
#include "libqos/malloc-pc.h"
#include "libqos/pci-pc.h"
#include "libqos/virtio.h"
#include "libqos/virtio-pci.h"
#include "standard-headers/linux/virtio_mem.h"
#include "standard-headers/linux/virtio_ring.h"

#include "case.h"
#include "postcopy.h"

/* Where a PC's memory goes on above the hole below 4 GiB: there is the NVDIMM. */
#define NVDIMM_START (UINT64_C(4) << 30)
#define NVDIMM_BYTES (16 * MIB)

/* A word stands in every so manieth byte of a file. */
#define STRIDE 4096

static void make_file(const char *name, uint64_t value)
{
    g_autofree char *path = in_dir(name);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, NVDIMM_BYTES), ==, 0);
    for (uint64_t at = 0; at < NVDIMM_BYTES; at += STRIDE) {
        uint64_t word = value + at;

        g_assert_cmpint(pwrite(fd, &word, sizeof(word), at), ==, sizeof(word));
    }
    close(fd);
}

/* How many of its words are not what they should be. */
static unsigned count_changed(const char *name, uint64_t value)
{
    g_autofree char *path = in_dir(name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    unsigned nr_changed = 0;

    g_assert_cmpint(fd, >=, 0);
    for (uint64_t at = 0; at < NVDIMM_BYTES; at += STRIDE) {
        uint64_t word;

        g_assert_cmpint(pread(fd, &word, sizeof(word), at), ==, sizeof(word));
        nr_changed += word != value + at;
    }
    close(fd);
    return nr_changed;
}

#define HERE  UINT64_C(0x5eed0000)
#define THERE UINT64_C(0x0ddba110)

static void make_one_file(Run *run)
{
    make_file("{dir}/nv", HERE);
}

static void make_two_files(Run *run)
{
    make_file("{dir}/source.nv", HERE);
    make_file("{dir}/destination.nv", THERE);
}

static void make_equal_files(Run *run)
{
    make_file("{dir}/source.nv", HERE);
    make_file("{dir}/destination.nv", HERE);
}

/* The guest has changed a page, and made another one zero. */
static void write_nvdimm(Run *run)
{
    qtest_writeq(run->source->qts, NVDIMM_START + 5 * STRIDE, 0xabcdef);
    qtest_writeq(run->source->qts, NVDIMM_START + 9 * STRIDE, 0);
}

static void write_nvdimm_again(Run *run)
{
    qtest_writeq(run->source->qts, NVDIMM_START + 7 * STRIDE, 0xfedcba);
    if (run->c->options && strstr(run->c->options, "{dir}/nv")) {
        g_assert_cmpuint(count_changed("{dir}/nv", HERE), ==, 3);
    }
}

static void check_nvdimm(Vm *vm)
{
    for (uint64_t page = 0; page < NVDIMM_BYTES / STRIDE; page++) {
        uint64_t ought = page == 5   ? 0xabcdef
                         : page == 7 ? 0xfedcba
                         : page == 9 ? 0
                                     : HERE + page * STRIDE;

        g_assert_cmphex(qtest_readq(vm->qts, NVDIMM_START + page * STRIDE), ==, ought);
    }
}

static void expect_nvdimm(Run *run)
{
    check_nvdimm(run->destination);
    if (strstr(run->c->options, "{dir}/nv")) {
        g_assert_cmpuint(count_changed("{dir}/nv", HERE), ==, 3);
    }
}

static void expect_read_only(Run *run)
{
    for (uint64_t at = 0; at < NVDIMM_BYTES; at += STRIDE) {
        g_assert_cmphex(qtest_readq(run->destination->qts, NVDIMM_START + at), ==, HERE + at);
    }
}

static const char *no_shm(void)
{
    return g_file_test("/dev/shm", G_FILE_TEST_IS_DIR) ? NULL : "there is no /dev/shm";
}

/* --- Huge pages ------------------------------------------------------------------------------- */

static const char *no_hugetlb(void)
{
    int fd = memfd_create("ferry-qtest", MFD_CLOEXEC | MFD_HUGETLB);

    if (fd < 0) {
        return "no hugetlb in this kernel";
    }
    close(fd);
    return NULL;
}

#define VIRTIO_MEM(backend)                                               \
    "-m 32M,maxmem=4G -object " backend ",id=more,size=256M,reserve=off " \
    "-device virtio-mem-pci,memdev=more,requested-size=0"
#define HUGETLB "memory-backend-memfd,hugetlb=on,hugetlbsize=2M"

/* --- virtio-mem ------------------------------------------------------------------------------ */

#define PLUG_START  UINT64_C(0x110000000)
#define PLUG_BLOCK  (2 * MIB)
#define PLUG_BLOCKS 16
#define PLUG_STRIDE (64 * 1024)

/* Do what the guest's driver would: plug in some blocks, and write to them. */
static void plug(Run *run)
{
    QTestState *qts = run->source->qts;
    QPCIAddress address = {.devfn = QPCI_DEVFN(5, 0)};
    QPCIBus *bus = qpci_new_pc(qts, NULL);
    QVirtioPCIDevice *device = virtio_pci_new(bus, &address);
    struct virtio_mem_req request = {
        .type = cpu_to_le16(VIRTIO_MEM_REQ_PLUG),
        .u.plug = {.addr = cpu_to_le64(PLUG_START), .nb_blocks = cpu_to_le16(PLUG_BLOCKS)},
    };
    QGuestAllocator allocator;
    QVirtQueue *queue;
    uint64_t features, buffer;
    uint32_t head;

    g_assert_nonnull(device);
    pc_alloc_init(&allocator, qts, ALLOC_NO_FLAGS);
    qvirtio_pci_device_enable(device);
    qvirtio_start_device(&device->vdev);
    features = qvirtio_get_features(&device->vdev) &
               ~(QVIRTIO_F_BAD_FEATURE | UINT64_C(1) << VIRTIO_RING_F_INDIRECT_DESC |
                 UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX);
    qvirtio_set_features(&device->vdev, features);
    queue = qvirtqueue_setup(&device->vdev, &allocator, 0);
    qvirtio_set_driver_ok(&device->vdev);

    buffer = guest_alloc(&allocator, 4096);
    qtest_bufwrite(qts, buffer, &request, sizeof(request));
    head = qvirtqueue_add(qts, queue, buffer, sizeof(request), false, true);
    qvirtqueue_add(qts, queue, buffer + 2048, sizeof(struct virtio_mem_resp), true, false);
    qvirtqueue_kick(qts, &device->vdev, queue, head);
    qvirtio_wait_used_elem(qts, &device->vdev, queue, head, NULL, VM_PATIENCE_S * G_USEC_PER_SEC);
    g_assert_cmpint(qtest_readw(qts, buffer + 2048), ==, VIRTIO_MEM_RESP_ACK);

    qvirtqueue_cleanup(device->vdev.bus, queue, &allocator);
    qvirtio_pci_device_disable(device);
    g_free(device);
    alloc_destroy(&allocator);
    qpci_free_pc(bus);
    for (uint64_t at = 0; at < PLUG_BLOCKS * PLUG_BLOCK; at += PLUG_STRIDE) {
        qtest_writeq(qts, PLUG_START + at, 0xb10c0000 + at);
    }
    /* The queue was in memory that is compared. */
    memory_take(run->memory, run->source);
}

static void write_plugged(Run *run)
{
    qtest_writeq(run->source->qts, PLUG_START + 4096, 0x1a7e);
}

static void expect_plugged(Run *run)
{
    QTestState *qts = run->destination->qts;

    for (uint64_t at = 0; at < PLUG_BLOCKS * PLUG_BLOCK; at += PLUG_STRIDE) {
        g_assert_cmphex(qtest_readq(qts, PLUG_START + at), ==, 0xb10c0000 + at);
        g_assert_cmphex(qtest_readq(qts, PLUG_START + at + 8192), ==, 0);
    }
    g_assert_cmphex(qtest_readq(qts, PLUG_START + 4096), ==, 0x1a7e);
}

static void expect_first_plugged(Run *run)
{
    qtest_writeq(run->destination->qts, PLUG_START + 4096, 0x1a7e);
    expect_plugged(run);
}

static void go_over_plugged(Run *run)
{
    write_plugged(run);
    postcopy_go_over(run);
}

/* Twice as much as is plugged in. */
#define PLUGGED(backend, more)                                                                  \
    "-m 32M,maxmem=1G -object " backend ",id=more,size=64M,reserve=off -device virtio-mem-pci," \
    "memdev=more,requested-size=32M,block-size=2M,memaddr=0x110000000,bus=pcie.0,addr=05.0" more

/* --- No memory left --------------------------------------------------------------------------- */

static const char *may_not_mount(void)
{
    g_autofree char *path = g_dir_make_tmp("ferry-mount-XXXXXX", NULL);
    bool mounted = path && mount("tmpfs", path, "tmpfs", 0, "size=2M") == 0;

    if (mounted) {
        umount2(path, MNT_DETACH);
    }
    if (path) {
        rmdir(path);
    }
    return mounted ? NULL : "no file system may be mounted that is too small";
}

static void mount_small(Run *run)
{
    g_autofree char *path = in_dir("{dir}/small");

    g_assert_cmpint(mkdir(path, 0700), ==, 0);
    g_assert_cmpint(mount("tmpfs", path, "tmpfs", 0, "size=2M"), ==, 0);
}

/* QEMU has its file; nothing is to stay mounted when this case ends, however it ends. */
static void unmount_small(Run *run)
{
    g_autofree char *path = in_dir("{dir}/small");

    g_assert_cmpint(umount2(path, MNT_DETACH), ==, 0);
}

#define BACKEND "-object memory-backend-file,id=ram,size=32M,share=on,mem-path="

#define NVDIMM(path, more)                                                        \
    "-machine nvdimm=on -m 32M,slots=2,maxmem=1G "                                \
    "-object memory-backend-file,id=nv,size=16M,share=on,mem-path=" path more " " \
    "-device nvdimm,memdev=nv,unarmed="

static const Case cases[] = {
    {
        .name = "kinds/same-nvdimm",
        .prepare = make_one_file,
        .options = NVDIMM("{dir}/nv", "") "off",
        .before = write_nvdimm,
        .during = write_nvdimm_again,
        .after = expect_nvdimm,
    },
    {
        .name = "kinds/same-nvdimm-cancelled",
        .prepare = make_one_file,
        .options = NVDIMM("{dir}/nv", "") "off",
        .before = write_nvdimm,
        .during = write_nvdimm_again,
        .then = THEN_CANCEL,
    },
    {
        .name = "kinds/same-nvdimm-read-only",
        .prepare = make_one_file,
        .options = NVDIMM("{dir}/nv", ",readonly=on") "on",
        .after = expect_read_only,
    },
    {
        .name = "kinds/nvdimm",
        .prepare = make_two_files,
        .options = NVDIMM("{dir}/{vm}.nv", "") "off",
        .before = write_nvdimm,
        .during = write_nvdimm_again,
        .after = expect_nvdimm,
    },
    {
        .name = "kinds/nvdimm-read-only",
        .prepare = make_equal_files,
        .options = NVDIMM("{dir}/{vm}.nv", ",readonly=on") "on",
        .after = expect_read_only,
    },
    {
        /* On a file system that post-copy can be made on: nothing of it is fetched. */
        .name = "kinds/same-file-post-copy",
        .cannot = no_shm,
        .options = "-m 32M,slots=2,maxmem=1G "
                   "-object memory-backend-file,id=dimm,size=16M,share=on,"
                   "mem-path=/dev/shm/ferry-qtest-same.ram -device pc-dimm,memdev=dimm",
        .capabilities = "postcopy-ram",
        .hold = HOLD_ROUNDS,
    },
    {
        .name = "kinds/virtio-mem-hugetlb-shared",
        .cannot = no_hugetlb,
        .options = VIRTIO_MEM(HUGETLB ",share=on"),
    },
    {
        .name = "kinds/virtio-mem-hugetlb-private",
        .cannot = no_hugetlb,
        .options = VIRTIO_MEM(HUGETLB ",share=off"),
    },
    {
        .name = "kinds/virtio-mem-plugged",
        .options = PLUGGED("memory-backend-memfd", ""),
        .before = plug,
        .during = write_plugged,
        .after = expect_plugged,
    },
    {
        .name = "kinds/virtio-mem-plugged-anonymous",
        .options = PLUGGED("memory-backend-ram", ""),
        .before = plug,
        .during = write_plugged,
        .after = expect_plugged,
    },
    {
        .name = "kinds/virtio-mem-plugged-hugetlb",
        .cannot = no_huge_pages,
        .options = PLUGGED(HUGETLB, ""),
        .before = plug,
        .during = write_plugged,
        .after = expect_plugged,
    },
    {
        /* The device allocates memory while pages come already, and must not give it back. */
        .name = "kinds/virtio-mem-prealloc-post-copy",
        .options = PLUGGED("memory-backend-memfd", ",prealloc=on"),
        .capabilities = "postcopy-ram",
        .postcopy = true,
        .before = plug,
        .during = go_over_plugged,
        .after = expect_plugged,
    },
    {
        .name = "kinds/virtio-mem-prealloc-not-post-copy",
        .options = PLUGGED("memory-backend-memfd", ",prealloc=on"),
        .capabilities = "postcopy-ram",
        .hold = HOLD_NOT,
        .before = plug,
        .after = expect_first_plugged,
    },
    {
        .name = "kinds/to-huge-pages",
        .cannot = no_huge_pages,
        .options = "-machine memory-backend=ram",
        .source_options = "-object memory-backend-memfd,id=ram,size=32M",
        .destination_options = "-object " HUGETLB ",id=ram,size=32M",
        .hold = HOLD_ROUNDS,
    },
    {
        .name = "kinds/from-huge-pages",
        .cannot = no_huge_pages,
        .options = "-machine memory-backend=ram",
        .source_options = "-object " HUGETLB ",id=ram,size=32M",
        .destination_options = "-object memory-backend-memfd,id=ram,size=32M",
        .hold = HOLD_ROUNDS,
    },
    {
        .name = "kinds/to-huge-pages-post-copy",
        .cannot = no_huge_pages,
        .options = "-machine memory-backend=ram",
        .source_options = "-object memory-backend-memfd,id=ram,size=32M",
        .destination_options = "-object " HUGETLB ",id=ram,size=32M",
        .second_options = "-object memory-backend-memfd,id=ram,size=32M",
        .capabilities = "postcopy-ram",
        .hold = HOLD_NOT,
        .outcome = FAILS,
        .error = "RAM block 'ram' has pages of 4096 bytes at the source but of 2097152",
    },
    {
        .name = "kinds/destination-full",
        .cannot = may_not_mount,
        .prepare = mount_small,
        .options = "-machine memory-backend=ram",
        .source_options = BACKEND "{dir}/source.ram",
        .destination_options = BACKEND "{dir}/small/ram",
        .second_options = BACKEND "{dir}/second.ram",
        .before = unmount_small,
        .hold = HOLD_NOT,
        .outcome = FAILS,
        .error = "RAM block 'ram': the destination has no memory left at 0x",
    },
    {
        /* What is unpacked is stored by the processor: it must not be killed for that. */
        .name = "kinds/destination-full-compressed",
        .cannot = may_not_mount,
        .prepare = mount_small,
        .options = "-machine memory-backend=ram",
        .source_options = BACKEND "{dir}/source.ram",
        .destination_options = BACKEND "{dir}/small/ram",
        .second_options = BACKEND "{dir}/second.ram",
        .ferry_parameters = "{ 'compression': 'zstd' }",
        .before = unmount_small,
        .hold = HOLD_NOT,
        .outcome = FAILS,
        .error = "RAM block 'ram': the destination has no memory left at 0x",
    },
};

void add_kind_cases(void)
{
    cases_add(cases, G_N_ELEMENTS(cases));
}
