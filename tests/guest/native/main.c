/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The native guest: bare metal C at ring 3 with I/O privilege, no interrupts, no kernel. Every CPU
 * becomes a worker of the load. Memory up to GENERATIONS_BASE and the generation table after it are
 * the guest's own; the load gets what remains, in chunks of 2 MiB.
 */
#include "layout.h"
#include "load.h"

#include <stddef.h>

#define COM1         0x3f8
#define LSR          (COM1 + 5)
#define LSR_RECEIVED 0x01
#define LSR_MAY_SEND 0x20

#define FW_CFG_SELECT    0x510
#define FW_CFG_DATA      0x511
#define FW_CFG_NR_CPUS   0x05
#define FW_CFG_DIRECTORY 0x19

#define LAPIC_ICR_LOW  0xfee00300u
#define LAPIC_ICR_HIGH 0xfee00310u
#define ICR_INIT       0x4500u
#define ICR_START      (0x4600u | AP_TRAMPOLINE >> 12)

/* Channel 1: its gate is always open, and unlike channel 0's, KVM's model of it does not wrap early. */
#define PIT_CHANNEL      0x41
#define PIT_COMMAND      0x43
#define PIT_ONE_SHOT     0x70
#define PIT_READ_STATUS  0xe4
#define PIT_STATUS_OUT   0x80
#define PIT_HZ           1193182u
#define PIT_COUNT        23864u /* 20 ms */
#define CALIBRATIONS     50
#define CALIBRATION_GOOD 500 /* one part in so many will do */

#define CHUNK_BYTES 0x200000ull
#define CHUNK_PAGES 512
#define MAX_RANGES  8

const char guest_name[] = "native";

extern uint64_t start_entry, start_stack, start_argument;
extern const uint8_t ap_start[], ap_end[];
extern uint8_t bss_begin[], bss_end[];

struct range {
    uint64_t begin, end; /* whole chunks */
};

static struct range ranges[MAX_RANGES];
static unsigned int nr_ranges;
static uint32_t *const chunk_of =
    (uint32_t *)CHUNKS_BASE; /* chunk number by page index / CHUNK_PAGES */
static uint64_t tsc_hz;
static uint64_t ram_top;
static unsigned int nr_cpus;
static struct load_config config = {.seed = 1, .poll_ms = 2};
static uint64_t nr_started = 1;

