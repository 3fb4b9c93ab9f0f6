/*
 * After the hand-off, and letting go of the guest: GO comes after LOADED and only if nothing has failed, a
 * source that does not hear TAKEN is in doubt, and the guest is not stopped for longer than was permitted.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fake-machine.h"
#include "migration/error.h"
#include "migration/wire/control.h"
#include "steered-clock.h"

/* Nothing in it was touched: there is nothing to send. */
static const FakeRegion empty[] = {{.id = "pc.ram", .nr_pages = 64}, {0}};

/* --- A destination played by hand ---------------------------------------------------------------- */

typedef struct Bed {
    FakeMachine *machine;
    FerryTracker tracker;
    FerrySource *source;
    FerryChannel *control; /* the destination's ends */
    int data;
    _Atomic unsigned nr_broken;
} Bed;

static FerryChannel *dial_one(Bed *bed, const char *name)
{
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), ==, 0);
    if (g_str_equal(name, "control")) {
        bed->control = ferry_channel_new_socket(fds[1], "control");
        g_assert_true(ferry_control_send(bed->control, FERRY_FRAME_READY, 0, NULL, NULL));
    } else {
        bed->data = fds[1];
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

static void broken(void *opaque)
{
    atomic_fetch_add(&((Bed *)opaque)->nr_broken, 1);
}

/* Up to the hand-off; the vCPUs may be stopped for @limit_ms. */
static Bed *bed_new(unsigned limit_ms)
{
    Bed *bed = g_new0(Bed, 1);
    FerrySourceConfig config = {
        .dial = dial,
        .broken = broken,
        .opaque = bed,
        .session = 1,
        .version = FERRY_WIRE_VERSION_MAX,
        .nr_channels = 1,
        .timeout_ms = 60000,
        .switchover_ms = 60000,
    };
    g_autoptr(GError) error = NULL;
    FerryRegions regions;

    bed->machine = fake_machine_new(empty, true);
    bed->tracker = fake_machine_tracker(bed->machine, false);
    regions = fake_machine_list(bed->machine);
    bed->source = ferry_source_new(&config, &regions, &bed->tracker);
    ferry_source_connect(bed->source, &error);
    g_assert_no_error(error);
    g_assert_true(ferry_source_stopped(bed->source, limit_ms, &error));
    g_assert_true(ferry_source_hand_off(bed->source, &error));
    return bed;
}

static void bed_free(Bed *bed)
{
    ferry_source_free(bed->source);
    ferry_channel_free(bed->control);
    close(bed->data);
    fake_machine_free(bed->machine);
    g_free(bed);
}

static void say(Bed *bed, FerryFrameType type)
{
    g_assert_true(ferry_control_send(bed->control, type, 0, NULL, NULL));
}

/* The next of the source's frames that is a @type, or whether the channel ends before it. */
static bool hears(Bed *bed, FerryFrameType type, char **text)
{
    for (;;) {
        g_autoptr(GByteArray) body = NULL;
        FerryFrame frame;

        if (!ferry_control_receive(bed->control, &frame, &body, NULL)) {
            return false;
        }
        if (frame.type == type) {
            if (text) {
                *text = ferry_error_text_decode(body ? body->data : NULL, body ? body->len : 0);
            }
            return true;
        }
    }
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

/* --- Tests ---------------------------------------------------------------------------------------- */

static void test_taken(void)
{
    Bed *bed = bed_new(0);
    g_autoptr(GError) error = NULL;

    say(bed, FERRY_FRAME_LOADED);
    g_assert_true(ferry_source_wait_loaded(bed->source, &error));
    g_assert_false(ferry_source_is_gone(bed->source));
    g_assert_true(ferry_source_go(bed->source));
    g_assert_true(ferry_source_is_gone(bed->source));
    g_assert_true(hears(bed, FERRY_FRAME_GO, NULL));
    say(bed, FERRY_FRAME_TAKEN);
    g_assert_true(ferry_source_wait_taken(bed->source, &error));
    /* All that counts is done: that the destination hangs up is no failure. */
    ferry_channel_shutdown(bed->control);
    ferry_sleep_us(50000);
    g_assert_null(ferry_source_cause(bed->source, 0));
    ferry_source_finish(bed->source, 100);
    g_assert_cmpint(ferry_source_phase(bed->source), ==, FERRY_SOURCE_DONE);
    bed_free(bed);
}

static void test_doubt(void)
{
    Bed *bed = bed_new(0);
    g_autoptr(GError) error = NULL;

    say(bed, FERRY_FRAME_LOADED);
    g_assert_true(ferry_source_wait_loaded(bed->source, &error));
    g_assert_true(ferry_source_go(bed->source));
    ferry_channel_shutdown(bed->control);
    g_assert_false(ferry_source_wait_taken(bed->source, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_LOST);
    g_assert_nonnull(strstr(error->message, "look at the destination"));
    g_assert_nonnull(strstr(error->message, "only if the migration has failed there"));
    g_assert_cmpint(ferry_source_phase(bed->source), ==, FERRY_SOURCE_IN_DOUBT);
    /* Cancelling comes too late: who has the guest is as doubtful as before. */
    ferry_source_cancel(bed->source);
    g_assert_cmpint(ferry_source_phase(bed->source), ==, FERRY_SOURCE_IN_DOUBT);
    g_assert_true(ferry_source_is_gone(bed->source));
    bed_free(bed);
}

/* Something else has failed, or somebody has cancelled, after LOADED: no GO, and the destination hears why. */
static void test_no_go(gconstpointer data)
{
    bool cancelled = GPOINTER_TO_INT(data);
    g_autofree char *text = NULL;
    Bed *bed = bed_new(0);
    g_autoptr(GError) error = NULL;

    say(bed, FERRY_FRAME_LOADED);
    g_assert_true(ferry_source_wait_loaded(bed->source, &error));
    if (cancelled) {
        ferry_source_cancel(bed->source);
    } else {
        ferry_source_note_failure(bed->source,
                                  g_error_new_literal(FERRY_ERROR, FERRY_ERROR_IO, "it broke"));
    }
    g_assert_false(ferry_source_go(bed->source));
    g_assert_false(ferry_source_fail(bed->source, &error));
    g_assert_false(ferry_source_is_gone(bed->source));
    g_assert_cmpint(ferry_source_phase(bed->source), ==,
                    cancelled ? FERRY_SOURCE_CANCELLED : FERRY_SOURCE_FAILED);
    g_assert_true(hears(bed, FERRY_FRAME_ERROR, &text));
    g_assert_cmpstr(text, ==,
                    cancelled ? "the migration was cancelled" : "the guest goes on at the source");
    g_assert_false(hears(bed, FERRY_FRAME_GO, NULL));
    bed_free(bed);
}

/* The destination fails after LOADED, and says so.  It waits until it hears that the source keeps the guest. */
static void test_no_go_after_error(void)
{
    g_autofree char *text = NULL;
    Bed *bed = bed_new(0);
    g_autoptr(GError) error = NULL;

    say(bed, FERRY_FRAME_LOADED);
    g_assert_true(ferry_source_wait_loaded(bed->source, &error));
    ferry_control_send_error(bed->control, "no memory is left");
    g_assert_true(hears(bed, FERRY_FRAME_ERROR, &text));
    g_assert_cmpstr(text, ==, "the guest goes on at the source");
    g_assert_false(ferry_source_go(bed->source));
    g_assert_false(ferry_source_fail(bed->source, &error));
    g_assert_cmpstr(error->message, ==, "the destination says: no memory is left");
    g_assert_cmpint(ferry_source_phase(bed->source), ==, FERRY_SOURCE_FAILED);
    bed_free(bed);
}

/* The destination never says LOADED: the source takes the guest back, and says what it waited for. */
static void test_limit(void)
{
    g_autofree char *text = NULL;
    Bed *bed = bed_new(300);
    g_autoptr(GError) error = NULL;

    g_assert_false(ferry_source_wait_loaded(bed->source, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_TIMEOUT);
    g_assert_nonnull(
        strstr(error->message, "300 ms (switchover-timeout), waiting for the destination to load"));
    g_assert_cmpint(ferry_source_phase(bed->source), ==, FERRY_SOURCE_FAILED);
    g_assert_true(hears(bed, FERRY_FRAME_ERROR, &text));
    g_assert_nonnull(strstr(text, "switchover-timeout"));
    g_assert_false(ferry_source_go(bed->source));
    /* Whoever waits on QEMU's own connection must get to know. */
    while (bed->nr_broken == 0) {
        g_usleep(1000);
    }
    bed_free(bed);
}

/* It counts up to GO and not further. */
static void test_limit_is_met(void)
{
    Bed *bed = bed_new(1000);
    g_autoptr(GError) error = NULL;

    say(bed, FERRY_FRAME_LOADED);
    g_assert_true(ferry_source_wait_loaded(bed->source, &error));
    g_assert_true(ferry_source_go(bed->source));
    ferry_sleep_us(1500000);
    say(bed, FERRY_FRAME_TAKEN);
    g_assert_true(ferry_source_wait_taken(bed->source, &error));
    bed_free(bed);
}

/*
 * All has been handed off; the driver sends the device state, and then waits for the destination's word
 * on another connection.  The control channel breaks towards the source only.  Unless the source breaks
 * the others, a destination that waits for the hand-off never hears of it.
 */
static void test_control_breaks(void)
{
    Bed *bed = bed_new(0);

    shutdown(ferry_channel_fd(bed->control), SHUT_WR);
    g_assert_true(is_hung_up(bed->data));
    bed_free(bed);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/release/taken", test_taken);
    g_test_add_func("/release/doubt", test_doubt);
    g_test_add_data_func("/release/no-go/failed", GINT_TO_POINTER(FALSE), test_no_go);
    g_test_add_data_func("/release/no-go/cancelled", GINT_TO_POINTER(TRUE), test_no_go);
    g_test_add_func("/release/no-go/destination-says-why", test_no_go_after_error);
    g_test_add_func("/release/control-breaks", test_control_breaks);
    g_test_add_func("/release/limit", test_limit);
    g_test_add_func("/release/limit-is-met", test_limit_is_met);
    steered_clock_start();
    return steered_clock_report(g_test_run());
}
