/*
 * Who writes to a fake machine's memory: see page-writer.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "page-writer.h"

#include <sys/resource.h>

#define GPA     (UINT64_C(1) << 30)
#define POLL_US 200

uint64_t page_writer_nr_sent(const PageWriter *writer)
{
    FerryCounters counters;

    ferry_source_count(writer->pair->source, &counters);
    return counters.normal_pages + counters.zero_pages;
}

/* Adds up what the calling thread spends on writing: once when it begins, once when it ends. */
static void count_writing(PageWriter *writer, int sign)
{
    struct rusage usage;

    getrusage(RUSAGE_THREAD, &usage);
    writer->nr_faults += (uint64_t)(sign * usage.ru_minflt);
    writer->cpu_s += sign * clock_s(CLOCK_THREAD_CPUTIME_ID);
}

static void write_page(PageWriter *writer, uint64_t page)
{
    *(volatile uint64_t *)fake_machine_page(writer->pair->from, 0, page) = ++writer->value;
    writer->nr_writes++;
}

/* --- All of them ------------------------------------------------------------------------------- */

static void ring_full(void *opaque, unsigned vcpu)
{
    g_error("nothing is logged, but the ring is full");
}

void page_writer_add_vcpu(PageWriter *writer)
{
    uint8_t *host = (uint8_t *)fake_machine_page(writer->pair->from, 0, 0);

    writer->vm = raw_vm_new(1024, ring_full, NULL);
    raw_vm_add_vcpu(writer->vm, RAW_NATIVE);
    raw_vm_set_slot(writer->vm, 1, GPA, host, writer->nr_pages, false);
    for (uint64_t i = 0; i < writer->nr_pages / writer->step; i++) {
        raw_vm_list(writer->vm)[i] = (uint32_t)(GPA / RAW_PAGE + i * writer->step);
    }
}

void page_writer_clear(PageWriter *writer)
{
    g_clear_pointer(&writer->vm, raw_vm_free);
}

static void run_vcpu(PageWriter *writer)
{
    uint32_t nr = (uint32_t)(writer->nr_pages / writer->step);
    uint64_t before_ns = raw_vm_counts(writer->vm, 0).cpu_ns;

    raw_vm_run(writer->vm, 0, &(RawJob){.nr = nr, .nr_writes = nr});
    writer->nr_writes += nr;
    writer->cpu_s += (double)(raw_vm_counts(writer->vm, 0).cpu_ns - before_ns) * 1e-9;
}

void page_writer_write_all(PageWriter *writer)
{
    if (writer->vm) {
        run_vcpu(writer);
        return;
    }
    count_writing(writer, -1);
    for (uint64_t page = 0; page < writer->nr_pages; page += writer->step) {
        write_page(writer, page);
    }
    count_writing(writer, 1);
}

/* --- A thread ---------------------------------------------------------------------------------- */

static gpointer write_at_random(gpointer opaque)
{
    PageWriter *writer = opaque;
    const uint64_t nr_choices = writer->nr_pages / writer->step;
    uint64_t random = UINT64_C(88172645463325252), nr_paired = atomic_load(&writer->nr_paired);

    count_writing(writer, -1);
    while (!atomic_load(&writer->stop)) {
        for (uint64_t nr_sent = page_writer_nr_sent(writer); nr_paired < nr_sent; nr_paired++) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            write_page(writer, (random >> 20) % nr_choices * writer->step);
        }
        atomic_store(&writer->nr_paired, nr_paired);
        g_usleep(POLL_US);
    }
    count_writing(writer, 1);
    return NULL;
}

void page_writer_begin(PageWriter *writer)
{
    atomic_store(&writer->nr_paired, page_writer_nr_sent(writer));
    atomic_store(&writer->stop, false);
    writer->thread = g_thread_new("guest", write_at_random, writer);
}

void page_writer_catch_up(PageWriter *writer)
{
    while (atomic_load(&writer->nr_paired) < page_writer_nr_sent(writer)) {
        g_usleep(POLL_US);
    }
}

void page_writer_end(PageWriter *writer)
{
    atomic_store(&writer->stop, true);
    g_thread_join(writer->thread);
}
