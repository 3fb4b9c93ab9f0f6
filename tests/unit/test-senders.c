/*
 * A sender that is told to go elsewhere: there first, and then where it had not been.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <sys/mman.h>
#include <sys/socket.h>

#include "migration/source/senders.h"

#define NR_GRANULES 8
#define NR_BYTES    (NR_GRANULES * FERRY_GRANULE_PAGES * FERRY_PAGE_BYTES)

static bool start(void *opaque, const FerryTrackerClient *client, GError **errp)
{
    return true;
}

static const FerryTrackerOps no_tracker = {.name = "none", .start = start};

static void failed(void *opaque, GError *error)
{
    g_error("%s", error->message);
}

/* The number of the granule that comes next; -1: none is left. */
static int64_t next_granule(FerryChannel *channel)
{
    uint8_t head[FERRY_FRAME_BYTES], table[FERRY_EXTENT_BYTES + sizeof(uint32_t)];
    FerryFrame frame;

    if (!ferry_channel_read_all(channel, head, sizeof(head), NULL)) {
        return -1;
    }
    g_assert_true(ferry_frame_decode(head, &frame, NULL));
    g_assert_cmpuint(frame.nr_extents, ==, 1);
    /* A page of zeroes. */
    g_assert_cmpuint(frame.payload_bytes, ==, 0);
    g_assert_true(ferry_channel_read_all(channel, table, sizeof(table), NULL));
    return (int64_t)(frame.first_page / FERRY_GRANULE_PAGES);
}

static void test_hint(void)
{
    static const int64_t order[] = {0, 5, 6, 7, 1, 2, 3, 4, -1};
    FerryRegions regions = {.list = g_new0(FerryRegion, 1), .nr = 1};
    const FerryTracker tracker = {.ops = &no_tracker};
    uint8_t *memory = mmap(NULL, NR_BYTES, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    FerryBacklog *backlog;
    FerrySenders *senders;
    FerryChannel *near, *far;
    int ends[2];

    g_assert_true(memory != MAP_FAILED);
    regions.list[0] = (FerryRegion){
        .id = "ram",
        .host = memory,
        .length_bytes = NR_BYTES,
        .page_size_bytes = FERRY_PAGE_BYTES,
        .fd = -1,
        .scan = FERRY_SCAN_PRIVATE,
    };
    backlog = ferry_backlog_new(&regions, &tracker, true, false);
    senders = ferry_senders_new(backlog, &(FerrySendersConfig){.failed = failed});
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), ==, 0);
    near = ferry_channel_new_socket(ends[0], "data 0");
    far = ferry_channel_new_socket(ends[1], "far");
    g_assert_true(ferry_senders_start(senders, &near, 1));
    g_assert_true(ferry_senders_freeze(senders));
    for (uint64_t granule = 0; granule < NR_GRANULES; granule++) {
        ferry_backlog_queue(backlog, 0, granule * FERRY_GRANULE_PAGES + 1, 1);
    }
    ferry_senders_hint(senders, 0, 5);
    ferry_senders_unfreeze(senders);
    g_assert_true(ferry_senders_drain(senders));
    ferry_channel_shutdown(near);
    for (size_t i = 0; i < G_N_ELEMENTS(order); i++) {
        g_assert_cmpint(next_granule(far), ==, order[i]);
    }
    ferry_senders_free(senders);
    ferry_backlog_free(backlog);
    ferry_channel_free(near);
    ferry_channel_free(far);
    munmap(memory, NR_BYTES);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/senders/hint", test_hint);
    return g_test_run();
}
