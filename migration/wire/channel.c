/*
 * Channels: see channel.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "channel.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../clock.h"
#include "../error.h"

FerryChannel *ferry_channel_new(const FerryChannelOps *ops, void *opaque, const char *name)
{
    FerryChannel *channel = g_new0(FerryChannel, 1);

    channel->ops = ops;
    channel->opaque = opaque;
    g_strlcpy(channel->name, name, sizeof(channel->name));
    g_mutex_init(&channel->write_lock);
    return channel;
}

bool ferry_channel_hung_up(FerryChannel *channel)
{
    struct pollfd pollfd = {.events = POLLRDHUP};

    pollfd.fd = channel->ops->fd ? channel->ops->fd(channel->opaque) : -1;
    return poll(&pollfd, 1, 0) > 0;
}

void ferry_channel_shutdown(FerryChannel *channel)
{
    channel->ops->shutdown(channel->opaque);
}

int ferry_channel_fd(const FerryChannel *channel)
{
    return channel->ops->fd ? channel->ops->fd(channel->opaque) : -1;
}

void ferry_channel_free(FerryChannel *channel)
{
    if (channel) {
        channel->ops->destroy(channel->opaque);
        g_mutex_clear(&channel->write_lock);
        g_free(channel);
    }
}

/* Drop @nr_bytes from the front of the vector; returns what is left of it. */
static int advance(struct iovec **iov, int nr_iov, size_t nr_bytes)
{
    while (nr_iov > 0 && nr_bytes >= (*iov)->iov_len) {
        nr_bytes -= (*iov)->iov_len;
        (*iov)++;
        nr_iov--;
    }
    if (nr_iov > 0) {
        (*iov)->iov_base = (char *)(*iov)->iov_base + nr_bytes;
        (*iov)->iov_len -= nr_bytes;
    }
    return nr_iov;
}

bool ferry_channel_readv_all(FerryChannel *channel, struct iovec *iov, int nr_iov, GError **errp)
{
    nr_iov = advance(&iov, nr_iov, 0);
    while (nr_iov > 0) {
        ssize_t done;

        atomic_store_explicit(&channel->read_began_us, ferry_now_us(), memory_order_relaxed);
        done = channel->ops->readv(channel->opaque, iov, nr_iov > IOV_MAX ? IOV_MAX : nr_iov, errp);
        atomic_store_explicit(&channel->read_began_us, 0, memory_order_relaxed);
        if (done < 0) {
            g_prefix_error(errp, "channel '%s': ", channel->name);
            return false;
        }
        if (done == 0) {
            g_set_error(errp, FERRY_ERROR, FERRY_ERROR_IO, "channel '%s': the other side closed it",
                        channel->name);
            return false;
        }
        atomic_fetch_add_explicit(&channel->received_bytes, (uint64_t)done, memory_order_relaxed);
        nr_iov = advance(&iov, nr_iov, (size_t)done);
    }
    return true;
}

/* With the write lock held. */
static bool writev_locked(FerryChannel *channel, struct iovec *iov, int nr_iov, GError **errp)
{
    bool ok = true;

    nr_iov = advance(&iov, nr_iov, 0);
    while (nr_iov > 0) {
        ssize_t done;

        atomic_store_explicit(&channel->write_began_us, ferry_now_us(), memory_order_relaxed);
        done =
            channel->ops->writev(channel->opaque, iov, nr_iov > IOV_MAX ? IOV_MAX : nr_iov, errp);
        if (done < 0) {
            g_prefix_error(errp, "channel '%s': ", channel->name);
            ok = false;
            break;
        }
        atomic_fetch_add_explicit(&channel->sent_bytes, (uint64_t)done, memory_order_relaxed);
        nr_iov = advance(&iov, nr_iov, (size_t)done);
    }
    atomic_store_explicit(&channel->write_began_us, 0, memory_order_relaxed);
    return ok;
}

bool ferry_channel_writev_all(FerryChannel *channel, struct iovec *iov, int nr_iov, GError **errp)
{
    bool ok;

    g_mutex_lock(&channel->write_lock);
    ok = writev_locked(channel, iov, nr_iov, errp);
    g_mutex_unlock(&channel->write_lock);
    return ok;
}

/* Whether the socket takes a few bytes at once; what waits in it already is heard as well. */
static bool has_room(const FerryChannel *channel)
{
    struct pollfd out = {.fd = ferry_channel_fd(channel), .events = POLLOUT};

    return out.fd < 0 || poll(&out, 1, 0) != 0;
}

bool ferry_channel_try_write_all(FerryChannel *channel, const void *data, size_t nr_bytes,
                                 bool *written, GError **errp)
{
    struct iovec iov = {.iov_base = (void *)data, .iov_len = nr_bytes};
    bool ok = true;

    *written = false;
    if (g_mutex_trylock(&channel->write_lock)) {
        *written = has_room(channel);
        ok = !*written || writev_locked(channel, &iov, 1, errp);
        g_mutex_unlock(&channel->write_lock);
    }
    return ok;
}

bool ferry_channel_read_all(FerryChannel *channel, void *data, size_t nr_bytes, GError **errp)
{
    struct iovec iov = {.iov_base = data, .iov_len = nr_bytes};

    return ferry_channel_readv_all(channel, &iov, 1, errp);
}

bool ferry_channel_write_all(FerryChannel *channel, const void *data, size_t nr_bytes,
                             GError **errp)
{
    struct iovec iov = {.iov_base = (void *)data, .iov_len = nr_bytes};

    return ferry_channel_writev_all(channel, &iov, 1, errp);
}

static ssize_t socket_readv(void *opaque, const struct iovec *iov, int nr_iov, GError **errp)
{
    struct msghdr message = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)nr_iov};
    ssize_t done;

    do {
        done = recvmsg(GPOINTER_TO_INT(opaque), &message, 0);
    } while (done < 0 && errno == EINTR);
    if (done < 0) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_IO, "cannot receive: %s", g_strerror(errno));
    }
    return done;
}

static ssize_t socket_writev(void *opaque, const struct iovec *iov, int nr_iov, GError **errp)
{
    struct msghdr message = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)nr_iov};
    ssize_t done;

    do {
        done = sendmsg(GPOINTER_TO_INT(opaque), &message, MSG_NOSIGNAL);
    } while (done < 0 && errno == EINTR);
    if (done < 0) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_IO, "cannot send: %s", g_strerror(errno));
    }
    return done;
}

static int socket_fd(void *opaque)
{
    return GPOINTER_TO_INT(opaque);
}

static void socket_shutdown(void *opaque)
{
    shutdown(GPOINTER_TO_INT(opaque), SHUT_RDWR);
}

static void socket_destroy(void *opaque)
{
    close(GPOINTER_TO_INT(opaque));
}

FerryChannel *ferry_channel_new_socket(int fd, const char *name)
{
    static const FerryChannelOps socket_ops = {
        .readv = socket_readv,
        .writev = socket_writev,
        .fd = socket_fd,
        .shutdown = socket_shutdown,
        .destroy = socket_destroy,
    };

    return ferry_channel_new(&socket_ops, GINT_TO_POINTER(fd), name);
}
