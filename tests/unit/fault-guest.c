/*
 * The guest at the destination: see fault-world.h.
 *
 * Threads: vCPUs, each with pages of its own; the main one for the rest, but where it is marked.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "fault-world.h"

#include <string.h>

#define NR_VCPUS 2

typedef struct Vcpu {
    unsigned number;
    GThread *thread;
} Vcpu;

static struct {
    FakeMachine *machine;
    Vcpu vcpus[NR_VCPUS];
    /* What it has written to each page; 0: nothing. */
    uint64_t *written[FAKE_REGIONS_MAX];
    _Atomic bool stop;
    _Atomic bool blind; /* whatever it finds is fine */
} me;

void fault_guest_init(FakeMachine *machine)
{
    me.machine = machine;
    for (uint32_t region = 0; region < machine->regions.nr; region++) {
        me.written[region] =
            g_new0(uint64_t, ferry_region_nr_pages(&machine->regions.list[region]));
    }
}

void fault_guest_begin(void)
{
    me.stop = me.blind = false;
    for (uint32_t region = 0; region < me.machine->regions.nr; region++) {
        memset(me.written[region], 0,
               ferry_region_nr_pages(&me.machine->regions.list[region]) * sizeof(uint64_t));
    }
}

void fault_guest_let_stop(bool blind)
{
    atomic_store(&me.blind, blind);
    atomic_store(&me.stop, true);
}

static const uint64_t *reference_of(uint32_t region, uint64_t page)
{
    const uint8_t *reference = fault_world->reference;

    for (uint32_t i = 0; i < region; i++) {
        reference += me.machine->regions.list[i].length_bytes;
    }
    return (const uint64_t *)(const void *)(reference + page * FERRY_PAGE_BYTES);
}

static bool is_right(uint32_t region, uint64_t page)
{
    const uint64_t *here = fake_machine_page(me.machine, region, page);
    const uint64_t written = me.written[region][page];

    return written ? here[0] == written && here[511] == ~written
                   : memcmp(here, reference_of(region, page), FERRY_PAGE_BYTES) == 0;
}

/* Reads and writes pages of its own, all over memory. */
static gpointer vcpu_run(gpointer opaque)
{
    const Vcpu *vcpu = opaque;
    uint64_t random = 88172645463325252 + vcpu->number;

    while (!atomic_load(&me.stop)) {
        uint32_t region;
        uint64_t page;

        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        region = (uint32_t)(random >> 60) % (uint32_t)me.machine->regions.nr;
        page = (random >> 8) %
                   (ferry_region_nr_pages(&me.machine->regions.list[region]) / NR_VCPUS) *
                   NR_VCPUS +
               vcpu->number;
        if (!is_right(region, page) && !atomic_load(&me.blind)) {
            fault_complain("page 0x%" G_GINT64_MODIFIER "x of region %u is wrong while it runs",
                           page, region);
        }
        if (random & 1) {
            uint64_t *here = fake_machine_page(me.machine, region, page);

            here[0] = random;
            here[511] = ~random;
            me.written[region][page] = random;
        }
        g_usleep(500);
    }
    return NULL;
}

void fault_guest_start(void)
{
    for (unsigned i = 0; i < NR_VCPUS && !me.vcpus[i].thread; i++) {
        me.vcpus[i].number = i;
        me.vcpus[i].thread = g_thread_new("vcpu", vcpu_run, &me.vcpus[i]);
    }
}

void fault_guest_stop(void)
{
    atomic_store(&me.stop, true);
    for (unsigned i = 0; i < NR_VCPUS; i++) {
        if (me.vcpus[i].thread) {
            g_thread_join(g_steal_pointer(&me.vcpus[i].thread));
        }
    }
}

void fault_guest_check(void)
{
    for (uint32_t region = 0; region < me.machine->regions.nr; region++) {
        const FerryRegion *memory = &me.machine->regions.list[region];
        uint64_t nr_wrong = 0, first = 0;

        for (uint64_t page = 0; page < ferry_region_nr_pages(memory); page++) {
            if (!is_right(region, page)) {
                first = nr_wrong++ ? first : page;
            }
        }
        if (nr_wrong) {
            fault_complain("%" G_GINT64_MODIFIER
                           "u pages of RAM block '%s' are wrong, from 0x%" G_GINT64_MODIFIER "x on",
                           nr_wrong, memory->id, first);
        }
    }
}
