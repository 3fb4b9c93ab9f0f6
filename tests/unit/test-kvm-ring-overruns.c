/*
 * Dirty rings that KVM overruns, when it emulates what a vCPU does
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "deny.h"
#include "migration/error.h"
#include "ring-bed.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>

/* Whether this KVM emulates code at ring 0: that costs more than a microsecond a write. */
static bool is_emulated(void)
{
    g_autoptr(Bed) bed = bed_new((BedConfig){.mode = RAW_EMULATED});
    const unsigned nr_writes = 2000;
    uint64_t least_ns = UINT64_MAX;

    raw_vm_list(bed->vm)[0] = BED_PFN(bed_gpa(0));
    for (unsigned i = 0; i < 3; i++) {
        const uint64_t before_ns = raw_vm_counts(bed->vm, 0).cpu_ns;

        raw_vm_run(bed->vm, 0, &(RawJob){.nr = 1, .nr_writes = nr_writes});
        least_ns = MIN(least_ns, raw_vm_counts(bed->vm, 0).cpu_ns - before_ns);
    }
    return least_ns > nr_writes * 1000;
}

/*
 * A job that overruns a ring of 1024 entries if it is emulated.  The emulator does not look up in a
 * string instruction before what is left to do is a multiple of 1024, and logs each single write:
 * 900 of them, for which there is room, then 1024 at once.
 */
static RawJob overrunning_job(void)
{
    return (RawJob){.burst_gpa = bed_gpa(0), .nr = 900 + 3 * 1024};
}

/*
 * Nobody looks at the ring before it is full, or all is written: KVM may emulate the rest of a program
 * in one go, and then it does not ask for room (seen once in some 600 runs).
 */
static void run_unseen(Bed *bed, const RawJob *job)
{
    const uint64_t nr_full = __atomic_load_n(&bed->nr_full[0], __ATOMIC_RELAXED);

    ferry_kvm_ring_slots_begin(bed->ring);
    raw_vm_begin(bed->vm, 0, job);
    bed_wait_until_full(bed, 0, nr_full, bed->config.mode == RAW_EMULATED);
    if (bed->deaf) {
        raw_vm_end(bed->vm, 0);
        raw_vm_wait(bed->vm, 0);
    }
    ferry_kvm_ring_slots_end(bed->ring);
    if (!bed->deaf) {
        raw_vm_wait(bed->vm, 0);
    }
}

/* The last harvest; returns whether it says that the ring was overrun. */
static bool harvest_overrun(Bed *bed)
{
    g_autoptr(GError) error = NULL;

    if (ferry_kvm_ring_harvest(bed->ring, true, &error)) {
        g_assert_no_error(error);
        return false;
    }
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_TRACKER);
    g_assert_nonnull(strstr(error->message, "overrun"));
    return true;
}

/* A native vCPU leaves the guest before its ring has no entry free, and nothing is lost. */
static void test_overrun_native(void)
{
    g_autoptr(Bed) bed = bed_new((BedConfig){.nr_entries = 1024, .nr_pages = 8192});
    const RawJob jobs[] = {{.sweep_gpa = bed_gpa(0), .nr = 8192},
                           {.burst_gpa = bed_gpa(0), .nr = 8192 * 512}};

    bed_start(bed);
    bed_set_logging(bed, true);
    for (unsigned i = 0; i < 6; i++) {
        bed_forget_reports(bed);
        run_unseen(bed, &jobs[i % 2]);
        g_assert_false(harvest_overrun(bed));
        g_assert_cmpuint(bed_count_bits(bed->regions[0].reported, 8192), ==, 8192);
        ferry_kvm_ring_drain(bed->ring);
    }
    g_assert_cmpuint(bed_stats(bed, 0).resets, >=, 6 * 8192);
}

/* A machine whose code is emulated, or NULL where there is no such thing. */
static Bed *bed_new_emulated(uint32_t nr_entries, uint64_t nr_pages)
{
    Bed *bed;

    if (!is_emulated()) {
        g_test_skip("this KVM emulates no code at ring 0");
        return NULL;
    }
    bed =
        bed_new((BedConfig){.nr_entries = nr_entries, .nr_pages = nr_pages, .mode = RAW_EMULATED});
    bed_start(bed);
    bed_set_logging(bed, true);
    return bed;
}

/* At the pace of a guest that can be kept up with, even if its code is emulated. */
static void assert_exact(Bed *bed)
{
    const uint32_t nr = bed->config.nr_entries / 4;

    for (uint32_t i = 0; i < 8192; i += nr) {
        bed_forget_reports(bed);
        bed_write_pages(bed, 0, 0, i, nr);
        bed_harvest(bed, i >= 4096);
        if (i < 4096) {
            bed_feed_all(bed);
        }
        g_assert_cmpuint(bed_count_bits(bed->regions[0].reported, 8192), ==, nr);
        ferry_kvm_ring_drain(bed->ring);
    }
}

