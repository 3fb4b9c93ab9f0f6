/*
 * The network between the two sides: see fault-world.h.
 *
 * Threads: one, the referee's, so that it can fork at any time.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "fault-world.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BUFFER_BYTES 65536
#define LINKS_MAX    64

/* What has come on one end, and is to go out on the other. */
typedef struct Way {
    uint8_t data[BUFFER_BYTES];
    size_t at, nr_bytes;
} Way;

/* A connection; a descriptor that is closed is -1. */
typedef struct Link {
    int fds[FAULT_SIDES];
    Way from[FAULT_SIDES];
    bool stalled;
} Link;

struct FaultNet {
    int listeners[2], numbers[2], destination[2];
    unsigned nr_dialled, refused;
    bool silent;
    Link *links[LINKS_MAX];
    unsigned nr_links;
};

/* --- Dialling --------------------------------------------------------------------------------- */

static socklen_t make_name(struct sockaddr_un *name, int number)
{
    *name = (struct sockaddr_un){.sun_family = AF_UNIX};
    /* Abstract: nothing is left of it. */
    g_snprintf(name->sun_path + 1, sizeof(name->sun_path) - 1, "ferry-fault-%d", number);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name->sun_path + 1));
}

int fault_listen(int *number)
{
    static unsigned nr;
    struct sockaddr_un name;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    *number = (int)((unsigned)getpid() * 64 + nr++ % 64);
    g_assert_cmpint(bind(fd, (struct sockaddr *)&name, make_name(&name, *number)), ==, 0);
    g_assert_cmpint(listen(fd, 64), ==, 0);
    return fd;
}

