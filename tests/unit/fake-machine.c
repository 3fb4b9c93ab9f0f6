/*
 * A fake machine: see fake-machine.h.
 *
 * Its write log works like a CPU's: a store sets the page's dirty bit if the page is armed, and a
 * harvested page stays writable without being logged again until it is reset.
 *
 *   guest                                  engine
 *   -----                                  ------
 *   store to the page                      reset: armed := 1
 *   if armed (exchange with 0): dirty := 1  read the page
 *
 * A store after the reset finds the page armed and is logged; one before it is read.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "fake-machine.h"

#include "migration/error.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#if defined(__SANITIZE_THREAD__)
#define FAKE_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define FAKE_TSAN 1
#endif
#endif

/* No test waits for it; longer than the slowest machine takes for anything. */
#define PAIR_TIMEOUT_MS 120000

static bool test_bit(_Atomic uint64_t *words, uint64_t bit)
{
    return atomic_load(&words[bit / 64]) >> (bit % 64) & 1;
}

static bool take_bit(_Atomic uint64_t *words, uint64_t bit)
{
    uint64_t mask = UINT64_C(1) << (bit % 64);

    return atomic_fetch_and(&words[bit / 64], ~mask) & mask;
}

static void set_bit(_Atomic uint64_t *words, uint64_t bit)
{
    atomic_fetch_or(&words[bit / 64], UINT64_C(1) << (bit % 64));
}

static bool fake_start(void *opaque, const FerryTrackerClient *client, GError **errp)
{
    ((FakeMachine *)opaque)->client = *client;
    return true;
}

static bool fake_arm(void *opaque, uint32_t region, uint64_t first_page, uint64_t nr_pages,
                     GError **errp)
{
    FakeMachine *machine = opaque;

    if (machine->arming) {
        machine->arming(machine, first_page);
    }
    for (uint64_t page = first_page; page < first_page + nr_pages; page++) {
        if (!test_bit(machine->armed[region], page)) {
            set_bit(machine->armed[region], page);
        }
    }
    return true;
}

typedef void TakeFn(void *opaque, uint32_t region, uint64_t word, uint64_t mask);

/* Take what was written in the 64 pages of @word, and hand it to @take. */
static uint64_t take_written(FakeMachine *machine, uint32_t region, uint64_t word, TakeFn *take)
{
    uint64_t mask = atomic_exchange(&machine->dirty[region][word], 0);

    if (machine->lossy) {
        mask &= UINT64_C(0x7777777777777777);
    }
    if (mask) {
        take(machine->client.opaque, region, word, mask);
    }
    return (uint64_t)__builtin_popcountll(mask);
}

static uint64_t nr_words(const FakeMachine *machine, uint32_t region)
{
    return (ferry_region_nr_pages(&machine->regions.list[region]) + 63) / 64;
}

static bool fake_harvest(void *opaque, bool last, GError **errp)
{
    FakeMachine *machine = opaque;

    for (uint32_t region = 0; region < machine->regions.nr; region++) {
        for (uint64_t word = 0; word < nr_words(machine, region); word++) {
            take_written(machine, region, word,
                         last ? machine->client.report : machine->client.found);
        }
    }
    return true;
}

/* The other kind of tracker: a harvest only counts, and feeding resets and reports word by word. */
static bool ordered_harvest(void *opaque, bool last, GError **errp)
{
    FakeMachine *machine = opaque;

    if (machine->fails_at && ++machine->nr_harvests == machine->fails_at) {
        g_set_error_literal(errp, FERRY_ERROR, FERRY_ERROR_TRACKER, "it was told to fail");
        return false;
    }
    if (last) {
        return fake_harvest(opaque, last, errp);
    }
    machine->feed_region = 0;
    machine->feed_word = 0;
    for (uint32_t region = 0; region < machine->regions.nr; region++) {
        for (uint64_t word = 0; word < nr_words(machine, region); word++) {
            uint64_t mask = atomic_load(&machine->dirty[region][word]);

            if (mask) {
                machine->client.noticed(machine->client.opaque, region, word, mask);
            }
        }
    }
    return true;
}

