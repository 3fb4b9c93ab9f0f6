/*
 * A channel: one byte stream to the peer.
 *
 * The engine sees the network through this table only.  In QEMU a QIOChannel (plain or TLS) stands
 * behind it, in the tests a socket.
 *
 * Threads: one thread may read while others write; a vector is written as a whole before the next
 * one.  shutdown may come from any thread and makes all of them return with an error; free only
 * when nobody uses the channel any more.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_CHANNEL_H
#define FERRY_CHANNEL_H

#include <glib.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

typedef struct FerryChannelOps {
    /* Both block for at least one byte and return how many; 0 is end of stream, -1 an error. */
    ssize_t (*readv)(void *opaque, const struct iovec *iov, int nr_iov, GError **errp);
    ssize_t (*writev)(void *opaque, const struct iovec *iov, int nr_iov, GError **errp);
    /* The socket behind it, to look at, or -1; optional. */
    int (*fd)(void *opaque);
    /* Breaks the stream in both directions, at once, for both sides. */
    void (*shutdown)(void *opaque);
    /* Closes and frees @opaque. */
    void (*destroy)(void *opaque);
} FerryChannelOps;

typedef struct FerryChannel {
    const FerryChannelOps *ops;
    void *opaque;
    char name[32]; /* for messages: "data 2" */
    _Atomic uint64_t sent_bytes;
    _Atomic uint64_t received_bytes;
    GMutex write_lock; /* held while a vector is written */
    /* Monotonic: since when the read, or the write, that is under way has waited; or 0. */
    _Atomic int64_t read_began_us, write_began_us;
} FerryChannel;

/* Takes over @opaque. */
FerryChannel *ferry_channel_new(const FerryChannelOps *ops, void *opaque, const char *name);

/* A channel over a connected stream socket; takes over @fd. */
FerryChannel *ferry_channel_new_socket(int fd, const char *name);

/*
 * Whether the other side has closed or reset it, although nobody reads; what it sent before may still be
 * there.  Does not block.  Any thread.
 */
bool ferry_channel_hung_up(FerryChannel *channel);

void ferry_channel_shutdown(FerryChannel *channel);
void ferry_channel_free(FerryChannel *channel);

/*
 * Read or write everything that @iov names.  The vector is used up (its entries are changed).
 * End of stream is an error.
 */
bool ferry_channel_readv_all(FerryChannel *channel, struct iovec *iov, int nr_iov, GError **errp);
bool ferry_channel_writev_all(FerryChannel *channel, struct iovec *iov, int nr_iov, GError **errp);

/* The socket behind it, or -1 if that is not known. */
int ferry_channel_fd(const FerryChannel *channel);

/* Write all of it unless somebody is writing, or it would have to wait; *@written tells whether. */
bool ferry_channel_try_write_all(FerryChannel *channel, const void *data, size_t nr_bytes,
                                 bool *written, GError **errp);

/* The same for one buffer. */
bool ferry_channel_read_all(FerryChannel *channel, void *data, size_t nr_bytes, GError **errp);
bool ferry_channel_write_all(FerryChannel *channel, const void *data, size_t nr_bytes,
                             GError **errp);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(FerryChannel, ferry_channel_free)

#endif