int fault_dial(int number)
{
    struct sockaddr_un name;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (connect(fd, (struct sockaddr *)&name, make_name(&name, number)) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

FaultNet *fault_net_new(void)
{
    FaultNet *net = g_new0(FaultNet, 1);

    for (unsigned i = 0; i < 2; i++) {
        net->listeners[i] = fault_listen(&net->numbers[i]);
    }
    return net;
}

int fault_net_number(const FaultNet *net, unsigned which)
{
    return net->numbers[which];
}

void fault_net_set_destination(FaultNet *net, const int numbers[2])
{
    net->destination[0] = numbers[0];
    net->destination[1] = numbers[1];
}

void fault_net_refuse(FaultNet *net, unsigned number)
{
    net->nr_dialled = 0;
    net->refused = number;
}

static void connect_one(FaultNet *net, unsigned which)
{
    int here = accept4(net->listeners[which], NULL, NULL, SOCK_CLOEXEC);
    Link *link;

    if (which == 1 && ++net->nr_dialled == net->refused) {
        close(here);
        return;
    }
    g_assert_cmpuint(net->nr_links, <, LINKS_MAX);
    link = net->links[net->nr_links++] = g_new0(Link, 1);
    link->stalled = net->silent;
    link->fds[FAULT_SOURCE] = here;
    link->fds[FAULT_DESTINATION] = fault_dial(net->destination[which]);
    if (link->fds[FAULT_DESTINATION] < 0) {
        close(here);
        link->fds[FAULT_SOURCE] = -1;
    }
}

/* --- What goes wrong -------------------------------------------------------------------------- */

static void close_end(Link *link, FaultSide side)
{
    if (link->fds[side] >= 0) {
        close(link->fds[side]);
        link->fds[side] = -1;
    }
}

void fault_net_apply(FaultNet *net, FaultEffect effect)
{
    for (unsigned i = 0; i < net->nr_links; i++) {
        Link *link = net->links[i];

        if (effect == FAULT_CUT_SOURCE || effect == FAULT_CUT_BOTH) {
            close_end(link, FAULT_SOURCE);
        }
        if (effect == FAULT_CUT_DESTINATION || effect == FAULT_CUT_BOTH) {
            close_end(link, FAULT_DESTINATION);
        }
        link->stalled = true;
    }
    net->silent |= effect == FAULT_SILENCE;
}

void fault_net_reset(FaultNet *net)
{
    for (unsigned which = 0; which < 2; which++) {
        struct pollfd pollfd = {.fd = net->listeners[which], .events = POLLIN};

        while (poll(&pollfd, 1, 0) > 0) {
            close(accept4(net->listeners[which], NULL, NULL, SOCK_CLOEXEC));
        }
    }
    for (unsigned i = 0; i < net->nr_links; i++) {
        close_end(net->links[i], FAULT_SOURCE);
        close_end(net->links[i], FAULT_DESTINATION);
        g_free(net->links[i]);
    }
    net->nr_links = 0;
    net->silent = false;
    fault_net_refuse(net, 0);
}

void fault_net_leave(FaultNet *net)
{
    close(net->listeners[0]);
    close(net->listeners[1]);
    for (unsigned i = 0; i < net->nr_links; i++) {
        close_end(net->links[i], FAULT_SOURCE);
        close_end(net->links[i], FAULT_DESTINATION);
    }
}

void fault_net_free(FaultNet *net)
{
    fault_net_reset(net);
    close(net->listeners[0]);
    close(net->listeners[1]);
    g_free(net);
}

/* --- Letting through -------------------------------------------------------------------------- */

/* False when one end is gone. */
static bool receive(Link *link, FaultSide from)
{
    Way *way = &link->from[from];
    ssize_t nr = recv(link->fds[from], way->data, sizeof(way->data), MSG_DONTWAIT);

    way->at = 0;
    way->nr_bytes = nr > 0 ? (size_t)nr : 0;
    return nr > 0;
}

/* What the other end does not take any more is lost; what that one has said before is not. */
static void pass_on(Link *link, FaultSide from)
{
    Way *way = &link->from[from];
    ssize_t nr =
        send(link->fds[!from], way->data + way->at, way->nr_bytes, MSG_NOSIGNAL | MSG_DONTWAIT);

    if (nr > 0) {
        way->at += (size_t)nr;
        way->nr_bytes -= (size_t)nr;
    } else if (errno != EAGAIN) {
        way->nr_bytes = 0;
    }
}

static short events_of(const Link *link, FaultSide side)
{
    if (link->stalled) {
        return 0;
    }
    return (short)((link->from[side].nr_bytes ? 0 : POLLIN) |
                   (link->from[!side].nr_bytes ? POLLOUT : 0));
}

static void serve_end(Link *link, FaultSide side, short revents)
{
    bool ok = true;

    if (link->stalled || link->fds[side] < 0 || link->fds[!side] < 0 || !revents) {
        return;
    }
    if (link->from[!side].nr_bytes && (revents & (POLLOUT | POLLERR | POLLHUP))) {
        pass_on(link, !side);
    }
    if (!link->from[side].nr_bytes && (revents & (POLLIN | POLLERR | POLLHUP))) {
        /* What came before the end has been passed on. */
        ok = receive(link, side);
    }
    if (!ok) {
        close_end(link, FAULT_SOURCE);
        close_end(link, FAULT_DESTINATION);
    }
}

void fault_net_run(FaultNet *net, const int *fds, unsigned nr_fds, unsigned timeout_ms)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)timeout_ms * 1000;
    bool told = false;

    while (!told && g_get_monotonic_time() < deadline) {
        struct pollfd polled[2 * LINKS_MAX + 2 + 8];
        const unsigned nr_links = net->nr_links;
        unsigned nr = 0;

        for (unsigned i = 0; i < nr_fds; i++) {
            polled[nr++] = (struct pollfd){.fd = fds[i], .events = POLLIN};
        }
        for (unsigned which = 0; which < 2; which++) {
            polled[nr++] = (struct pollfd){.fd = net->listeners[which], .events = POLLIN};
        }
        for (unsigned i = 0; i < nr_links; i++) {
            Link *link = net->links[i];

            for (unsigned side = 0; side < FAULT_SIDES; side++) {
                short events = events_of(link, side);

                polled[nr++] = (struct pollfd){
                    .fd = events ? link->fds[side] : -1,
                    .events = events,
                };
            }
        }
        poll(polled, nr, (int)MIN(timeout_ms, 20));
        for (unsigned i = 0; i < nr_fds; i++) {
            told |= polled[i].revents != 0;
        }
        for (unsigned i = 0; i < nr_links; i++) {
            serve_end(net->links[i], FAULT_SOURCE, polled[nr_fds + 2 + 2 * i].revents);
            serve_end(net->links[i], FAULT_DESTINATION, polled[nr_fds + 3 + 2 * i].revents);
        }
        for (unsigned which = 0; which < 2; which++) {
            if (polled[nr_fds + which].revents) {
                connect_one(net, which);
            }
        }
    }
}
