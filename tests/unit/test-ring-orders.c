/*
 * Dirty rings, in every order: a vCPU that writes, whoever harvests and feeds, and whoever drains the ring
 * meanwhile.
 *
 * The life of an entry is at the top of kvm-ring.h: KVM is given entries to reset, protects their pages, and only then
 * are these reported, and read.  KVM is made here: pages that are protected or not, a ring, and the system call.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/ring-overrun.h"
#include "steps.h"

#include <stdarg.h>
#include <string.h>

#include "accel/kvm-ring.h"
#include "migration/thread.h"

#define NR_ENTRIES 32
#define NR_PAGES   2
#define SLOT       1

/* --- KVM ------------------------------------------------------------------------------------------- */

typedef struct Page {
    bool protected;
    unsigned content;
} Page;

static Page pages[NR_PAGES];
static struct kvm_dirty_gfn entries[NR_ENTRIES];
static uint32_t next_entry, next_reset;

/* A store.  If the page is protected a fault logs it, and takes that off; the store is tried again. */
static void write_page(unsigned page)
{
    for (;;) {
        struct kvm_dirty_gfn *entry;

        steps_at(&pages[page], true);
        if (!pages[page].protected) {
            pages[page].content++;
            return;
        }
        entry = &entries[next_entry % NR_ENTRIES];
        steps_at(&entry->flags, true);
        /* One step, as KVM has its lock for both. */
        if (pages[page].protected) {
            entry->slot = SLOT;
            entry->offset = page;
            entry->flags = KVM_DIRTY_GFN_F_DIRTY;
            next_entry++;
            pages[page].protected = false;
        }
    }
}

static int reset_rings(void)
{
    int nr = 0;

    for (;; nr++) {
        struct kvm_dirty_gfn *entry = &entries[next_reset % NR_ENTRIES];
        unsigned page;

        steps_at(&entry->flags, true);
        if (!(entry->flags & KVM_DIRTY_GFN_F_RESET)) {
            return nr;
        }
        page = (unsigned)entry->offset;
        entry->flags = 0;
        next_reset++;
        steps_at(&pages[page], true);
        pages[page].protected = true;
    }
}

int steps_ioctl(int fd, unsigned long request, ...)
{
    g_assert_cmpuint(request, ==, KVM_RESET_DIRTY_RINGS);
    return reset_rings();
}

/* The thread that collects does not run: others do what it does, when they have their turn. */
static gpointer nothing_run(gpointer opaque)
{
    return NULL;
}

GThread *ferry_thread_new(const char *name, GThreadFunc run, void *opaque, GError **errp)
{
    return g_thread_new(name, nothing_run, NULL);
}

/* --- Who uses the rings ------------------------------------------------------------------------------- */

static FerryKvmRing *ring;
static unsigned copies[NR_PAGES];

/* What is reported may be read at once. */
static void on_report(void *opaque, uint32_t region, uint64_t word, uint64_t mask)
{
    for (unsigned page = 0; page < NR_PAGES; page++) {
        if (mask >> page & 1) {
            steps_at(&pages[page], false);
            copies[page] = pages[page].content;
        }
    }
}

static uint64_t on_noticed(void *opaque, uint32_t region, uint64_t word, uint64_t mask)
{
    return 0;
}

static bool knows_noticed(void *opaque)
{
    return false;
}

static void begin(void)
{
    ferry_ring_resets_here();
    memset(entries, 0, sizeof(entries));
    memset(copies, 0, sizeof(copies));
    next_entry = next_reset = 0;
    for (unsigned page = 0; page < NR_PAGES; page++) {
        pages[page] = (Page){.protected = true};
    }
    ferry_kvm_ring_add_vcpu(ring, 0, entries, 0);
}

/* The vCPU has stopped. */
static void end(void)
{
    g_autoptr(GError) error = NULL;

    ferry_ring_resets_here();
    ferry_kvm_ring_harvest(ring, true, &error);
    g_assert_no_error(error);
    for (unsigned page = 0; page < NR_PAGES; page++) {
        if (copies[page] != pages[page].content) {
            steps_fail("page %u was written %u times, and is known as of %u", page,
                       pages[page].content, copies[page]);
        }
    }
    ferry_kvm_ring_remove_vcpu(ring, 0);
}

/* --- Who does what ---------------------------------------------------------------------------------- */

static void write_twice(void)
{
    write_page(0);
    write_page(0);
}

static void write_three(void)
{
    write_page(0);
    write_page(1);
    write_page(0);
}

static void one_round(void)
{
    uint64_t left;

    ferry_ring_resets_here();
    g_assert_true(ferry_kvm_ring_harvest(ring, false, NULL));
    g_assert_true(ferry_kvm_ring_feed(ring, 1, &left, NULL));
}

static void two_rounds(void)
{
    ferry_ring_resets_here();
    one_round();
    one_round();
}

static void drain(void)
{
    ferry_ring_resets_here();
    ferry_kvm_ring_drain(ring);
}

/* The vCPU's thread finds it full, and goes on. */
static void full_and_write(void)
{
    ferry_ring_resets_here();
    write_page(0);
    ferry_kvm_ring_full(ring, 0);
    write_page(0);
}

int main(int argc, char **argv)
{
    static const StepsCase cases[] = {
        {"drain", begin, {write_twice, drain}, end, 0, 0},
        {"round", begin, {write_twice, one_round}, end, 0, 0},
        {"rounds", begin, {write_three, two_rounds}, end, 4, 0},
        {"full", begin, {full_and_write, one_round}, end, 4, 0},
        {"drain-round", begin, {write_twice, one_round, drain}, end, 3, 0},
        {"all", begin, {full_and_write, two_rounds, drain, drain}, end, 0, 3000},
    };
    const FerryTrackerClient client = {.report = on_report,
                                       .early = on_report,
                                       .noticed = on_noticed,
                                       .knows_noticed = knows_noticed};
    int status;

    g_test_init(&argc, &argv, NULL);
    ring = ferry_kvm_ring_new(-1, NR_ENTRIES);
    ferry_kvm_ring_slots_begin(ring);
    ferry_kvm_ring_set_slot(ring, SLOT, 0, 0, NR_PAGES);
    ferry_kvm_ring_slots_end(ring);
    g_assert_true(ferry_kvm_ring_start(ring, &client, NULL));
    steps_add("/kvm-ring/orders", cases, G_N_ELEMENTS(cases), NULL);
    status = g_test_run();
    ferry_kvm_ring_stop(ring);
    ferry_kvm_ring_free(ring);
    return status;
}
