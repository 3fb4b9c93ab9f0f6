/*
 * KVM's dirty rings: a migration uses them, and QEMU's own uses of them go on.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include "qobject/qdict.h"
#include "qobject/qlist.h"

#include "case.h"

/* How many entries a ring may have, by what the kernel says; 0 if it has no rings. */
static int64_t largest_ring(void)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int nr_bytes = fd < 0 ? 0 : ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_DIRTY_LOG_RING_ACQ_REL);

    if (fd >= 0) {
        close(fd);
    }
    return nr_bytes > 0 ? nr_bytes / (int64_t)sizeof(struct kvm_dirty_gfn) : 0;
}

static const char *no_rings(void)
{
    const char *reason = no_kvm();

    return reason ? reason : largest_ring() == 0 ? "this kernel's KVM has no dirty rings" : NULL;
}

static void expect_rings(Run *run, int64_t size)
{
    QDict *info = vm_command(run->source, "query-ferry", NULL);
    QDict *tracker = qdict_get_qdict(info, "tracker");
    QList *vcpus = qdict_get_qlist(tracker, "vcpus");
    g_autofree char *text = vm_hmp(run->source, "info ferry");

    g_assert_cmpint(qdict_get_int(tracker, "ring-size"), ==, size);
    g_assert_cmpuint(qlist_size(vcpus), ==, 1);
    g_assert_cmpint(qdict_get_int(qobject_to(QDict, qlist_peek(vcpus)), "vcpu"), ==, 0);
    g_assert_nonnull(strstr(text, "tracker: kvm-ring (KVM has dirty rings)"));
    g_assert_nonnull(strstr(text, "vcpu 0:"));
    qobject_unref(info);
}

static void expect_default_rings(Run *run)
{
    expect_rings(run, MIN(65536, largest_ring()));
}

static void expect_small_rings(Run *run)
{
    expect_rings(run, 1024);
}

static void expect_ringless(Run *run)
{
    QDict *info = vm_command(run->source, "query-ferry", NULL);
    QDict *tracker = qdict_get_qdict(info, "tracker");

    g_assert_false(qdict_haskey(tracker, "ring-size"));
    g_assert_false(qdict_haskey(tracker, "vcpus"));
    qobject_unref(info);
}

/* QEMU measures by the rings, which it has to itself as long as nothing migrates. */
static void measure_dirty_rate(Run *run)
{
    gint64 deadline = g_get_monotonic_time() + VM_PATIENCE_S * G_USEC_PER_SEC;
    QDict *info;
    QList *rates;

    vm_do(run->source, "calc-dirty-rate",
          "{ 'calc-time': 300, 'calc-time-unit': 'millisecond', 'mode': 'dirty-ring' }");
    while (info = vm_command(run->source, "query-dirty-rate", NULL),
           !g_str_equal(qdict_get_str(info, "status"), "measured")) {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
        qobject_unref(info);
        g_usleep(10 * 1000);
    }
    g_assert_cmpstr(qdict_get_str(info, "mode"), ==, "dirty-ring");
    g_assert_true(qdict_haskey(info, "dirty-rate"));
    rates = qdict_get_qlist(info, "vcpu-dirty-rate");
    g_assert_nonnull(rates);
    g_assert_cmpuint(qlist_size(rates), ==, 1);
    g_assert_cmpint(qdict_get_int(qobject_to(QDict, qlist_peek(rates)), "id"), ==, 0);
    qobject_unref(info);
}

/* The limit of the only vCPU in MiB/s; -1 if there is none. */
static int64_t dirty_limit(Vm *vm)
{
    QDict *response = qtest_qmp(vm->qts, "{ 'execute': 'query-vcpu-dirty-limit' }");
    QList *limits = qdict_get_qlist(response, "return");
    int64_t rate = -1;

    g_assert_nonnull(limits);
    if (!qlist_empty(limits)) {
        QDict *limit = qobject_to(QDict, qlist_peek(limits));

        g_assert_cmpuint(qlist_size(limits), ==, 1);
        g_assert_cmpint(qdict_get_int(limit, "cpu-index"), ==, 0);
        g_assert_cmpint(qdict_get_int(limit, "current-rate"), ==, 0);
        rate = qdict_get_int(limit, "limit-rate");
    }
    qobject_unref(response);
    return rate;
}

