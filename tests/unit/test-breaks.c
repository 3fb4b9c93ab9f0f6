/*
 * The source when things break at an awkward moment: after the hand-off, with a draft, before LOADED.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fake-machine.h"
#include "migration/error.h"
#include "migration/wire/control.h"

/* Nothing in it was touched: there is nothing to send. */
static const FakeRegion empty[] = {{.id = "pc.ram", .nr_pages = 64}, {0}};

static const FakeRegion small[] = {
    {.id = "pc.ram", .nr_pages = 20000, .touched_pages = 3000},
    {0},
};

/* --- A destination of which nothing is there but its ends of the channels ------------------------ */

typedef struct Ends {
    int control, data;
} Ends;

static FerryChannel *dial_one(Ends *ends, const char *name)
{
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), ==, 0);
    if (g_str_equal(name, "control")) {
        g_autoptr(FerryChannel) ready = ferry_channel_new_socket(dup(fds[1]), "ready");

        g_assert_true(ferry_control_send(ready, FERRY_FRAME_READY, 0, NULL, NULL));
        ends->control = fds[1];
    } else {
        ends->data = fds[1];
    }
    return ferry_channel_new_socket(fds[0], name);
}

static bool dial(void *opaque, const char *const *names, unsigned nr, gint64 deadline_us,
                 FerryChannel **dialled, GError **errp)
{
    for (unsigned i = 0; i < nr; i++) {
        dialled[i] = dial_one(opaque, names[i]);
    }
    return true;
}

/* Whether the other end hangs up within two seconds. */
static bool is_hung_up(int fd)
{
    gint64 deadline = g_get_monotonic_time() + 2 * G_USEC_PER_SEC;
    char bytes[4096];

    while (g_get_monotonic_time() < deadline) {
        struct pollfd pollfd = {.fd = fd, .events = POLLIN};

        if (poll(&pollfd, 1, 100) > 0 && read(fd, bytes, sizeof(bytes)) == 0) {
            return true;
        }
    }
    return false;
}

/*
 * All has been handed off; the driver sends the device state, and then waits for the destination's word
 * on another connection.  The control channel breaks towards the source only.  Unless the source breaks
 * the others, a destination that waits for the hand-off never hears of it.
 */
static void test_control_breaks_after_hand_off(void)
{
    Ends ends = {0};
    FakeMachine *machine = fake_machine_new(empty, true);
    FerryTracker tracker = fake_machine_tracker(machine, false);
    FerryRegions regions = fake_machine_list(machine);
    FerrySourceConfig config = {
        .dial = dial,
        .opaque = &ends,
        .session = 1,
        .version = FERRY_WIRE_VERSION_MAX,
        .nr_channels = 1,
    };
    FerrySource *source = ferry_source_new(&config, &regions, &tracker);
    g_autoptr(GError) error = NULL;

    ferry_source_connect(source, &error);
    g_assert_no_error(error);
    g_assert_true(ferry_source_stopped(source, 0, &error));
    g_assert_true(ferry_source_hand_off(source, &error));
    shutdown(ends.control, SHUT_WR);
    g_assert_true(is_hung_up(ends.data));
    ferry_source_free(source);
    close(ends.control);
    close(ends.data);
    fake_machine_free(machine);
}

/* --- With a destination --------------------------------------------------------------------------- */

static FakePair *copied_pair(void)
{
    FakePair *pair = fake_pair_new_fetching(small, small, 2, 1, 10000, true);
    g_autoptr(GError) error = NULL;

    ferry_source_connect(pair->source, &error);
    g_assert_no_error(error);
    while (!ferry_source_may_harvest(pair->source)) {
        g_assert_true(ferry_source_step(pair->source, 20, &error));
    }
    return pair;
}

static void finish(FakePair *pair)
{
    g_autoptr(GError) error = NULL;

    g_assert_true(ferry_source_wait_loaded(pair->source, &error));
    ferry_source_go(pair->source, &error);
    g_assert_no_error(error);
    while (!ferry_source_is_complete(pair->source)) {
        ferry_source_push(pair->source, 100, &error);
        g_assert_no_error(error);
    }
    g_assert_true(ferry_destination_wait_complete(pair->destination, &error));
}

/*
 * There is a draft, a round is over (its fence was reached with the draft's), and the tracker fails at the
 * harvest.  Another one begins anew, with a first pass; the hand-off must not go without it.
 */
static void test_tracker_fails_while_drafted(void)
{
    FakePair *pair = copied_pair();
    g_autoptr(GError) error = NULL;

    pair->from->fails_at = 2;
    g_assert_true(ferry_source_draft(pair->source, &error));
    g_assert_true(ferry_source_may_harvest(pair->source));
    g_assert_true(ferry_source_harvest(pair->source, NULL, &error));
    g_assert_nonnull(pair->failed_tracker);
    fake_machine_write(pair->from, 0, 77, 7777);

    g_assert_true(ferry_source_stopped(pair->source, 0, &error));
    ferry_source_leave(pair->source, &error);
    g_assert_no_error(error);
    g_assert_true(ferry_destination_wait_left(pair->destination, &error));
    g_assert_true(ferry_destination_loaded(pair->destination, NULL));
    finish(pair);
    g_assert_cmpuint(fake_machine_compare(pair->from, pair->to), ==, 0);
    fake_pair_free(pair);
}

/* Loading the device state needs the only page that is missing: it has come before LOADED. */
static void test_last_page_before_loaded(void)
{
    FakePair *pair = copied_pair();
    g_autoptr(GError) error = NULL;
    volatile uint64_t *page;

    g_assert_true(ferry_source_stopped(pair->source, 0, &error));
    ferry_source_leave(pair->source, &error);
    g_assert_no_error(error);
    g_assert_true(ferry_destination_wait_left(pair->destination, &error));
    page = fake_machine_page(pair->to, 0, 0);
    (void)*page; /* waits until it has come */
    g_usleep(100000);
    g_assert_true(ferry_destination_loaded(pair->destination, NULL));
    finish(pair);
    g_assert_cmpuint(fake_machine_compare(pair->from, pair->to), ==, 0);
    fake_pair_free(pair);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/breaks/control-breaks-after-hand-off", test_control_breaks_after_hand_off);
    g_test_add_func("/breaks/tracker-fails-while-drafted", test_tracker_fails_while_drafted);
    g_test_add_func("/breaks/last-page-before-loaded", test_last_page_before_loaded);
    return g_test_run();
}
