/*
 * A storm's region of guest memory: see dma-memory.h.
 *
 * Writes go where a virtio device's go: through a MemoryRegionCache over the device's address space,
 * which marks what was written in QEMU's dirty bitmap and has TCG forget code that was there. A cache
 * costs as much to set up as mapping one page does, so there is one for each stretch of RAM and turn.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "hw/boards.h"
#include "qapi/error.h"
#include "qemu/rcu.h"
#include "qemu/units.h"

#include "dma-memory.h"

/*
 * The last of the RAM below 4 GiB: SeaBIOS keeps 16 MiB for tables, and runs in what is just below; TSEG
 * is there too, where it is in use.
 */
#define FIRMWARE_BYTES (32 * MiB)

typedef struct Stretch {
    uint64_t address;
    uint64_t nr_bytes;
    uint64_t first_page;     /* in the region */
    MemoryRegionCache cache; /* in use if its mrs.mr is set */
} Stretch;

struct StormMemory {
    AddressSpace *as;
    GArray *stretches;
    uint64_t nr_pages;
    uint32_t forget;
    uint64_t nr_wrote; /* for forget */
    GMutex lock;       /* for what follows, and while a stretch is looked up in the address space */
    bool is_cut_off;

    /* From begin to end. */
    bool is_write;
    Stretch *last;
    char *error;
};

/* --- What there is ----------------------------------------------------------------------------- */

typedef struct Search {
    StormMemory *memory;
    uint64_t start;
    uint64_t end;
    bool all; /* all of what is between start and end must be RAM */
    uint64_t reached;
} Search;

static bool is_ram(const MemoryRegion *mr)
{
    MemoryRegion *region = (MemoryRegion *)mr;

    return memory_region_is_ram(region) && !memory_region_is_rom(region) && !region->rom_device &&
           !memory_region_is_ram_device(region) && !memory_region_has_ram_discard_manager(region);
}

/* Of the machine itself: not a DIMM, which may come later, nor a device's. */
static bool is_main_ram(const MemoryRegion *mr)
{
    const MemoryRegion *ram = current_machine->ram;

    return is_ram(mr) && ram && (mr == ram || mr->container == ram);
}

static bool take_range(Int128 range_start, Int128 range_bytes, const MemoryRegion *mr,
                       hwaddr offset, void *opaque)
{
    Search *search = opaque;
    Stretch stretch;
    uint64_t first = int128_get64(range_start);
    uint64_t start = MAX(first, search->start);
    /* The last byte of the address space is not RAM. */
    uint64_t end = int128_gethi(int128_add(range_start, range_bytes))
                       ? UINT64_MAX
                       : first + int128_get64(range_bytes);

    end = MIN(end, search->end);
    start = ROUND_UP(start, FERRY_STORM_PAGE_BYTES);
    end = ROUND_DOWN(end, FERRY_STORM_PAGE_BYTES);
    if (start >= end) {
        return false;
    }
    if (search->all ? !is_ram(mr) || start != search->reached : !is_main_ram(mr)) {
        /* A hole, or something else: what is asked for ends here. */
        return search->all;
    }
    stretch = (Stretch){.address = start, .nr_bytes = end - start};
    g_array_append_val(search->memory->stretches, stretch);
    search->reached = end;
    return false;
}

/* Firmware keeps its tables at the end of the RAM below 4 GiB. */
static void leave_firmware(GArray *stretches)
{
    for (guint i = stretches->len; i-- > 0;) {
        Stretch *stretch = &g_array_index(stretches, Stretch, i);

        if (stretch->address < 4 * GiB) {
            stretch->nr_bytes -= MIN(stretch->nr_bytes, FIRMWARE_BYTES);
            if (stretch->nr_bytes == 0) {
                g_array_remove_index(stretches, i);
            }
            return;
        }
    }
}

