/*
 * Connections to the destination's port that are not the source's.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"

#include "strangers.h"

#define SESSION 0x123456789abcdef0

static void send_garbage(Run *run)
{
    g_autofree char *noise = g_strnfill(4096, '?');

    stranger_comes(run, noise, 4096);
    stranger_comes(run, "GET / HTTP/1.0\r\n\r\n", 18);
    stranger_comes(run, "GET / HTTP/1.0\r\n\r\nmuch longer than a frame's header is", 53);
    stranger_expect_hung_up(run, 0);
    stranger_expect_hung_up(run, 2);
    /* What has come is less than a frame's header. */
    stranger_expect_kept(run, 1);
}

static void send_wrong_session(Run *run)
{
    uint8_t frame[STRANGER_HELLO_BYTES];

    for (uint8_t role = 1; role <= 2; role++) {
        stranger_hello(frame, SESSION, 4, role);
        stranger_comes(run, frame, sizeof(frame));
        stranger_expect_hung_up(run, role - 1);
    }
}

static void send_wrong_version(Run *run)
{
    uint8_t frame[STRANGER_HELLO_BYTES];

    stranger_hello(frame, SESSION, 77, 1);
    stranger_comes(run, frame, sizeof(frame));
    stranger_expect_hung_up(run, 0);
}

static void send_half_a_hello(Run *run)
{
    uint8_t frame[STRANGER_HELLO_BYTES];

    stranger_hello(frame, 1, 4, 1);
    stranger_comes(run, frame, STRANGER_HEAD_BYTES + 3);
    g_usleep(100 * 1000);
    stranger_expect_kept(run, 0);
}

static void send_silent_crowd(Run *run)
{
    strangers_crowd(run, 9, NULL, 0);
}

/* Comes, and goes at once. */
static void send_hasty(Run *run)
{
    Strangers *strangers = run->opaque;
    unsigned nr_open = vm_count_fds(run->destination);

    for (int i = 0; i < 20; i++) {
        stranger_comes(run, "x", 1);
        close(strangers->fds[--strangers->nr]);
    }
    /* Nothing is left of them once another one has come; of the last ones perhaps, for a moment. */
    for (unsigned tries = 0; vm_count_fds(run->destination) > nr_open + 2; tries++) {
        g_assert_cmpuint(tries, <, 100);
        g_usleep(20 * 1000);
        stranger_comes(run, "x", 1);
        close(strangers->fds[--strangers->nr]);
    }
}

/* When all channels are in. Whether the port still answers then is no matter; nobody is kept. */
static void come_late(Run *run)
{
    Strangers *strangers = run->opaque;
    uint8_t frame[STRANGER_HELLO_BYTES];

    stranger_hello(frame, SESSION, 4, 2);
    for (int i = 0; i < 10; i++) {
        int fd = connect_to(strangers->uri);

        if (fd >= 0) {
            send(fd, frame, i % 3 ? sizeof(frame) : 5, MSG_NOSIGNAL);
            strangers->fds[strangers->nr++] = fd;
        }
    }
}

/* Before the source, with multifd: QEMU wants the first word of each, and these never say it. */
static void come_first(Run *run)
{
    gint64 began = g_get_monotonic_time();

    strangers_make(run);
    stranger_comes(run, NULL, 0);
    stranger_comes(run, "ab", 2);
    stranger_comes(run, NULL, 0);
    g_free(vm_run_state(run->destination));
    g_assert_cmpint(g_get_monotonic_time() - began, <, G_USEC_PER_SEC);
}

/* What multifd's first packet begins with; and all of that but a byte. */
static void come_with_half_a_packet(Run *run)
{
    static const uint8_t packet[64] = {0x11, 0x22, 0x33, 0x44};
    gint64 began = g_get_monotonic_time();

    strangers_make(run);
    stranger_comes(run, packet, 4);
    stranger_comes(run, packet, sizeof(packet) - 1);
    /* None of QEMU's. */
    stranger_comes(run, "GET / HTTP/1.0\r\n\r\n", 18);
    g_free(vm_run_state(run->destination));
    g_assert_cmpint(g_get_monotonic_time() - began, <, G_USEC_PER_SEC);
    stranger_expect_hung_up(run, 2);
    stranger_expect_kept(run, 0);
}

/* As many as a source may open, before it says a word on any: none has to go for another. */
#define MANY_CHANNELS 200

static void come_in_numbers(Run *run)
{
    strangers_make(run);
    for (unsigned i = 0; i < MANY_CHANNELS; i++) {
        stranger_comes(run, NULL, 0);
    }
    g_usleep(500 * 1000);
    for (unsigned i = 0; i < MANY_CHANNELS; i++) {
        stranger_expect_kept(run, i);
    }
}