static bool ordered_feed(void *opaque, uint64_t max_pages, uint64_t *left_pages, GError **errp)
{
    FakeMachine *machine = opaque;
    uint64_t nr_fed = 0;

    for (; machine->feed_region < machine->regions.nr;
         machine->feed_region++, machine->feed_word = 0) {
        uint32_t region = machine->feed_region;

        for (; machine->feed_word < nr_words(machine, region); machine->feed_word++) {
            uint64_t word = machine->feed_word, mask;
            TakeFn *take;

            if (nr_fed >= MIN(max_pages, 100)) {
                *left_pages = 1;
                return true;
            }
            mask = atomic_load(&machine->dirty[region][word]);
            if (!mask) {
                continue;
            }
            /* Forget, then reset, then report: a write in between is logged, or read. */
            atomic_fetch_and(&machine->dirty[region][word], ~mask);
            atomic_fetch_or(&machine->armed[region][word], mask);
            take = machine->early_words && word % machine->early_words == 0
                       ? machine->client.early
                       : machine->client.report;
            take(machine->client.opaque, region, word,
                 machine->lossy ? mask & UINT64_C(0x7777777777777777) : mask);
            nr_fed += (uint64_t)__builtin_popcountll(mask);
        }
    }
    *left_pages = 0;
    return true;
}

static void fake_stop(void *opaque)
{
    FakeMachine *machine = opaque;

    machine->client = (FerryTrackerClient){0};
}

FerryTracker fake_machine_tracker(FakeMachine *machine, bool ordered)
{
    static const FerryTrackerOps any_order = {
        .name = "fake",
        .start = fake_start,
        .arm = fake_arm,
        .reset = fake_arm,
        .harvest = fake_harvest,
        .stop = fake_stop,
    };
    static const FerryTrackerOps in_order = {
        .name = "fake ring",
        .start = fake_start,
        .arm = fake_arm,
        .harvest = ordered_harvest,
        .feed = ordered_feed,
        .stop = fake_stop,
    };

    return (FerryTracker){.ops = ordered ? &in_order : &any_order, .opaque = machine};
}

uint64_t *fake_machine_page(const FakeMachine *machine, uint32_t region, uint64_t page)
{
    return (uint64_t *)(machine->regions.list[region].host + page * FERRY_PAGE_BYTES);
}

void fake_machine_write(FakeMachine *machine, uint32_t region, uint64_t page, uint64_t value)
{
    uint64_t *host = fake_machine_page(machine, region, page);

    /* All over the page, so that a torn or stale copy shows. */
    for (size_t i = 0; i < FERRY_PAGE_BYTES / sizeof(*host); i += 64) {
        __atomic_store_n(&host[i], value ? value + i : 0, __ATOMIC_RELAXED);
    }
    atomic_thread_fence(memory_order_seq_cst);
    if (take_bit(machine->armed[region], page)) {
        set_bit(machine->dirty[region], page);
    }
}

