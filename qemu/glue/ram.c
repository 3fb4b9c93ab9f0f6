/*
 * QEMU's RAM blocks as the engine's regions.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/rcu.h"
#include "exec/cpu-common.h"
#include "exec/memory.h"
#include "exec/ram_addr.h"
#include "exec/ramblock.h"
#include "exec/ramlist.h"
#include "exec/target_page.h"
#include "migration/misc.h"

#include "internal.h"

/*
 * How to find out which pages of a block were ever touched.  A block that is pinned or locked in
 * memory must keep its pages, so at the destination it is cleared by writing.
 */
static FerryScanMethod scan_method(RAMBlock *block, bool incoming)
{
    struct stat st;

    if (incoming && ram_block_discard_is_disabled()) {
        return FERRY_SCAN_ALL;
    }
    if (block->fd < 0) {
        return qemu_ram_is_shared(block) ? FERRY_SCAN_ALL : FERRY_SCAN_PRIVATE;
    }
    if (qemu_ram_is_shared(block) && fstat(block->fd, &st) == 0 && S_ISREG(st.st_mode)) {
        return FERRY_SCAN_SHARED;
    }
    return FERRY_SCAN_ALL;
}

void ferry_list_ram(FerryRegions *regions, bool incoming)
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
            .flags = (qemu_ram_is_shared(block) ? FERRY_REGION_SHARED : 0) |
                     (block->page_size > qemu_real_host_page_size() ? FERRY_REGION_HUGETLB : 0),
            .fd = block->fd,
            .fd_offset_bytes = block->fd_offset,
            .scan = scan_method(block, incoming),
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
