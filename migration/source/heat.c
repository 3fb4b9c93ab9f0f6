/*
 * Which chunks does the guest write: see heat.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "heat.h"

#include "../wire/crc32c.h"

/* So many changed pages are enough to tell how hot a chunk is. */
#define CHANGED_ENOUGH 4

/*
 * A page that is so many samples away is asked for: what takes longest, finding where it is, is then
 * done before it is read (a third less time in all).
 */
#define PREFETCH_SAMPLES 8

typedef struct Sample {
    uint32_t page; /* in its chunk */
    uint32_t checksum;
} Sample;

struct FerryHeat {
    const FerryRegions *regions;
    const FerryScanner *scanner;
    GHashTable *chunks;  /* of GArray of Sample, by the host address of the chunk */
    uint64_t data_bytes; /* in all chunks looked at */
};

FerryHeat *ferry_heat_new(const FerryRegions *regions, const FerryScanner *scanner)
{
    FerryHeat *heat = g_new0(FerryHeat, 1);

    heat->regions = regions;
    heat->scanner = scanner;
    heat->chunks = g_hash_table_new_full(NULL, NULL, NULL, (GDestroyNotify)g_array_unref);
    return heat;
}

void ferry_heat_free(FerryHeat *heat)
{
    g_hash_table_unref(heat->chunks);
    g_free(heat);
}

static const uint8_t *chunk_host(const FerryHeat *heat, uint32_t region, uint64_t chunk)
{
    return heat->regions->list[region].host + chunk * FERRY_CHUNK_PAGES * FERRY_PAGE_BYTES;
}

static const uint8_t *sample_host(const uint8_t *host, const GArray *samples, guint i)
{
    return host + (size_t)g_array_index(samples, Sample, i).page * FERRY_PAGE_BYTES;
}

/* Read a sample's page; the samples are read in order. */
static uint32_t checksum_of(const uint8_t *host, const GArray *samples, guint i)
{
    if (i + PREFETCH_SAMPLES < samples->len) {
        __builtin_prefetch(sample_host(host, samples, i + PREFETCH_SAMPLES));
    }
    return ferry_crc32c(0, sample_host(host, samples, i), FERRY_PAGE_BYTES);
}

/* The page of a stretch that is looked at; scattered, as what guests write has its own patterns. */
static uint64_t chosen_page(uint64_t stretch, unsigned stretch_pages)
{
    uint64_t hash = stretch * UINT64_C(0x9e3779b97f4a7c15);

    return stretch * stretch_pages + (hash >> 32) % stretch_pages;
}

typedef struct Look {
    uint64_t first_page; /* of the chunk, in its region */
    unsigned stretch_pages;
    GArray *samples;
    uint64_t data_bytes;
} Look;

static void choose_in_range(void *opaque, uint64_t offset_bytes, uint64_t nr_bytes,
                            FerryScanKind kind)
{
    Look *look = opaque;
    const unsigned stretch_pages = look->stretch_pages;
    uint64_t first = (offset_bytes >> FERRY_PAGE_SHIFT) - look->first_page;
    uint64_t end = first + (nr_bytes >> FERRY_PAGE_SHIFT);

    if (kind != FERRY_SCAN_DATA) {
        return;
    }
    look->data_bytes += nr_bytes;
    for (uint64_t stretch = first / stretch_pages; stretch * stretch_pages < end; stretch++) {
        uint64_t page = chosen_page(stretch, stretch_pages);

        if (page >= first && page < end) {
            Sample sample = {.page = (uint32_t)page};

            g_array_append_val(look->samples, sample);
        }
    }
}

bool ferry_heat_look(FerryHeat *heat, uint32_t region, uint64_t chunk, unsigned stretch_pages,
                     GError **errp)
{
    const FerryRegion *memory = &heat->regions->list[region];
    const FerryScanTarget target = ferry_region_scan_target(memory);
    const uint8_t *host = chunk_host(heat, region, chunk);
    uint64_t first = chunk * FERRY_CHUNK_PAGES;
    uint64_t nr_pages = ferry_chunk_nr_pages(memory, chunk);
    Look look = {
        .first_page = first,
        .stretch_pages = stretch_pages,
        .samples = g_array_new(FALSE, FALSE, sizeof(Sample)),
    };
    bool ok = ferry_scan(heat->scanner, &target, first << FERRY_PAGE_SHIFT,
                         nr_pages << FERRY_PAGE_SHIFT, choose_in_range, &look, errp);

    heat->data_bytes += look.data_bytes;
    for (guint i = 0; i < look.samples->len; i++) {
        g_array_index(look.samples, Sample, i).checksum = checksum_of(host, look.samples, i);
    }
    if (look.samples->len > 0) {
        g_hash_table_replace(heat->chunks, (gpointer)host, look.samples);
    } else {
        g_hash_table_remove(heat->chunks, host);
        g_array_unref(look.samples);
    }
    return ok;
}

bool ferry_heat_knows(const FerryHeat *heat, uint32_t region, uint64_t chunk)
{
    return g_hash_table_contains(heat->chunks, chunk_host(heat, region, chunk));
}

uint64_t ferry_heat_data_bytes(const FerryHeat *heat)
{
    return heat->data_bytes;
}

unsigned ferry_heat_changed(const FerryHeat *heat, uint32_t region, uint64_t chunk)
{
    const uint8_t *host = chunk_host(heat, region, chunk);
    const GArray *samples = g_hash_table_lookup(heat->chunks, host);
    guint nr_changed = 0, nr = 0;

    for (; samples && nr < samples->len && nr_changed < CHANGED_ENOUGH; nr++) {
        nr_changed += checksum_of(host, samples, nr) != g_array_index(samples, Sample, nr).checksum;
    }
    return nr ? (nr_changed * FERRY_HEAT_MAX + nr - 1) / nr : 0;
}

void ferry_heat_forget(FerryHeat *heat, uint32_t region, uint64_t chunk)
{
    g_hash_table_remove(heat->chunks, chunk_host(heat, region, chunk));
}