static void limit_dirty_rate(Run *run)
{
    Vm *vm = run->source;
    g_autofree char *error = NULL;

    g_assert_cmpint(dirty_limit(vm), ==, -1);
    vm_do(vm, "cancel-vcpu-dirty-limit", NULL);
    error = vm_command_fails(vm, "set-vcpu-dirty-limit", "{ 'cpu-index': 5, 'dirty-rate': 20 }");
    g_assert_cmpstr(error, ==, "incorrect cpu index specified");
    g_assert_cmpint(dirty_limit(vm), ==, -1);
    vm_do(vm, "set-vcpu-dirty-limit", "{ 'dirty-rate': 20 }");
    g_assert_cmpint(dirty_limit(vm), ==, 20);
    vm_do(vm, "set-vcpu-dirty-limit", "{ 'cpu-index': 0, 'dirty-rate': 30 }");
    g_assert_cmpint(dirty_limit(vm), ==, 30);
    vm_do(vm, "cancel-vcpu-dirty-limit", NULL);
    g_assert_cmpint(dirty_limit(vm), ==, -1);
}

static void expect_no_dirty_limit(Run *run)
{
    g_autofree char *limit =
        vm_command_fails(run->source, "set-vcpu-dirty-limit", "{ 'dirty-rate': 20 }");
    g_autofree char *rate = vm_command_fails(run->source, "calc-dirty-rate",
                                             "{ 'calc-time': 1, 'mode': 'dirty-ring' }");

    g_assert_cmpstr(limit, ==,
                    "dirty page limit feature requires KVM with accelerator property "
                    "'dirty-ring-size' set'");
    g_assert_cmpstr(rate, ==, "mode dirty-ring is not enabled, use other method instead.");
}

/* --- Memory slots ------------------------------------------------------------------------------ */

/*
 * KVM's slots, by QEMU's trace: none reaches into two chunks of so many bytes, and some are of that size.  That is
 * all of the case.
 */
static void expect_slots(Run *run, uint64_t chunk)
{
    g_autofree char *log = vm_log(run->source);
    g_auto(GStrv) lines = g_strsplit(log, "\n", -1);
    unsigned nr_whole = 0;

    for (char **line = lines; *line; line++) {
        const char *at = strstr(*line, "gpa=0x");
        uint64_t start, size;

        if (at && sscanf(at, "gpa=0x%" SCNx64 " size=0x%" SCNx64, &start, &size) == 2) {
            g_assert_cmpuint(start % chunk + size, <=, chunk);
            nr_whole += size == chunk;
        }
    }
    g_assert_cmpuint(nr_whole, >=, 3);
    vm_quit(run->source);
    vm_quit(run->destination);
    exit(0);
}

static void expect_small_slots(Run *run)
{
    expect_slots(run, 32 * MIB);
}

/* Memory that a device shares with the host, far more than the machine has: KVM has 32,764 slots. */
static void map_shared(Run *run)
{
    QTestState *qts = run->source->qts;
    const uint64_t at = 2048 * GIB;

    vm_write_pci(run->source, 5, 0x18, (uint32_t)at);
    vm_write_pci(run->source, 5, 0x1c, at >> 32);
    vm_write_pci(run->source, 5, 0x04, 2);
    qtest_writeq(qts, at + 1024 * GIB, 0x5a5a);
    g_assert_cmphex(qtest_readq(qts, at + 1024 * GIB), ==, 0x5a5a);
    expect_slots(run, 512 * MIB);
}

/* There would be more than 4,096 of them. */
static void expect_large_slots(Run *run)
{
    expect_slots(run, 256 * MIB);
}

/* --- Overruns ---------------------------------------------------------------------------------- */

/* String instructions over 0x20000 to 0x60000: a KVM that emulates them logs 1024 writes at once. */
static void make_bursts(Run *run)
{
    static const uint8_t code[] = {
        0xfa, 0xfc,             /* cli; cld */
        0x43,                   /* again: inc %bx */
        0xbe, 0x00, 0x20,       /* mov $0x2000, %si */
        0x8e, 0xc6,             /* next: mov %si, %es */
        0x31, 0xff,             /* xor %di, %di */
        0x89, 0xd8,             /* mov %bx, %ax */
        0xb9, 0x00, 0x80,       /* mov $0x8000, %cx */
        0xf3, 0xab,             /* rep stosw */
        0x81, 0xc6, 0x00, 0x10, /* add $0x1000, %si */
        0x81, 0xfe, 0x00, 0x60, /* cmp $0x6000, %si */
        0x72, 0xeb,             /* jb next */
        0xeb, 0xe5,             /* jmp again */
    };

    make_firmware("{dir}/bursts.bin", code, sizeof(code));
}

