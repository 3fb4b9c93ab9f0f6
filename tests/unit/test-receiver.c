/*
 * What a receiver makes of pages: content that was damaged on the way, by whichever way it comes; pages of
 * regions that there are not, or that are not to be written; and pages that have become zero.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "fake-machine.h"
#include "migration/destination/receiver.h"
#include "migration/error.h"
#include "migration/wire/control.h"
#include "migration/wire/pages-frame.h"

static const FakeRegion regions[] = {{.id = "pc.ram", .nr_pages = 64, .shared = true}, {0}};

/* What the sender has in the pages that are sent: something compressible. */
#define CONTENT 0x5a

static void want(void *opaque, unsigned index, uint32_t region, uint64_t page)
{
}

static void complete(void *opaque)
{
}

static const FerryFetchOps fetch_ops = {.want = want, .complete = complete};

/* A sender, a receiver, and their memories. */
typedef struct Bed {
    FakeMachine *from, *to;
    FerryReceiver receiver;
    FerryUnpacker *unpacker;
    FerryChannel *near, *far;
    FerryPagesFrame frame;
} Bed;

static Bed *bed_new(bool checksum, bool compress)
{
    Bed *bed = g_new0(Bed, 1);
    FerryRegions list;
    int ends[2];

    bed->from = fake_machine_new(regions, false);
    bed->to = fake_machine_new(regions, false);
    list = fake_machine_list(bed->to);
    bed->receiver.scanner = ferry_scanner_new();
    ferry_receiver_set_regions(&bed->receiver, &list);
    bed->unpacker = ferry_unpacker_new();
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), ==, 0);
    bed->near = ferry_channel_new_socket(ends[0], "data 0");
    bed->far = ferry_channel_new_socket(ends[1], "far");
    ferry_pages_frame_init(&bed->frame, checksum, compress);
    memset(fake_machine_page(bed->from, 0, 0), CONTENT, 4 * FERRY_PAGE_BYTES);
    return bed;
}

static void bed_free(Bed *bed)
{
    ferry_pages_frame_clear(&bed->frame);
    ferry_channel_free(bed->near);
    ferry_channel_free(bed->far);
    ferry_unpacker_free(bed->unpacker);
    ferry_receiver_clear(&bed->receiver);
    fake_machine_free(bed->from);
    fake_machine_free(bed->to);
    g_free(bed);
}

/* The first four pages, as they are at the sender. */
static void build(Bed *bed)
{
    const uint64_t pages[FERRY_GRANULE_WORDS] = {15};

    ferry_pages_frame_build(&bed->frame, &bed->from->regions.list[0], 0, 0, pages);
}

static bool receive(Bed *bed, GError **errp)
{
    uint8_t head[FERRY_FRAME_BYTES];
    FerryFrame frame;

    g_assert_true(ferry_pages_frame_send(&bed->frame, bed->far, NULL));
    g_assert_true(ferry_channel_read_all(bed->near, head, sizeof(head), NULL));
    g_assert_true(ferry_frame_decode(head, &frame, NULL));
    return ferry_receive_pages(&bed->receiver, bed->near, &frame, bed->unpacker, errp);
}

static bool is_filled(const Bed *bed, uint8_t with)
{
    const uint8_t *memory = (const uint8_t *)fake_machine_page(bed->to, 0, 0);

    for (uint64_t i = 0; i < 4 * FERRY_PAGE_BYTES; i++) {
        if (memory[i] != with) {
            return false;
        }
    }
    return true;
}

typedef struct Way {
    const char *name;
    bool compress;
    bool live; /* pages are missing, and are placed */
} Way;

static void make_missing(Bed *bed)
{
    FerryFetch *fetch = ferry_fetch_new(&bed->receiver.regions, 1, &fetch_ops, bed, NULL);

    g_assert_nonnull(fetch);
    ferry_pageset_add(ferry_fetch_incoming(fetch)[0], 0, 4);
    g_assert_true(ferry_fetch_go_live(fetch, NULL));
    bed->receiver.fetch = fetch;
}

/* A byte of the content is flipped on the way. */
static void test_damaged(gconstpointer data)
{
    const Way *way = data;

    for (int flip = 0; flip < 2; flip++) {
        Bed *bed = bed_new(true, way->compress);
        g_autoptr(GError) error = NULL;

        if (way->live) {
            make_missing(bed);
        }
        build(bed);
        g_assert_cmpint(bed->frame.nr_iov, ==, 2);
        g_assert_cmpint(!!(bed->frame.frame.flags & FERRY_FRAME_ZSTD), ==, way->compress);
        if (flip) {
            /* In the middle of what zstd does not check. */
            ((uint8_t *)bed->frame.iov[1].iov_base)[bed->frame.iov[1].iov_len / 2] ^= 1;
            g_assert_false(receive(bed, &error));
            g_assert_error(error, FERRY_ERROR, FERRY_ERROR_PROTOCOL);
            g_assert_nonnull(strstr(error->message, "were damaged on the way"));
        } else {
            receive(bed, &error);
            g_assert_no_error(error);
            g_assert_true(is_filled(bed, CONTENT));
        }
        bed_free(bed);
    }
}

