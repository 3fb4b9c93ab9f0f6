/*
 * Guest memory for the fuzzer of a destination: see session-memory.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "session-memory.h"

#include <sys/mman.h>
#include <unistd.h>

#define ROM_PAGES 4

#define GUARD 0xa5 /* around the guest's memory */
#define OLD   0x5a /* what firmware has left there */
#define ROM   0x77

static void add_region(FuzzMemory *memory, const char *id, uint64_t first, uint64_t nr_pages,
                       int fd, uint32_t flags)
{
    FerryRegion *region = &memory->regions.list[memory->regions.nr++];

    g_strlcpy(region->id, id, sizeof(region->id));
    region->host = memory->map + first * FERRY_PAGE_BYTES;
    region->length_bytes = nr_pages * FERRY_PAGE_BYTES;
    region->page_size_bytes = FERRY_PAGE_BYTES;
    region->fd = fd;
    region->flags = flags;
    region->scan = fd >= 0 ? FERRY_SCAN_SHARED : FERRY_SCAN_PRIVATE;
}

/* Guards of a page each before, between and after the regions. */
void fuzz_memory_init(FuzzMemory *memory, bool with_rom)
{
    const uint64_t shared = 2 + FUZZ_RAM_PAGES, rom = shared + FUZZ_SHARED_PAGES + 1;

    memory->map_bytes = (rom + ROM_PAGES + 1) * FERRY_PAGE_BYTES;
    memory->map =
        mmap(NULL, memory->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    fuzz_check(memory->map != MAP_FAILED);
    memory->fd = memfd_create("shared", MFD_CLOEXEC);
    fuzz_check(memory->fd >= 0 && ftruncate(memory->fd, FUZZ_SHARED_PAGES * FERRY_PAGE_BYTES) == 0);
    fuzz_check(mmap(memory->map + shared * FERRY_PAGE_BYTES, FUZZ_SHARED_PAGES * FERRY_PAGE_BYTES,
                    PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory->fd, 0) != MAP_FAILED);
    memory->regions.list = g_new0(FerryRegion, FUZZ_REGIONS);
    add_region(memory, "pc.ram", 1, FUZZ_RAM_PAGES, -1, 0);
    add_region(memory, "shared", shared, FUZZ_SHARED_PAGES, memory->fd, FERRY_REGION_SHARED);
    if (with_rom) {
        add_region(memory, "rom", rom, ROM_PAGES, -1, FERRY_REGION_READ_ONLY);
        memset(memory->regions.list[2].host, ROM, ROM_PAGES * FERRY_PAGE_BYTES);
        fuzz_check(
            mprotect(memory->regions.list[2].host, ROM_PAGES * FERRY_PAGE_BYTES, PROT_READ) == 0);
    }
    memset(memory->map, GUARD, FERRY_PAGE_BYTES);
    memset(memory->map + (shared - 1) * FERRY_PAGE_BYTES, GUARD, FERRY_PAGE_BYTES);
    memset(memory->map + (rom - 1) * FERRY_PAGE_BYTES, GUARD, FERRY_PAGE_BYTES);
    memset(memory->map + (rom + ROM_PAGES) * FERRY_PAGE_BYTES, GUARD, FERRY_PAGE_BYTES);
    for (size_t i = 0; i < 2; i++) {
        memset(memory->regions.list[i].host, OLD, 3 * FERRY_PAGE_BYTES);
    }
}

static bool is_full_of(const uint8_t *page, uint8_t content)
{
    return page[0] == content && memcmp(page, page + 1, FERRY_PAGE_BYTES - 1) == 0;
}

static void check_page(const FuzzMemory *memory, size_t region, uint64_t page, bool torn)
{
    const uint8_t *host = memory->regions.list[region].host + page * FERRY_PAGE_BYTES;
    const uint16_t sent = memory->sent[region][page];
    bool old = region == 2 ? is_full_of(host, ROM) : is_full_of(host, page < 3 ? OLD : 0);
    bool ok = is_full_of(host, 0) && region != 2 &&
              (old || (sent >> FUZZ_CONTENTS & 1) || memory->emptied);

    for (unsigned i = 0; i < FUZZ_CONTENTS && !ok && region != 2; i++) {
        ok = (sent >> i & 1) && is_full_of(host, fuzz_content((uint8_t)i));
    }
    /* As it was, if it was not emptied: the session failed before that. */
    fuzz_check(ok || (torn && region != 2) || old);
}

void fuzz_memory_check(const FuzzMemory *memory, bool torn)
{
    const uint64_t shared = 2 + FUZZ_RAM_PAGES, rom = shared + FUZZ_SHARED_PAGES + 1;

    fuzz_check(is_full_of(memory->map, GUARD));
    fuzz_check(is_full_of(memory->map + (shared - 1) * FERRY_PAGE_BYTES, GUARD));
    fuzz_check(is_full_of(memory->map + (rom - 1) * FERRY_PAGE_BYTES, GUARD));
    fuzz_check(is_full_of(memory->map + (rom + ROM_PAGES) * FERRY_PAGE_BYTES, GUARD));
    for (size_t i = 0; i < memory->regions.nr; i++) {
        for (uint64_t page = 0; page < ferry_region_nr_pages(&memory->regions.list[i]); page++) {
            check_page(memory, i, page, torn);
        }
    }
}

void fuzz_memory_clear(FuzzMemory *memory)
{
    munmap(memory->map, memory->map_bytes);
    close(memory->fd);
    g_free(memory->regions.list);
}

void fuzz_memory_note(FuzzMemory *memory, const FuzzPages *pages)
{
    uint64_t nr_pages = pages->frame.region < memory->regions.nr
                            ? ferry_region_nr_pages(&memory->regions.list[pages->frame.region])
                            : 0;

    for (uint32_t i = 0; i < pages->frame.nr_extents; i++) {
        const FerryExtent *extent = &pages->extents[i];
        uint64_t first = pages->frame.first_page + extent->first;
        unsigned bit = extent->zero ? FUZZ_CONTENTS : pages->content[i] / 0x11 - 1;

        for (uint64_t page = first; page < nr_pages && page - first < extent->nr_pages; page++) {
            memory->sent[pages->frame.region][page] |= (uint16_t)(1 << bit);
        }
    }
}
