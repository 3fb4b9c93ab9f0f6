/*
 * Connections that are not the source's: see strangers.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/crc32c.h"
#include <poll.h>

#include "strangers.h"

/* Written out again, so that a change of the wire is noticed here. */
#define FRAME_MAGIC 0x59525246u
#define FRAME_HELLO 1
#define HEAD_BYTES  STRANGER_HEAD_BYTES
#define BODY_BYTES  (STRANGER_HELLO_BYTES - HEAD_BYTES)

void strangers_make(Run *run)
{
    Strangers *strangers = g_new0(Strangers, 1);

    strangers->uri = g_strdup(run->uri);
    run->opaque = strangers;
}

void stranger_hello(uint8_t frame[STRANGER_HELLO_BYTES], uint64_t session, uint16_t version,
                    uint8_t role)
{
    uint8_t *body = frame + HEAD_BYTES;

    memset(frame, 0, STRANGER_HELLO_BYTES);
    stq_le_p(body, session);
    stw_le_p(body + 8, version);
    body[10] = role;
    stl_le_p(frame, FRAME_MAGIC);
    frame[4] = FRAME_HELLO;
    frame[5] = 1; /* the payload's checksum is given */
    stl_le_p(frame + 12, BODY_BYTES);
    stl_le_p(frame + 24, crc32c(0xffffffff, body, BODY_BYTES));
    stl_le_p(frame + 28, crc32c(0xffffffff, frame, 28));
}

void stranger_comes(Run *run, const void *words, size_t nr_bytes)
{
    Strangers *strangers = run->opaque;
    int fd = connect_to(strangers->uri);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpuint(strangers->nr, <, G_N_ELEMENTS(strangers->fds));
    if (nr_bytes > 0) {
        g_assert_cmpint(send(fd, words, nr_bytes, MSG_NOSIGNAL), ==, nr_bytes);
    }
    strangers->fds[strangers->nr++] = fd;
}

void stranger_expect_hung_up(Run *run, unsigned number)
{
    Strangers *strangers = run->opaque;
    struct timeval patience = {.tv_sec = VM_PATIENCE_S};
    char buffer[256];
    ssize_t nr;

    setsockopt(strangers->fds[number], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    do {
        nr = recv(strangers->fds[number], buffer, sizeof(buffer), 0);
    } while (nr > 0);
    g_assert_true(nr == 0 || errno == ECONNRESET);
}

void stranger_expect_kept(Run *run, unsigned number)
{
    Strangers *strangers = run->opaque;
    struct pollfd pollfd = {.fd = strangers->fds[number], .events = POLLIN};

    g_assert_cmpint(poll(&pollfd, 1, 0), ==, 0);
}

void strangers_expect_hung_up(Run *run)
{
    Strangers *strangers = run->opaque;

    for (unsigned i = 0; i < strangers->nr; i++) {
        stranger_expect_hung_up(run, i);
    }
}

void strangers_crowd(Run *run, unsigned nr_more, const void *words, size_t nr_bytes)
{
    for (unsigned i = 0; i < STRANGERS_MAX + nr_more; i++) {
        stranger_comes(run, words, nr_bytes);
    }
    for (unsigned i = 0; i < nr_more; i++) {
        stranger_expect_hung_up(run, i);
    }
    for (unsigned i = nr_more; i < STRANGERS_MAX + nr_more; i++) {
        stranger_expect_kept(run, i);
    }
}
