/*
 * How fast the engine's building blocks are on this machine
 *
 *   engine-bench [NAME...]     only the benchmarks whose name starts with one of NAME
 *
 * Prints the median and the best of several timed runs of each, one line apiece.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/memory/scan.h"
#include "migration/wire/crc32c.h"
#include "migration/wire/pace.h"
#include "migration/memory/zero.h"
#include "samples.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define NR_RUNS 9
#define KIB     ((size_t)1 << 10)
#define MIB     ((size_t)1 << 20)
#define GIB     ((size_t)1 << 30)

/* One run does @nr_rounds rounds of work on @size_bytes and returns nothing. */
typedef void (*WorkFn)(void *opaque, size_t size_bytes, int nr_rounds);

static char **only;
static volatile uint64_t sink; /* keeps the compiler from dropping the work */

static double now_s(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static bool is_wanted(const char *name)
{
    if (only[0] == NULL) {
        return true;
    }
    for (char **wanted = only; *wanted != NULL; wanted++) {
        if (g_str_has_prefix(name, *wanted)) {
            return true;
        }
    }
    return false;
}

/* Time @work; report GB/s if @size_bytes says how much a round covers, else ns a round. */
static void bench(const char *name, WorkFn work, void *opaque, size_t size_bytes, int nr_rounds,
                  bool in_bytes)
{
    double runs_s[NR_RUNS], median_s;

    work(opaque, size_bytes, nr_rounds); /* warm up */
    for (int i = 0; i < NR_RUNS; i++) {
        double start_s = now_s();

        work(opaque, size_bytes, nr_rounds);
        runs_s[i] = (now_s() - start_s) / nr_rounds;
    }
    median_s = samples_median(runs_s, NR_RUNS);
    if (in_bytes) {
        printf("%-28s %10.2f GB/s median  %10.2f best\n", name,
               (double)size_bytes * 1e-9 / median_s, (double)size_bytes * 1e-9 / runs_s[0]);
    } else {
        printf("%-28s %10.1f ns median    %10.1f best\n", name, median_s * 1e9, runs_s[0] * 1e9);
    }
    fflush(stdout);
}

static void work_crc32c(void *opaque, size_t size_bytes, int nr_rounds)
{
    for (int i = 0; i < nr_rounds; i++) {
        sink += ferry_crc32c(0, opaque, size_bytes);
    }
}

static void work_crc32c_portable(void *opaque, size_t size_bytes, int nr_rounds)
{
    for (int i = 0; i < nr_rounds; i++) {
        sink += ferry_crc32c_portable(0, opaque, size_bytes);
    }
}

static void work_zero(void *opaque, size_t size_bytes, int nr_rounds)
{
    for (int i = 0; i < nr_rounds; i++) {
        sink += ferry_is_zero(opaque, size_bytes);
    }
}

static void work_zero_portable(void *opaque, size_t size_bytes, int nr_rounds)
{
    for (int i = 0; i < nr_rounds; i++) {
        sink += ferry_is_zero_portable(opaque, size_bytes);
    }
}

static void work_pace(void *opaque, size_t size_bytes, int nr_rounds)
{
    for (int i = 0; i < nr_rounds; i++) {
        sink += ferry_pace_take(opaque, size_bytes);
    }
}

typedef struct {
    FerryScanner *scanner;
    FerryScanTarget target;
} ScanWork;

static void count_range(void *opaque, uint64_t offset_bytes, uint64_t nr_bytes, FerryScanKind kind)
{
    sink += nr_bytes;
}

static void work_scan(void *opaque, size_t size_bytes, int nr_rounds)
{
    ScanWork *work = opaque;

    for (int i = 0; i < nr_rounds; i++) {
        g_autoptr(GError) error = NULL;

        if (!ferry_scan(work->scanner, &work->target, 0, size_bytes, count_range, NULL, &error)) {
            g_error("%s", error->message);
        }
    }
}

static void bench_memory(void)
{
    const size_t size_bytes = 256 * MIB;
    uint8_t *data = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (data == MAP_FAILED) {
        g_error("no memory");
    }
    memset(data, 0, size_bytes);
    if (is_wanted("zero-4k")) {
        bench("zero-4k", work_zero, data, 4 * KIB, 100000, true);
    }
    if (is_wanted("zero-4k-portable")) {
        bench("zero-4k-portable", work_zero_portable, data, 4 * KIB, 100000, true);
    }
    if (is_wanted("zero-256m")) {
        bench("zero-256m", work_zero, data, size_bytes, 1, true);
    }
    if (is_wanted("crc32c-64b")) {
        bench("crc32c-64b", work_crc32c, data, 64, 1000000, true);
    }
    if (is_wanted("crc32c-4k")) {
        bench("crc32c-4k", work_crc32c, data, 4 * KIB, 100000, true);
    }
    if (is_wanted("crc32c-256m")) {
        bench("crc32c-256m", work_crc32c, data, size_bytes, 1, true);
    }
    if (is_wanted("crc32c-4k-portable")) {
        bench("crc32c-4k-portable", work_crc32c_portable, data, 4 * KIB, 10000, true);
    }
    data[0] = 1;
    if (is_wanted("zero-not-4k")) {
        bench("zero-not-4k", work_zero, data, 4 * KIB, 1000000, false);
    }
    munmap(data, size_bytes);
}

static void bench_pace(void)
{
    g_autoptr(FerryPace) pace = ferry_pace_new();

    if (is_wanted("pace-unlimited")) {
        bench("pace-unlimited", work_pace, pace, 4096, 1000000, false);
    }
    /* Fast enough never to wait: what the lock and the clock cost. */
    ferry_pace_set_rate(pace, FERRY_PACE_MAX_BYTES_PER_SECOND - 1);
    if (is_wanted("pace-limited")) {
        bench("pace-limited", work_pace, pace, 1, 100000, false);
    }
}

static void bench_scan_with(const char *name, FerryScannerFlags flags, size_t size_bytes)
{
    ScanWork work = {
        .scanner = ferry_scanner_new_full(flags),
        .target =
            {
                .length_bytes = size_bytes,
                .fd = -1,
                .method = FERRY_SCAN_PRIVATE,
                .page_size_bytes = 4 * KIB,
            },
    };

    work.target.host = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (work.target.host == MAP_FAILED) {
        g_error("no address space");
    }
    /* One page in each of 256 places. */
    for (size_t at = 0; at < size_bytes; at += size_bytes / 256) {
        ((char *)work.target.host)[at] = 1;
    }
    bench(name, work_scan, &work, size_bytes, 1, false);
    munmap(work.target.host, size_bytes);
    ferry_scanner_free(work.scanner);
}

static void bench_scan(void)
{
    if (is_wanted("scan-sparse-64g")) {
        bench_scan_with("scan-sparse-64g", FERRY_SCANNER_DEFAULT, 64 * GIB);
    }
    if (is_wanted("scan-sparse-4g-read")) {
        bench_scan_with("scan-sparse-4g-read", FERRY_SCANNER_NO_IOCTL, 4 * GIB);
    }
}

int main(int argc, char **argv)
{
    only = argv + 1;
    bench_memory();
    bench_pace();
    bench_scan();
    return 0;
}
