/*
 * A bed for tests of dirty rings: a guest that really writes, its rings, and who uses them.
 *
 * The oracle: a "migration" copies the guest's memory when logging is on, then each page that is
 * reported, while vCPUs write as fast as they can.  When they have stopped and the last reports are
 * copied, the copy must equal the memory in every byte.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_RING_BED_H
#define FERRY_RING_BED_H

#include "accel/kvm-ring.h"
#include "raw-vm.h"

#define BED_GIB         (UINT64_C(1) << 30)
#define BED_PFN(gpa)    ((uint32_t)((gpa) / RAW_PAGE))
#define BED_REGIONS_MAX 4
#define BED_PATIENCE_US (20 * G_USEC_PER_SEC) /* before a test gives up what must come */

/* BedRegion i is in slot i + 1, at the (i + 1)th GiB, unless a test puts it elsewhere. */
typedef struct BedRegion {
    uint64_t nr_pages;
    uint8_t *host, *shadow;
    uint64_t *noticed;  /* a bit for each page: found written */
    uint64_t *reported; /* a bit for each page: to be copied */
    uint64_t *ever;     /* a bit for each page: was reported */
} BedRegion;

typedef struct BedConfig {
    uint32_t nr_entries; /* Optional: of each ring; 65,536 */
    unsigned nr_vcpus;   /* Optional: 1 */
    unsigned nr_regions; /* Optional: 1 */
    uint64_t nr_pages;   /* Optional: of each region; 4096 */
    RawMode mode;        /* Optional: native */
    RawKind kind;        /* Optional: small pages */
    bool no_memory;      /* Optional: regions without memory or slots of their own */
} BedConfig;

/* A machine, its rings, and who uses them. */
typedef struct Bed {
    BedConfig config;
    RawVm *vm;
    FerryKvmRing *ring;
    BedRegion regions[BED_REGIONS_MAX];
    uint64_t nr_noticed, nr_reported; /* pages, each as often as it was */
    uint64_t nr_reports;              /* calls: up to 64 pages each */
    uint64_t nr_full[RAW_VCPUS_MAX];  /* times a vCPU asked for room in its ring */
    bool deaf;                        /* it is given none */
    bool knows_noticed;               /* the last harvest need not report what was noticed before */
    bool at_once;                     /* pages are copied in the very moment they are reported */
    bool forget;                      /* the positive control: reports of this page are ignored */
    uint32_t forget_region;
    uint64_t forget_page;
} Bed;

Bed *bed_new(BedConfig config);
void bed_free(Bed *bed);

/* Where a region is in the guest. */
uint64_t bed_gpa(unsigned region);

/* A change of a slot, as it should be announced. */
void bed_put_slot(Bed *bed, uint32_t slot, uint64_t gpa, unsigned region, uint64_t first_page,
                  uint64_t nr_pages, bool log);

/* Switch the logging of all regions, in the slots where they are at first. */
void bed_set_logging(Bed *bed, bool log);

/* --- What the guest does --- */

/* Fill part of the list with consecutive pages of a region. */
void bed_list_region(Bed *bed, uint32_t first, unsigned region, uint32_t first_page, uint32_t nr);

/* Write to so many consecutive pages, each once. */
void bed_write_pages(Bed *bed, unsigned vcpu, unsigned region, uint32_t first_page, uint32_t nr);

/* Wait until a vCPU has asked for room more often than that; or, if it may, has done its job. */
void bed_wait_until_full(Bed *bed, unsigned vcpu, uint64_t nr_before, bool may_end);

/* Wait until it has written to so many pages in its job. */
void bed_wait_for_writes(Bed *bed, unsigned vcpu, uint64_t nr_writes);

/* End the jobs of all vCPUs. */
void bed_end_jobs(Bed *bed);

/* --- What the user of the rings does --- */

/* Start the rings; they must not fail. */
void bed_start(Bed *bed);
void bed_harvest(Bed *bed, bool last);
/* Returns how many pages are left. */
uint64_t bed_feed(Bed *bed, uint64_t max_pages);
void bed_feed_all(Bed *bed);

/* Copy what was reported. */
void bed_copy_reported(Bed *bed);

/* Begin, and copy everything once: what is written from here on is to be reported. */
void bed_start_migration(Bed *bed);
void bed_migrate_round(Bed *bed);
/* With all vCPUs stopped: the copy must be complete. */
void bed_end_migration(Bed *bed);

/*
 * All vCPUs write all over, while pages are fed, or drained, and copied.  Returns when each of them
 * has written a while; they have stopped then.
 */
void bed_race(Bed *bed, bool drain);

/* How many pages differ from their copy; one of them is in region *@number at *@page. */
uint64_t bed_compare(const Bed *bed, uint32_t *number, uint64_t *page);

/* --- What is known --- */

FerryKvmRingStats bed_stats(const Bed *bed, unsigned vcpu);

/* From here on what is noticed and reported counts afresh. */
void bed_forget_reports(Bed *bed);

bool bed_test_bit(const uint64_t *bits, uint64_t page);
uint64_t bed_count_bits(const uint64_t *bits, uint64_t nr_pages);
void bed_clear_bits(uint64_t *bits, uint64_t nr_pages);

/* --- A test program's cases --- */

void bed_init(int *argc, char ***argv);
/* Cases, skipped where there are no dirty rings, with the reason. */
void bed_add(const char *path, GTestFunc function);
void bed_add_data(const char *path, gconstpointer data, GTestDataFunc function);
int bed_run(void);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(Bed, bed_free)

#endif
