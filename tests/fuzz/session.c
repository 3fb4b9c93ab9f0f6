/*
 * What the fuzzers of whole sessions share: see session.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "session.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "migration/error.h"
#include "migration/wire/compress.h"
#include "migration/wire/crc32c.h"

/* --- Inputs ------------------------------------------------------------------------------------- */

uint64_t fuzz_number(FuzzInput *input)
{
    static const uint64_t limits[] = {
        UINT64_MAX,
        UINT64_MAX - 1,
        INT64_MAX,
        UINT32_MAX,
        UINT32_MAX + UINT64_C(1),
        511,
        512,
        FERRY_BODY_MAX,
        576,
        575,
        64,
        UINT64_C(1) << 52,
        UINT64_C(1) << 63,
        0xffff,
    };
    uint8_t first = fuzz_byte(input);
    uint64_t number = 0;

    if (first < 0xf0) {
        return first;
    }
    if (first >= 0xf2) {
        return limits[first - 0xf2];
    }
    for (unsigned i = 0; i < (first == 0xf0 ? 2 : 8); i++) {
        number |= (uint64_t)fuzz_byte(input) << (8 * i);
    }
    return number;
}

void fuzz_put_number(GByteArray *to, uint64_t number)
{
    uint8_t bytes[9] = {number < 0xf0 ? (uint8_t)number : number <= 0xffff ? 0xf0 : 0xf1};
    unsigned nr_more = number < 0xf0 ? 0 : number <= 0xffff ? 2 : 8;

    for (unsigned i = 0; i < nr_more; i++) {
        bytes[1 + i] = (uint8_t)(number >> (8 * i));
    }
    g_byte_array_append(to, bytes, 1 + nr_more);
}

const uint8_t *fuzz_bytes(FuzzInput *input, uint64_t *nr_bytes)
{
    const uint8_t *bytes = input->at;

    *nr_bytes = MIN(*nr_bytes, (uint64_t)(input->end - input->at));
    input->at += *nr_bytes;
    return bytes;
}

static GByteArray *read_raw(FuzzInput *input)
{
    uint64_t nr_bytes = fuzz_number(input);
    const uint8_t *bytes = fuzz_bytes(input, &nr_bytes);

    return g_byte_array_append(g_byte_array_new(), bytes, (guint)nr_bytes);
}

static GByteArray *read_filled(FuzzInput *input)
{
    GByteArray *body = g_byte_array_new();

    g_byte_array_set_size(body, (guint)(1 + fuzz_number(input) % 8192));
    memset(body->data, fuzz_byte(input), body->len);
    return body;
}

static GByteArray *read_body(FuzzInput *input)
{
    FerryLayout layout;
    FerryReport report;

    switch (fuzz_byte(input) % FUZZ_BODIES) {
    case FUZZ_BODY_RAW:
        return read_raw(input);
    case FUZZ_BODY_COUNT:
        return ferry_count_encode(fuzz_number(input));
    case FUZZ_BODY_LAYOUT:
        layout.nr_data = fuzz_byte(input);
        layout.nr_fetch = fuzz_byte(input);
        return ferry_layout_encode(&layout);
    case FUZZ_BODY_REPORT:
        report.memory_ns = fuzz_number(input);
        report.loaded_ns = fuzz_number(input);
        report.running_ns = fuzz_number(input);
        return ferry_report_encode(&report);
    case FUZZ_BODY_FILLED:
        return read_filled(input);
    default:
        return NULL;
    }
}

FerryFrame fuzz_read_head(FuzzInput *input)
{
    return (FerryFrame){
        .type = fuzz_byte(input),
        .flags = fuzz_byte(input),
        .region = (uint16_t)fuzz_number(input),
        .nr_extents = (uint32_t)fuzz_number(input),
        .payload_bytes = (uint32_t)fuzz_number(input),
        .first_page = fuzz_number(input),
        .payload_crc = (uint32_t)fuzz_number(input),
    };
}

FuzzFrame fuzz_read_frame(FuzzInput *input)
{
    FuzzFrame frame;

    /* One type more than there are. */
    frame.type = fuzz_byte(input) % (FERRY_FRAME_LAST + 2);
    frame.region = fuzz_byte(input);
    frame.number = fuzz_number(input);
    frame.body = read_body(input);
    return frame;
}

/* --- Pages -------------------------------------------------------------------------------------- */

enum {
    PAGES_CRC = 1,
    PAGES_ZSTD = 2,
    PAGES_WRONG_CRC = 4,
    PAGES_SHORT = 8,
    PAGES_LONG = 16
};

static void fill_pages(FuzzPages *pages, GByteArray *content)
{
    for (uint32_t i = 0; i < pages->frame.nr_extents; i++) {
        const FerryExtent *extent = &pages->extents[i];
        guint at = content->len;

        if (!extent->zero) {
            g_byte_array_set_size(content, at + extent->nr_pages * (guint)FERRY_PAGE_BYTES);
            memset(content->data + at, pages->content[i], content->len - at);
        }
    }
}

