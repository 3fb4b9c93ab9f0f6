/*
 * The source's way to its peer: asking whether it has Ferry, and where to dial it.
 *
 * Threads: the main thread resets it and says where the migration goes, before the migration thread
 * asks and dials; the return path thread leaves the words of PONGs behind; any thread may cancel.
 * What several of them touch is under `lock`.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "io/channel-socket.h"
#include "qapi/clone-visitor.h"
#include "qapi/qapi-visit-sockets.h"
#include "migration/migration.h"
#include "migration/options.h"
#include "migration/qemu-file.h"
#include "migration/savevm.h"

#include "ferry/glue/ferry.h"
#include "ferry/migration/wire/frame.h"
#include "../internal.h"
#include "peer.h"

/* How often a wait looks whether the migration was cancelled or broke. */
#define POLL_MS 50

typedef enum {
    PONG_NONE,     /* nothing asked, or no answer yet */
    PONG_ANSWERED, /* the two words of the token come next */
    PONG_HALF,
    PONG_PLACE, /* the number of the destination's own listener comes next */
    PONG_COMPLETE,
} PongState;

static struct {
    SocketAddress *address; /* where the user said to go; main thread */

    GMutex lock; /* for what follows */
    GCond ponged;
    bool cancelled; /* no more of that in this migration */
    PongState pong;
    uint8_t version;
    uint64_t token;
    bool spoke;    /* the destination has said anything at all */
    bool expected; /* its last word decides who has the guest */
    bool lacks;    /* the last of the stream is being written */
    FerryLastWord last_word;
    bool listens;    /* the destination has a listener of its own ... */
    uint32_t number; /* ... here */
} peer;

void ferry_outgoing_address(SocketAddress *address)
{
    qapi_free_SocketAddress(peer.address);
    peer.address = QAPI_CLONE(SocketAddress, address);
}

void ferry_peer_reset(void)
{
    g_mutex_lock(&peer.lock);
    peer.pong = PONG_NONE;
    peer.spoke = peer.expected = peer.lacks = false;
    peer.last_word = FERRY_LAST_WORD_NONE;
    peer.listens = false;
    peer.cancelled = false;
    g_mutex_unlock(&peer.lock);
}

bool ferry_outgoing_pong(uint32_t value)
{
    bool ours = true;

    g_mutex_lock(&peer.lock);
    peer.spoke = true;
    switch (peer.pong) {
    case PONG_NONE:
        if (value >> 16 == FERRY_PONG_MAGIC) {
            peer.version = value >> 8;
            peer.listens = value & FERRY_PONG_LISTENS;
            peer.pong = PONG_ANSWERED;
        } else if (value >> 16 == FERRY_PING_MAGIC) {
            /* An echo: QEMU without Ferry, or with Ferry switched off. */
            peer.version = 0;
            peer.pong = PONG_COMPLETE;
        } else {
            ours = false;
        }
        break;
    case PONG_ANSWERED:
        peer.token = value;
        peer.pong = PONG_HALF;
        break;
    case PONG_HALF:
        peer.token |= (uint64_t)value << 32;
        peer.pong = peer.listens ? PONG_PLACE : PONG_COMPLETE;
        break;
    case PONG_PLACE:
        peer.number = value;
        peer.pong = PONG_COMPLETE;
        break;
    case PONG_COMPLETE:
        ours = false;
        break;
    }
    g_cond_broadcast(&peer.ponged);
    g_mutex_unlock(&peer.lock);
    return ours;
}

void ferry_outgoing_shut(uint32_t error)
{
    g_mutex_lock(&peer.lock);
    peer.spoke = true;
    peer.last_word = error ? FERRY_LAST_WORD_FAILED : FERRY_LAST_WORD_LOADED;
    g_cond_broadcast(&peer.ponged);
    g_mutex_unlock(&peer.lock);
}

void ferry_peer_expect_last_word(bool expected)
{
    g_mutex_lock(&peer.lock);
    peer.expected = peer.lacks = expected;
    g_mutex_unlock(&peer.lock);
}

void ferry_peer_has_stream(void)
{
    g_mutex_lock(&peer.lock);
    peer.lacks = false;
    g_mutex_unlock(&peer.lock);
}