static void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static void out16(uint16_t port, uint16_t value)
{
    __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static uint8_t in8(uint16_t port)
{
    uint8_t value;

    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

void *memset(void *to, int byte, size_t n)
{
    for (uint8_t *p = to; n--; p++) {
        *(volatile uint8_t *)p = (uint8_t)byte;
    }
    return to;
}

void *memcpy(void *to, const void *from, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        ((volatile uint8_t *)to)[i] = ((const uint8_t *)from)[i];
    }
    return to;
}

/* The platform of the load */

uint64_t guest_now(void)
{
    uint32_t low, high;

    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return (uint64_t)high << 32 | low;
}

uint64_t guest_hz(void)
{
    return tsc_hz;
}

void guest_idle(uint64_t ticks)
{
    (void)ticks;
    __asm__ volatile("pause" : : : "memory");
}

void guest_putc(char c)
{
    while (!(in8(LSR) & LSR_MAY_SEND)) {
        guest_idle(0);
    }
    out8(COM1, (uint8_t)c);
}

int guest_getc(void)
{
    return in8(LSR) & LSR_RECEIVED ? in8(COM1) : -1;
}

volatile uint64_t *guest_page(uint64_t index)
{
    return (volatile uint64_t *)(chunk_of[index / CHUNK_PAGES] * CHUNK_BYTES +
                                 index % CHUNK_PAGES * PAGE_BYTES);
}

static bool page_is_zero(const volatile uint64_t *page)
{
    uint64_t any = 0;

    for (unsigned int i = 0; i < PAGE_WORDS; i++) {
        any |= page[i];
    }
    return !any;
}

/* chunk_of[] rises, so one pass over memory and table together finds the chunks never filled. */
uint64_t guest_check_untouched(uint64_t *nr_pages, uint64_t *first)
{
    uint64_t nr_bad = 0, next = 0, nr_filled = (config.fill_pages + CHUNK_PAGES - 1) / CHUNK_PAGES;

    for (unsigned int i = 0; i < nr_ranges; i++) {
        for (uint64_t at = ranges[i].begin; at < ranges[i].end; at += CHUNK_BYTES) {
            if (next < nr_filled && chunk_of[next] == at / CHUNK_BYTES) {
                next++;
                continue;
            }
            for (uint64_t page = at; page < at + CHUNK_BYTES; page += PAGE_BYTES) {
                ++*nr_pages;
                if (!page_is_zero((volatile uint64_t *)page) && !nr_bad++) {
                    *first = page;
                }
            }
        }
    }
    return nr_bad;
}

uint64_t guest_free_kib(void)
{
    return 0;
}

uint64_t guest_kernel_warnings(char *last, unsigned int nr_bytes)
{
    (void)last;
    (void)nr_bytes;
    return GUEST_NO_KERNEL;
}

/* All that is used was chosen at start. */
bool guest_has_pages(uint64_t nr_pages)
{
    return nr_pages <= config.fill_pages;
}

static void die(const char *why, const uint64_t *value) __attribute__((noreturn));
static void die(const char *why, const uint64_t *value)
{
    load_say(why, value);
    for (;;) {
        guest_idle(0);
    }
}

/* QEMU's fw_cfg */

static void fw_cfg_select(uint16_t key)
{
    out16(FW_CFG_SELECT, key);
}

static uint64_t fw_cfg_big_endian(unsigned int nr_bytes)
{
    uint64_t value = 0;

    while (nr_bytes--) {
        value = value << 8 | in8(FW_CFG_DATA);
    }
    return value;
}

static uint64_t fw_cfg_little_endian(unsigned int nr_bytes)
{
    uint64_t value = 0;

    for (unsigned int i = 0; i < nr_bytes; i++) {
        value |= (uint64_t)in8(FW_CFG_DATA) << 8 * i;
    }
    return value;
}

static bool same(const char *a, const char *b)
{
    while (*a && *a == *b) {
        a++;
        b++;
    }
    return *a == *b;
}

/* Select the file called `name` and return its size, 0 if there is none. */
static uint64_t fw_cfg_open(const char *name)
{
    uint64_t nr_files;
    char found[56];

    fw_cfg_select(FW_CFG_DIRECTORY);
    for (nr_files = fw_cfg_big_endian(4); nr_files; nr_files--) {
        uint64_t size = fw_cfg_big_endian(4);
        uint16_t key = (uint16_t)fw_cfg_big_endian(2);

        fw_cfg_big_endian(2);
        for (unsigned int i = 0; i < sizeof(found); i++) {
            found[i] = (char)in8(FW_CFG_DATA);
        }
        found[sizeof(found) - 1] = '\0';
        if (same(found, name)) {
            fw_cfg_select(key);
            return size;
        }
    }
    return 0;
}

static void read_config(void)
{
    static char text[512];
    uint64_t size = fw_cfg_open("opt/ferry/load");
    const char *wrong;

    if (size >= sizeof(text)) {
        die("ERROR opt/ferry/load is too long, bytes", &size);
    }
    for (uint64_t i = 0; i < size; i++) {
        text[i] = (char)in8(FW_CFG_DATA);
    }
    wrong = load_parse(&config, text);
    if (wrong) {
        load_say("ERROR opt/ferry/load: this makes no sense:", NULL);
        die(wrong, NULL);
    }
}

/* Memory */

/* The guest's RAM, without what the program and its tables use. */
static void read_ranges(void)
{
    uint64_t own_end = GENERATIONS_BASE + config.fill_pages * sizeof(uint32_t);

    for (uint64_t left = fw_cfg_open("etc/e820") / 20; left; left--) {
        uint64_t begin = fw_cfg_little_endian(8), end = begin + fw_cfg_little_endian(8);

        if (fw_cfg_little_endian(4) != 1) {
            continue;
        }
        ram_top = end > ram_top ? end : ram_top;
        begin = begin < own_end ? own_end : begin;
        begin = (begin + CHUNK_BYTES - 1) & ~(CHUNK_BYTES - 1);
        end &= ~(CHUNK_BYTES - 1);
        if (begin < end && nr_ranges < MAX_RANGES) {
            ranges[nr_ranges++] = (struct range){begin, end};
        }
    }
    for (unsigned int i = 1; i < nr_ranges; i++) {
        for (unsigned int j = i; j && ranges[j - 1].begin > ranges[j].begin; j--) {
            struct range r = ranges[j];

            ranges[j] = ranges[j - 1];
            ranges[j - 1] = r;
        }
    }
}

/* Map what lies above 4 GiB. Nothing is cached for entries that were never present: no flush. */
static void map_high_memory(void)
{
    volatile uint64_t *pml4 = (volatile uint64_t *)TABLES_BASE;
    volatile uint64_t *low_pdpt = (volatile uint64_t *)(TABLES_BASE + 0x1000);
    volatile uint64_t *high_pdpt = (volatile uint64_t *)TABLES_HIGH_PDPT;
    uint64_t nr_gib = (ram_top + (1 << 30) - 1) >> 30;

    if (nr_gib > TABLES_MAX_GIB) {
        die("ERROR more memory than can be mapped, GiB", &nr_gib);
    }
    for (uint64_t gib = 4; gib < nr_gib; gib++) {
        volatile uint64_t *table = (volatile uint64_t *)(TABLES_BASE + 0x2000 + gib * 0x1000);

        for (uint64_t i = 0; i < 512; i++) {
            table[i] = (gib << 30) + i * CHUNK_BYTES + ENTRY_LEAF;
        }
        __atomic_store_n(gib < 512 ? &low_pdpt[gib] : &high_pdpt[gib - 512],
                         (uint64_t)table + ENTRY_TABLE, __ATOMIC_RELEASE);
    }
    if (nr_gib > 512) {
        __atomic_store_n(&pml4[1], (uint64_t)high_pdpt + ENTRY_TABLE, __ATOMIC_RELEASE);
    }
}

static uint64_t nth_chunk(uint64_t n)
{
    for (unsigned int i = 0; i < nr_ranges; i++) {
        uint64_t nr = (ranges[i].end - ranges[i].begin) / CHUNK_BYTES;

        if (n < nr) {
            return ranges[i].begin / CHUNK_BYTES + n;
        }
        n -= nr;
    }
    die("ERROR no such chunk of memory", &n);
}

static void place_load(void)
{
    uint64_t nr = (config.fill_pages + CHUNK_PAGES - 1) / CHUNK_PAGES, nr_all = 0;

    for (unsigned int i = 0; i < nr_ranges; i++) {
        nr_all += (ranges[i].end - ranges[i].begin) / CHUNK_BYTES;
    }
    if (nr > nr_all || nr > CHUNKS_MAX) {
        uint64_t mib = nr_all * 2;

        die("ERROR fill= is more than there is, MiB", &mib);
    }
    for (uint64_t i = 0; i < nr; i++) {
        chunk_of[i] = (uint32_t)nth_chunk(config.spread ? i * nr_all / nr : i);
    }
}

/* Time */

/*
 * The TSC's rate against the PIT. Being scheduled out while starting the PIT or while seeing it end
 * spoils a try: the one counts in which both were known most narrowly.
 */
static uint64_t measure_hz(void)
{
    uint64_t least_doubt = UINT64_MAX, ticks = 0;

    for (unsigned int i = 0; i < CALIBRATIONS && least_doubt > ticks / CALIBRATION_GOOD; i++) {
        uint64_t before, started, polled, running, ended, doubt;
        bool over;

        out8(PIT_COMMAND, PIT_ONE_SHOT);
        out8(PIT_CHANNEL, PIT_COUNT & 0xff);
        before = guest_now();
        out8(PIT_CHANNEL, PIT_COUNT >> 8);
        started = polled = guest_now();
        do {
            running = polled;
            polled = guest_now();
            out8(PIT_COMMAND, PIT_READ_STATUS);
            over = in8(PIT_CHANNEL) & PIT_STATUS_OUT;
            ended = guest_now();
        } while (!over && ended - started < 1ull << 32);
        doubt = (started - before) + (ended - running);
        if (doubt < least_doubt) {
            least_doubt = doubt;
            ticks = (ended - started + running - before) / 2;
        }
    }
    return ticks * PIT_HZ / PIT_COUNT;
}

static void wait_ms(uint64_t ms)
{
    uint64_t begin = guest_now();

    while (guest_now() - begin < tsc_hz / 1000 * ms) {
        guest_idle(0);
    }
}

/* CPUs */

static void ap_main(uint64_t cpu)
{
    __atomic_store_n(&nr_started, cpu + 1, __ATOMIC_RELEASE);
    load_run(&config, (uint32_t *)GENERATIONS_BASE, (unsigned int)cpu, nr_cpus);
}

static void lapic_send(uint64_t cpu, uint32_t what)
{
    *(volatile uint32_t *)(uintptr_t)LAPIC_ICR_HIGH = (uint32_t)cpu << 24;
    *(volatile uint32_t *)(uintptr_t)LAPIC_ICR_LOW = what;
}

/* One at a time, as they share the start_ variables. APIC ids are taken to be 0, 1, 2, ... */
static void start_cpus(void)
{
    volatile uint8_t *trampoline = (volatile uint8_t *)AP_TRAMPOLINE;

    for (uint64_t i = 0; i < (uint64_t)(ap_end - ap_start); i++) {
        trampoline[i] = ap_start[i];
    }
    for (uint64_t cpu = 1; cpu < nr_cpus; cpu++) {
        start_argument = cpu;
        start_stack = STACKS_BASE + (cpu + 1) * STACK_BYTES - 8;
        __atomic_store_n(&start_entry, (uint64_t)ap_main, __ATOMIC_RELEASE);
        lapic_send(cpu, ICR_INIT);
        wait_ms(10);
        lapic_send(cpu, ICR_START);
        for (unsigned int ms = 0; __atomic_load_n(&nr_started, __ATOMIC_ACQUIRE) == cpu; ms++) {
            if (ms == 5000) {
                die("ERROR a CPU does not start:", &cpu);
            }
            wait_ms(1);
        }
    }
}

/* Reached from start.S; what it calls never returns. */
void guest_main(void);
void guest_main(void)
{
    memset(bss_begin, 0, (size_t)(bss_end - bss_begin));
    tsc_hz = measure_hz();
    fw_cfg_select(FW_CFG_NR_CPUS);
    nr_cpus = (unsigned int)fw_cfg_little_endian(2);
    read_config();
    read_ranges();
    map_high_memory();
    place_load();
    if (nr_cpus > LOAD_MAX_WORKERS) {
        nr_cpus = LOAD_MAX_WORKERS;
    }
    start_cpus();
    load_run(&config, (uint32_t *)GENERATIONS_BASE, 0, nr_cpus);
}