/* As the frame says, if that is possible. */
static void pack(FuzzPages *pages, GByteArray *content)
{
    FerryPacker *packer = ferry_packer_new();
    uint32_t packed_bytes;
    const uint8_t *packed =
        content->len ? ferry_packer_pack(packer, content->data, content->len, &packed_bytes) : NULL;

    if (packed) {
        pages->frame.flags |= FERRY_FRAME_ZSTD;
        g_byte_array_set_size(content, 0);
        g_byte_array_append(content, packed, packed_bytes);
    }
    ferry_packer_free(packer);
}

static void read_extents(FuzzInput *input, FuzzPages *pages)
{
    uint32_t at = 0, nr_left = 32;

    pages->frame.nr_extents = 1 + fuzz_byte(input) % G_N_ELEMENTS(pages->extents);
    for (uint32_t i = 0; i < pages->frame.nr_extents; i++) {
        FerryExtent *extent = &pages->extents[i];
        uint8_t kind;

        at += (uint32_t)fuzz_number(input);
        kind = fuzz_byte(input);
        extent->first = at;
        extent->zero = kind & 0x80;
        /* Few with content, lest an input takes long. */
        extent->nr_pages = extent->zero ? (uint32_t)fuzz_number(input) : 1 + (kind >> 4 & 7);
        if (!extent->zero) {
            extent->nr_pages = MIN(extent->nr_pages, nr_left);
            nr_left -= extent->nr_pages;
        }
        pages->content[i] = extent->zero ? 0 : fuzz_content(kind & 7);
        at += extent->nr_pages;
    }
}

FuzzPages fuzz_read_pages(FuzzInput *input)
{
    FuzzPages pages = {.frame = {.type = FERRY_FRAME_PAGES}, .bytes = g_byte_array_new()};
    g_autoptr(GByteArray) content = g_byte_array_new();
    uint8_t flags = fuzz_byte(input);
    guint table_bytes;

    pages.frame.region = fuzz_byte(input);
    pages.frame.first_page = fuzz_number(input);
    read_extents(input, &pages);
    fill_pages(&pages, content);
    if (flags & PAGES_ZSTD) {
        pack(&pages, content);
    }
    pages.frame.payload_bytes = content->len;
    if (flags & (PAGES_CRC | PAGES_WRONG_CRC)) {
        pages.frame.flags |= FERRY_FRAME_PAYLOAD_CRC;
        pages.frame.payload_crc =
            ferry_crc32c(0, content->data, content->len) + !!(flags & PAGES_WRONG_CRC);
    }
    if (flags & (PAGES_SHORT | PAGES_LONG)) {
        pages.frame.payload_bytes += flags & PAGES_LONG ? 4096 : -MIN(content->len, 4096);
        pages.torn = true;
    }
    table_bytes = (guint)ferry_extents_encoded_bytes(pages.frame.nr_extents);
    g_byte_array_set_size(pages.bytes, FERRY_FRAME_BYTES + table_bytes);
    ferry_frame_encode(&pages.frame, pages.bytes->data);
    ferry_extents_encode(pages.extents, pages.frame.nr_extents,
                         pages.bytes->data + FERRY_FRAME_BYTES);
    g_byte_array_append(pages.bytes, content->data, content->len);
    return pages;
}

/* --- Connections ---------------------------------------------------------------------------------- */

static ssize_t end_readv(void *opaque, const struct iovec *iov, int nr_iov, GError **errp)
{
    struct msghdr message = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)nr_iov};
    FuzzEnd *end = opaque;
    ssize_t done;

    g_mutex_lock(&end->lock);
    end->reading = true;
    g_mutex_unlock(&end->lock);
    do {
        done = recvmsg(end->engine_fd, &message, 0);
    } while (done < 0 && errno == EINTR);
    g_mutex_lock(&end->lock);
    end->reading = false;
    end->over = done <= 0;
    end->consumed += done > 0 ? (uint64_t)done : 0;
    g_mutex_unlock(&end->lock);
    if (done < 0) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_IO, "cannot receive");
    }
    return done;
}

static ssize_t end_writev(void *opaque, const struct iovec *iov, int nr_iov, GError **errp)
{
    struct msghdr message = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)nr_iov};
    FuzzEnd *end = opaque;
    ssize_t done;

    do {
        done = sendmsg(end->engine_fd, &message, MSG_NOSIGNAL);
    } while (done < 0 && errno == EINTR);
    if (done < 0) {
        g_set_error(errp, FERRY_ERROR, FERRY_ERROR_IO, "cannot send");
    }
    return done;
}

static int end_fd(void *opaque)
{
    return ((FuzzEnd *)opaque)->engine_fd;
}

static void end_shutdown(void *opaque)
{
    shutdown(((FuzzEnd *)opaque)->engine_fd, SHUT_RDWR);
}

static void end_destroy(void *opaque)
{
    FuzzEnd *end = opaque;

    fuzz_check(!end->gone);
    g_mutex_lock(&end->lock);
    end->gone = true;
    close(end->engine_fd);
    g_mutex_unlock(&end->lock);
}

static const FerryChannelOps end_ops = {
    .readv = end_readv,
    .writev = end_writev,
    .fd = end_fd,
    .shutdown = end_shutdown,
    .destroy = end_destroy,
};