bool ferry_peer_lacks_stream(void)
{
    bool lacks;

    g_mutex_lock(&peer.lock);
    lacks = peer.lacks;
    g_mutex_unlock(&peer.lock);
    return lacks;
}

bool ferry_peer_miss_last_word(void)
{
    bool expected;

    g_mutex_lock(&peer.lock);
    if (peer.last_word == FERRY_LAST_WORD_NONE) {
        peer.last_word = FERRY_LAST_WORD_MISSING;
    }
    expected = peer.expected && peer.last_word != FERRY_LAST_WORD_FAILED;
    g_cond_broadcast(&peer.ponged);
    g_mutex_unlock(&peer.lock);
    return expected;
}

FerryLastWord ferry_peer_wait_last_word(gint64 deadline_us)
{
    FerryLastWord word;

    g_mutex_lock(&peer.lock);
    while (peer.last_word == FERRY_LAST_WORD_NONE &&
           g_cond_wait_until(&peer.ponged, &peer.lock, deadline_us)) {
    }
    word = peer.last_word;
    g_mutex_unlock(&peer.lock);
    return word;
}

bool ferry_peer_ask(MigrationState *s, gint64 deadline_us, uint8_t *version, uint64_t *session,
                    char **reason)
{
    bool answered;

    /* What is sent on it now is short and waited for; at the switchover too. */
    qio_channel_set_delay(qemu_file_get_ioc(s->to_dst_file), false);
    qemu_savevm_send_ping(s->to_dst_file, FERRY_PING_MAGIC << 16 | FERRY_WIRE_VERSION_MIN << 8 |
                                              FERRY_WIRE_VERSION_MAX);
    qemu_fflush(s->to_dst_file);

    g_mutex_lock(&peer.lock);
    while (peer.pong != PONG_COMPLETE && g_get_monotonic_time() < deadline_us && !peer.cancelled &&
           !migrate_has_error(s) && s->state != MIGRATION_STATUS_CANCELLING) {
        g_cond_wait_until(&peer.ponged, &peer.lock,
                          MIN(deadline_us, g_get_monotonic_time() + POLL_MS * 1000));
    }
    answered = peer.pong == PONG_COMPLETE;
    *version = peer.version;
    *session = peer.token;
    /* An answer that comes later is taken all the same: its words are not for QEMU to count. */
    g_mutex_unlock(&peer.lock);

    if (!answered) {
        *reason = g_strdup(g_get_monotonic_time() < deadline_us
                               ? "the way to the destination broke, or the migration was cancelled"
                               : "the destination did not answer in time");
    } else if (*version == 0) {
        *reason = g_strdup("the destination has no Ferry, or has it switched off");
    } else if (*version < FERRY_WIRE_VERSION_MIN || *version > FERRY_WIRE_VERSION_MAX) {
        *reason = g_strdup_printf("the destination's Ferry speaks version %u only", *version);
    } else {
        return true;
    }
    return false;
}

bool ferry_peer_listens(uint32_t *number)
{
    *number = peer.number;
    return peer.listens;
}

const UnixSocketAddress *ferry_peer_path(const QIOChannelSocket *socket)
{
    /* A channel with this name was opened by QEMU itself, so the address is this migration's. */
    return g_str_equal(QIO_CHANNEL(socket)->name, FERRY_MAIN_CHANNEL_NAME) &&
                   peer.address->type == SOCKET_ADDRESS_TYPE_UNIX
               ? &peer.address->u.q_unix
               : NULL;
}

bool ferry_peer_is_cancelled(void)
{
    bool cancelled;

    g_mutex_lock(&peer.lock);
    cancelled = peer.cancelled;
    g_mutex_unlock(&peer.lock);
    return cancelled;
}

bool ferry_peer_is_silent(void)
{
    bool silent;

    g_mutex_lock(&peer.lock);
    silent = !peer.spoke;
    g_mutex_unlock(&peer.lock);
    return silent;
}

void ferry_peer_cancel(void)
{
    g_mutex_lock(&peer.lock);
    peer.cancelled = true;
    g_cond_broadcast(&peer.ponged);
    g_mutex_unlock(&peer.lock);
}
