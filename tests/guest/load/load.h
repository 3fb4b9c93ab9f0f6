/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The load that both test guests run: fill memory, keep writing to it, and answer on the serial line
 * whether every page is what it should be and how long the guest stood still. The protocol is
 * described in docs/guests.md.
 *
 * It is freestanding C. The guest around it (native/main.c, linux/ferry-load.c) provides the
 * guest_*() functions below and calls load_run() once on each vCPU or thread.
 */
#ifndef FERRY_GUEST_LOAD_H
#define FERRY_GUEST_LOAD_H

#include "page.h"

#define LOAD_MAX_WORKERS 64
#define LOAD_NR_BUCKETS  20

struct load_config {
    uint64_t fill_pages;  /* filled at start; 0: nothing */
    uint64_t write_pages; /* the first so many of them are rewritten all the time; 0: none */
    uint64_t rate;        /* pages a second and worker; 0: as fast as possible */
    uint64_t seed;
    uint64_t poll_ms; /* how often worker 0 looks at the serial line */
    enum page_kind kind;
    bool random; /* rewrite at random, not in order */
    bool spread; /* spread the fill over all of memory, 2 MiB at a time */
    bool paused; /* do not write before being told to */
};

/*
 * Parse "fill=512:write=64:rate=20000:pattern=random:..." into `config`; sizes are MiB there.
 * Returns NULL, or the first character of the setting that makes no sense.
 */
const char *load_parse(struct load_config *config, const char *text);

/*
 * Become worker `worker` of `nr_workers`; never returns. Worker 0 also serves the serial line.
 * Memory must read as zero at `generations`, which has room for `fill_pages` entries.
 */
void load_run(const struct load_config *config, uint32_t *generations, unsigned int worker,
              unsigned int nr_workers) __attribute__((noreturn));

/* Print one line: text without a number if `value` is NULL. For errors at start. */
void load_say(const char *text, const uint64_t *value);

/* Provided by the guest. */
extern const char guest_name[];
uint64_t guest_now(void);        /* ticks; may be called by any worker */
uint64_t guest_hz(void);         /* ticks a second */
void guest_putc(char c);         /* worker 0 only */
int guest_getc(void);            /* worker 0 only; -1: nothing there */
void guest_idle(uint64_t ticks); /* nothing to do for so long; may return at once */
volatile uint64_t *guest_page(uint64_t index);
/*
 * Go through the memory that is the guest's but was never written, and count pages that are not zero.
 * Sets *nr_pages to the number looked at and *first to the address of the first bad one.
 */
uint64_t guest_check_untouched(uint64_t *nr_pages, uint64_t *first);
/* What the guest's kernel has free, in KiB; 0: there is no kernel. */
uint64_t guest_free_kib(void);
#define GUEST_NO_KERNEL UINT64_MAX
/*
 * How many warnings or worse the guest's kernel has logged, since it booted, or GUEST_NO_KERNEL; the last of them
 * goes to @last, as far as it fits.
 */
uint64_t guest_kernel_warnings(char *last, unsigned int nr_bytes);
/* Whether there are pages up to @nr_pages, with generations, that read as zero where nobody wrote. */
bool guest_has_pages(uint64_t nr_pages);

#endif
