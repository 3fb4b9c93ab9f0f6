/*
 * Record real sessions, as inputs for the fuzzers of whole sessions to start from.
 *
 *   record DIRECTORY
 *
 * A source and a destination migrate a fake machine; every frame that they write, and what QEMU would ask of the
 * destination, becomes a step in DIRECTORY/destination/NAME and DIRECTORY/source/NAME.
 *
 * Threads: the main thread drives the source; one loads the device state at the destination, one is its vCPU.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "session.h"

#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "migration/destination/destination.h"
#include "migration/error.h"
#include "migration/source/source.h"
#include "tests/unit/fake-machine.h"

/* Longer than anything takes. */
#define TIMEOUT_MS 60000

/* Opcodes of fuzz-destination and of fuzz-source. */
enum {
    TO_DIAL = 1,
    TO_FRAME = 2,
    TO_PAGES = 3,
    TO_CALL = 5,
    TO_CLOSE = 6
};
enum {
    FROM_AWAIT = 0,
    FROM_FRAME = 1,
    FROM_CLOSE = 2
};
enum {
    CALL_LOADED = 0
};

typedef struct Recorder Recorder;

/* One direction of a channel. */
typedef struct Side {
    Recorder *recorder;
    bool from_source;
    int fd;
    uint8_t channel; /* in the order of dialling */
} Side;

struct Recorder {
    GMutex lock; /* for what follows */
    GByteArray *to_destination, *to_source;
    unsigned nr_sent[FUZZ_ENDS_MAX][FERRY_FRAME_LAST + 1]; /* by the source */
    uint8_t last_channel, last_type; /* what it sent last that may be answered; type 0: nothing */

    FakeMachine *from, *to;
    FerrySource *source;
    FerryDestination *destination;
    GPtrArray *channels; /* of FerryChannel, the source's: for cutting; not owned */
    uint8_t nr_channels;
    bool leaves;
    _Atomic bool handed_off; /* the device state follows */
};

static void put(GByteArray *to, uint8_t byte)
{
    g_byte_array_append(to, &byte, 1);
}

/* --- Frames as steps -------------------------------------------------------------------------------- */

static void put_frame(GByteArray *to, uint8_t opcode, uint8_t channel, const FerryFrame *frame,
                      const uint8_t *body)
{
    put(to, opcode);
    put(to, channel);
    put(to, frame->type);
    put(to, (uint8_t)frame->region);
    fuzz_put_number(to, frame->first_page);
    put(to, frame->payload_bytes ? FUZZ_BODY_RAW : FUZZ_BODY_NONE);
    if (frame->payload_bytes) {
        fuzz_put_number(to, frame->payload_bytes);
        g_byte_array_append(to, body, frame->payload_bytes);
    }
}

static void put_hello(GByteArray *to, const uint8_t *body, uint32_t nr_bytes)
{
    FerryHello hello;

    fuzz_check(ferry_hello_decode(body, nr_bytes, &hello, NULL));
    put(to, TO_DIAL);
    put(to, hello.role);
    put(to, hello.index);
    put(to, (uint8_t)hello.attempt);
    put(to, 0);
}

/* A step for each extent; of one with content, the first pages. */
static void put_pages(GByteArray *to, uint8_t channel, const FerryFrame *frame, const uint8_t *rest)
{
    FerryExtent extents[FERRY_EXTENTS_MAX];

    fuzz_check(ferry_extents_decode(frame, rest, UINT64_C(1) << 40, extents, NULL));
    for (uint32_t i = 0; i < frame->nr_extents; i++) {
        put(to, TO_PAGES);
        put(to, channel);
        put(to, 0);
        put(to, (uint8_t)frame->region);
        fuzz_put_number(to, frame->first_page);
        put(to, 0);
        fuzz_put_number(to, extents[i].first);
        if (extents[i].zero) {
            put(to, 0x80);
            fuzz_put_number(to, extents[i].nr_pages);
        } else {
            put(to, (uint8_t)((MIN(extents[i].nr_pages, 8) - 1) << 4));
        }
    }
}

