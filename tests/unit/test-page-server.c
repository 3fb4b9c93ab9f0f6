/*
 * The server of missing pages: requests that no destination makes in good faith
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "migration/error.h"
#include "migration/source/page-server.h"

#define NR_PAGES UINT64_C(64)

static bool start(void *opaque, const FerryTrackerClient *client, GError **errp)
{
    return true;
}

static const FerryTrackerOps no_tracker = {.name = "none", .start = start};

static void failed(void *opaque, GError *error)
{
    GError **to = opaque;

    *to = error;
}

typedef struct Bed {
    uint8_t *memory;
    FerryBacklog *backlog;
    FerrySenders *senders;
    FerryChannel *near, *far;
    FerryPageServer *server;
    _Atomic uint64_t nr_requests;
    GError *error;
} Bed;

typedef struct Request {
    const char *name;
    uint32_t region;
    uint64_t page;
    bool left_alone;   /* all of the region is */
    bool all_there;    /* nothing of it is unplugged */
    bool at_home;      /* the guest runs here */
    uint32_t nr_parts; /* pages of the wire's size in one of the region's; 0: one */
} Request;

/* The upper half has been unplugged, and whoever touches it dies; unless the request says otherwise. */
static void set_up(Bed *bed, const Request *wanted)
{
    const FerryRange gap = {
        .start_bytes = NR_PAGES / 2 * FERRY_PAGE_BYTES,
        .end_bytes = NR_PAGES * FERRY_PAGE_BYTES,
    };
    FerryRegions regions = {.list = g_new0(FerryRegion, 1), .nr = 1};
    FerryTracker tracker = {.ops = &no_tracker};
    FerryPageServerConfig config = {0};
    int ends[2];

    *bed = (Bed){0};
    bed->memory = mmap(NULL, NR_PAGES * FERRY_PAGE_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(bed->memory != MAP_FAILED);
    g_assert_cmpint(
        mprotect(bed->memory + gap.start_bytes, gap.end_bytes - gap.start_bytes, PROT_NONE), ==, 0);
    regions.list[0] = (FerryRegion){
        .id = "more",
        .host = bed->memory,
        .length_bytes = NR_PAGES * FERRY_PAGE_BYTES,
        .page_size_bytes = (uint32_t)FERRY_PAGE_BYTES * MAX(wanted->nr_parts, 1),
        .fd = -1,
        .scan = wanted->left_alone ? FERRY_SCAN_NOTHING : FERRY_SCAN_PRIVATE,
        .absent = g_array_new(FALSE, FALSE, sizeof(FerryRange)),
    };
    if (!wanted->all_there) {
        g_array_append_val(regions.list[0].absent, gap);
    }
    bed->backlog = ferry_backlog_new(&regions, &tracker, true, false);
    ferry_backlog_set_guest(bed->backlog, wanted->at_home ? FERRY_GUEST_RUNS : FERRY_GUEST_LEFT);
    bed->senders = ferry_senders_new(bed->backlog, &(FerrySendersConfig){0});
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), ==, 0);
    bed->near = ferry_channel_new_socket(ends[0], "fetch 0");
    bed->far = ferry_channel_new_socket(ends[1], "far");
    config.backlog = bed->backlog;
    config.senders = bed->senders;
    config.channel = bed->near;
    config.failed = failed;
    config.opaque = &bed->error;
    config.nr_requests = &bed->nr_requests;
    bed->server = ferry_page_server_start(&config, 0);
}

static void request(Bed *bed, uint32_t region, uint64_t page)
{
    const FerryFrame frame = {
        .type = FERRY_FRAME_FETCH, .region = (uint16_t)region, .first_page = page};
    uint8_t head[FERRY_FRAME_BYTES];

    ferry_frame_encode(&frame, head);
    g_assert_true(ferry_channel_write_all(bed->far, head, sizeof(head), NULL));
}

static void tear_down(Bed *bed)
{
    ferry_channel_free(bed->near);
    ferry_channel_free(bed->far);
    ferry_senders_free(bed->senders);
    ferry_backlog_free(bed->backlog);
    munmap(bed->memory, NR_PAGES * FERRY_PAGE_BYTES);
    g_clear_error(&bed->error);
}

