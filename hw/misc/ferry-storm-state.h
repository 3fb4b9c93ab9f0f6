/*
 * ferry-storm's own: the device as its files see it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_HW_FERRY_STORM_STATE_H
#define FERRY_HW_FERRY_STORM_STATE_H

#include "hw/pci/pci_device.h"
#include "qemu/notify.h"
#include "qapi/qapi-types-ferry.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "system/runstate.h"

#include "dma-memory.h"
#include "storm.h"

#define TYPE_FERRY_STORM "ferry-storm"
OBJECT_DECLARE_SIMPLE_TYPE(StormDevice, FERRY_STORM)

struct StormDevice {
    PCIDevice parent;

    /* Properties that are fixed once it is realized. */
    uint64_t start;
    uint64_t size;
    uint64_t seed;
    uint32_t forget;
    StormClockMode clock;

    GThread *thread;
    VMChangeStateEntry *state_entry;
    NotifierWithReturn migration;
    const char *heard; /* the last that QEMU told devices of a migration; the main thread's */
    QEMUTimer *timer;  /* with the virtual clock */
    StormMemory *memory;
    bool realized;

    QemuMutex lock;
    QemuCond wake;  /* for the thread */
    QemuCond quiet; /* it is not writing any more */
    bool exiting;
    bool vm_running;
    bool running; /* as asked for */
    bool writing; /* the thread is in a turn, and waits for nothing */
    /* Since when the thread touches what it writes next, and may wait for a page; 0: it does not. */
    int64_t touching_ns;
    uint64_t nr_stops; /* how often the VM has stopped */
    bool ended;        /* the thread has */
    bool orphaned;     /* nobody waits for its end: it says so in the main loop */
    uint64_t rate;
    uint64_t working_bytes;
    uint64_t hot_bytes;
    FerryStormSettings settings; /* wanted from the next turn on */
    uint64_t due;                /* pages that the clock has let through */
    uint64_t due_rest;           /* of a page, in parts of a second's ticks or nanoseconds */
    int64_t last_ns;             /* with the host's clock: when due was last worked out */
    char *error;                 /* why it does not write any more, or NULL */

    /* The thread's while it is writing or verifying, the lock's otherwise. */
    FerryStorm *storm;
    uint64_t nr_written; /* a copy, guarded by the lock */

    bool verify_wanted;
    bool verify_stop;
    bool verifying;
    uint64_t nr_verified; /* verifications that have been completed */
    FerryStormVerdict verdict;
    char *verdict_error;

    /* What travels. */
    uint8_t *saved;
    uint32_t saved_bytes;
};

#endif
