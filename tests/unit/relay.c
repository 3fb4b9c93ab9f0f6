/*
 * A relay: see relay.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "relay.h"

#include <poll.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUFFER_BYTES 65536

/* How often a relay that stalls looks whether it still is to. */
#define STALLED_MS 2

struct Relay {
    int ends[2];
    GThread *thread;
    _Atomic bool stall, quit;
    _Atomic uint64_t left_bytes; /* until it cuts itself */
};

/* What has come on one end goes out on the other; false when that is over. */
static bool forward(Relay *relay, int from, int to)
{
    char buffer[BUFFER_BYTES];
    uint64_t left = atomic_load(&relay->left_bytes);
    ssize_t nr = recv(from, buffer, MIN(sizeof(buffer), left), 0);

    for (ssize_t done = 0, part; done < nr; done += part) {
        part = send(to, buffer + done, (size_t)(nr - done), MSG_NOSIGNAL);
        if (part <= 0) {
            return false;
        }
    }
    if (left != UINT64_MAX && nr > 0) {
        atomic_store(&relay->left_bytes, left - (uint64_t)nr);
        return left > (uint64_t)nr;
    }
    return nr > 0;
}

static gpointer relay_run(gpointer opaque)
{
    Relay *relay = opaque;
    bool ok = true;

    while (ok && !atomic_load(&relay->quit)) {
        struct pollfd fds[2] = {
            {.fd = relay->ends[0], .events = POLLIN},
            {.fd = relay->ends[1], .events = POLLIN},
        };

        if (atomic_load(&relay->stall)) {
            g_usleep(STALLED_MS * 1000);
            continue;
        }
        poll(fds, 2, STALLED_MS);
        for (int i = 0; i < 2 && ok; i++) {
            if (fds[i].revents && !atomic_load(&relay->stall)) {
                ok = forward(relay, relay->ends[i], relay->ends[!i]);
            }
        }
    }
    relay_cut(relay);
    return NULL;
}

Relay *relay_new(int a, int b)
{
    Relay *relay = g_new0(Relay, 1);

    relay->ends[0] = a;
    relay->ends[1] = b;
    atomic_store(&relay->left_bytes, UINT64_MAX);
    relay->thread = g_thread_new("relay", relay_run, relay);
    return relay;
}

void relay_cut(Relay *relay)
{
    shutdown(relay->ends[0], SHUT_RDWR);
    shutdown(relay->ends[1], SHUT_RDWR);
}

void relay_cut_after(Relay *relay, uint64_t nr_bytes)
{
    atomic_store(&relay->left_bytes, nr_bytes);
}

void relay_stall(Relay *relay, bool stall)
{
    atomic_store(&relay->stall, stall);
}

void relay_free(Relay *relay)
{
    atomic_store(&relay->quit, true);
    relay_cut(relay);
    g_thread_join(relay->thread);
    close(relay->ends[0]);
    close(relay->ends[1]);
    g_free(relay);
}
