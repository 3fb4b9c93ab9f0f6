/*
 * Nothing that is written is lost: in many places, in several RAM blocks, in memory that is plugged in.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "standard-headers/linux/qemu_fw_cfg.h"

#include "case.h"

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

static const Case cases[] = {
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
};

void add_write_cases(void)
{
    cases_add(cases, G_N_ELEMENTS(cases));
}