/* The tracker ends with an error, and the vCPU goes on. */
static void test_overrun_emulated(void)
{
    g_autoptr(Bed) bed = bed_new_emulated(1024, 8192);
    const RawJob job = overrunning_job();
    g_autoptr(GError) error = NULL;
    uint64_t left_pages;

    if (!bed) {
        return;
    }
    run_unseen(bed, &job);
    g_assert_true(harvest_overrun(bed));
    /* It is said again, to whoever asks. */
    g_assert_false(ferry_kvm_ring_feed(bed->ring, 100, &left_pages, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_TRACKER);
    g_clear_error(&error);
    g_assert_false(ferry_kvm_ring_harvest(bed->ring, false, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_TRACKER);

    bed_list_region(bed, 0, 0, 0, 8192);
    raw_vm_begin(bed->vm, 0, &(RawJob){.nr = 8192});
    bed_wait_for_writes(bed, 0, 10000);
    bed_end_jobs(bed);

    /* From scratch. */
    ferry_kvm_ring_stop(bed->ring);
    bed_set_logging(bed, false);
    bed_start(bed);
    bed_set_logging(bed, true);
    assert_exact(bed);
}

/* The vCPU is stopped as soon as its ring is overrun, and only the last harvest is left to see it. */
static void test_overrun_last(void)
{
    g_autoptr(Bed) bed = bed_new_emulated(1024, 8192);
    const RawJob job = overrunning_job();

    if (!bed) {
        return;
    }
    ferry_kvm_ring_set_fill(bed->ring, true);
    bed->deaf = true;
    run_unseen(bed, &job);
    g_assert_true(harvest_overrun(bed));
}

/* What an overrun leaves in the ring is no trouble of the next tracker's. */
static void check_leftover(uint32_t nr_entries)
{
    g_autoptr(Bed) bed = bed_new_emulated(nr_entries, 8192);
    const RawJob job = overrunning_job();

    if (!bed) {
        return;
    }
    for (unsigned i = 0; i < 3; i++) {
        run_unseen(bed, &job);
        g_assert_true(harvest_overrun(bed));
        ferry_kvm_ring_stop(bed->ring);
        bed_start(bed);
        assert_exact(bed);
    }
}

static void test_overrun_leftover(void)
{
    check_leftover(1024);
}

/* The same job, by four laps of a smaller ring. */
static void test_overrun_laps(void)
{
    check_leftover(256);
}

/* Pages are fed while the emulator overruns the ring: all of them are reported, or it is said. */
static void test_overrun_race(void)
{
    g_autoptr(Bed) bed = bed_new_emulated(1024, 2048);
    unsigned nr_overruns = 0;

    if (!bed) {
        return;
    }
    ferry_kvm_ring_stop(bed->ring);
    for (unsigned i = 0; i < 30; i++) {
        bed_start(bed);
        bed_forget_reports(bed);
        raw_vm_begin(bed->vm, 0, &(RawJob){.sweep_gpa = bed_gpa(0), .nr = 2048});
        while (raw_vm_nr_writes(bed->vm, 0) < 2048) {
            uint64_t left_pages;

            g_usleep(i * 20);
            ferry_kvm_ring_feed(bed->ring, 64, &left_pages, NULL);
            if (i % 2) {
                ferry_kvm_ring_harvest(bed->ring, false, NULL);
            }
        }
        raw_vm_wait(bed->vm, 0);
        if (harvest_overrun(bed)) {
            nr_overruns++;
        } else {
            g_assert_cmpuint(bed_count_bits(bed->regions[0].reported, 2048), ==, 2048);
        }
        ferry_kvm_ring_stop(bed->ring);
    }
    g_test_message("%u of 30 overrun", nr_overruns);
}

/* Pages that KVM does not protect again could be written unseen: the rings are of no use any more. */
static void without_reset(void)
{
    g_autoptr(Bed) bed = NULL;
    g_autoptr(GError) error = NULL;
    uint64_t left_pages;

    deny_ioctl(KVM_RESET_DIRTY_RINGS, EIO);
    bed = bed_new((BedConfig){.nr_pages = 64});
    bed_start(bed);
    bed_set_logging(bed, true);
    raw_vm_run(bed->vm, 0, &(RawJob){.sweep_gpa = bed_gpa(0), .nr = 64});
    bed_harvest(bed, false);
    g_assert_false(ferry_kvm_ring_feed(bed->ring, 64, &left_pages, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_TRACKER);
    g_assert_nonnull(strstr(error->message, "KVM_RESET_DIRTY_RINGS failed: Input/output error"));
}

static void test_not_reset(void)
{
    deny_elsewhere(without_reset);
}

int main(int argc, char **argv)
{
    bed_init(&argc, &argv);
    bed_add("/kvm-ring/overrun/native", test_overrun_native);
    bed_add("/kvm-ring/overrun/emulated", test_overrun_emulated);
    bed_add("/kvm-ring/overrun/last", test_overrun_last);
    bed_add("/kvm-ring/overrun/leftover", test_overrun_leftover);
    bed_add("/kvm-ring/overrun/laps", test_overrun_laps);
    bed_add("/kvm-ring/overrun/race", test_overrun_race);
    bed_add("/kvm-ring/not-reset", test_not_reset);
    return bed_run();
}
