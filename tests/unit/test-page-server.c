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

/* The upper half has been unplugged, and whoever touches it dies; or all of it is left alone. */
static void set_up(Bed *bed, bool left_alone)
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
        .page_size_bytes = FERRY_PAGE_BYTES,
        .fd = -1,
        .scan = left_alone ? FERRY_SCAN_NOTHING : FERRY_SCAN_PRIVATE,
        .absent = g_array_new(FALSE, FALSE, sizeof(FerryRange)),
    };
    g_array_append_val(regions.list[0].absent, gap);
    bed->backlog = ferry_backlog_new(&regions, &tracker, true, false);
    ferry_backlog_set_guest(bed->backlog, FERRY_GUEST_LEFT);
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

static void request(Bed *bed, uint64_t page)
{
    const FerryFrame frame = {.type = FERRY_FRAME_FETCH, .first_page = page};
    uint8_t head[FERRY_FRAME_BYTES];

    ferry_frame_encode(&frame, head);
    g_assert_true(ferry_channel_write_all(bed->far, head, sizeof(head), NULL));
}

static void test_refused(gconstpointer data)
{
    const bool left_alone = GPOINTER_TO_INT(data);
    Bed bed;

    set_up(&bed, left_alone);
    if (!left_alone) {
        FerryFrame frame;
        uint8_t head[FERRY_FRAME_BYTES];

        request(&bed, 3);
        g_assert_true(ferry_channel_read_all(bed.far, head, sizeof(head), NULL));
        g_assert_true(ferry_frame_decode(head, &frame, NULL));
        g_assert_cmpint(frame.type, ==, FERRY_FRAME_PAGES);
    }
    request(&bed, left_alone ? 3 : NR_PAGES / 2);
    /* It ends by itself. */
    ferry_page_server_join(g_steal_pointer(&bed.server));
    g_assert_error(bed.error, FERRY_ERROR, FERRY_ERROR_PROTOCOL);
    ferry_channel_free(bed.near);
    ferry_channel_free(bed.far);
    ferry_senders_free(bed.senders);
    ferry_backlog_free(bed.backlog);
    munmap(bed.memory, NR_PAGES * FERRY_PAGE_BYTES);
    g_clear_error(&bed.error);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/page-server/absent", GINT_TO_POINTER(false), test_refused);
    g_test_add_data_func("/page-server/left-alone", GINT_TO_POINTER(true), test_refused);
    return g_test_run();
}
