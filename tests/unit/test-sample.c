/*
 * What pages that are put off will take on the wire: they may compress in another way than those that go.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "fake-machine.h"

#define NR_HOT  600
#define NR_COLD 600

/* More than one region, and more pages than one look sees. */
static const FakeRegion regions[] = {
    {.id = "low", .nr_pages = 4096, .touched_pages = 64},
    {.id = "high", .nr_pages = 8192, .touched_pages = 64},
    {0},
};

typedef struct Case {
    const char *name;
    bool plain; /* nothing is compressed */
    bool hot_noise, cold_noise;
    bool mixed; /* hot pages of the second region are text all the same */
} Case;

/* Noise does not compress, but for the few words that say that the page is another one. */
static void write_page(FakePair *pair, uint32_t region, uint64_t page, bool noise, uint64_t value)
{
    uint64_t *host = fake_machine_page(pair->from, region, page);
    uint64_t random = (page + 1) * 88172645463325252;

    for (size_t i = 0; i < FERRY_PAGE_BYTES / sizeof(*host); i++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        __atomic_store_n(&host[i], noise ? random : 7, __ATOMIC_RELAXED);
    }
    fake_machine_write(pair->from, region, page, value);
}

static void finish_round(FakePair *pair)
{
    g_autoptr(GError) error = NULL;

    while (!ferry_source_may_harvest(pair->source)) {
        g_assert_true(ferry_source_step(pair->source, 20, &error));
    }
}

/*
 * The same pages are hot in each round, and others are written in each.  As long as hot pages are sent they are text:
 * after noise, a sender does not try at once to compress what follows.
 */
static void run_round(FakePair *pair, unsigned round, const Case *c)
{
    g_autoptr(GError) error = NULL;

    g_assert_true(ferry_source_harvest(pair->source, NULL, &error));
    for (uint64_t i = 0; i < NR_HOT; i++) {
        write_page(pair, i % 2, 2 * i, c->hot_noise && round >= 2 && !(c->mixed && i % 2),
                   round + 1);
    }
    for (uint64_t i = 0; i < NR_COLD; i++) {
        write_page(pair, 1, 2048 + (round * NR_COLD + i) % 6144, c->cold_noise, round + 1);
    }
    finish_round(pair);
}

static void check_wire(uint64_t wire_bytes, uint64_t page_bytes, bool whole)
{
    if (whole) {
        g_assert_cmpuint(wire_bytes, >=, page_bytes * 9 / 10);
    } else {
        g_assert_cmpuint(wire_bytes, <, page_bytes / 2);
    }
    g_assert_cmpuint(wire_bytes, <=, page_bytes);
}

static void test_hot(gconstpointer data)
{
    const Case *c = data;
    FakePair *pair = fake_pair_new_full(
        regions, regions, &(FerrySourceConfig){.nr_channels = 2, .compress = !c->plain}, true);
    g_autoptr(GError) error = NULL;
    uint64_t pending, wire;

    g_assert_true(ferry_source_connect(pair->source, &error));
    finish_round(pair);
    for (unsigned i = 0; i < 7; i++) {
        run_round(pair, i, c);
    }
    /* All that is left are pages that are put off. */
    pending = ferry_source_remaining_bytes(pair->source);
    g_assert_cmpuint(pending, ==, NR_HOT * FERRY_PAGE_BYTES);
    wire = ferry_source_remaining_wire_bytes(pair->source);
    if (c->mixed) {
        /* Each look sees others. */
        g_assert_cmpuint(wire, >, pending / 10);
        g_assert_cmpuint(wire, <, pending * 9 / 10);
    } else {
        check_wire(wire, pending, c->plain || c->hot_noise);
    }
    check_wire(ferry_source_wire_bytes(pair->source, pending), pending, c->plain || c->cold_noise);

    /* To look at pages leaves all of them where they are. */
    g_assert_true(ferry_source_stopped(pair->source, 0, &error));
    g_assert_true(ferry_source_hand_off(pair->source, &error));
    g_assert_true(ferry_destination_wait_complete(pair->destination, &error));
    g_assert_cmpuint(fake_machine_compare(pair->from, pair->to), ==, 0);
    fake_pair_free(pair);
}

int main(int argc, char **argv)
{
    static const Case cases[] = {
        {.name = "noise-among-text", .hot_noise = true},
        {.name = "text-among-noise", .cold_noise = true},
        {.name = "text"},
        {.name = "noise", .hot_noise = true, .cold_noise = true},
        {.name = "mixed", .hot_noise = true, .mixed = true},
        {.name = "plain", .plain = true},
    };

    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = g_strdup_printf("/sample/hot/%s", cases[i].name);

        g_test_add_data_func(path, &cases[i], test_hot);
    }
    return g_test_run();
}
