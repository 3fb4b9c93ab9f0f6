/*
 * How a migration tracks what the guest writes: which way, what it reports, and that nothing that
 * is written is lost in any of them.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include "qemu/bswap.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "standard-headers/linux/qemu_fw_cfg.h"

#include "case.h"

/* --- Reports --------------------------------------------------------------------------------- */

#define NO_KVM_HERE "KVM is not in use"

/* How much memory is armed at once. */
#define CHUNK_BYTES (32 * MIB)

/* How many chunks the guest's memory has, by QEMU's list of RAM blocks, which has two headings. */
static int64_t count_chunks(Vm *vm)
{
    g_autofree char *text = vm_hmp(vm, "info ramblock");
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    int64_t nr = 0;

    for (char **line = lines; *line; line++) {
        uint64_t used;

        if (sscanf(*line, " %*s %*s KiB 0x%*x 0x%" SCNx64, &used) == 1) {
            nr += (int64_t)DIV_ROUND_UP(used, CHUNK_BYTES);
        }
    }
    g_assert_cmpint(nr, >, 0);
    return nr;
}

/* Returns how many chunks were armed so far. */
static int64_t check_arm_times(QDict *info)
{
    QList *bars = qdict_get_qlist(info, "arm-times");
    int64_t longest = qdict_get_int(info, "longest-arm-time");
    int64_t below = 0, nr = 0;
    const QListEntry *entry;

    QLIST_FOREACH_ENTRY (bars, entry) {
        QDict *bar = qobject_to(QDict, qlist_entry_obj(entry));
        int64_t before = below;

        below = qdict_get_int(bar, "below");
        g_assert_cmpint(below, >, before);
        g_assert_cmpint(below & (below - 1), ==, 0);
        g_assert_cmpint(qdict_get_int(bar, "count"), >, 0);
        nr += qdict_get_int(bar, "count");
        if (!qlist_next(entry)) {
            g_assert_cmpint(longest, >=, before);
            g_assert_cmpint(longest, <, below);
        }
    }
    return nr;
}

static void check_source(Run *run)
{
    QDict *info = vm_command(run->source, "query-ferry", NULL);
    QDict *tracker = qdict_get_qdict(info, "tracker");
    int64_t nr_chunks = count_chunks(run->source);
    int64_t nr_armed = check_arm_times(info);
    g_autofree char *text = vm_hmp(run->source, "info ferry");

    g_assert_nonnull(tracker);
    /* What it was called before. */
    g_assert_true(qobject_is_equal(QOBJECT(tracker), qdict_get(info, "trace")));
    g_assert_cmpstr(qdict_get_str(tracker, "mode"), ==, "bitmap");
    g_assert_cmpstr(qdict_get_str(tracker, "reason"), ==, NO_KVM_HERE);
    g_assert_cmpuint(qdict_size(tracker), ==, 2);
    g_assert_cmpint(qdict_get_int(info, "deferred-pages"), >=, 0);
    /* Those that nobody has touched are not. */
    g_assert_cmpint(nr_armed, >=, 1);
    g_assert_cmpint(nr_armed, <=, nr_chunks);
    g_assert_nonnull(strstr(text, "tracker: bitmap (" NO_KVM_HERE ")"));
    g_assert_nonnull(strstr(text, "armed in less than "));
    qobject_unref(info);
}

static void check_destination(Run *run)
{
    QDict *info = vm_command(run->destination, "query-ferry", NULL);
    g_autofree char *text = vm_hmp(run->destination, "info ferry");

    g_assert_true(qdict_haskey(info, "phase"));
    g_assert_false(qdict_haskey(info, "tracker"));
    g_assert_null(strstr(text, "tracker:"));
    qobject_unref(info);
}

static void check_reports_during(Run *run)
{
    check_source(run);
    check_destination(run);
}

static void check_reports_after(Run *run)
{
    check_source(run);
    check_destination(run);
}

/* What was true of an earlier migration is not told of one that does not use Ferry. */
static void expect_no_tracker(Run *run)
{
    QDict *info = vm_command(run->source, "query-ferry", NULL);

    g_assert_false(qdict_haskey(info, "tracker"));
    g_assert_false(qdict_haskey(info, "arm-times"));
    qobject_unref(info);
}

