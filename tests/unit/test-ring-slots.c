/*
 * What entries of dirty rings are about
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "accel/ring-slots.h"

#include <glib.h>

/* The entry's page, or one that cannot be. */
static FerryRingPage resolve(const FerryRingSlots *slots, uint32_t slot, uint64_t offset)
{
    const struct kvm_dirty_gfn entry = {.slot = slot, .offset = offset};
    FerryRingPage page = {.region = 77, .page = 77};

    if (!ferry_ring_slots_resolve(slots, &entry, &page)) {
        g_assert_cmpuint(page.region, ==, 77);
        page.region = UINT32_MAX;
    }
    return page;
}

static void assert_page(const FerryRingSlots *slots, uint32_t slot, uint64_t offset,
                        uint32_t region, uint64_t page)
{
    FerryRingPage found = resolve(slots, slot, offset);

    g_assert_cmpuint(found.region, ==, region);
    g_assert_cmpuint(found.page, ==, page);
}

static void assert_none(const FerryRingSlots *slots, uint32_t slot, uint64_t offset)
{
    g_assert_cmpuint(resolve(slots, slot, offset).region, ==, UINT32_MAX);
}

static void test_resolve(void)
{
    FerryRingSlots *slots = ferry_ring_slots_new();

    assert_none(slots, 0, 0);
    ferry_ring_slots_set(slots, 5, (FerryRingSlot){.region = 2, .first_page = 100, .nr_pages = 10});
    /* The same number in SMM's address space. */
    ferry_ring_slots_set(slots, 0x10005, (FerryRingSlot){.region = 3, .nr_pages = 1});
    assert_page(slots, 5, 0, 2, 100);
    assert_page(slots, 5, 9, 2, 109);
    assert_page(slots, 0x10005, 0, 3, 0);
    assert_none(slots, 5, 10);
    assert_none(slots, 5, UINT64_MAX);
    assert_none(slots, 0x10005, 1);
    assert_none(slots, 4, 0); /* made room for, never told of */
    assert_none(slots, 6, 0);

    ferry_ring_slots_set(slots, 5, (FerryRingSlot){.region = 4, .nr_pages = 20});
    assert_page(slots, 5, 19, 4, 19);
    ferry_ring_slots_set(slots, 5, (FerryRingSlot){0});
    assert_none(slots, 5, 0);
    ferry_ring_slots_free(slots);
}

/* Whatever an entry says, it names a page that somebody told of, or none. */
static void test_strange(void)
{
    static const uint32_t strange[] = {0x8000, 0xffff, 0x20000, 0x20005, 0x7fff0001, UINT32_MAX};
    FerryRingSlots *slots = ferry_ring_slots_new();

    ferry_ring_slots_set(slots, 32767, (FerryRingSlot){.region = 1, .nr_pages = 1});
    assert_page(slots, 32767, 0, 1, 0);
    for (size_t i = 0; i < G_N_ELEMENTS(strange); i++) {
        ferry_ring_slots_set(slots, strange[i], (FerryRingSlot){.region = 1, .nr_pages = 1});
        assert_none(slots, strange[i], 0);
        g_assert_cmpuint(ferry_ring_slots_get(slots, strange[i]).nr_pages, ==, 0);
    }
    ferry_ring_slots_free(slots);
    ferry_ring_slots_free(NULL);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ring-slots/resolve", test_resolve);
    g_test_add_func("/ring-slots/strange", test_strange);
    return g_test_run();
}