/* The same, and a file that the tracker of page tables does not take: shared, and not to be written. */
static void make_bursts_and_file(Run *run)
{
    g_autofree char *path = in_dir("{dir}/read-only");
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, 16 * MIB), ==, 0);
    close(fd);
    make_bursts(run);
}

static void wait_bursts(Run *run)
{
    gint64 deadline = g_get_monotonic_time() + VM_PATIENCE_S * G_USEC_PER_SEC;

    while (qtest_readw(run->source->qts, 0x5f000) < 3) {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
        g_usleep(1000);
    }
}

static void limit_bursts(Run *run)
{
    vm_do(run->source, "set-vcpu-dirty-limit", "{ 'dirty-rate': 100 }");
    wait_bursts(run);
}

static void wait_rounds(Run *run)
{
    vm_set_bandwidth(run->source, 16 * MIB);
    vm_wait_ferry_phase(run->source, "rounds");
}

static void expect_bitmap(Run *run, const char *reason)
{
    QDict *info = vm_command(run->source, "query-ferry", NULL);
    QDict *tracker = qdict_get_qdict(info, "tracker");

    if (g_str_equal(qdict_get_str(tracker, "mode"), "kvm-ring")) {
        case_skip("this KVM does not overrun rings");
    } else {
        g_assert_cmpstr(qdict_get_str(tracker, "mode"), ==, "bitmap");
        g_assert_nonnull(strstr(qdict_get_str(tracker, "reason"), reason));
    }
    qobject_unref(info);
}

/* --- A display, after an overrun --------------------------------------------------------------- */

/* Where its registers are mapped, and the numbers of some. */
#define SVGA_PORT        0xc000
#define SVGA_ENABLE      1
#define SVGA_CONFIG_DONE 20

static void write_svga(Run *run, uint32_t number, uint32_t value)
{
    qtest_outl(run->source->qts, SVGA_PORT, number);
    qtest_outl(run->source->qts, SVGA_PORT + 1, value);
}

/* A driver draws by itself: the display is not logged any more, however often it says so. */
static void use_svga(Run *run)
{
    vm_write_pci(run->source, 2, 0x10, SVGA_PORT);
    vm_write_pci(run->source, 2, 0x14, 0xe0000008);
    vm_write_pci(run->source, 2, 0x04, 3);
    write_svga(run, SVGA_CONFIG_DONE, 1);
    write_svga(run, SVGA_CONFIG_DONE, 1);
    limit_bursts(run);
}

/* Whether all slots of RAM are logged, by QEMU's trace: what it says of each last. */
static bool all_are_logged(Vm *vm)
{
    g_autofree char *log = vm_log(vm);
    g_auto(GStrv) lines = g_strsplit(log, "\n", -1);
    g_autoptr(GHashTable) unlogged = g_hash_table_new(NULL, NULL);

    for (char **line = lines; *line; line++) {
        const char *at = strstr(*line, "Slot#");
        unsigned slot, flags;
        uint64_t start, size;

        if (at && sscanf(at, "Slot#%u flags=0x%x gpa=0x%" SCNx64 " size=0x%" SCNx64, &slot, &flags,
                         &start, &size) == 4) {
            if (size == 0 || flags & 1 || start >= 32 * MIB) {
                g_hash_table_remove(unlogged, GUINT_TO_POINTER(slot));
            } else {
                g_hash_table_add(unlogged, GUINT_TO_POINTER(slot));
            }
        }
    }
    return g_hash_table_size(unlogged) == 0;
}

static void wait_logged(Run *run)
{
    gint64 deadline = g_get_monotonic_time() + VM_PATIENCE_S * G_USEC_PER_SEC;

    while (!all_are_logged(run->source)) {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
        g_usleep(10 * 1000);
    }
}

/* The guest goes back to a mode that is drawn, and so logged: that is no beginning of another migration. */
static void draw_after_overrun(Run *run)
{
    wait_rounds(run);
    expect_bitmap(run, "the dirty limit needs QEMU's");
    wait_logged(run);
    write_svga(run, SVGA_ENABLE, 0);
    g_usleep(100 * 1000);
    wait_logged(run);
}

/* Slowing vCPUs down at full rings is QEMU's business, also when Ferry could not keep up with one. */
static void expect_qemus_look(Run *run)
{
    expect_bitmap(run, "the dirty limit needs QEMU's");
}