/* --- Parameters ------------------------------------------------------------------------------ */

static void expect_parameter(Vm *vm, const char *tracker)
{
    QDict *parameters = vm_command(vm, "query-ferry-parameters", NULL);

    g_assert_cmpstr(qdict_get_str(parameters, "tracker"), ==, tracker);
    g_assert_cmpstr(qdict_get_str(parameters, "trace"), ==, tracker);
    g_assert_cmpint(qdict_get_int(parameters, "channels"), ==, 0);
    qobject_unref(parameters);
}

static void check_parameters(Run *run)
{
    static const char *const values[] = {"kvm-ring", "bitmap", "auto", "pagemap"};
    g_autofree char *error = NULL;

    expect_parameter(run->destination, "auto");
    expect_parameter(run->source, "pagemap");
    for (size_t i = 0; i < G_N_ELEMENTS(values); i++) {
        /* `trace` is what it was called before. */
        g_autofree char *arguments =
            g_strdup_printf("{ '%s': '%s' }", i % 2 ? "trace" : "tracker", values[i]);

        vm_do(run->source, "ferry-set-parameters", arguments);
        expect_parameter(run->source, values[i]);
    }
    vm_do(run->source, "ferry-set-parameters", "{}");
    error = vm_command_fails(run->source, "ferry-set-parameters",
                             "{ 'channels': 3, 'tracker': 'sideways' }");
    g_assert_nonnull(strstr(error, "tracker"));
    g_assert_nonnull(strstr(error, "sideways"));
    expect_parameter(run->source, "pagemap");
}

/* A QEMU with this option ends at once, and says why. */
static void expect_no_start(const char *option, const char *const *words)
{
    const char *argv[] = {getenv("QTEST_QEMU_BINARY"),
                          "-nodefaults",
                          "-machine",
                          "none",
                          "-display",
                          "none",
                          "-global",
                          option,
                          NULL};
    g_autofree char *text = NULL;
    int status = 0;

    g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_STDOUT_TO_DEV_NULL, NULL, NULL,
                               NULL, &text, &status, NULL));
    g_assert_true(WIFEXITED(status));
    g_assert_cmpint(WEXITSTATUS(status), ==, 1);
    for (; *words; words++) {
        if (!strstr(text, *words)) {
            g_error("-global %s: '%s', without '%s'", option, text, *words);
        }
    }
}

static void check_command_line(Run *run)
{
    expect_no_start("ferry.tracker=sideways",
                    (const char *const[]){"ferry.tracker", "sideways", NULL});
    expect_parameter(run->source, "bitmap");
}

/* --- Memory beside RAM ----------------------------------------------------------------------- */

/* Where a DIMM is put, and a display's memory by the test, as firmware would. */
#define DIMM_ADDRESS 0x100000000
#define VRAM_ADDRESS 0xe0000000

#define DIMM_BYTES (8 * MIB)
#define VRAM_BYTES (2 * MIB)

#define DIMM_BACKEND "-object memory-backend-ram,id=dimm,size=8M "
#define DIMM_DEVICE  "pc-dimm,id=plugged,memdev=dimm,addr=4294967296 "
#define DIMM         DIMM_BACKEND "-device " DIMM_DEVICE
#define SLOTS        "-m 32M,slots=2,maxmem=1G "

/* What another block must hold. */
typedef struct Window {
    uint64_t address;
    uint64_t size;
    uint8_t *bytes;
} Window;

/* The last write there was to somewhere, and what had been there before. */
typedef struct LastWrite {
    uint64_t address;
    uint64_t before;
} LastWrite;

typedef struct Scatter {
    Window windows[2];
    size_t nr_windows;
    LastWrite last, last_in_window;
} Scatter;

static Scatter *scatter_of(Run *run)
{
    if (!run->opaque) {
        run->opaque = g_new0(Scatter, 1);
    }
    return run->opaque;
}