/* With post-copy, QEMU takes the first connection for the main one, and waits for a packet on all others. */
static void expect_monitor(Run *run)
{
    gint64 began;

    proxy_wait_connections(run->proxy, 3);
    g_usleep(300 * 1000);
    began = g_get_monotonic_time();
    g_free(vm_run_state(run->destination));
    g_assert_cmpint(g_get_monotonic_time() - began, <, G_USEC_PER_SEC);
}

static void stall_all_but_main(Run *run)
{
    g_autofree char *target = g_steal_pointer(&run->uri);

    run->proxy = proxy_new(target);
    run->uri = proxy_uri(run->proxy);
    proxy_stall_from(run->proxy, 1);
}

static void wait_completed(Run *run)
{
    g_free(vm_wait_status(run->source, "completed"));
}

static void expect_words(Run *run, const char *words)
{
    g_autofree char *log = vm_log(run->destination);

    if (!strstr(log, words)) {
        g_error("the destination does not log '%s' but:\n%s", words, log);
    }
}

static void expect_frame(Run *run)
{
    expect_words(run, "not a Ferry frame");
}

static void expect_session(Run *run)
{
    expect_words(run, "session");
}

static void expect_version(Run *run)
{
    expect_words(run, "version 77");
}

static const Case cases[] = {
    {
        .name = "strangers/garbage",
        .before = strangers_make,
        .hold = HOLD_CHANNELS,
        .during = send_garbage,
        .after = expect_frame,
    },
    {
        .name = "strangers/wrong-session",
        .before = strangers_make,
        .hold = HOLD_CHANNELS,
        .during = send_wrong_session,
        .after = expect_session,
    },
    {
        .name = "strangers/wrong-version",
        .before = strangers_make,
        .hold = HOLD_CHANNELS,
        .during = send_wrong_version,
        .after = expect_version,
    },
    {
        .name = "strangers/half-a-hello",
        .before = strangers_make,
        .hold = HOLD_CHANNELS,
        .during = send_half_a_hello,
        .after = strangers_expect_hung_up,
    },
    {
        .name = "strangers/hasty",
        .before = strangers_make,
        .hold = HOLD_CHANNELS,
        .during = send_hasty,
    },
    {
        .name = "strangers/silent-crowd",
        .before = strangers_make,
        .hold = HOLD_CHANNELS,
        .during = send_silent_crowd,
        .after = strangers_expect_hung_up,
    },
    {
        .name = "strangers/first-of-multifd",
        .capabilities = "multifd",
        .before = come_first,
        .hold = HOLD_NOT,
        .during = wait_completed,
        .after = strangers_expect_hung_up,
    },
    {
        .name = "strangers/first-of-multifd-stock-path",
        .source_options = "-global ferry.enabled=off",
        .capabilities = "multifd",
        .fallback = "switched off",
        .destination_fallback = "the source has no Ferry, or has it switched off",
        .before = come_first,
        .hold = HOLD_NOT,
        .during = wait_completed,
        .after = strangers_expect_hung_up,
    },
    {
        .name = "strangers/half-of-multifd",
        .capabilities = "multifd",
        .before = come_with_half_a_packet,
        .hold = HOLD_NOT,
        .during = wait_completed,
        .after = strangers_expect_hung_up,
    },
    {
        .name = "strangers/many-of-multifd",
        .capabilities = "multifd",
        .source_parameters = "{ 'multifd-channels': 2 }",
        .destination_parameters = "{ 'multifd-channels': 200 }",
        .before = come_in_numbers,
        .hold = HOLD_NOT,
        .during = wait_completed,
        .after = strangers_expect_hung_up,
    },
    {
        .name = "strangers/mute-multifd-of-postcopy",
        .capabilities = "multifd postcopy-ram",
        .second_capabilities = "no-multifd no-postcopy-ram",
        .parameters = "{ 'multifd-channels': 2 }",
        .before = stall_all_but_main,
        .hold = HOLD_NOT,
        .during = expect_monitor,
        .then = THEN_CANCEL,
    },
    {
        .name = "strangers/late",
        .before = strangers_make,
        .during = come_late,
        .after = strangers_expect_hung_up,
    },
    {
        .name = "strangers/late-to-stock-path",
        .before = strangers_make,
        .source_options = "-global ferry.enabled=off",
        .fallback = "switched off",
        .during = come_late,
        .after = strangers_expect_hung_up,
    },
};

void add_stranger_cases(void)
{
    cases_add(cases, G_N_ELEMENTS(cases));
}
