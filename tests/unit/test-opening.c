/*
 * Opening a session, and what can go wrong before READY: at the source, against a destination that is nothing
 * but its ends of the channels.
 *
 * Whatever the channels do, no session comes about, in time, and the error is none that ends the migration;
 * only a destination that refuses the guest does that.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <sys/socket.h>
#include <unistd.h>

#include "fake-machine.h"
#include "migration/error.h"
#include "migration/wire/control.h"
#include "steered-clock.h"

/* Nothing in it was touched: there is nothing to send. */
static const FakeRegion empty[] = {{.id = "pc.ram", .nr_pages = 64}, {0}};

#define LIMIT_MS 600

/* How much longer than that a loaded machine may take. */
#define GRACE_MS 5000

typedef struct Ends {
    int control, data;
    void (*act)(struct Ends *ends); /* once all channels have said hello */
    GThread *thread;
} Ends;

static void hush(Ends *ends)
{
}

static void close_control(Ends *ends)
{
    shutdown(ends->control, SHUT_RDWR);
}

static void close_data(Ends *ends)
{
    shutdown(ends->data, SHUT_RDWR);
}

static void say_garbage(Ends *ends)
{
    static const char noise[] = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";

    g_assert_cmpint(send(ends->control, noise, sizeof(noise), 0), ==, sizeof(noise));
}

static void say(Ends *ends, FerryFrameType type)
{
    g_autoptr(FerryChannel) channel = ferry_channel_new_socket(dup(ends->control), "end");

    g_assert_true(ferry_control_send(channel, type, 0, NULL, NULL));
}

static void close_data_and_be_ready(Ends *ends)
{
    close_data(ends);
    say(ends, FERRY_FRAME_READY);
}

static void refuse(Ends *ends)
{
    g_autoptr(FerryChannel) channel = ferry_channel_new_socket(dup(ends->control), "end");

    ferry_control_send_error(channel, "RAM block 'ram' does not fit");
    /* As a destination does that gives up. */
    close_data(ends);
}

static void beat(Ends *ends)
{
    for (unsigned i = 0; i < 4; i++) {
        ferry_sleep_us(LIMIT_MS * 1000 / 2);
        say(ends, i < 3 ? FERRY_FRAME_BEAT : FERRY_FRAME_READY);
    }
}

static void take_hello(int fd)
{
    g_autoptr(FerryChannel) channel = ferry_channel_new_socket(dup(fd), "end");
    g_autoptr(GByteArray) body = NULL;
    FerryFrame frame;

    g_assert_true(ferry_control_receive(channel, &frame, &body, NULL));
    g_assert_cmpuint(frame.type, ==, FERRY_FRAME_HELLO);
}

static gpointer act_run(gpointer opaque)
{
    Ends *ends = opaque;

    take_hello(ends->control);
    take_hello(ends->data);
    ends->act(ends);
    return NULL;
}

static bool dial(void *opaque, const char *const *names, unsigned nr, gint64 deadline_us,
                 FerryChannel **dialled, GError **errp)
{
    Ends *ends = opaque;

    for (unsigned i = 0; i < nr; i++) {
        int fds[2];

        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), ==, 0);
        *(g_str_equal(names[i], "control") ? &ends->control : &ends->data) = fds[1];
        dialled[i] = ferry_channel_new_socket(fds[0], names[i]);
    }
    ends->thread = g_thread_new("act", act_run, ends);
    return true;
}

typedef struct Opening {
    const char *name;
    void (*act)(Ends *ends);
    bool opens;
    bool at_once; /* not only when the limit is over */
    int code;     /* of the error */
    const char *words;
} Opening;

static void test_opening(gconstpointer data)
{
    const Opening *opening = data;
    Ends ends = {.act = opening->act};
    FakeMachine *machine = fake_machine_new(empty, true);
    FerryTracker tracker = fake_machine_tracker(machine, false);
    FerryRegions regions = fake_machine_list(machine);
    gint64 start_us = ferry_now_us(), took_ms;
    FerrySourceConfig config = {
        .dial = dial,
        .opaque = &ends,
        .session = 1,
        .version = FERRY_WIRE_VERSION_MAX,
        .nr_channels = 1,
        .open_deadline_us = start_us + LIMIT_MS * 1000,
        .open_timeout_ms = LIMIT_MS,
    };
    FerrySource *source = ferry_source_new(&config, &regions, &tracker);
    g_autoptr(GError) error = NULL;

    g_assert_cmpint(ferry_source_connect(source, &error), ==, opening->opens);
    took_ms = (ferry_now_us() - start_us) / 1000;
    if (!opening->opens) {
        g_assert_error(error, FERRY_ERROR, opening->code);
        g_assert_nonnull(strstr(error->message, opening->words));
        g_assert_cmpint(took_ms, <, LIMIT_MS + GRACE_MS);
    }
    if (!opening->opens && !opening->at_once) {
        g_assert_cmpint(took_ms, >=, LIMIT_MS);
    }
    g_clear_pointer(&ends.thread, g_thread_join);
    ferry_source_free(source);
    close(ends.control);
    close(ends.data);
    fake_machine_free(machine);
}

int main(int argc, char **argv)
{
    static const Opening openings[] = {
        {
            .name = "silent",
            .act = hush,
            .code = FERRY_ERROR_IO,
            .words = "did not say in time",
        },
        {
            .name = "control-closed",
            .act = close_control,
            .at_once = true,
            .code = FERRY_ERROR_LOST,
            .words = "channel 'control'",
        },
        {
            .name = "data-closed",
            .act = close_data,
            .at_once = true,
            .code = FERRY_ERROR_LOST,
            .words = "channel 'data 0'",
        },
        {
            .name = "data-closed-and-ready",
            .act = close_data_and_be_ready,
            .at_once = true,
            .code = FERRY_ERROR_LOST,
            .words = "channel 'data 0'",
        },
        {
            .name = "garbage",
            .act = say_garbage,
            .at_once = true,
            .code = FERRY_ERROR_PROTOCOL,
            .words = "not a Ferry frame",
        },
        {
            .name = "refused",
            .act = refuse,
            .at_once = true,
            .code = FERRY_ERROR_REFUSED,
            .words = "does not fit",
        },
        {
            .name = "at-work",
            .act = beat,
            .opens = true,
        },
    };

    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(openings); i++) {
        g_autofree char *path = g_strdup_printf("/opening/%s", openings[i].name);

        g_test_add_data_func(path, &openings[i], test_opening);
    }
    steered_clock_start();
    return steered_clock_report(g_test_run());
}
