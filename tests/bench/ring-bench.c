/*
 * What it costs to reset entries of a dirty ring, as they come and sorted
 *
 *   ring-bench [--pages N] [--entries LIST] [--repeat N]
 *
 * A vCPU, straight on /dev/kvm, writes LIST (1024,4096,40000) of N (262144) pages, picked at random;
 * then KVM_RESET_DIRTY_RINGS protects them, with the entries in the order of the writes, or sorted
 * first.  One line for each, with the nanoseconds of CPU that an entry takes, sorting included: the
 * median of N (9) and the best.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/ring-sort.h"
#include "samples.h"
#include "tests/unit/raw-vm.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>

#define NR_ENTRIES 65536
#define GPA        (UINT64_C(1) << 30)
#define REPEAT_MAX 99

typedef struct {
    RawVm *vm;
    FerryRingSort *sort;
    GRand *rand;
    uint32_t *pages; /* a permutation of them */
    uint32_t nr_pages;
    uint32_t fetch; /* the first entry that is not free */
} Bench;

static double now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

/* The ring is large enough for all that is asked of it. */
static void ring_full(void *opaque, unsigned vcpu)
{
    g_error("the ring is full");
}

static void write_at_random(Bench *bench, uint32_t nr)
{
    for (uint32_t i = 0; i < nr; i++) {
        uint32_t j = (uint32_t)g_rand_int_range(bench->rand, (gint32)i, (gint32)bench->nr_pages);
        uint32_t page = bench->pages[j];

        bench->pages[j] = bench->pages[i];
        bench->pages[i] = page;
        raw_vm_list(bench->vm)[i] = (uint32_t)(GPA / RAW_PAGE) + page;
    }
    raw_vm_run(bench->vm, 0, &(RawJob){.nr = nr, .nr_writes = nr});
}

/* Returns how long it takes for each entry. */
static double reset(Bench *bench, uint32_t nr, bool sort)
{
    struct kvm_dirty_gfn *ring = raw_vm_ring(bench->vm, 0);
    double start_ns = now_ns(), sort_ns = 0;
    int done;

    if (sort) {
        ferry_ring_sort(bench->sort, ring, bench->fetch, nr);
        sort_ns = now_ns() - start_ns;
    }
    for (uint32_t i = 0; i < nr; i++) {
        struct kvm_dirty_gfn *entry = &ring[(bench->fetch + i) % NR_ENTRIES];

        if (__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) != KVM_DIRTY_GFN_F_DIRTY) {
            g_error("only %u of %u pages are in the ring", i, nr);
        }
        __atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
    }
    start_ns = now_ns();
    done = ioctl(raw_vm_fd(bench->vm), KVM_RESET_DIRTY_RINGS, 0);
    start_ns = now_ns() - start_ns;
    if (done != (int)nr) {
        g_error("KVM reset %d of %u entries", done, nr);
    }
    bench->fetch += nr;
    return (start_ns + sort_ns) / nr;
}

static void print_samples(const char *how, uint32_t nr, double *samples, unsigned repeat)
{
    g_autofree char *name = g_strdup_printf("reset-%u-%s", nr, how);
    double median = samples_median(samples, repeat);

    printf("%-28s %10.1f ns median    %10.1f best\n", name, median, samples[0]);
}

static void measure(Bench *bench, uint32_t nr, unsigned repeat)
{
    double plain_ns[REPEAT_MAX] = {0}, sorted_ns[REPEAT_MAX] = {0};

    for (unsigned i = 0; i < repeat; i++) {
        write_at_random(bench, nr);
        plain_ns[i] = reset(bench, nr, false);
        write_at_random(bench, nr);
        sorted_ns[i] = reset(bench, nr, true);
    }
    print_samples("as-they-come", nr, plain_ns, repeat);
    print_samples("sorted", nr, sorted_ns, repeat);
}

int main(int argc, char **argv)
{
    Bench bench = {.rand = g_rand_new_with_seed(1)};
    g_autofree char *list = g_strdup("1024,4096,40000");
    g_autofree char *why_not = raw_vm_why_not();
    g_autoptr(GError) error = NULL;
    g_auto(GStrv) counts = NULL;
    gint nr_pages = 262144, repeat = 9;
    const GOptionEntry entries[] = {
        {"pages", 0, 0, G_OPTION_ARG_INT, &nr_pages, "Pages of the working set", "N"},
        {"entries", 0, 0, G_OPTION_ARG_STRING, &list, "How many are written", "LIST"},
        {"repeat", 0, 0, G_OPTION_ARG_INT, &repeat, "How often", "N"},
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    uint8_t *host;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error)) {
        fprintf(stderr, "%s\n", error->message);
        return 2;
    }
    if (repeat < 1 || repeat > REPEAT_MAX || nr_pages < 1024 || nr_pages > 3 << 20) {
        fprintf(stderr, "--repeat takes 1 to %d, --pages 1024 to %d\n", REPEAT_MAX, 3 << 20);
        return 2;
    }
    if (why_not) {
        fprintf(stderr, "nothing is measured: %s\n", why_not);
        return 0;
    }
    bench.nr_pages = (uint32_t)nr_pages;
    bench.pages = g_new(uint32_t, bench.nr_pages);
    for (uint32_t i = 0; i < bench.nr_pages; i++) {
        bench.pages[i] = i;
    }
    bench.sort = ferry_ring_sort_new(NR_ENTRIES);
    bench.vm = raw_vm_new(NR_ENTRIES, ring_full, NULL);
    host = raw_memory_new(RAW_SMALL, bench.nr_pages);
    raw_vm_add_vcpu(bench.vm, RAW_NATIVE);
    raw_vm_set_slot(bench.vm, 1, GPA, host, bench.nr_pages, true);

    counts = g_strsplit(list, ",", -1);
    for (char **count = counts; *count; count++) {
        uint64_t nr = g_ascii_strtoull(*count, NULL, 10);

        if (nr < 1 || nr > NR_ENTRIES / 2 + NR_ENTRIES / 4 || nr > bench.nr_pages) {
            fprintf(stderr, "--entries takes 1 to %d, not more than --pages\n",
                    NR_ENTRIES / 2 + NR_ENTRIES / 4);
            return 2;
        }
        measure(&bench, (uint32_t)nr, (unsigned)repeat);
    }
    raw_vm_free(bench.vm);
    raw_memory_free(host, bench.nr_pages);
    ferry_ring_sort_free(bench.sort);
    g_rand_free(bench.rand);
    g_free(bench.pages);
    return 0;
}