static void add_region(FakeMachine *machine, const FakeRegion *fake)
{
    uint32_t index = (uint32_t)machine->regions.nr++;
    FerryRegion *region = &machine->regions.list[index];
    uint64_t nr_bytes = (fake->nr_pages + 63) / 64 * sizeof(uint64_t);

    g_strlcpy(region->id, fake->id, sizeof(region->id));
    region->length_bytes = fake->nr_pages * FERRY_PAGE_BYTES;
    region->page_size_bytes = (uint32_t)FERRY_PAGE_BYTES * MAX(fake->huge_pages, 1);
    region->fd = fake->shared ? memfd_create(fake->id, MFD_CLOEXEC) : -1;
    region->scan = fake->shared ? FERRY_SCAN_SHARED : FERRY_SCAN_PRIVATE;
    region->flags = fake->shared ? FERRY_REGION_SHARED : 0;
    if (fake->shared) {
        g_assert_cmpint(ftruncate(region->fd, (off_t)region->length_bytes), ==, 0);
    }
    /* With something in between, so that no huge page belongs to two. */
    region->host = mmap(NULL, region->length_bytes + FERRY_PAGE_BYTES, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    g_assert_true(region->host != MAP_FAILED);
    region->host =
        mmap(region->host, region->length_bytes, PROT_READ | PROT_WRITE,
             (fake->shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS) | MAP_NORESERVE | MAP_FIXED,
             region->fd, 0);
    g_assert_true(region->host != MAP_FAILED);
    /* As QEMU's memory is: what is written may bring more with it than was written. */
    (void)madvise(region->host, region->length_bytes, MADV_HUGEPAGE);
    machine->dirty[index] = g_malloc0(nr_bytes);
    machine->armed[index] = g_malloc0(nr_bytes);
}

FakeMachine *fake_machine_new(const FakeRegion *regions, bool fill)
{
    FakeMachine *machine = g_new0(FakeMachine, 1);

    machine->regions.list = g_new0(FerryRegion, FAKE_REGIONS_MAX);
    for (const FakeRegion *fake = regions; fake->id; fake++) {
        add_region(machine, fake);
        for (uint64_t i = 0; fill && i < fake->touched_pages; i++) {
            /* Runs of a few pages, every eleventh page zero though touched. */
            uint64_t page = (i / 5 * 5 * (fake->nr_pages / fake->touched_pages) + i % 5);

            fake_machine_write(machine, (uint32_t)(fake - regions), page % fake->nr_pages,
                               i % 11 ? (i + 1) * UINT64_C(0x9e3779b97f4a7c15) : 0);
        }
    }
    return machine;
}

void fake_machine_free(FakeMachine *machine)
{
    for (size_t i = 0; i < machine->regions.nr; i++) {
        munmap(machine->regions.list[i].host,
               machine->regions.list[i].length_bytes + FERRY_PAGE_BYTES);
        if (machine->regions.list[i].fd >= 0) {
            close(machine->regions.list[i].fd);
        }
        g_free((void *)machine->dirty[i]);
        g_free((void *)machine->armed[i]);
    }
    ferry_regions_clear(&machine->regions);
    g_free(machine);
}

static gpointer workload_run(gpointer opaque)
{
    FakeMachine *machine = opaque;
    uint64_t random = 88172645463325252;

    while (!atomic_load(&machine->stop)) {
        uint32_t region;
        uint64_t nr_pages;

        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        region = (uint32_t)(random >> 60) % (uint32_t)machine->regions.nr;
        nr_pages = ferry_region_nr_pages(&machine->regions.list[region]);
        /* Mostly a hot eighth, sometimes anywhere (first touches), sometimes back to zero. */
        fake_machine_write(machine, region,
                           random % (random % 16 ? nr_pages / 8 : nr_pages) % nr_pages,
                           random % 37 ? random : 0);
        if (atomic_fetch_add(&machine->nr_writes, 1) % 64 == 0) {
            g_usleep(50);
        }
    }
    return NULL;
}

void fake_machine_run(FakeMachine *machine)
{
    atomic_store(&machine->stop, false);
    machine->workload = g_thread_new("workload", workload_run, machine);
}

void fake_machine_stop(FakeMachine *machine)
{
    atomic_store(&machine->stop, true);
    g_thread_join(machine->workload);
    machine->workload = NULL;
}

FerryRegions fake_machine_list(const FakeMachine *machine)
{
    return (FerryRegions){
        .list = g_memdup2(machine->regions.list, sizeof(FerryRegion) * machine->regions.nr),
        .nr = machine->regions.nr,
    };
}

/*
 * Not memcmp(): ThreadSanitizer would keep shadows of all that is read, four times as large as a
 * machine of which little was ever touched.
 */
__attribute__((no_sanitize("thread"))) static bool is_same_page(const uint8_t *a, const uint8_t *b)
{
    const uint64_t *x = (const uint64_t *)(const void *)a, *y = (const uint64_t *)(const void *)b;
    uint64_t difference = 0;

    for (unsigned i = 0; i < FERRY_PAGE_BYTES / sizeof(uint64_t); i++) {
        difference |= x[i] ^ y[i];
    }
    return difference == 0;
}

uint64_t fake_machine_compare(const FakeMachine *a, const FakeMachine *b)
{
    uint64_t nr_different = 0;

    for (size_t i = 0; i < a->regions.nr; i++) {
        for (uint64_t page = 0; page < ferry_region_nr_pages(&a->regions.list[i]); page++) {
            uint64_t offset = page * FERRY_PAGE_BYTES;

            nr_different +=
                !is_same_page(a->regions.list[i].host + offset, b->regions.list[i].host + offset);
        }
    }
    return nr_different;
}

static bool pair_list_regions(void *opaque, const FerryRegions *remote, FerryRegions *local,
                              GError **errp)
{
    *local = fake_machine_list(((FakePair *)opaque)->to);
    return true;
}

static void pair_complete(void *opaque)
{
    atomic_fetch_add(&((FakePair *)opaque)->nr_complete, 1);
}

static void pair_warn(void *opaque, const char *message)
{
    FakePair *pair = opaque;

    g_mutex_lock(&pair->lock);
    g_ptr_array_add(pair->warnings, g_strdup(message));
    g_mutex_unlock(&pair->lock);
}

int fake_pair_dial(FakePair *pair)
{
    int ends[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), ==, 0);
    ferry_destination_add_channel(pair->destination, ferry_channel_new_socket(ends[1], "new"));
    return ends[0];
}