FerryChannel *fuzz_ends_add(FuzzEnds *ends, const char *name)
{
    FuzzEnd *end;
    int fds[2];

    if (ends->nr == FUZZ_ENDS_MAX) {
        return NULL;
    }
    end = &ends->list[ends->nr++];
    memset(end, 0, sizeof(*end));
    fuzz_check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    end->fd = fds[0];
    end->engine_fd = fds[1];
    end->writable = true;
    end->heard = g_byte_array_new();
    g_mutex_init(&end->lock);
    return ferry_channel_new(&end_ops, end, name);
}

FuzzEnd *fuzz_ends_get(FuzzEnds *ends, uint8_t number)
{
    return ends->nr ? &ends->list[number % ends->nr] : NULL;
}

FuzzEnd *fuzz_end_of(const FerryChannel *channel)
{
    return channel->opaque;
}

bool fuzz_is_idle(FuzzEnd *end)
{
    bool idle;

    g_mutex_lock(&end->lock);
    idle = end->over || end->gone || (end->reading && end->consumed == end->sent && end->writable);
    g_mutex_unlock(&end->lock);
    return idle;
}

void fuzz_send(FuzzEnds *ends, FuzzEnd *end, const void *bytes, size_t nr_bytes)
{
    ssize_t done;

    if (!end->writable || nr_bytes == 0) {
        return;
    }
    g_mutex_lock(&end->lock);
    done = send(end->fd, bytes, nr_bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
    end->sent += done > 0 ? (uint64_t)done : 0;
    g_mutex_unlock(&end->lock);
    /* All of a frame, or nothing of it, but for one that does not fit. */
    ends->torn |= done > 0 && done < (ssize_t)nr_bytes;
}

void fuzz_send_frame(FuzzEnds *ends, FuzzEnd *end, const FuzzFrame *frame)
{
    const GByteArray *body = frame->body;
    FerryFrame head = {
        .type = (uint8_t)frame->type,
        .region = frame->region,
        .first_page = frame->number,
        .flags = body && body->len ? FERRY_FRAME_PAYLOAD_CRC : 0,
        .payload_bytes = body ? body->len : 0,
        .payload_crc = body && body->len ? ferry_crc32c(0, body->data, body->len) : 0,
    };
    g_autoptr(GByteArray) bytes = g_byte_array_new();

    g_byte_array_set_size(bytes, FERRY_FRAME_BYTES);
    ferry_frame_encode(&head, bytes->data);
    if (body) {
        g_byte_array_append(bytes, body->data, body->len);
    }
    fuzz_send(ends, end, bytes->data, bytes->len);
}

static void close_end(FuzzEnd *end)
{
    if (end->fd >= 0) {
        close(end->fd);
        end->fd = -1;
    }
    end->writable = false;
}

void fuzz_close(FuzzEnds *ends, FuzzEnd *end, uint8_t way)
{
    if (end->fd < 0) {
        return;
    }
    if (way == 3) {
        /* What has not been read yet may be lost, in the middle of a page. */
        ends->torn |= !fuzz_is_idle(end);
        close_end(end);
    } else {
        shutdown(end->fd, way == 0 ? SHUT_WR : way == 1 ? SHUT_RD : SHUT_RDWR);
        end->writable &= way == 1;
    }
}

/* Take the first whole frame off what was heard; false if there is none. */
static bool take_heard(FuzzEnds *ends, FuzzEnd *end)
{
    g_autoptr(GError) error = NULL;
    FerryFrame frame;
    guint nr_bytes = FERRY_FRAME_BYTES;

    if (end->heard->len < nr_bytes) {
        return false;
    }
    fuzz_check(ferry_frame_decode(end->heard->data, &frame, &error));
    nr_bytes += frame.payload_bytes;
    if (frame.type == FERRY_FRAME_PAGES) {
        nr_bytes += (guint)ferry_extents_encoded_bytes(frame.nr_extents);
    }
    if (end->heard->len < nr_bytes) {
        return false;
    }
    end->nr_heard[frame.type]++;
    if (ends->heard) {
        ends->heard(ends->opaque, end, &frame, end->heard->data + FERRY_FRAME_BYTES);
    }
    g_byte_array_remove_range(end->heard, 0, nr_bytes);
    return true;
}

void fuzz_hear(FuzzEnds *ends)
{
    uint8_t buffer[65536];

    for (unsigned i = 0; i < ends->nr; i++) {
        FuzzEnd *end = &ends->list[i];
        ssize_t done;

        while (end->fd >= 0 && (done = recv(end->fd, buffer, sizeof(buffer), MSG_DONTWAIT)) > 0) {
            g_byte_array_append(end->heard, buffer, (guint)done);
            while (take_heard(ends, end)) {
            }
        }
    }
}

void fuzz_ends_clear(FuzzEnds *ends)
{
    for (unsigned i = 0; i < ends->nr; i++) {
        FuzzEnd *end = &ends->list[i];

        fuzz_check(end->gone);
        close_end(end);
        g_byte_array_unref(end->heard);
        g_mutex_clear(&end->lock);
    }
    ends->nr = 0;
}
