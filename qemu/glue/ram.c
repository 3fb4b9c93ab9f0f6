/*
 * QEMU's RAM blocks as the engine's regions.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "exec/cpu-common.h"
#include "exec/memory.h"
#include "exec/ram_addr.h"
#include "exec/ramblock.h"
#include "exec/ramlist.h"
#include "exec/target_page.h"
#include "migration/misc.h"
#include "system/hostmem.h"

#include "ferry/glue/ferry.h"
#include "ferry/migration/memory/holes.h"
#include "internal.h"

/*
 * Whether a block's memory is a file that QEMU has not made for itself: somebody else may map it, or want
 * what is in it.
 */
static bool is_foreign(RAMBlock *block)
{
    Object *backend = object_dynamic_cast(block->mr->owner, TYPE_MEMORY_BACKEND);
    g_autofree char *path = NULL;
    struct stat st;

    if (block->fd < 0) {
        return false;
    }
    if (!backend) {
        /* ivshmem is given a descriptor; what QEMU makes for devices has no name. */
        return object_dynamic_cast(block->mr->owner, "ivshmem-common") ||
               object_dynamic_cast(block->mr->owner, "ivshmem-flat") ||
               (fstat(block->fd, &st) == 0 && st.st_nlink > 0);
    }
    path = object_property_find(backend, "mem-path")
               ? object_property_get_str(backend, "mem-path", NULL)
               : NULL;
    /* In a folder, QEMU makes a file for itself, and takes away its name. */
    return path && !(g_file_test(path, G_FILE_TEST_IS_DIR) && fstat(block->fd, &st) == 0 &&
                     st.st_nlink == 0);
}

/* Whether parts of a block may be unplugged, and have no memory. */
static bool is_sparse(RAMBlock *block)
{
    return memory_region_has_ram_discard_manager(block->mr);
}

/*
 * Whether a block must keep the pages it has: a device has pinned them (VFIO), the user had them
 * allocated in advance, or they came from the pool of huge pages, where others may be faster.
 */
static bool keeps_pages(RAMBlock *block)
{
    Object *backend = object_dynamic_cast(block->mr->owner, TYPE_MEMORY_BACKEND);

    return ram_block_discard_is_disabled() || block->page_size > qemu_real_host_page_size() ||
           (backend && MEMORY_BACKEND(backend)->prealloc);
}

static uint32_t region_flags(RAMBlock *block)
{
    uint32_t flags = 0;

    if (qemu_ram_is_shared(block)) {
        flags |= FERRY_REGION_SHARED;
    }
    if (block->page_size > qemu_real_host_page_size()) {
        flags |= FERRY_REGION_HUGETLB;
    }
    if (keeps_pages(block)) {
        flags |= FERRY_REGION_KEEP_PAGES;
    }
    if (is_foreign(block)) {
        flags |= FERRY_REGION_FOREIGN;
    }
    if (block->flags & RAM_READONLY) {
        flags |= FERRY_REGION_READ_ONLY;
    }
    if (is_sparse(block)) {
        flags |= FERRY_REGION_SPARSE;
    }
    return flags;
}

/* How to find out which pages of a block were ever touched. */
static FerryScanMethod scan_method(RAMBlock *block, uint32_t flags)
{
    struct stat st;

    if (block->fd < 0) {
        return qemu_ram_is_shared(block) ? FERRY_SCAN_ALL : FERRY_SCAN_PRIVATE;
    }
    if (fstat(block->fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        return FERRY_SCAN_ALL;
    }
    if (!qemu_ram_is_shared(block)) {
        /* With nothing in the file, all there is has been copied on write. */
        return !(flags & FERRY_REGION_FOREIGN) && st.st_blocks == 0 ? FERRY_SCAN_PRIVATE
                                                                    : FERRY_SCAN_ALL;
    }
    return ferry_file_has_honest_holes(block->fd) ? FERRY_SCAN_SHARED : FERRY_SCAN_ALL;
}

static void add_absent(MemoryRegionSection *section, void *opaque)
{
    GArray *absent = opaque;
    FerryRange range = {
        .start_bytes = section->offset_within_region,
        .end_bytes = section->offset_within_region + int128_get64(section->size),
    };

    g_array_append_val(absent, range);
}

/* Memory that a device (virtio-mem) has not plugged in, nor can while QEMU migrates. */
static GArray *list_absent(RAMBlock *block)
{
    GArray *absent = g_array_new(false, false, sizeof(FerryRange));
    MemoryRegionSection section = {
        .mr = block->mr,
        .size = int128_make64(block->used_length),
    };

    ram_discard_manager_replay_discarded(memory_region_get_ram_discard_manager(block->mr), &section,
                                         add_absent, absent);
    return absent;
}

void ferry_list_ram(FerryRegions *regions, bool outgoing)
{
    g_autoptr(GArray) list = g_array_new(false, true, sizeof(FerryRegion));
    RAMBlock *block;

    RCU_READ_LOCK_GUARD();
    QLIST_FOREACH_RCU(block, &ram_list.blocks, next)
    {
        uint32_t flags = region_flags(block);
        FerryRegion region = {
            .host = block->host,
            .length_bytes = block->used_length,
            .page_size_bytes = block->page_size,
            .flags = flags,
            .fd = block->fd,
            .fd_offset_bytes = block->fd >= 0 ? block->fd_offset : 0,
            .scan = scan_method(block, flags),
        };

        if (migrate_ram_is_ignored(block) || block->used_length == 0) {
            continue;
        }
        if (outgoing && (flags & FERRY_REGION_SPARSE)) {
            region.absent = list_absent(block);
        }
        pstrcpy(region.id, sizeof(region.id), block->idstr);
        g_array_append_val(list, region);
    }
    regions->nr = list->len;
    regions->list = (FerryRegion *)g_array_free(g_steal_pointer(&list), false);
    ferry_regions_set_host(regions);
}

void ferry_hold_ram(const FerryRegions *regions, GPtrArray *held)
{
    RCU_READ_LOCK_GUARD();
    for (size_t i = 0; i < regions->nr; i++) {
        RAMBlock *block = qemu_ram_block_by_name(regions->list[i].id);

        /* A device would be gone only when this is over, and the user would wait for that. */
        if (block && object_dynamic_cast(memory_region_owner(block->mr), TYPE_MEMORY_BACKEND)) {
            memory_region_ref(block->mr);
            g_ptr_array_add(held, block->mr);
        }
    }
}

void ferry_release_ram(GPtrArray *held)
{
    for (guint i = 0; i < held->len; i++) {
        memory_region_unref(g_ptr_array_index(held, i));
    }
    g_ptr_array_unref(held);
}

bool ferry_resize_ram(const FerryRegions *remote, Error **errp)
{
    bool ok = true;

    bql_lock();
    WITH_RCU_READ_LOCK_GUARD()
    {
        for (size_t i = 0; i < remote->nr && ok; i++) {
            RAMBlock *block = qemu_ram_block_by_name(remote->list[i].id);

            if (block && (block->flags & RAM_RESIZEABLE) &&
                block->used_length != remote->list[i].length_bytes) {
                ok = qemu_ram_resize(block, remote->list[i].length_bytes, errp) == 0;
            }
        }
    }
    bql_unlock();
    return ok;
}
