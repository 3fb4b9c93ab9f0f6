/*
 * Connections to the destination's port that are not the source's.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/crc32c.h"

#include "case.h"

/* As in migration/wire/frame.h; written out again, so that a change of the wire is noticed here. */
#define HELLO_BYTES 16
#define FRAME_BYTES 32
#define FRAME_MAGIC 0x59525246u
#define FRAME_HELLO 1

/* Where a test's strangers go, and what becomes of them. */
typedef struct Strangers {
    char *uri;
    int fds[96];
    unsigned nr;
} Strangers;

/* A session's opening frame with an index of 0. */
static void make_hello(uint8_t frame[FRAME_BYTES + HELLO_BYTES], uint64_t session, uint16_t version,
                       uint8_t role)
{
    uint8_t *body = frame + FRAME_BYTES;

    memset(frame, 0, FRAME_BYTES + HELLO_BYTES);
    stq_le_p(body, session);
    stw_le_p(body + 8, version);
    body[10] = role;
    stl_le_p(frame, FRAME_MAGIC);
    frame[4] = FRAME_HELLO;
    frame[5] = 1; /* the payload's checksum is given */
    stl_le_p(frame + 12, HELLO_BYTES);
    stl_le_p(frame + 24, crc32c(0xffffffff, body, HELLO_BYTES));
    stl_le_p(frame + 28, crc32c(0xffffffff, frame, 28));
}

/* Says this and stays; says nothing when it is empty. */
static void come(Strangers *strangers, const void *words, size_t nr_bytes)
{
    int fd = connect_to(strangers->uri);

    g_assert_cmpint(fd, >=, 0);
    if (nr_bytes > 0) {
        g_assert_cmpint(send(fd, words, nr_bytes, MSG_NOSIGNAL), ==, nr_bytes);
    }
    strangers->fds[strangers->nr++] = fd;
}

/* The destination must hang up on it. */
static void expect_hang_up(Strangers *strangers, unsigned number)
{
    struct timeval patience = {.tv_sec = VM_PATIENCE_S};
    char buffer[256];
    ssize_t nr;

    setsockopt(strangers->fds[number], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    do {
        nr = recv(strangers->fds[number], buffer, sizeof(buffer), 0);
    } while (nr > 0);
    g_assert_true(nr == 0 || errno == ECONNRESET);
}

static void remember_address(Run *run)
{
    Strangers *strangers = g_new0(Strangers, 1);

    strangers->uri = g_strdup(run->uri);
    run->opaque = strangers;
}

static void send_garbage(Run *run)
{
    g_autofree char *noise = g_strnfill(4096, '?');

    come(run->opaque, noise, 4096);
    come(run->opaque, "GET / HTTP/1.0\r\n\r\n", 18);
    come(run->opaque, "GET / HTTP/1.0\r\n\r\nmuch longer than a frame's header is", 53);
    expect_hang_up(run->opaque, 0);
    expect_hang_up(run->opaque, 2);
}

static void send_wrong_session(Run *run)
{
    uint8_t frame[FRAME_BYTES + HELLO_BYTES];

    for (uint8_t role = 1; role <= 2; role++) {
        make_hello(frame, 0x123456789abcdef0, 4, role);
        come(run->opaque, frame, sizeof(frame));
        expect_hang_up(run->opaque, role - 1);
    }
}

static void send_wrong_version(Run *run)
{
    uint8_t frame[FRAME_BYTES + HELLO_BYTES];

    make_hello(frame, 0x123456789abcdef0, 77, 1);
    come(run->opaque, frame, sizeof(frame));
    expect_hang_up(run->opaque, 0);
}

static void send_half_a_hello(Run *run)
{
    uint8_t frame[FRAME_BYTES + HELLO_BYTES];

    make_hello(frame, 1, 4, 1);
    come(run->opaque, frame, FRAME_BYTES + 3);
}

/* More than the destination keeps waiting, and more still. */
static void send_silent_crowd(Run *run)
{
    for (int i = 0; i < 80; i++) {
        come(run->opaque, NULL, 0);
    }
}

/* Comes, and goes at once. */
static void send_hasty(Run *run)
{
    Strangers *strangers = run->opaque;

    for (int i = 0; i < 20; i++) {
        come(strangers, "x", 1);
        close(strangers->fds[--strangers->nr]);
    }
}

/* When all channels are in. Whether the port still answers then is no matter. */
static void come_late(Run *run)
{
    Strangers *strangers = run->opaque;
    uint8_t frame[FRAME_BYTES + HELLO_BYTES];

    make_hello(frame, 0x123456789abcdef0, 4, 2);
    for (int i = 0; i < 10; i++) {
        int fd = connect_to(strangers->uri);

        if (fd >= 0) {
            send(fd, frame, i % 3 ? sizeof(frame) : 5, MSG_NOSIGNAL);
            strangers->fds[strangers->nr++] = fd;
        }
    }
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
        .before = remember_address,
        .hold = HOLD_CHANNELS,
        .during = send_garbage,
        .after = expect_frame,
    },
    {
        .name = "strangers/wrong-session",
        .before = remember_address,
        .hold = HOLD_CHANNELS,
        .during = send_wrong_session,
        .after = expect_session,
    },
    {
        .name = "strangers/wrong-version",
        .before = remember_address,
        .hold = HOLD_CHANNELS,
        .during = send_wrong_version,
        .after = expect_version,
    },
    {
        .name = "strangers/half-a-hello",
        .before = remember_address,
        .hold = HOLD_CHANNELS,
        .during = send_half_a_hello,
    },
    {
        .name = "strangers/hasty",
        .before = remember_address,
        .hold = HOLD_CHANNELS,
        .during = send_hasty,
    },
    {
        .name = "strangers/silent-crowd",
        .before = remember_address,
        .hold = HOLD_CHANNELS,
        .during = send_silent_crowd,
    },
    {
        .name = "strangers/late",
        .before = remember_address,
        .during = come_late,
    },
    {
        .name = "strangers/late-to-stock-path",
        .before = remember_address,
        .source_options = "-global ferry.enabled=off",
        .fallback = "switched off",
        .during = come_late,
    },
};

void add_stranger_cases(void)
{
    cases_add(cases, G_N_ELEMENTS(cases));
}