static void test_refused(gconstpointer data)
{
    const Request *wanted = data;
    Bed bed;

    set_up(&bed, wanted);
    request(&bed, wanted->region, wanted->page);
    ferry_channel_shutdown(bed.far);
    ferry_page_server_join(g_steal_pointer(&bed.server));
    g_assert_error(bed.error, FERRY_ERROR, FERRY_ERROR_PROTOCOL);
    tear_down(&bed);
}

/* What does not belong on a fetch channel. */
static void test_other_frame(void)
{
    const FerryFrame frame = {.type = FERRY_FRAME_GO};
    uint8_t head[FERRY_FRAME_BYTES];
    Bed bed;

    set_up(&bed, &(Request){0});
    ferry_frame_encode(&frame, head);
    g_assert_true(ferry_channel_write_all(bed.far, head, sizeof(head), NULL));
    ferry_channel_shutdown(bed.far);
    ferry_page_server_join(g_steal_pointer(&bed.server));
    g_assert_error(bed.error, FERRY_ERROR, FERRY_ERROR_PROTOCOL);
    g_assert_nonnull(strstr(bed.error->message, "on a fetch channel"));
    tear_down(&bed);
}

/* The pages next to what has been unplugged are there. */
static void test_served(void)
{
    static const uint64_t pages[] = {3, NR_PAGES / 2 - 1};
    Bed bed;

    set_up(&bed, &(Request){0});
    for (size_t i = 0; i < G_N_ELEMENTS(pages); i++) {
        uint8_t head[FERRY_FRAME_BYTES], table[FERRY_EXTENT_BYTES + sizeof(uint32_t)];
        FerryExtent extent;
        FerryFrame frame;

        request(&bed, 0, pages[i]);
        g_assert_true(ferry_channel_read_all(bed.far, head, sizeof(head), NULL));
        g_assert_true(ferry_frame_decode(head, &frame, NULL));
        g_assert_cmpint(frame.type, ==, FERRY_FRAME_PAGES);
        g_assert_true(ferry_channel_read_all(bed.far, table, sizeof(table), NULL));
        g_assert_true(ferry_extents_decode(&frame, table, NR_PAGES, &extent, NULL));
        g_assert_cmpuint(extent.first, ==, pages[i]);
    }
    ferry_channel_shutdown(bed.far);
    ferry_page_server_join(g_steal_pointer(&bed.server));
    g_assert_error(bed.error, FERRY_ERROR, FERRY_ERROR_IO);
    tear_down(&bed);
}

/* So is the page after it. */
static void test_may_send(void)
{
    const FerryRange gap = {.start_bytes = 4 * FERRY_PAGE_BYTES, .end_bytes = 8 * FERRY_PAGE_BYTES};
    g_autoptr(GArray) absent = g_array_new(FALSE, FALSE, sizeof(FerryRange));
    const FerryRegion region = {.absent = absent, .scan = FERRY_SCAN_PRIVATE};

    g_array_append_val(absent, gap);
    for (uint64_t page = 0; page < 12; page++) {
        g_assert_cmpint(ferry_region_may_send(&region, page, 1), ==, page < 4 || page >= 8);
    }
    g_assert_true(ferry_region_may_send(&region, 2, 2));
    g_assert_false(ferry_region_may_send(&region, 2, 3));
    g_assert_false(ferry_region_may_send(&region, 7, 2));
    g_assert_false(ferry_region_may_send(&region, 2, 10));
    g_assert_true(ferry_region_may_send(&region, 8, 2));
}

int main(int argc, char **argv)
{
    static const Request refused[] = {
        {.name = "absent", .page = NR_PAGES / 2},
        {.name = "left-alone", .page = 3, .left_alone = true},
        {.name = "beyond", .page = NR_PAGES, .all_there = true},
        {.name = "far-beyond", .page = UINT64_C(1) << 40, .all_there = true},
        {.name = "no-such-region", .region = 1, .page = 3},
        {.name = "part-of-huge-page", .page = 3, .all_there = true, .nr_parts = 32},
        {.name = "at-home", .page = 3, .at_home = true},
    };

    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(refused); i++) {
        g_autofree char *path = g_strdup_printf("/page-server/refused/%s", refused[i].name);

        g_test_add_data_func(path, &refused[i], test_refused);
    }
    g_test_add_func("/page-server/other-frame", test_other_frame);
    g_test_add_func("/page-server/served", test_served);
    g_test_add_func("/page-server/may-send", test_may_send);
    return g_test_run();
}
