/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The load of the Linux guest: runs as its only program, with the load's parameters as its argument
 * and the serial line as its console. The memory it fills is one anonymous mapping; page numbers
 * are offsets in it. One thread for each CPU.
 */
#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000u
#define SPIN_NS  200000u /* shorter waits are not worth a sleep */
#define SLEEP_NS 500000u

#define LOG_LEVEL_MASK    7u
#define LOG_LEVEL_WARNING 4u

const char guest_name[] = "linux";

static struct load_config config = {.seed = 1, .poll_ms = 2};
static uint8_t *memory;
static uint64_t nr_reserved; /* pages in `memory`, filled or not */
static uint32_t *generations;
static unsigned int nr_cpus;
static int console;

uint64_t guest_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

uint64_t guest_hz(void)
{
    return NS_PER_S;
}

void guest_idle(uint64_t ticks)
{
    if (ticks > SPIN_NS) {
        struct timespec t = {.tv_nsec = ticks < SLEEP_NS ? (long)ticks : SLEEP_NS};

        nanosleep(&t, NULL);
    }
}

static char line[256];
static size_t line_length;

void guest_putc(char c)
{
    size_t done = 0;

    line[line_length++] = c;
    if (c != '\n' && line_length < sizeof(line)) {
        return;
    }
    while (done < line_length) {
        ssize_t n = write(console, line + done, line_length - done);

        if (n > 0) {
            done += (size_t)n;
        } else if (errno == EAGAIN) {
            poll(&(struct pollfd){.fd = console, .events = POLLOUT}, 1, 10);
        } else if (errno != EINTR) {
            abort();
        }
    }
    line_length = 0;
}

int guest_getc(void)
{
    unsigned char c;

    return read(console, &c, 1) == 1 ? c : -1;
}

volatile uint64_t *guest_page(uint64_t index)
{
    return (volatile uint64_t *)(void *)(memory + index * PAGE_BYTES);
}

/* Memory that was never written belongs to the kernel here: there is none to look at. */
uint64_t guest_check_untouched(uint64_t *nr_pages, uint64_t *first)
{
    *nr_pages = *first = 0;
    return 0;
}

/* MemFree, as /proc has it. */
uint64_t guest_free_kib(void)
{
    FILE *f = fopen("/proc/meminfo", "r");
    char row[128];
    unsigned long long kib = 0;

    while (f && !kib && fgets(row, sizeof(row), f)) {
        sscanf(row, "MemFree: %llu kB", &kib);
    }
    if (f) {
        fclose(f);
    }
    return kib;
}

/* /dev/kmsg gives a record at a time: "PRIORITY,NUMBER,TIME,...;TEXT". */
uint64_t guest_kernel_warnings(char *last, unsigned int nr_bytes)
{
    int log = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
    char record[1024];
    uint64_t nr = 0;
    ssize_t n;

    last[0] = '\0';
    while (log >= 0 &&
           ((n = read(log, record, sizeof(record) - 1)) > 0 || (n < 0 && errno == EPIPE))) {
        const char *text;

        if (n < 0) {
            continue; /* the log has lost records that nobody had read */
        }
        record[n] = '\0';
        text = strchr(record, ';');
        if (text && (strtoul(record, NULL, 10) & LOG_LEVEL_MASK) <= LOG_LEVEL_WARNING) {
            nr++;
            snprintf(last, nr_bytes, "%.*s", (int)strcspn(text + 1, "\n"), text + 1);
        }
    }
    if (log >= 0) {
        close(log);
    }
    return nr;
}

bool guest_has_pages(uint64_t nr_pages)
{
    return nr_pages <= nr_reserved;
}

static void die(const char *why) __attribute__((noreturn));
static void die(const char *why)
{
    load_say(why, NULL);
    for (;;) {
        pause();
    }
}

static void *run_worker(void *number)
{
    unsigned int k = (unsigned int)(uintptr_t)number;
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(k, &set);
    sched_setaffinity(0, sizeof(set), &set);
    load_run(&config, generations, k, nr_cpus);
}

static void *allocate(size_t nr_bytes)
{
    void *p = mmap(NULL, nr_bytes + 1, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED) {
        die("ERROR not enough memory for fill=");
    }
    return p;
}

static void open_console(void)
{
    struct termios raw;

    console = open("/dev/console", O_RDWR | O_NONBLOCK | O_NOCTTY);
    if (console < 0 || tcgetattr(console, &raw)) {
        abort();
    }
    cfmakeraw(&raw);
    tcsetattr(console, TCSANOW, &raw);
}

int main(int argc, char **argv)
{
    const char *wrong;

    open_console();
    if (argc != 2) {
        die("ERROR no ferry= on the kernel's command line");
    }
    wrong = load_parse(&config, argv[1]);
    if (wrong) {
        load_say("ERROR ferry=: this makes no sense:", NULL);
        die(wrong);
    }
    nr_cpus = (unsigned int)sysconf(_SC_NPROCESSORS_ONLN);
    if (nr_cpus > LOAD_MAX_WORKERS) {
        nr_cpus = LOAD_MAX_WORKERS;
    }
    nr_reserved = (uint64_t)sysconf(_SC_PHYS_PAGES);
    if (nr_reserved < config.fill_pages) {
        die("ERROR not enough memory for fill=");
    }
    memory = allocate(nr_reserved * PAGE_BYTES);
    generations = allocate(nr_reserved * sizeof(uint32_t));
    for (unsigned int k = 1; k < nr_cpus; k++) {
        pthread_t thread;

        if (pthread_create(&thread, NULL, run_worker, (void *)(uintptr_t)k)) {
            die("ERROR no thread for each CPU");
        }
    }
    run_worker(NULL);
}
