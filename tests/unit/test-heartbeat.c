/*
 * Heartbeats: silence is noticed, and a slow path is not taken for a silent one.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "migration/wire/heartbeat.h"
#include "steered-clock.h"

/* What one write takes: more than any socket holds. */
#define BYTES (8 << 20)

typedef struct Bed {
    FerryChannel *here;
    int there;
    FerryHeartbeat *heartbeat;
    GThread *thread;
    _Atomic bool quit;
    _Atomic unsigned nr_silent;
} Bed;

static void silent(void *opaque, GError *error)
{
    Bed *bed = opaque;

    atomic_fetch_add(&bed->nr_silent, 1);
    g_error_free(error);
}

static void make_pair(bool tcp, int fds[2])
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t nr_bytes = sizeof(address);
    int listener;

    if (!tcp) {
        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), ==, 0);
        return;
    }
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(listener, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    g_assert_cmpint(listen(listener, 1), ==, 0);
    g_assert_cmpint(getsockname(listener, (struct sockaddr *)&address, &nr_bytes), ==, 0);
    fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(connect(fds[0], (struct sockaddr *)&address, sizeof(address)), ==, 0);
    fds[1] = accept(listener, NULL, NULL);
    close(listener);
}

static Bed *bed_new(bool tcp, bool writes)
{
    Bed *bed = g_new0(Bed, 1);
    int fds[2];

    make_pair(tcp, fds);
    bed->here = ferry_channel_new_socket(fds[0], "here");
    bed->there = fds[1];
    bed->heartbeat = ferry_heartbeat_new(FERRY_NETWORK_TIMEOUT_MIN_MS, silent, bed);
    ferry_heartbeat_add(bed->heartbeat, bed->here, writes, !writes);
    return bed;
}

static void bed_free(Bed *bed)
{
    atomic_store(&bed->quit, true);
    ferry_channel_shutdown(bed->here);
    g_thread_join(bed->thread);
    ferry_heartbeat_free(bed->heartbeat);
    ferry_channel_free(bed->here);
    close(bed->there);
    g_free(bed);
}

static gpointer write_much(gpointer opaque)
{
    Bed *bed = opaque;
    g_autofree char *bytes = g_malloc0(BYTES);

    /* One call for all of it, as for a frame. */
    ferry_channel_write_all(bed->here, bytes, BYTES, NULL);
    return NULL;
}

static gpointer read_one(gpointer opaque)
{
    Bed *bed = opaque;
    char byte;

    while (!atomic_load(&bed->quit) && ferry_channel_read_all(bed->here, &byte, 1, NULL)) {
    }
    return NULL;
}

/* Twice the time-out, in which the peer takes a little of what is written every tenth of a second. */
static void test_slow(gconstpointer data)
{
    Bed *bed = bed_new(GPOINTER_TO_INT(data), true);
    char bytes[8192];

    bed->thread = g_thread_new("writer", write_much, bed);
    ferry_heartbeat_start(bed->heartbeat);
    for (int i = 0; i < FERRY_NETWORK_TIMEOUT_MIN_MS * 2 / 100; i++) {
        g_assert_cmpint(recv(bed->there, bytes, sizeof(bytes), 0), >, 0);
        ferry_sleep_us(100000);
    }
    g_assert_cmpint(bed->here->write_began_us, !=, 0);
    g_assert_cmpuint(bed->nr_silent, ==, 0);
    bed_free(bed);
}

/* Nobody takes what is written to a UNIX socket. */
static void test_stuck(void)
{
    Bed *bed = bed_new(false, true);

    bed->thread = g_thread_new("writer", write_much, bed);
    ferry_heartbeat_start(bed->heartbeat);
    while (bed->nr_silent == 0) {
        g_usleep(10000);
    }
    bed_free(bed);
}

/* Nothing comes where something is read; a byte now and then is enough. */
static void test_quiet(void)
{
    Bed *bed = bed_new(true, false);

    bed->thread = g_thread_new("reader", read_one, bed);
    ferry_heartbeat_start(bed->heartbeat);
    for (int i = 0; i < 3; i++) {
        ferry_sleep_us(FERRY_NETWORK_TIMEOUT_MIN_MS * 600);
        g_assert_cmpint(send(bed->there, "b", 1, 0), ==, 1);
    }
    g_assert_cmpuint(bed->nr_silent, ==, 0);
    while (bed->nr_silent == 0) {
        g_usleep(10000);
    }
    bed_free(bed);
}

/* A beat never waits for room, or the other channels would have none meanwhile. */
static void test_beat_does_not_wait(void)
{
    Bed *bed = bed_new(false, true);
    char byte = 0;
    bool written;

    while (send(bed->there, &byte, 1, MSG_DONTWAIT) == 1) {
    }
    while (send(ferry_channel_fd(bed->here), &byte, 1, MSG_DONTWAIT) == 1) {
    }
    g_assert_true(ferry_channel_try_write_all(bed->here, &byte, 1, &written, NULL));
    g_assert_false(written);
    bed->thread = g_thread_new("reader", read_one, bed);
    bed_free(bed);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/heartbeat/slow/unix", GINT_TO_POINTER(FALSE), test_slow);
    g_test_add_data_func("/heartbeat/slow/tcp", GINT_TO_POINTER(TRUE), test_slow);
    g_test_add_func("/heartbeat/stuck", test_stuck);
    g_test_add_func("/heartbeat/quiet", test_quiet);
    g_test_add_func("/heartbeat/beat-does-not-wait", test_beat_does_not_wait);
    steered_clock_start();
    return steered_clock_report(g_test_run());
}
