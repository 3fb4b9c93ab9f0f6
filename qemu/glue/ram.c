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

#include "internal.h"

/* How to find out which pages of a block were ever touched. */
static FerryScanMethod scan_method(RAMBlock *block)
{
    struct stat st;

    if (block->fd < 0) {
        return qemu_ram_is_shared(block) ? FERRY_SCAN_ALL : FERRY_SCAN_PRIVATE;
    }
    if (qemu_ram_is_shared(block) && fstat(block->fd, &st) == 0 && S_ISREG(st.st_mode)) {
        return FERRY_SCAN_SHARED;
    }
    return FERRY_SCAN_ALL;
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
    return flags;
}

void ferry_list_ram(FerryRegions *regions)
{
    g_autoptr(GArray) list = g_array_new(false, true, sizeof(FerryRegion));
    RAMBlock *block;

    RCU_READ_LOCK_GUARD();
    QLIST_FOREACH_RCU(block, &ram_list.blocks, next)
    {
        FerryRegion region = {
            .host = block->host,
            .length_bytes = block->used_length,
            .page_size_bytes = block->page_size,
            .flags = region_flags(block),
            .fd = block->fd,
            .fd_offset_bytes = block->fd_offset,
            .scan = scan_method(block),
        };

        if (migrate_ram_is_ignored(block) || block->used_length == 0) {
            continue;
        }
        pstrcpy(region.id, sizeof(region.id), block->idstr);
        g_array_append_val(list, region);
    }
    regions->nr = list->len;
    regions->list = (FerryRegion *)g_array_free(g_steal_pointer(&list), false);
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