static void add_window(Run *run, uint64_t address, uint64_t size)
{
    Scatter *scatter = scatter_of(run);

    scatter->windows[scatter->nr_windows++] = (Window){
        .address = address,
        .size = size,
        .bytes = g_malloc0(size),
    };
}

static void free_scatter(Run *run)
{
    Scatter *scatter = scatter_of(run);

    for (size_t i = 0; i < scatter->nr_windows; i++) {
        g_free(scatter->windows[i].bytes);
    }
    g_clear_pointer(&run->opaque, g_free);
}

static uint64_t count_window_differences(const Window *window, Vm *vm)
{
    GMappedFile *file = memory_dump(vm, window->address, window->size);
    const char *found = g_mapped_file_get_contents(file);
    uint64_t nr_bad = 0;

    for (uint64_t i = 0; i < window->size; i += MEMORY_PAGE) {
        nr_bad += memcmp(found + i, window->bytes + i, MEMORY_PAGE) != 0;
    }
    g_mapped_file_unref(file);
    return nr_bad;
}

static void check_windows(Run *run, Vm *vm)
{
    Scatter *scatter = scatter_of(run);

    for (size_t i = 0; i < scatter->nr_windows; i++) {
        g_assert_cmpuint(count_window_differences(&scatter->windows[i], vm), ==, 0);
    }
}

/* --- Writes in many places ------------------------------------------------------------------- */

/* Write eight bytes to the source; @bytes is what is to be there, and begins at @base. */
static void write_number(Run *run, uint8_t *bytes, uint64_t base, uint64_t address, LastWrite *last)
{
    uint64_t value = (uint64_t)g_rand_int(run->memory->rand) << 32 | 1;

    last->address = address;
    memcpy(&last->before, bytes + address - base, sizeof(value));
    value += last->before;
    memcpy(bytes + address - base, &value, sizeof(value));
    qtest_writeq(run->source->qts, address, value);
}

static void write_ram(Run *run, uint64_t address)
{
    write_number(run, run->memory->bytes, 0, address, &scatter_of(run)->last);
}

static void write_window(Run *run, const Window *window, uint64_t offset)
{
    write_number(run, window->bytes, window->address, window->address + offset,
                 &scatter_of(run)->last_in_window);
}

/* A multiple of eight, less than @size. */
static uint64_t random_offset(GRand *rand, uint64_t size)
{
    return (uint64_t)g_rand_int_range(rand, 0, (gint32)(size / 8)) * 8;
}

/* A device writes: fw_cfg copies its first item, "QEMU", and clears the word that asked for it. */
static void write_by_dma(Run *run, uint64_t request)
{
    uint64_t target = request + sizeof(struct fw_cfg_dma_access);
    struct fw_cfg_dma_access access = {
        .control = cpu_to_be32(FW_CFG_DMA_CTL_SELECT | FW_CFG_DMA_CTL_READ),
        .length = cpu_to_be32(FW_CFG_SIG_SIZE),
        .address = cpu_to_be64(target),
    };

    qtest_bufwrite(run->source->qts, request, &access, sizeof(access));
    qtest_outl(run->source->qts, 0x514, 0);
    qtest_outl(run->source->qts, 0x518, bswap32((uint32_t)request));
    access.control = 0;
    memcpy(run->memory->bytes + request, &access, sizeof(access));
    memcpy(run->memory->bytes + target, "QEMU", FW_CFG_SIG_SIZE);
}

/* The edges, and about 1000 pages anywhere, also where nobody has written before: by @seed. */
static void scatter_writes(Run *run, guint32 seed)
{
    Scatter *scatter = scatter_of(run);
    GRand *places = g_rand_new_with_seed(seed);
    uint64_t size = run->memory->size;

    write_ram(run, 0);
    write_ram(run, 0x9fff8);
    write_ram(run, MIB);
    write_ram(run, size - 8);
    for (size_t i = 0; i < scatter->nr_windows; i++) {
        const Window *window = &scatter->windows[i];

        write_window(run, window, 0);
        write_window(run, window, window->size - 8);
        for (unsigned k = 0; k < 100; k++) {
            write_window(run, window, random_offset(places, window->size));
        }
    }
    for (unsigned i = 0; i < 20; i++) {
        write_by_dma(run, MIB + random_offset(places, size - 2 * MIB));
    }
    for (unsigned i = 0; i < 800; i++) {
        write_ram(run, MIB + random_offset(places, size - MIB));
    }
    g_rand_free(places);
}