StormMemory *storm_memory_new(AddressSpace *as, uint64_t start, uint64_t size, uint32_t forget,
                              Error **errp)
{
    StormMemory *memory = g_new0(StormMemory, 1);
    Search search = {
        .memory = memory,
        .start = start,
        .end = size ? start + size : UINT64_MAX,
        .all = size,
        .reached = start,
    };

    g_mutex_init(&memory->lock);
    memory->as = as;
    memory->forget = forget;
    memory->stretches = g_array_new(FALSE, FALSE, sizeof(Stretch));
    if (start % FERRY_STORM_PAGE_BYTES || size % FERRY_STORM_PAGE_BYTES) {
        error_setg(errp, "ferry-storm: start and size must be multiples of %u bytes",
                   FERRY_STORM_PAGE_BYTES);
        storm_memory_free(memory);
        return NULL;
    }
    if (search.end < start) {
        error_setg(errp,
                   "ferry-storm: start 0x%" PRIx64 " and size 0x%" PRIx64 " are past all addresses",
                   start, size);
        storm_memory_free(memory);
        return NULL;
    }
    WITH_RCU_READ_LOCK_GUARD()
    {
        flatview_for_each_range(address_space_to_flatview(as), take_range, &search);
    }
    if (search.all && search.reached < search.end) {
        error_setg(errp,
                   "ferry-storm: 0x%" PRIx64 " to 0x%" PRIx64
                   " is not all RAM that it may write: it ends at 0x%" PRIx64,
                   start, search.end - 1, search.reached);
        storm_memory_free(memory);
        return NULL;
    }
    if (!search.all) {
        leave_firmware(memory->stretches);
    }
    for (guint i = 0; i < memory->stretches->len; i++) {
        Stretch *stretch = &g_array_index(memory->stretches, Stretch, i);

        stretch->first_page = memory->nr_pages;
        memory->nr_pages += stretch->nr_bytes / FERRY_STORM_PAGE_BYTES;
    }
    if (memory->nr_pages == 0) {
        error_setg(errp,
                   "ferry-storm: no RAM is left from 0x%" PRIx64
                   " on (32 MiB below 4 GiB are firmware's): give start and size",
                   start);
        storm_memory_free(memory);
        return NULL;
    }
    return memory;
}

void storm_memory_free(StormMemory *memory)
{
    g_array_unref(memory->stretches);
    g_free(memory->error);
    g_mutex_clear(&memory->lock);
    g_free(memory);
}

void storm_memory_cut_off(StormMemory *memory)
{
    g_mutex_lock(&memory->lock);
    memory->is_cut_off = true;
    g_mutex_unlock(&memory->lock);
}

uint64_t storm_memory_nr_pages(const StormMemory *memory)
{
    return memory->nr_pages;
}

static Stretch *stretch_of(const StormMemory *memory, uint64_t page)
{
    for (guint i = memory->stretches->len; i-- > 0;) {
        Stretch *stretch = &g_array_index(memory->stretches, Stretch, i);

        if (page >= stretch->first_page) {
            return stretch;
        }
    }
    g_assert_not_reached();
}

static uint64_t offset_in(const Stretch *stretch, uint64_t page)
{
    return (page - stretch->first_page) * FERRY_STORM_PAGE_BYTES;
}

uint64_t storm_memory_address(const StormMemory *memory, uint64_t page)
{
    const Stretch *stretch = stretch_of(memory, page);

    return stretch->address + offset_in(stretch, page);
}

/* --- Access ------------------------------------------------------------------------------------ */

/* Whether its cache is in use from here on. */
static bool look_up(StormMemory *memory, Stretch *stretch)
{
    MemoryRegionCache *cache = &stretch->cache;
    int64_t nr_bytes = 0;

    g_mutex_lock(&memory->lock);
    if (!memory->is_cut_off) {
        nr_bytes = address_space_cache_init(cache, memory->as, stretch->address, stretch->nr_bytes,
                                            memory->is_write);
    }
    g_mutex_unlock(&memory->lock);
    if (cache->ptr && nr_bytes >= (int64_t)stretch->nr_bytes) {
        return true;
    }
    g_free(memory->error);
    memory->error =
        g_strdup_printf("0x%" PRIx64 " to 0x%" PRIx64 " is no longer RAM that a device can write",
                        stretch->address, stretch->address + stretch->nr_bytes - 1);
    address_space_cache_destroy(cache);
    return false;
}

static uint8_t *page_at(void *opaque, uint64_t page)
{
    StormMemory *memory = opaque;
    Stretch *stretch = stretch_of(memory, page);
    MemoryRegionCache *cache = &stretch->cache;

    if (!cache->mrs.mr && !look_up(memory, stretch)) {
        return NULL;
    }
    memory->last = stretch;
    return (uint8_t *)cache->ptr + offset_in(stretch, page);
}

static void page_wrote(void *opaque, uint64_t page, size_t nr_bytes)
{
    StormMemory *memory = opaque;

    if (memory->forget && ++memory->nr_wrote % memory->forget == 0) {
        return;
    }
    /*
     * What was written must be seen by whoever finds the page dirty, also if it is so already: QEMU
     * looks at the bitmap first, and does not write to it then.
     */
    smp_mb();
    address_space_cache_invalidate(&memory->last->cache, offset_in(memory->last, page), nr_bytes);
}

FerryStormMemory storm_memory_begin(StormMemory *memory, bool is_write)
{
    memory->is_write = is_write;
    return (FerryStormMemory){.at = page_at, .wrote = page_wrote, .opaque = memory};
}

char *storm_memory_end(StormMemory *memory)
{
    for (guint i = 0; i < memory->stretches->len; i++) {
        address_space_cache_destroy(&g_array_index(memory->stretches, Stretch, i).cache);
    }
    return g_steal_pointer(&memory->error);
}
