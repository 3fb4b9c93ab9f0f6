/*
 * What it costs to reset entries of a dirty ring, as they come and sorted
 *
 *   ring-bench [--pages N] [--entries LIST] [--repeat N]
 *
 * A vCPU, straight on /dev/kvm, writes LIST (1024,4096,40000) of N (262144) pages, picked at random;
 * then KVM_RESET_DIRTY_RINGS protects them, with the entries in the order of the writes, or sorted
 * first.  Medians of N (9), in nanoseconds of CPU for each entry; "as they come" and "sorted" are the
 * system call's.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/ring-sort.h"
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

/* Returns the time an entry of the reset; that of the sorting, if there is any, in @sort_ns. */
static double reset(Bench *bench, uint32_t nr, double *sort_ns)
{
    struct kvm_dirty_gfn *ring = raw_vm_ring(bench->vm, 0);
    double start_ns = now_ns();
    int done;

    if (sort_ns) {
        ferry_ring_sort(bench->sort, ring, bench->fetch, nr);
        *sort_ns = (now_ns() - start_ns) / nr;
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
    return start_ns / nr;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static double median(double *samples, unsigned nr)
{
    qsort(samples, nr, sizeof(double), compare_doubles);
    return samples[nr / 2];
}

static void measure(Bench *bench, uint32_t nr, unsigned repeat)
{
    double plain_ns[REPEAT_MAX], sorted_ns[REPEAT_MAX], sort_ns[REPEAT_MAX];

    for (unsigned i = 0; i < repeat; i++) {
        write_at_random(bench, nr);
        plain_ns[i] = reset(bench, nr, NULL);
        write_at_random(bench, nr);
        sorted_ns[i] = reset(bench, nr, &sort_ns[i]);
    }
    printf("%8u %14.0f %8.0f %9.0f\n", nr, median(plain_ns, repeat), median(sorted_ns, repeat),
           median(sort_ns, repeat));
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
        fprintf(stderr, "%s\n", why_not);
        return 1;
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

    printf("%8s %14s %8s %9s\n", "entries", "as they come", "sorted", "sorting");
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