/* With the lock held. */
static void note_source(Recorder *recorder, uint8_t channel, const FerryFrame *frame,
                        const uint8_t *rest)
{
    recorder->nr_sent[channel][frame->type]++;
    if (frame->type == FERRY_FRAME_HELLO) {
        put_hello(recorder->to_destination, rest, frame->payload_bytes);
    } else if (frame->type == FERRY_FRAME_PAGES) {
        put_pages(recorder->to_destination, channel, frame, rest);
    } else {
        put_frame(recorder->to_destination, TO_FRAME, channel, frame, rest);
        recorder->last_channel = channel;
        recorder->last_type = frame->type;
    }
}

static void note_destination(Recorder *recorder, uint8_t channel, const FerryFrame *frame,
                             const uint8_t *rest)
{
    if (recorder->last_type) {
        put(recorder->to_source, FROM_AWAIT);
        put(recorder->to_source, recorder->last_channel);
        put(recorder->to_source, recorder->last_type);
        put(recorder->to_source,
            (uint8_t)recorder->nr_sent[recorder->last_channel][recorder->last_type]);
        recorder->last_type = FERRY_FRAME_INVALID;
    }
    put_frame(recorder->to_source, FROM_FRAME, channel, frame, rest);
}

/* --- Channels ------------------------------------------------------------------------------------------ */

static ssize_t side_readv(void *opaque, const struct iovec *iov, int nr_iov, GError **errp)
{
    struct msghdr message = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)nr_iov};

    ssize_t done = recvmsg(((Side *)opaque)->fd, &message, 0);

    if (done < 0) {
        g_set_error_literal(errp, FERRY_ERROR, FERRY_ERROR_IO, "cannot receive");
    }
    return done;
}

/* Each frame is written as one vector, and the socket takes it as a whole. */
static ssize_t side_writev(void *opaque, const struct iovec *iov, int nr_iov, GError **errp)
{
    struct msghdr message = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)nr_iov};
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    Side *side = opaque;
    FerryFrame frame;
    ssize_t done;

    for (int i = 0; i < nr_iov; i++) {
        g_byte_array_append(bytes, iov[i].iov_base, (guint)iov[i].iov_len);
    }
    if (bytes->len >= FERRY_FRAME_BYTES && ferry_frame_decode(bytes->data, &frame, NULL) &&
        frame.type != FERRY_FRAME_BEAT) {
        g_mutex_lock(&side->recorder->lock);
        (side->from_source ? note_source : note_destination)(side->recorder, side->channel, &frame,
                                                             bytes->data + FERRY_FRAME_BYTES);
        g_mutex_unlock(&side->recorder->lock);
    }
    done = sendmsg(side->fd, &message, MSG_NOSIGNAL);
    if (done < 0) {
        g_set_error_literal(errp, FERRY_ERROR, FERRY_ERROR_IO, "cannot send");
    }
    return done;
}

static int side_fd(void *opaque)
{
    return ((Side *)opaque)->fd;
}

static void side_shutdown(void *opaque)
{
    shutdown(((Side *)opaque)->fd, SHUT_RDWR);
}

static void side_destroy(void *opaque)
{
    close(((Side *)opaque)->fd);
    g_free(opaque);
}

static FerryChannel *side_new(Recorder *recorder, bool from_source, int fd, const char *name)
{
    static const FerryChannelOps ops = {
        .readv = side_readv,
        .writev = side_writev,
        .fd = side_fd,
        .shutdown = side_shutdown,
        .destroy = side_destroy,
    };
    Side *side = g_new0(Side, 1);

    *side = (Side){recorder, from_source, fd, recorder->nr_channels};
    return ferry_channel_new(&ops, side, name);
}

