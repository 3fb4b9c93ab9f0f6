/*
 * Memory that is not this guest's alone, or is not there: files that both ends map, read-only memory, what
 * virtio-mem has not plugged in, pages of other sizes, and hosts without memory left.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <sys/mman.h>
#include <sys/mount.h>
#include "qobject/qdict.h"

#include "case.h"

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

static const char *few_huge_pages(void)
{
    g_autofree char *text = NULL;

    if (!g_file_get_contents("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", &text,
                             NULL, NULL) ||
        strtoul(text, NULL, 10) < 40) {
        return "fewer than 40 huge pages are free (vm.nr_hugepages)";
    }
    return NULL;
}

#define VIRTIO_MEM(backend)                                                                 \
    "-m 32M,maxmem=4G -object " backend ",id=more,size=256M,reserve=off "                   \
    "-device virtio-mem-pci,memdev=more,requested-size=0"
#define HUGETLB "memory-backend-memfd,hugetlb=on,hugetlbsize=2M"

/* --- No memory left --------------------------------------------------------------------------- */

static const char *may_not_mount(void)
{
    return geteuid() == 0 ? NULL : "only root may mount a file system that is too small";
}

static void mount_small(Run *run)
{
    g_autofree char *path = in_dir("{dir}/small");

    g_assert_cmpint(mkdir(path, 0700), ==, 0);
    if (mount("tmpfs", path, "tmpfs", 0, "size=2M") != 0) {
        g_test_message("cannot mount a tmpfs: %s", strerror(errno));
        exit(0);
    }
}

/* QEMU has its file; nothing is to stay mounted when this case ends, however it ends. */
static void unmount_small(Run *run)
{
    g_autofree char *path = in_dir("{dir}/small");

    g_assert_cmpint(umount2(path, MNT_DETACH), ==, 0);
}

#define BACKEND "-object memory-backend-file,id=ram,size=32M,share=on,mem-path="

#define NVDIMM(path, more)                                                              \
    "-machine nvdimm=on -m 32M,slots=2,maxmem=1G "                                      \
    "-object memory-backend-file,id=nv,size=16M,share=on,mem-path=" path more " "       \
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
        .name = "kinds/to-huge-pages",
        .cannot = few_huge_pages,
        .options = "-machine memory-backend=ram",
        .source_options = "-object memory-backend-memfd,id=ram,size=32M",
        .destination_options = "-object " HUGETLB ",id=ram,size=32M",
        .hold = HOLD_ROUNDS,
    },
    {
        .name = "kinds/from-huge-pages",
        .cannot = few_huge_pages,
        .options = "-machine memory-backend=ram",
        .source_options = "-object " HUGETLB ",id=ram,size=32M",
        .destination_options = "-object memory-backend-memfd,id=ram,size=32M",
        .hold = HOLD_ROUNDS,
    },
    {
        .name = "kinds/to-huge-pages-post-copy",
        .cannot = few_huge_pages,
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