/* Pages that have become zero are zero here, too; and their memory is gone. */
static void test_zero(void)
{
    Bed *bed = bed_new(false, false);
    g_autoptr(GError) error = NULL;

    build(bed);
    g_assert_true(receive(bed, &error));
    g_assert_cmpuint(ferry_pageset_get(bed->receiver.provided[0], 0), ==, 15);
    memset(fake_machine_page(bed->from, 0, 0), 0, 4 * FERRY_PAGE_BYTES);
    build(bed);
    receive(bed, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(ferry_pageset_get(bed->receiver.provided[0], 0), ==, 0);
    g_assert_true(is_filled(bed, 0));
    bed_free(bed);
}

/* Memory that cannot be looked at cannot be made zero. */
static void test_zero_stopped(void)
{
    Bed *bed = bed_new(false, false);
    g_autoptr(GError) error = NULL;

    memset(fake_machine_page(bed->from, 0, 0), 0, 4 * FERRY_PAGE_BYTES);
    build(bed);
    ferry_scanner_stop(bed->receiver.scanner);
    g_assert_false(receive(bed, &error));
    g_assert_cmpstr(error->message, ==,
                    "RAM block 'pc.ram' at 0x0: stopped while memory was being emptied");
    bed_free(bed);
}

static void test_no_such_region(void)
{
    Bed *bed = bed_new(false, false);
    g_autoptr(GError) error = NULL;

    build(bed);
    bed->frame.frame.region = 1;
    ferry_frame_encode(&bed->frame.frame, bed->frame.head);
    g_assert_false(receive(bed, &error));
    g_assert_cmpstr(error->message, ==, "pages for region 1 of 1");
    bed_free(bed);
}

/* What both ends map is not written by this one. */
static void test_same(void)
{
    Bed *bed = bed_new(false, false);
    g_autoptr(GError) error = NULL;

    bed->receiver.regions.list[0].flags |= FERRY_REGION_SAME;
    build(bed);
    g_assert_false(receive(bed, &error));
    g_assert_nonnull(strstr(error->message, "which both ends map"));
    g_assert_true(is_filled(bed, 0));
    bed_free(bed);
}

/* What is read-only here has to be the same already. */
static void test_read_only(void)
{
    for (int differs = 0; differs < 2; differs++) {
        Bed *bed = bed_new(false, false);
        g_autoptr(GError) error = NULL;

        memset(fake_machine_page(bed->to, 0, 0), CONTENT, 4 * FERRY_PAGE_BYTES);
        *(uint8_t *)fake_machine_page(bed->to, 0, 3) = CONTENT + (uint8_t)differs;
        g_assert_cmpint(
            mprotect(fake_machine_page(bed->to, 0, 0), 64 * FERRY_PAGE_BYTES, PROT_READ), ==, 0);
        bed->receiver.regions.list[0].flags |= FERRY_REGION_READ_ONLY;
        build(bed);
        g_assert_cmpint(receive(bed, &error), ==, !differs);
        if (differs) {
            g_assert_error(error, FERRY_ERROR, FERRY_ERROR_REFUSED);
        }
        bed_free(bed);
    }
}

/* A body on the control channel, damaged, or with nothing that would show it. */
static void test_body(void)
{
    for (int unchecked = 0; unchecked < 2; unchecked++) {
        Bed *bed = bed_new(false, false);
        FerryFrame frame = {
            .type = FERRY_FRAME_HANDOFF,
            .flags = unchecked ? 0 : FERRY_FRAME_PAYLOAD_CRC,
            .payload_bytes = 8,
            .payload_crc = unchecked ? 0 : 1,
        };
        g_autoptr(GByteArray) body = NULL;
        g_autoptr(GError) error = NULL;
        uint8_t whole[FERRY_FRAME_BYTES + 8] = {0};

        ferry_frame_encode(&frame, whole);
        g_assert_true(ferry_channel_write_all(bed->far, whole, sizeof(whole), NULL));
        g_assert_false(ferry_control_receive(bed->near, &frame, &body, &error));
        g_assert_nonnull(strstr(error->message, unchecked ? "without a checksum" : "damaged body"));
        bed_free(bed);
    }
}

int main(int argc, char **argv)
{
    static const Way ways[] = {
        {.name = "direct"},
        {.name = "compressed", .compress = true},
        {.name = "placed", .live = true},
    };

    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(ways); i++) {
        g_autofree char *path = g_strdup_printf("/receiver/damaged/%s", ways[i].name);

        g_test_add_data_func(path, &ways[i], test_damaged);
    }
    g_test_add_func("/receiver/zero", test_zero);
    g_test_add_func("/receiver/zero-stopped", test_zero_stopped);
    g_test_add_func("/receiver/no-such-region", test_no_such_region);
    g_test_add_func("/receiver/same", test_same);
    g_test_add_func("/receiver/read-only", test_read_only);
    g_test_add_func("/receiver/body", test_body);
    return g_test_run();
}
