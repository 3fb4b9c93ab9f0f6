/*
 * Gathering: see gather.h.
 *
 * Threads: one at a time; its owner locks.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "gather.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "../error.h"
#include "../fault.h"

typedef struct Part {
    uint32_t region;
    uint64_t first_page;
    uint8_t *content;
    uint64_t nr_bytes;
    GByteArray *came; /* a byte for each granule */
    uint64_t nr_came;
} Part;

struct FerryGather {
    GPtrArray *parts; /* of Part; few */
};

static void part_free(gpointer opaque)
{
    Part *part = opaque;

    munmap(part->content, part->nr_bytes);
    g_byte_array_unref(part->came);
    g_free(part);
}

FerryGather *ferry_gather_new(void)
{
    FerryGather *gather = g_new0(FerryGather, 1);

    gather->parts = g_ptr_array_new_with_free_func(part_free);
    return gather;
}

void ferry_gather_free(FerryGather *gather)
{
    if (gather) {
        g_ptr_array_unref(gather->parts);
        g_free(gather);
    }
}

void ferry_gather_unpack(uint8_t *to, const FerryFrame *frame, const FerryExtent *extents,
                         const uint8_t *payload)
{
    for (uint32_t i = 0; i < frame->nr_extents; i++) {
        uint64_t nr_bytes = extents[i].nr_pages * FERRY_PAGE_BYTES;

        if (extents[i].zero) {
            memset(to + extents[i].first * FERRY_PAGE_BYTES, 0, nr_bytes);
        } else {
            memcpy(to + extents[i].first * FERRY_PAGE_BYTES, payload, nr_bytes);
            payload += nr_bytes;
        }
    }
}

static guint find(const FerryGather *gather, uint32_t region, uint64_t first_page)
{
    guint i = 0;

    while (i < gather->parts->len) {
        const Part *part = g_ptr_array_index(gather->parts, i);

        if (part->region == region && part->first_page == first_page) {
            break;
        }
        i++;
    }
    return i;
}

static Part *begin(FerryGather *gather, const FerryRegion *region, uint32_t number,
                   uint64_t first_page, GError **errp)
{
    const uint64_t nr_bytes = region->page_size_bytes;
    uint8_t *content = mmap(NULL, nr_bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    Part *part;

    if (ferry_fault(FERRY_FAULT_GATHER, errp)) {
        munmap(content, nr_bytes);
        return NULL;
    }
    if (content == MAP_FAILED) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_SYSTEM,
                    "no memory to gather a page of RAM block '%s': %s", region->id,
                    g_strerror(errno));
        return NULL;
    }
    part = g_new0(Part, 1);
    part->region = number;
    part->first_page = first_page;
    part->content = content;
    part->nr_bytes = nr_bytes;
    part->came = g_byte_array_new();
    g_byte_array_set_size(part->came, (guint)(nr_bytes / FERRY_PAGE_BYTES / FERRY_GRANULE_PAGES));
    memset(part->came->data, 0, part->came->len);
    g_ptr_array_add(gather->parts, part);
    return part;
}

const uint8_t *ferry_gather_add(FerryGather *gather, const FerryRegion *region,
                                const FerryFrame *frame, const FerryExtent *extents,
                                const uint8_t *payload, bool *is_new, GError **errp)
{
    const uint64_t first_page =
        frame->first_page - frame->first_page % (region->page_size_bytes / FERRY_PAGE_BYTES);
    const uint64_t offset_pages = frame->first_page - first_page;
    const guint at = find(gather, frame->region, first_page);
    Part *part = at < gather->parts->len ? g_ptr_array_index(gather->parts, at)
                                         : begin(gather, region, frame->region, first_page, errp);
    uint8_t *came;

    *is_new = false;
    if (!part) {
        return NULL;
    }
    came = &part->came->data[offset_pages / FERRY_GRANULE_PAGES];
    if (!*came) {
        *came = *is_new = true;
        part->nr_came++;
        ferry_gather_unpack(part->content + offset_pages * FERRY_PAGE_BYTES, frame, extents,
                            payload);
    }
    return part->nr_came == part->came->len ? part->content : NULL;
}

void ferry_gather_forget(FerryGather *gather, uint32_t region, uint64_t first_page)
{
    guint at = find(gather, region, first_page);

    if (at < gather->parts->len) {
        g_ptr_array_remove_index_fast(gather->parts, at);
    }
}