static bool dial(void *opaque, const char *const *names, unsigned nr, gint64 deadline_us,
                 FerryChannel **dialled, GError **errp)
{
    Recorder *recorder = opaque;
    const int room_bytes = 8 << 20;

    g_ptr_array_set_size(recorder->channels, 0);
    for (unsigned i = 0; i < nr; i++) {
        int fds[2];

        fuzz_check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
        fuzz_check(setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &room_bytes, sizeof(room_bytes)) == 0);
        dialled[i] = side_new(recorder, true, fds[0], names[i]);
        g_ptr_array_add(recorder->channels, dialled[i]);
        ferry_destination_add_channel(recorder->destination,
                                      side_new(recorder, false, fds[1], "new"));
        recorder->nr_channels++;
    }
    return true;
}

/* All channels in use break. */
static void cut(Recorder *recorder)
{
    g_mutex_lock(&recorder->lock);
    for (guint i = recorder->channels->len; i > 0; i--) {
        const uint8_t channel = (uint8_t)(recorder->nr_channels - i);
        const uint8_t to[] = {TO_CLOSE, channel, 3}, from[] = {FROM_CLOSE, channel, 3};

        g_byte_array_append(recorder->to_destination, to, sizeof(to));
        g_byte_array_append(recorder->to_source, from, sizeof(from));
    }
    g_mutex_unlock(&recorder->lock);
    ferry_source_shutdown(recorder->source);
}

/* --- The destination --------------------------------------------------------------------------------------- */

static bool list_regions(void *opaque, const FerryRegions *remote, FerryRegions *local,
                         GError **errp)
{
    *local = fake_machine_list(((Recorder *)opaque)->to);
    return true;
}

static void nothing(void *opaque)
{
}

static void nothing_said(void *opaque, const char *message)
{
}

static void nothing_wrong(void *opaque, const GError *why)
{
}

static gpointer load(gpointer opaque)
{
    Recorder *recorder = opaque;
    const uint8_t called[] = {TO_CALL, CALL_LOADED};

    fuzz_check(recorder->leaves ? ferry_destination_wait_left(recorder->destination, NULL)
                                : ferry_destination_wait_complete(recorder->destination, NULL));
    while (!recorder->handed_off) {
        g_usleep(100);
    }
    g_mutex_lock(&recorder->lock);
    g_byte_array_append(recorder->to_destination, called, sizeof(called));
    g_mutex_unlock(&recorder->lock);
    ferry_destination_loaded(recorder->destination, NULL);
    /* A page that is missing, perhaps. */
    (void)*(volatile uint64_t *)fake_machine_page(recorder->to, 0, 1);
    return NULL;
}

/* --- Sessions ------------------------------------------------------------------------------------------------ */

static const FakeRegion regions[] = {
    {.id = "pc.ram", .nr_pages = 576, .touched_pages = 24},
    {.id = "shared", .nr_pages = 64, .touched_pages = 4, .shared = true},
    {0},
};

static bool migrate(Recorder *recorder, bool breaks, GError **errp)
{
    FerrySource *source = recorder->source;

    if (!ferry_source_connect(source, errp) || !ferry_source_step(source, 1000, errp)) {
        return false;
    }
    fake_machine_write(recorder->from, 0, 1, 7);
    if (!ferry_source_harvest(source, NULL, errp) || !ferry_source_step(source, 1000, errp)) {
        return false;
    }
    fake_machine_write(recorder->from, 0, 1, 8);
    if ((recorder->leaves && !ferry_source_draft(source, errp)) ||
        !ferry_source_stopped(source, TIMEOUT_MS, errp) ||
        !(recorder->leaves ? ferry_source_leave(source, errp)
                           : ferry_source_hand_off(source, errp))) {
        return false;
    }
    recorder->handed_off = true;
    if (!ferry_source_wait_loaded(source, errp)) {
        return false;
    }
    if (breaks) {
        /* Before GO, a source would keep the guest. */
        ferry_source_set_bandwidth(source, 1);
    }
    if (!ferry_source_go(source)) {
        return false;
    }
    if (!recorder->leaves) {
        return ferry_source_wait_taken(source, errp);
    }
    if (breaks) {
        cut(recorder);
        while (ferry_source_push(source, 10, NULL)) {
        }
        if (!ferry_source_reconnect(source, FERRY_WIRE_VERSION_MAX, FUZZ_SESSION, errp)) {
            return false;
        }
    }
    while (!ferry_source_is_complete(source)) {
        if (!ferry_source_push(source, 1000, errp)) {
            return false;
        }
    }
    return true;
}