static size_t count_rounds(Run *run)
{
    QDict *info = vm_command(run->source, "query-ferry", NULL);
    size_t nr = qlist_size(qdict_get_qlist(info, "rounds"));

    g_assert_cmpstr(qdict_get_str(info, "phase"), ==, "rounds");
    qobject_unref(info);
    return nr;
}

/* As firmware does with the display's first BAR, before the migration. */
static void map_vram(Run *run)
{
    static const uint32_t device = 0x80000000 | 2 << 11;
    QTestState *qts = run->source->qts;

    qtest_outl(qts, 0xcf8, device | 0x10);
    qtest_outl(qts, 0xcfc, VRAM_ADDRESS);
    qtest_outl(qts, 0xcf8, device | 0x04);
    qtest_outl(qts, 0xcfc, 2);
}

static void write_before(Run *run)
{
    map_vram(run);
    add_window(run, DIMM_ADDRESS, DIMM_BYTES);
    add_window(run, VRAM_ADDRESS, VRAM_BYTES);
    scatter_writes(run, 1);
    memory_check(run->memory, run->source);
    check_windows(run, run->source);
}

/*
 * In each round the same places are written again and again, in the next one others, and faster
 * than they get through, so there is always something left.  In the end nearly nothing does, and
 * the destination must show that it lacks what was written last.
 */
static void write_in_rounds(Run *run)
{
    const LastWrite *last = &scatter_of(run)->last;
    size_t round = count_rounds(run);
    size_t end = round + 3;

    vm_set_bandwidth(run->source, 12 * MIB);
    for (; round < end; round = count_rounds(run)) {
        scatter_writes(run, (guint32)round);
    }
    vm_set_bandwidth(run->source, 64 << 10);
    scatter_writes(run, (guint32)round);
    g_assert_cmphex(qtest_readq(run->destination->qts, last->address), !=,
                    qtest_readq(run->source->qts, last->address));
    g_assert_cmpuint(memory_count_differences(run->memory, run->destination), >, 0);
}

/* Put back what was there before a write, as if the write had been lost. */
static void lose(Vm *vm, const LastWrite *write)
{
    qtest_writeq(vm->qts, write->address, write->before);
}

static void check_scattered(Run *run)
{
    Scatter *scatter = scatter_of(run);
    uint64_t nr_bad = 0;

    check_windows(run, run->destination);
    lose(run->destination, &scatter->last);
    g_assert_cmpuint(memory_count_differences(run->memory, run->destination), ==, 1);
    lose(run->destination, &scatter->last_in_window);
    for (size_t i = 0; i < scatter->nr_windows; i++) {
        nr_bad += count_window_differences(&scatter->windows[i], run->destination);
    }
    g_assert_cmpuint(nr_bad, ==, 1);
    free_scatter(run);
}

#define TWO_BLOCKS_MORE SLOTS DIMM "-device VGA,addr=2,vgamem_mb=2"

/* --- Memory that is plugged in --------------------------------------------------------------- */

static void plug_dimm(Run *run)
{
    vm_do(run->source, "object-add",
          "{ 'qom-type': 'memory-backend-ram', 'id': 'dimm', 'size': 8388608 }");
    vm_do(run->source, "device_add",
          "{ 'driver': 'pc-dimm', 'id': 'plugged', 'memdev': 'dimm', 'addr': 4294967296 }");
    add_window(run, DIMM_ADDRESS, DIMM_BYTES);
    scatter_writes(run, 1);
}

static void write_in_between(Run *run)
{
    scatter_writes(run, 2);
}

static void write_dimm(Run *run)
{
    add_window(run, DIMM_ADDRESS, DIMM_BYTES);
    scatter_writes(run, 1);
}