/* What takes all kinds of memory, where another tracker would be better but for one of them. */
static void expect_second_choice(Run *run)
{
    expect_bitmap(run, "its file is mapped shared and may not be written");
}

static const Case cases[] = {
    {
        /* Below the hole that ends at 4 GiB, and above it. */
        .name = "tracker/kvm-slots",
        .cannot = no_kvm,
        .options = "-accel kvm -m 5G -trace kvm_set_user_memory",
        .paused = true,
        .no_listen = true,
        .before = expect_small_slots,
    },
    {
        .name = "tracker/kvm-large-slots",
        .cannot = no_kvm,
        .options = "-accel kvm -m 5G,slots=1,maxmem=900G -trace kvm_set_user_memory",
        .paused = true,
        .no_listen = true,
        .before = expect_large_slots,
    },
    {
        .name = "tracker/kvm-shared-slots",
        .cannot = no_kvm,
        .options = "-accel kvm -m 64M -trace kvm_set_user_memory "
                   "-object memory-backend-file,id=shared,size=2T,share=on,mem-path={dir}/shared "
                   "-device ivshmem-plain,memdev=shared,addr=5.0",
        .paused = true,
        .no_listen = true,
        .before = map_shared,
    },
    {
        .name = "tracker/kvm-overrun-limited",
        .cannot = no_rings,
        .prepare = make_bursts,
        .options = "-accel kvm,dirty-ring-size=1024 -bios {dir}/bursts.bin",
        .destination_paused = true,
        .guest_writes = true,
        .before = limit_bursts,
        .during = wait_rounds,
        .after = expect_qemus_look,
    },
    {
        .name = "tracker/kvm-overrun-drawn",
        .cannot = no_rings,
        .prepare = make_bursts,
        .options = "-accel kvm,dirty-ring-size=1024 -bios {dir}/bursts.bin -vga vmware "
                   "-trace kvm_set_user_memory",
        .destination_paused = true,
        .guest_writes = true,
        .before = use_svga,
        .during = draw_after_overrun,
    },
    {
        .name = "tracker/kvm-overrun-read-only",
        .cannot = no_rings,
        .prepare = make_bursts_and_file,
        .options = "-accel kvm,dirty-ring-size=1024 -bios {dir}/bursts.bin "
                   "-machine nvdimm=on -m 32M,slots=2,maxmem=1G "
                   "-object memory-backend-file,id=nv,size=16M,share=on,readonly=on,"
                   "mem-path={dir}/read-only -device nvdimm,memdev=nv,unarmed=on",
        .destination_paused = true,
        .guest_writes = true,
        .before = wait_bursts,
        .during = wait_rounds,
        .after = expect_second_choice,
    },
    {
        .name = "tracker/kvm-rings",
        .cannot = no_rings,
        .options = "-accel kvm",
        .paused = true,
        .hold = HOLD_ROUNDS,
        .tracker = "kvm-ring",
        .tracker_reason = "KVM has dirty rings",
        .after = expect_default_rings,
    },
    {
        .name = "tracker/kvm-small-rings",
        .cannot = no_rings,
        .options = "-accel kvm,dirty-ring-size=1024",
        .paused = true,
        .hold = HOLD_ROUNDS,
        .tracker = "kvm-ring",
        .tracker_reason = "KVM has dirty rings",
        .after = expect_small_rings,
    },
    {
        .name = "tracker/kvm-rings-off",
        .cannot = no_kvm,
        .options = "-accel kvm,dirty-ring-size=0",
        .paused = true,
        .before = expect_no_dirty_limit,
        .hold = HOLD_ROUNDS,
        .tracker = "bitmap",
        .tracker_reason = "dirty-ring-size=0",
        .after = expect_ringless,
    },
    {
        .name = "tracker/kvm-dirty-rate",
        .cannot = no_rings,
        .options = "-accel kvm",
        .paused = true,
        .before = measure_dirty_rate,
        .tracker = "kvm-ring",
        .tracker_reason = "KVM has dirty rings",
        .after = measure_dirty_rate,
    },
    {
        .name = "tracker/kvm-dirty-limit",
        .cannot = no_rings,
        .options = "-accel kvm",
        .paused = true,
        .before = limit_dirty_rate,
        .tracker = "kvm-ring",
        .tracker_reason = "KVM has dirty rings",
        .after = limit_dirty_rate,
    },
};

void add_ring_cases(void)
{
    cases_add(cases, G_N_ELEMENTS(cases));
}