static void save(const char *directory, const char *fuzzer, const char *name,
                 const GByteArray *steps)
{
    g_autofree char *folder = g_build_filename(directory, fuzzer, NULL);
    g_autofree char *path = g_build_filename(folder, name, NULL);

    fuzz_check(g_mkdir_with_parents(folder, 0755) == 0);
    fuzz_check(g_file_set_contents(path, (const char *)steps->data, steps->len, NULL));
}

static void record(const char *directory, const char *name, bool leaves, bool breaks, bool ordered)
{
    static const FerryDestinationOps ops = {
        .list_regions = list_regions,
        .complete = nothing,
        .go = nothing,
        .warn = nothing_said,
        .broken = nothing_wrong,
        .resumed = nothing,
        .damaged = nothing_wrong,
    };
    Recorder *recorder = g_new0(Recorder, 1);
    const FerrySourceConfig config = {
        .session = FUZZ_SESSION,
        .version = FERRY_WIRE_VERSION_MAX,
        .nr_channels = 1,
        .nr_fetch = leaves ? 1 : 0,
        .timeout_ms = TIMEOUT_MS,
        .switchover_ms = TIMEOUT_MS,
        .dial = dial,
        .opaque = recorder,
    };
    g_autoptr(GError) error = NULL;
    FerryTracker tracker;
    FerryRegions list;
    GThread *loader;

    g_mutex_init(&recorder->lock);
    recorder->leaves = leaves;
    recorder->to_destination = g_byte_array_new();
    recorder->to_source = g_byte_array_new();
    recorder->channels = g_ptr_array_new();
    put(recorder->to_destination, 0);
    /* As the settings of fuzz-source say. */
    put(recorder->to_source, (uint8_t)((leaves ? 3 : 0) | (ordered ? 8 : 0) | 64));
    recorder->from = fake_machine_new(regions, true);
    recorder->to = fake_machine_new(regions, false);
    tracker = fake_machine_tracker(recorder->from, ordered);
    list = fake_machine_list(recorder->from);
    recorder->source = ferry_source_new(&config, &list, &tracker);
    recorder->destination = ferry_destination_new(
        &(FerryDestinationConfig){.session = FUZZ_SESSION, .timeout_ms = TIMEOUT_MS}, &ops,
        recorder);
    loader = g_thread_new("load", load, recorder);
    if (!migrate(recorder, breaks, &error)) {
        g_error("session '%s' cannot be recorded: %s", name, error ? error->message : "no GO");
    }
    g_thread_join(loader);
    ferry_destination_send_report(recorder->destination);
    fuzz_check(ferry_source_finish(recorder->source, TIMEOUT_MS));
    ferry_source_free(recorder->source);
    ferry_destination_free(recorder->destination, NULL);
    save(directory, "destination", name, recorder->to_destination);
    save(directory, "source", name, recorder->to_source);
    fake_machine_free(recorder->from);
    fake_machine_free(recorder->to);
    g_byte_array_unref(recorder->to_destination);
    g_byte_array_unref(recorder->to_source);
    g_ptr_array_unref(recorder->channels);
    g_mutex_clear(&recorder->lock);
    g_free(recorder);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: record DIRECTORY\n");
        return 2;
    }
    record(argv[1], "recorded-pre-copy", false, false, false);
    record(argv[1], "recorded-pre-copy-ring", false, false, true);
    record(argv[1], "recorded-post-copy", true, false, false);
    record(argv[1], "recorded-post-copy-ring", true, false, true);
    record(argv[1], "recorded-resumed", true, true, false);
    return 0;
}