static FerryChannel *dial_one(FakePair *pair, const char *name, GError **errp)
{
    if (pair->dial_limit && pair->nr_dialled == pair->dial_limit) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_IO, "nobody listens");
        return NULL;
    }
    pair->nr_dialled++;
    if (pair->fetching) {
        int ends[2];
        Relay *relay;

        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), ==, 0);
        relay = relay_new(ends[1], fake_pair_dial(pair));
        g_mutex_lock(&pair->lock);
        if (g_str_equal(name, "control")) {
            pair->first_relay = pair->relays->len;
            if (pair->cut_after) {
                relay_cut_after(relay, pair->cut_after);
            }
        }
        g_ptr_array_add(pair->relays, relay);
        g_mutex_unlock(&pair->lock);
        return ferry_channel_new_socket(ends[0], name);
    }
    return ferry_channel_new_socket(fake_pair_dial(pair), name);
}

static bool pair_dial(void *opaque, const char *const *names, unsigned nr, gint64 deadline_us,
                      FerryChannel **dialled, GError **errp)
{
    for (unsigned i = 0; i < nr; i++) {
        dialled[i] = dial_one(opaque, names[i], errp);
        if (!dialled[i]) {
            while (i-- > 0) {
                g_clear_pointer(&dialled[i], ferry_channel_free);
            }
            return false;
        }
    }
    return true;
}

Relay *fake_pair_relay(FakePair *pair, unsigned number)
{
    Relay *relay;

    g_mutex_lock(&pair->lock);
    g_assert_cmpuint(pair->first_relay + number, <, pair->relays->len);
    relay = g_ptr_array_index(pair->relays, pair->first_relay + number);
    g_mutex_unlock(&pair->lock);
    return relay;
}

void fake_pair_cut(FakePair *pair)
{
    g_mutex_lock(&pair->lock);
    for (guint i = pair->first_relay; i < pair->relays->len; i++) {
        relay_cut(g_ptr_array_index(pair->relays, i));
    }
    g_mutex_unlock(&pair->lock);
}

static void pair_go(void *opaque)
{
    FakePair *pair = opaque;

    g_mutex_lock(&pair->lock);
    g_assert_false(pair->went);
    pair->went = true;
    g_cond_broadcast(&pair->news);
    g_mutex_unlock(&pair->lock);
}

static void pair_broken(void *opaque, const GError *why)
{
    FakePair *pair = opaque;

    g_mutex_lock(&pair->lock);
    pair->nr_broken++;
    g_cond_broadcast(&pair->news);
    g_mutex_unlock(&pair->lock);
}

static void pair_resumed(void *opaque)
{
    FakePair *pair = opaque;

    g_mutex_lock(&pair->lock);
    pair->nr_resumed++;
    g_cond_broadcast(&pair->news);
    g_mutex_unlock(&pair->lock);
}

static void pair_damaged(void *opaque, const GError *why)
{
    FakePair *pair = opaque;

    g_mutex_lock(&pair->lock);
    g_clear_pointer(&pair->damaged, g_free);
    pair->damaged = g_strdup(why->message);
    g_cond_broadcast(&pair->news);
    g_mutex_unlock(&pair->lock);
}