#define SPARE "{ 'driver': 'pc-dimm', 'id': 'more', 'memdev': 'spare' }"

/* QEMU says so in its own words, and the migration does not mind. */
static void try_to_plug(Run *run)
{
    g_autofree char *add = vm_command_fails(run->source, "device_add", SPARE);
    g_autofree char *del = vm_command_fails(run->source, "device_del", "{ 'id': 'plugged' }");

    g_assert_cmpstr(add, ==, "device_add not allowed while migrating");
    g_assert_cmpstr(del, ==, "device_del not allowed while migrating");
    write_in_between(run);
}

static void check_dimm(Run *run)
{
    check_windows(run, run->destination);
    free_scatter(run);
}

static void plug_after(Run *run)
{
    check_dimm(run);
    vm_do(run->destination, "device_add", SPARE);
}

/* --- KVM's dirty rings ----------------------------------------------------------------------- */

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

static const Case cases[] = {
    {
        /* Five chunks of RAM, and one for each of the smaller blocks. */
        .name = "tracker/report",
        .ram_mib = 160,
        .hold = HOLD_ROUNDS,
        .during = check_reports_during,
        .tracker = "bitmap",
        .tracker_reason = NO_KVM_HERE,
        .after = check_reports_after,
    },
    {
        .name = "tracker/parameters",
        .source_options = "-global ferry.tracker=pagemap",
        .before = check_parameters,
        .tracker = "pagemap",
        .tracker_reason = "ferry.tracker says so",
    },
    {
        .name = "tracker/command-line",
        .source_options = "-global ferry.trace=bitmap",
        .before = check_command_line,
        .tracker = "bitmap",
        .tracker_reason = "ferry.tracker says so",
    },
    {
        .name = "tracker/no-rings",
        .ferry_parameters = "{ 'tracker': 'kvm-ring' }",
        .fallback = "ferry.tracker is kvm-ring, but KVM's dirty rings are not in use",
        .after = expect_no_tracker,
    },
    {
        .name = "tracker/bitmap",
        .options = TWO_BLOCKS_MORE,
        .ferry_parameters = "{ 'tracker': 'bitmap' }",
        .before = write_before,
        .hold = HOLD_ROUNDS,
        .during = write_in_rounds,
        .tracker = "bitmap",
        .tracker_reason = "ferry.tracker says so",
        .after = check_scattered,
    },
    {
        .name = "tracker/pagemap",
        .options = TWO_BLOCKS_MORE,
        .ferry_parameters = "{ 'tracker': 'pagemap' }",
        .before = write_before,
        .hold = HOLD_ROUNDS,
        .during = write_in_rounds,
        .tracker = "pagemap",
        .tracker_reason = "ferry.tracker says so",
        .after = check_scattered,
    },
    {
        .name = "tracker/plugged-before",
        .options = SLOTS,
        .destination_options = DIMM,
        .before = plug_dimm,
        .hold = HOLD_ROUNDS,
        .during = write_in_between,
        .after = check_dimm,
    },
    {
        .name = "tracker/no-plugging",
        .options = SLOTS DIMM "-object memory-backend-ram,id=spare,size=8M",
        .before = write_dimm,
        .during = try_to_plug,
        .after = plug_after,
    },
    {
        .name = "tracker/no-plugging-in-rounds",
        .options = SLOTS DIMM "-object memory-backend-ram,id=spare,size=8M",
        .ferry_parameters = "{ 'tracker': 'pagemap' }",
        .before = write_dimm,
        .hold = HOLD_ROUNDS,
        .during = try_to_plug,
        .after = plug_after,
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
        .name = "tracker/kvm-rings-off-but-wanted",
        .cannot = no_kvm,
        .options = "-accel kvm,dirty-ring-size=0",
        .paused = true,
        .ferry_parameters = "{ 'tracker': 'kvm-ring' }",
        .fallback = "ferry.tracker is kvm-ring, but KVM's dirty rings are not in use",
        .after = expect_no_tracker,
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

void add_tracker_cases(void)
{
    cases_add(cases, G_N_ELEMENTS(cases));
}