static bool pair_next_tracker(void *opaque, const GError *why, FerryTracker *next)
{
    FakePair *pair = opaque;

    pair->failed_tracker = g_strdup(why->message);
    *next = fake_machine_tracker(pair->from, false);
    return true;
}

FakePair *fake_pair_new_full(const FakeRegion *from, const FakeRegion *to,
                             const FerrySourceConfig *wanted, bool ordered)
{
    static const FerryDestinationOps ops = {
        .list_regions = pair_list_regions,
        .complete = pair_complete,
        .warn = pair_warn,
        .go = pair_go,
        .broken = pair_broken,
        .resumed = pair_resumed,
        .damaged = pair_damaged,
    };
    FakePair *pair = g_new0(FakePair, 1);
    FerryRegions regions;
    FerrySourceConfig config = *wanted;

    config.session = 0xfe44;
    config.timeout_ms = config.timeout_ms ?: PAIR_TIMEOUT_MS;
    config.switchover_ms = config.switchover_ms ?: PAIR_TIMEOUT_MS;
    config.version = FERRY_WIRE_VERSION_MAX;
    config.dial = pair_dial;
    config.next_tracker = pair_next_tracker;
    config.opaque = pair;
    pair->fetching = config.nr_fetch > 0;
    pair->relays = g_ptr_array_new_with_free_func((GDestroyNotify)relay_free);
    g_cond_init(&pair->news);
    g_mutex_init(&pair->lock);
    pair->warnings = g_ptr_array_new_with_free_func(g_free);
    pair->from = fake_machine_new(from, true);
    /* The destination's memory is not empty: firmware has been there. */
    pair->to = fake_machine_new(to, true);
    pair->destination = ferry_destination_new(
        &(FerryDestinationConfig){.session = config.session, .timeout_ms = config.timeout_ms}, &ops,
        pair);
    regions = fake_machine_list(pair->from);
    pair->tracker = fake_machine_tracker(pair->from, ordered);
    pair->config = config;
    pair->source = ferry_source_new(&pair->config, &regions, &pair->tracker);
    return pair;
}

void fake_pair_set_tracker(FakePair *pair, const FerryTracker *tracker)
{
    FerryRegions regions = fake_machine_list(pair->from);

    ferry_source_free(pair->source);
    pair->tracker = *tracker;
    pair->source = ferry_source_new(&pair->config, &regions, &pair->tracker);
}

FakePair *fake_pair_new(const FakeRegion *from, const FakeRegion *to, unsigned nr_channels,
                        bool checksum)
{
    return fake_pair_new_full(
        from, to, &(FerrySourceConfig){.nr_channels = nr_channels, .checksum = checksum}, false);
}

FakePair *fake_pair_new_ordered(const FakeRegion *from, const FakeRegion *to, unsigned nr_channels)
{
    return fake_pair_new_full(from, to, &(FerrySourceConfig){.nr_channels = nr_channels}, true);
}

FakePair *fake_pair_new_fetching(const FakeRegion *from, const FakeRegion *to, unsigned nr_channels,
                                 unsigned nr_fetch, unsigned timeout_ms, bool ordered)
{
    return fake_pair_new_full(from, to,
                              &(FerrySourceConfig){
                                  .nr_channels = nr_channels,
                                  .nr_fetch = nr_fetch,
                                  .timeout_ms = timeout_ms,
                              },
                              ordered);
}

void fake_pair_wait(FakePair *pair, const bool *what)
{
    g_mutex_lock(&pair->lock);
    while (!*what) {
        g_cond_wait(&pair->news, &pair->lock);
    }
    g_mutex_unlock(&pair->lock);
}

void fake_pair_free(FakePair *pair)
{
    ferry_source_free(pair->source);
    ferry_destination_free(pair->destination, NULL);
    fake_machine_free(pair->from);
    fake_machine_free(pair->to);
    g_ptr_array_unref(pair->warnings);
    g_ptr_array_unref(pair->relays);
    g_cond_clear(&pair->news);
    g_free(pair->damaged);
    g_free(pair->failed_tracker);
    g_mutex_clear(&pair->lock);
    g_free(pair);
}
